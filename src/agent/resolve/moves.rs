//! Directories that moved: recognised at the new place, never taken for deleted at the old one.
//!
//! A rename of a directory is one operation and one changed row, whatever lies below it; how a directory is found again,
//! and how it is told from one that is gone, is apart from what becomes of single paths.

use super::{Looked, ResolveError, Resolver};
use crate::agent::links::{other_names, stands};
use crate::model::batch::Op;
use crate::model::path::TreePath;
use crate::sys::tree::Seen;

impl Resolver<'_> {
    /// Finds where a directory that is new at its place came from.
    pub(super) fn find_move(&mut self, path: &TreePath, seen: &Seen) -> Result<(), ResolveError> {
        if path.path.is_root() {
            return Ok(());
        }
        let row = self.node.store.lookup(path)?;
        if row.as_ref().is_some_and(|r| r.stamp.same_file(&seen.stamp)) {
            return Ok(());
        }
        let Some((from, _)) = other_names(self.node, path, &seen.stamp)?
            .into_iter()
            .find(|(_, r)| r.entry.kind.is_dir())
        else {
            return Ok(());
        };
        let parent = path.path.parent().map(|p| TreePath::new(path.root, p));
        let known_parent = match &parent {
            Some(p) => self
                .node
                .store
                .lookup(p)?
                .is_some_and(|r| r.entry.kind.is_dir()),
            None => false,
        };
        if !known_parent
            || stands(self.node, &from, &seen.stamp)
            || path.path.is_within(&from.path) && path.root == from.root
        {
            return Ok(());
        }
        if row.is_some() {
            self.vacate(path)?;
        }
        self.relocate(&from, path)?;
        self.out.scan.push(path.clone());
        Ok(())
    }

    /// Moves a row with everything below it, here and on the peer.
    fn relocate(&mut self, from: &TreePath, to: &TreePath) -> Result<(), ResolveError> {
        let seq = self.next()?;
        if self.node.store.move_row(from, to, seq)? {
            self.node.store.tomb(from, seq)?;
            self.moves.push((
                seq,
                Op::Move {
                    from: from.clone(),
                    to: to.clone(),
                },
            ));
        }
        Ok(())
    }

    /// Moves a row out of the way of another: its file may turn up elsewhere, as in a swap.
    fn vacate(&mut self, path: &TreePath) -> Result<(), ResolveError> {
        self.limbo += 1;
        let name = format!(".osm-failover-limbo-{}-{}", std::process::id(), self.limbo);
        let Some(aside) = path
            .path
            .parent()
            .and_then(|p| p.join(name.as_bytes()).ok())
        else {
            return Ok(());
        };
        let aside = TreePath::new(path.root, aside);
        self.relocate(path, &aside)?;
        // If nothing claims it within this round, the scan of it finds nothing there and deletes it.
        self.out.scan.push(aside);
        Ok(())
    }

    /// The directory of a path where it was not the one the index knows that had no such name, but another one or none.
    pub(super) fn away(&mut self, l: &Looked) -> Result<Option<TreePath>, ResolveError> {
        let Some(parent) = l.path.path.parent() else {
            return Ok(None);
        };
        let dir = TreePath::new(l.path.root, parent);
        let Some(row) = self.node.store.lookup(&dir)? else {
            return Ok(None);
        };
        let same = l.without.is_some_and(|w| w.same_file(&row.stamp));
        if same || self.node.store.lookup(&l.path)?.is_none() {
            return Ok(None);
        }
        Ok(Some(dir))
    }
}
