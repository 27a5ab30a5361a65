//! What is missing from a root is counted before it counts as deleted.

use std::collections::{BTreeMap, BTreeSet};

use super::{Looked, ResolveError, Resolver};
use crate::agent::node::Node;
use crate::decide::guard::{Exceeded, Guard};
use crate::index::store::{Row, StoreError};
use crate::model::path::{RelPath, RootId, TreePath};
use crate::sys::clock;

/// A root from which too much is missing, or a part of which is not what it was.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// The root.
    pub root: RootId,
    /// Why, and what to do.
    pub why: String,
    /// What ends it besides an approval.
    pub until: Until,
}

/// What shows that the cause is gone.
#[derive(Debug, Clone)]
pub enum Until {
    /// A file system is mounted on this directory again.
    Mounted(TreePath),
    /// This path, the first of the missing ones, is there again.
    Back(TreePath),
}

impl Resolver<'_> {
    /// Counts what was looked at and is not there; where that is too much for a root, nothing of it is resolved.
    pub(super) fn guard(&mut self, looked: &mut Vec<Looked>) -> Result<(), ResolveError> {
        let missing: Vec<_> = looked
            .iter()
            .filter(|l| l.seen.is_none())
            .map(|l| l.path.clone())
            .collect();
        let now = self.now;
        let stopped = judge(self.node, self.guard, now, &missing, true)?;
        let roots: BTreeSet<_> = stopped.iter().map(|s| s.root).collect();
        looked.retain(|l| !roots.contains(&l.path.root));
        self.out.stopped.extend(stopped);
        Ok(())
    }

    /// Whether a file system that was mounted in the root is gone: its directory now lies on that of the root.
    pub(super) fn lost_mount(&mut self, l: &Looked, row: &Row) -> bool {
        let Some(seen) = l.seen.as_ref().filter(|_| row.entry.kind.is_dir()) else {
            return false;
        };
        let Some(r) = self.node.root(l.path.root) else {
            return false;
        };
        // Numbers of devices may change with a reboot, so each is compared with the root's of its time.
        let was_mounted = r.former_dev.is_some_and(|dev| dev != row.stamp.dev);
        let is_mounted = r
            .root
            .identity()
            .map_or(true, |(dev, _)| dev != seen.stamp.dev);
        if seen.stamp.dev == row.stamp.dev
            || !was_mounted
            || is_mounted
            || self.guard.is_approved(l.path.root)
        {
            return false;
        }
        let why = format!(
            "the file system that was mounted on {} is gone; mount it again, or run \"syncctl approve\" if what was on it is to be deleted on the peer, too",
            self.node.show(&l.path)
        );
        self.out.stopped.push(Stopped {
            root: l.path.root,
            why,
            until: Until::Mounted(l.path.clone()),
        });
        true
    }
}

/// Judges what is missing from each root; `note` where it counts as gone afterwards.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn judge(
    node: &mut Node,
    guard: &mut Guard,
    now: u64,
    missing: &[TreePath],
    note: bool,
) -> Result<Vec<Stopped>, StoreError> {
    let found = exceeding(node, guard, now, missing, note)?.into_iter();
    Ok(found.map(|(path, e)| too_much(node, path, e)).collect())
}

/// The roots from which more is missing than may go at once: the first missing path of each, and how much it is; `note`
/// where the rest counts as gone afterwards.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn exceeding(
    node: &mut Node,
    guard: &mut Guard,
    now: u64,
    missing: &[TreePath],
    note: bool,
) -> Result<Vec<(TreePath, Exceeded)>, StoreError> {
    let mut counts: BTreeMap<RootId, u64> = BTreeMap::new();
    for path in missing.iter().filter(|p| !guard.is_open(p.root)) {
        if let Some(row) = node.store.lookup(path)? {
            *counts.entry(path.root).or_default() += weight(node, guard, &row)?;
        }
    }
    let mut too_many = Vec::new();
    for (root, mut count) in counts {
        let mut found = guard.judge(root, now, count, || left(node, root, count))?;
        if found.is_some() {
            // Before anybody is woken up: what only has another name now is not gone.
            for path in missing.iter().filter(|p| p.root == root) {
                if let Some(row) = node.store.lookup(path)?
                    && has_other_name(node, &row)?
                {
                    count = count.saturating_sub(weight(node, guard, &row)?);
                }
            }
            found = guard.judge(root, now, count, || left(node, root, count))?;
        }
        match found {
            Some(exceeded) => {
                let first = missing.iter().find(|p| p.root == root);
                let first = first.cloned();
                too_many.extend(first.map(|path| (path, exceeded)));
            }
            None if note => guard.note(root, now, count),
            None => {}
        }
    }
    Ok(too_many)
}

/// How many paths a root still has in the index, those that are missing included.
fn left(node: &mut Node, root: RootId, missing: u64) -> Result<u64, StoreError> {
    match node.store.lookup(&TreePath::new(root, RelPath::root()))? {
        Some(row) => Ok(node.store.count_below(row.id, u64::MAX)?.max(missing)),
        None => Ok(missing),
    }
}

/// How many paths a row stands for; files that were made within the window come and go all the time.
fn weight(node: &Node, guard: &Guard, row: &Row) -> Result<u64, StoreError> {
    let born = u64::try_from(row.stamp.btime.sec)
        .unwrap_or(0)
        .saturating_mul(1000);
    if born > 0 && born.saturating_add(guard.window()) > clock::unix_ms() {
        return Ok(0);
    }
    if row.entry.kind.is_dir() {
        return node.store.count_below(row.id, u64::MAX);
    }
    Ok(1)
}

fn has_other_name(node: &Node, row: &Row) -> Result<bool, StoreError> {
    let rows = node.store.by_inode(row.stamp.ino)?;
    Ok(rows
        .iter()
        .any(|r| r.id != row.id && r.stamp.same_file(&row.stamp)))
}

fn too_much(node: &Node, first: TreePath, exceeded: Exceeded) -> Stopped {
    let root = first.root;
    let name = node.root(root).map_or("?", |r| r.root.name.as_str());
    let Exceeded { deleted, total } = exceeded;
    Stopped {
        root,
        why: format!(
            "{deleted} of {total} paths are gone, more than max_delete allows; nothing more of it is deleted on the peer. Put them back, or run \"syncctl approve {name}\" if that is meant to be"
        ),
        until: Until::Back(first),
    }
}
