//! What this node asks for: of what the sender lists, what it lacks, and whatever it changed on its own.
//!
//! Nothing is sent that was not asked for in a round, so these answers decide what a catch-up costs.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use super::{PAGE, Receiver};
use crate::agent::apply::{ApplyError, Receiving};
use crate::agent::compare::hash_if_unchanged;
use crate::agent::content::INLINE_MAX;
use crate::agent::node::{Node, UNWRITTEN};
use crate::index::store::{Row, StoreError, Tomb};
use crate::model::batch::Lacked;
use crate::model::entry::Kind;
use crate::model::epoch::Seq;
use crate::model::path::{RelPath, TreePath};
use crate::sys::tree::{Look, list, look_at};
use crate::wire::message::{Have, Message, Named, Range, Wanted};

impl Receiver {
    /// Asks for paths this node found changed in its own tree: the sender's state replaces them.
    ///
    /// # Errors
    /// [`ApplyError`] where the index fails.
    pub fn ask_for(&mut self, paths: &[TreePath]) -> Result<(), ApplyError> {
        for path in paths {
            let have = self.has_of(path, Seq::MAX)?;
            self.ask_for_tree(path, have);
        }
        Ok(())
    }

    /// Asks for a path, and where it is a directory that the sender knows nothing of, or knows another one of, for
    /// everything that stands in it.
    fn ask_for_tree(&self, path: &TreePath, have: Have) {
        let mut stack = Vec::new();
        if have == Have::Nothing {
            stack.push(path.clone());
        }
        self.ask_for_one(path, have);
        while let Some(dir) = stack.pop() {
            let Some(r) = self.side.node.root(dir.root) else {
                continue;
            };
            // The path itself may be a file, or gone.
            let Ok(fd) = r.root.open_dir(&dir.path) else {
                continue;
            };
            let mut wanted = Vec::new();
            for name in list(fd.as_fd(), dir.path.is_root()).unwrap_or_default() {
                let (Ok(path), Ok(Look::There(seen))) =
                    (dir.path.join(&name), look_at(fd.as_fd(), &name))
                else {
                    continue;
                };
                let (path, is_dir) = (TreePath::new(dir.root, path), seen.entry.kind.is_dir());
                if !self.side.node.excluded(&path, is_dir) {
                    let have = Have::Nothing;
                    wanted.push(Wanted { name, have });
                    stack.extend(is_dir.then_some(path));
                }
                if wanted.len() >= PAGE {
                    self.want(&dir, std::mem::take(&mut wanted));
                }
            }
            self.want(&dir, wanted);
        }
    }

    /// What this node has of a path that it asks for unlisted. Of a directory that came to its place after `since`, or is
    /// gone from there, it has nothing that counts: no listing will name what it lacks of it.
    fn has_of(&mut self, path: &TreePath, since: Seq) -> Result<Have, StoreError> {
        let node = &mut self.side.node;
        let row = node.store.lookup(path)?;
        let known = row.is_some_and(|r| r.entry.kind.is_dir() && r.born <= since);
        let root = node.root(path.root).filter(|_| known);
        let stands = root.is_some_and(|r| {
            let look = r.root.look(&path.path);
            matches!(look, Ok(Look::There(seen)) if seen.entry.kind.is_dir())
        });
        Ok(if stands { Have::Content } else { Have::Nothing })
    }

    fn ask_for_one(&self, path: &TreePath, have: Have) {
        // The empty name is the directory itself, here a root.
        let parent = path.path.parent().unwrap_or_else(RelPath::root);
        let name = path.path.name().unwrap_or_default().to_vec();
        let dir = TreePath::new(path.root, parent);
        self.want(&dir, vec![Wanted { name, have }]);
    }

    /// What this node holds and the other node goes on without, asked for path by path: everything it changed after the
    /// common past, and what the other node could not take while this one was active. From now on it counts as found
    /// here, so it is preserved before it is replaced.
    pub(super) fn ask_for_tail(&mut self, since: Seq) -> Result<(), ApplyError> {
        let not_taken = std::mem::take(&mut self.peer_lacks);
        for Lacked { path, tree } in &not_taken {
            // The sender never had what stands here, whatever the numbers say.
            self.side.node.store.disown(path, *tree)?;
            self.ask_for_lacked(path, *tree)?;
        }
        for Lacked { path, tree } in self.side.node.store.lacked()?.iter() {
            self.ask_for_lacked(path, *tree)?;
        }
        if self.side.node.peer_index_lost {
            // Everything is compared, and what differs may be what the other node failed to take, which it has forgotten.
            self.side.node.store.disown_all()?;
            self.side.checkpoint()?;
            self.side.node.store.sync()?;
        }
        let node = &mut self.side.node;
        let owed = node.store.owes_any()?;
        let since = if node.peer_outage {
            // The other node's disk may have lost what it sent in the last minutes.
            since.min(node.store.before_the_last(UNWRITTEN)?)
        } else {
            since
        };
        node.has_tail = owed || !not_taken.is_empty() || node.epochs.history().head() > since;
        if !node.has_tail {
            return Ok(());
        }
        if owed || node.peer_outage {
            // Their rows tell nobody that they are asked for: were this session cut off, only comparing everything would.
            node.epochs.set_catching_up(true)?;
        }
        if owed {
            self.ask_for_owed()?;
        }
        let node = &mut self.side.node;
        let mut after = (since, i64::MAX);
        let mut paths = Vec::new();
        loop {
            let rows = node.store.changed_since(after, PAGE)?;
            let Some(last) = rows.last() else { break };
            after = (last.seq, last.id);
            for row in &rows {
                paths.extend(node.store.path_of(row.id)?);
                node.store.update(row.id, &row.entry, &row.stamp, 0)?;
            }
        }
        let mut after = Tomb::last_of(since);
        let mut gone = BTreeSet::new();
        loop {
            let tombs = node.store.tombs_since(&after, PAGE)?;
            let Some((last, _)) = tombs.last() else { break };
            after = last.clone();
            gone.extend(tombs.into_iter().map(|(_, p)| p));
        }
        // What now counts as found here must do so after a power cut as well, in which records would be done again.
        self.side.checkpoint()?;
        self.side.node.store.sync()?;
        // A directory before what is in it, and of one that is gone nothing else: it comes whole.
        paths.sort();
        for path in &paths {
            let have = self.has_of(path, since)?;
            self.ask_for_tree(path, have);
        }
        let mut above: Option<&TreePath> = None;
        for path in &gone {
            if above.is_some_and(|a| a.root == path.root && path.path.is_within(&a.path)) {
                continue;
            }
            above = Some(path);
            let have = self.has_of(path, since)?;
            self.ask_for_one(path, have);
        }
        Ok(())
    }

    fn ask_for_lacked(&mut self, path: &TreePath, tree: bool) -> Result<(), ApplyError> {
        let have = if tree {
            Have::Nothing
        } else {
            self.has_of(path, Seq::MAX)?
        };
        self.ask_for_tree(path, have);
        Ok(())
    }

    fn ask_for_owed(&mut self) -> Result<(), ApplyError> {
        loop {
            let node = &mut self.side.node;
            let paths = node.store.owed(PAGE)?;
            if paths.is_empty() {
                return Ok(());
            }
            node.store.begin()?;
            if let Err(e) = forgive(node, &paths) {
                node.store.rollback();
                return Err(e.into());
            }
            node.store.commit()?;
            self.ask_for(&paths)?;
        }
    }

    /// Answers a part of a directory with what this node lacks of it.
    pub(super) fn listing(
        &mut self,
        dir: &TreePath,
        exact: Option<&Range>,
        entries: Vec<Named>,
    ) -> Result<(), ApplyError> {
        let mut wanted = Vec::new();
        let dir_id = self.side.node.store.dir_id(dir)?;
        let mut extras = match (dir_id, exact) {
            (Some(id), Some(range)) => names_in(&self.side, id, range)?,
            _ => Vec::new(),
        };
        extras.retain(|(name, _)| {
            entries
                .binary_search_by(|e| e.name.as_slice().cmp(name))
                .is_err()
        });
        for named in entries {
            let row = match dir_id {
                Some(id) => self.side.node.store.child(id, &named.name)?,
                None => None,
            };
            let Ok(path) = dir.path.join(&named.name) else {
                continue;
            };
            let path = TreePath::new(dir.root, path);
            if self.side.node.excluded(&path, named.entry.kind.is_dir()) {
                continue;
            }
            if let Some(have) = self.lacks(&path, row, &named)? {
                self.report.puts += u64::from(self.dry_run);
                let bytes = if self.dry_run && have != Have::Content {
                    named.entry.kind.size()
                } else {
                    0
                };
                self.report.bytes = self.report.bytes.saturating_add(bytes);
                wanted.push(Wanted {
                    name: named.name,
                    have,
                });
            }
            if wanted.len() >= PAGE {
                self.want(dir, std::mem::take(&mut wanted));
            }
        }
        self.want(dir, wanted);
        for (name, is_dir) in extras {
            let Ok(path) = dir.path.join(&name) else {
                continue;
            };
            let path = TreePath::new(dir.root, path);
            if self.side.node.excluded(&path, is_dir) {
                continue;
            }
            if let Some(missing) = &mut self.missing
                && !missing.found(&mut self.side.node, &path)?
            {
                continue;
            }
            self.going.add(path).map_err(ApplyError::Stage)?;
        }
        Ok(())
    }

    /// Asks for names; a dry run only counts them.
    fn want(&self, dir: &TreePath, names: Vec<Wanted>) {
        if !names.is_empty() && !self.dry_run {
            self.peer.send(Message::Want {
                dir: dir.clone(),
                names,
            });
        }
    }

    /// What this node needs to have what the sender lists; `None` where it has it.
    fn lacks(
        &mut self,
        path: &TreePath,
        row: Option<Row>,
        named: &Named,
    ) -> Result<Option<Have>, ApplyError> {
        let Some(mut row) = row else {
            return Ok(Some(if named.entry.kind.is_file() {
                Have::Nothing
            } else {
                Have::Content
            }));
        };
        if let (Kind::File { size, .. }, Kind::File { size: theirs, .. }) =
            (&row.entry.kind, &named.entry.kind)
            && (size == theirs || *theirs > INLINE_MAX)
            && row.entry.kind.hash().is_none()
        {
            row = self.read_hash(path, row)?;
        }
        let linked = match &named.link {
            Some(first) => self
                .side
                .node
                .store
                .lookup(first)?
                .is_some_and(|r| r.stamp.same_file(&row.stamp)),
            None => true,
        };
        // What could not be read whole when it was found here may be anything.
        if self.side.node.index_fresh && row.seq == 0 && row.stamp.is_doubted() {
            let whole = named.entry.kind.is_file() || named.entry.kind.is_dir();
            return Ok(Some(if whole { Have::Nothing } else { Have::Content }));
        }
        if row.entry.same_as(&named.entry) && linked {
            if row.seq == 0 {
                // Found here, and now known to be what the active node has.
                self.side
                    .node
                    .store
                    .update(row.id, &row.entry, &row.stamp, 1)?;
            }
            return Ok(None);
        }
        let have = match (&row.entry.kind, &named.entry.kind) {
            (
                Kind::File {
                    hash: Some(ours), ..
                },
                Kind::File {
                    hash: Some(theirs), ..
                },
            ) if ours == theirs && linked => Have::Content,
            (
                Kind::File {
                    hash: Some(hash),
                    size,
                },
                Kind::File { .. },
            ) if linked => Have::Version {
                hash: *hash,
                size: *size,
            },
            (_, Kind::File { .. }) => Have::Nothing,
            _ => Have::Content,
        };
        Ok(Some(have))
    }

    /// Reads a file whose content this node does not know yet, and remembers its hash.
    fn read_hash(&mut self, path: &TreePath, mut row: Row) -> Result<Row, ApplyError> {
        if let Some(hash) = hash_if_unchanged(&self.side.node, path, &row) {
            let size = row.entry.kind.size();
            row.entry.kind = Kind::File {
                size,
                hash: Some(hash),
            };
            self.side
                .node
                .store
                .refine(row.id, &row.entry, &row.stamp)?;
        }
        Ok(row)
    }
}

/// What was owed to the other node is asked from it instead.
fn forgive(node: &mut Node, paths: &[TreePath]) -> Result<(), StoreError> {
    for path in paths {
        if let Some(row) = node.store.lookup(path)? {
            node.store.update(row.id, &row.entry, &row.stamp, 0)?;
        }
        node.store.settle_debt(path)?;
    }
    Ok(())
}

/// The names this node has in a range of a directory, and whether each is a directory.
fn names_in(side: &Receiving, dir: i64, range: &Range) -> Result<Vec<(Vec<u8>, bool)>, StoreError> {
    let mut names = Vec::new();
    let mut after: Vec<u8> = range.after.as_ref().map(|a| a.to_vec()).unwrap_or_default();
    loop {
        let page = side.node.store.children(dir, Some(&after), PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(names);
        };
        after.clone_from(last);
        for (name, row) in page {
            if range
                .upto
                .as_ref()
                .is_some_and(|u| name.as_slice() > u.as_slice())
            {
                return Ok(names);
            }
            names.push((name, row.entry.kind.is_dir()));
        }
    }
}
