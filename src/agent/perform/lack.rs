//! What a step could not bring is remembered, with the number that says that this node has it.

use super::Performer;
use crate::agent::redo::Step;
use crate::index::store::{Row, StoreError};
use crate::model::batch::Lacked;
use crate::model::path::{RelPath, TreePath};
use crate::sys::tree::{Look, is_absent};

/// Most directories remembered that cannot be made here.
const MAX_REFUSED: usize = 4096;

impl Performer<'_> {
    /// A step was done: what it brought is lacked no more.
    pub(super) fn has(&mut self, step: &Step) -> Result<(), StoreError> {
        if let Step::Put { path, .. } | Step::Delete { path } | Step::Move { to: path, .. } = step
            && !self.node.refused.is_empty()
        {
            self.node.refused.remove(path);
        }
        let lacked = self.node.store.lacked()?;
        for Lacked { path, tree } in lacked.iter().cloned() {
            let below = |top: &TreePath| path.root == top.root && path.path.is_within(&top.path);
            match step {
                // A directory alone is not all that was lacked in it: see `Receiving::came_whole`.
                Step::Put {
                    path: put, entry, ..
                } if path == *put && !(tree && entry.kind.is_dir()) => {
                    self.node.store.lack_no_more(&path)?;
                }
                Step::Delete { path: gone } if below(gone) => {
                    self.node.store.lack_no_more(&path)?;
                }
                Step::Move { from, to, .. } if below(from) => {
                    self.node.store.lack_no_more(&path)?;
                    if let Some(rel) = path.path.rebase(&from.path, &to.path)
                        && path != *from
                    {
                        let path = TreePath::new(to.root, rel);
                        self.note_lacked(&Lacked { path, tree })?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A step cannot be done with what is here: the sender is asked for what is missing, unless that is a directory which
    /// cannot be made here.
    pub(super) fn want(&mut self, step: &Step, path: &TreePath) -> Result<(), StoreError> {
        let missing = self.missing(path)?;
        self.lack_step(step, &missing)?;
        if self.node.refused.contains(&missing) {
            let cause = "its directory is missing".into();
            self.problem(path, "create it".into(), cause);
        } else if self.outcome.wants.last() != Some(&missing) {
            if missing != *path {
                tracing::warn!(
                    "{}: a directory belongs here, and none stands here: it is asked for with everything in it",
                    self.node.show(&missing)
                );
            }
            self.outcome.wants.push(missing);
        }
        Ok(())
    }

    /// A step was refused by this node: where it was to bring a directory, nothing below that is asked for.
    pub(super) fn refuse(&mut self, step: &Step) {
        let dir = match step {
            Step::Put { path, entry, .. } if entry.kind.is_dir() => path,
            Step::Move { to, .. } => to,
            _ => return,
        };
        // Where there are more, they are asked for in vain.
        if !self.stands(dir) && self.node.refused.len() < MAX_REFUSED {
            self.node.refused.insert(dir.clone());
        }
    }

    /// A step was not done: `path`, or a directory above it, is lacked, and what it was to take away stands here still.
    pub(super) fn lack_step(&mut self, step: &Step, path: &TreePath) -> Result<(), StoreError> {
        self.lack(path)?;
        match step {
            Step::Move { from, .. } => self.lack(from),
            _ => Ok(()),
        }
    }

    /// What belongs at a path is lacked here.
    pub(super) fn lack(&mut self, path: &TreePath) -> Result<(), StoreError> {
        let tree = !self.stands(path) || self.node.store.dir_id(path)?.is_none();
        let path = path.clone();
        self.note_lacked(&Lacked { path, tree })
    }

    fn note_lacked(&mut self, what: &Lacked) -> Result<(), StoreError> {
        self.outcome.lacks_more |= !self.node.store.lack(what)?;
        Ok(())
    }

    /// Whether a directory stands here, or whatever keeps this node from knowing.
    fn stands(&self, path: &TreePath) -> bool {
        let Some(r) = self.node.root(path.root) else {
            return true;
        };
        match r.root.look(&path.path) {
            Ok(Look::There(seen)) => seen.entry.kind.is_dir(),
            Ok(_) => false,
            Err(e) => !is_absent(&e),
        }
    }

    /// What is missing here where `path` could not be put: the topmost directory above it that does not stand here, or is
    /// unknown, or the path itself. Somebody removed or renamed it, and whatever the index says of it is not so.
    pub(super) fn missing(&mut self, path: &TreePath) -> Result<TreePath, StoreError> {
        let bytes = path.path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/');
        for (end, _) in ends {
            let Ok(dir) = RelPath::parse(&bytes[..end]) else {
                break;
            };
            let at = TreePath::new(path.root, dir);
            let stands = self.stands(&at);
            let is_dir = |r: Row| r.entry.kind.is_dir();
            if !stands && self.replay.is_none() && self.node.store.lookup(&at)?.is_some_and(is_dir)
            {
                self.node.store.remove(&at)?;
            }
            if !stands || self.node.store.dir_id(&at)?.is_none() {
                return Ok(at);
            }
        }
        Ok(path.clone())
    }
}
