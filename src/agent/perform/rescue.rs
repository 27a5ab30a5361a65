//! What a process that died between moving something aside and letting go of it has left in staging.
//!
//! It is the new file that was about to be exchanged, or what stood in its place. The one goes back to the slot its record
//! names, the other is let go if replication put it there, and preserved if not. There is one such file at most for each
//! time a process died; their paths are looked for in all the index, once for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as rfs, AtFlags, RenameFlags};
use rustix::io::Errno;

use super::{Fault, Performer};
use crate::agent::drift;
use crate::agent::redo::{Record, Source, Step};
use crate::agent::staging::digest;
use crate::index::store::StoreError;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::sys::tree::{Look, Seen, look_at};

/// Rows that are looked through together.
const PAGE: usize = 1024;

impl Performer<'_> {
    /// Looks at everything that was left aside, before the records are done again. What cannot be looked at or preserved stays
    /// there until the next start.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn rescue(&mut self, records: &[Record]) -> Result<(), StoreError> {
        for at in 0..self.node.roots.len() {
            let root = RootId(u16::try_from(at).unwrap_or(u16::MAX));
            let left = match self.staging.left_aside(root) {
                Ok(left) => left,
                Err(e) => {
                    tracing::error!("cannot look for what was left aside in staging: {e}");
                    continue;
                }
            };
            if left.is_empty() {
                continue;
            }
            let paths = self.paths_of(root, &left, records)?;
            for (name, digest) in left {
                match self.rescue_one(root, (&name, paths.get(&digest)), records) {
                    Ok(()) => {}
                    Err(Fault::Index(e)) => return Err(e),
                    Err(Fault::Want) => {}
                    Err(Fault::Problem { operation, cause }) => tracing::error!(
                        "{name}, left in staging when a process ended: cannot {operation}: {cause}; it stays until the next start"
                    ),
                }
            }
        }
        Ok(())
    }

    fn rescue_one(
        &mut self,
        root: RootId,
        (name, path): (&str, Option<&TreePath>),
        records: &[Record],
    ) -> Result<(), Fault> {
        let staging = self
            .staging
            .shared_dir(root)
            .map_err(Fault::of("open staging"))?;
        let at = (staging.as_fd(), name.as_bytes());
        let seen = match look_at(at.0, at.1).map_err(Fault::of("look at it"))? {
            Look::There(seen) => Some(seen),
            Look::Socket => None,
            Look::Absent => return Ok(()),
        };
        if let (Some(seen), Some(path)) = (&seen, path)
            && !seen.entry.kind.is_dir()
        {
            if back_in_slot((&staging, name), seen, (path, records))? {
                return Ok(());
            }
            if self.came_by_replication(at, seen, (path, records))? {
                return rfs::unlinkat(at.0, at.1, AtFlags::empty())
                    .map_err(|e| Fault::of("remove it")(e.into()));
            }
        }
        let (path, reason) = match path {
            Some(path) => (
                path.clone(),
                "came here while replication changed this path and ended",
            ),
            None => {
                let named = RelPath::parse(name.as_bytes()).map_err(|_| Fault::Want)?;
                (
                    TreePath::new(root, named),
                    "came to a path that is not known any more while replication changed it and ended",
                )
            }
        };
        self.preserve(&path, at, reason)
    }

    /// The paths that the digests of what was left stand for, as far as the records or the index have them.
    fn paths_of(
        &self,
        root: RootId,
        left: &[(String, String)],
        records: &[Record],
    ) -> Result<BTreeMap<String, TreePath>, StoreError> {
        let wanted: BTreeSet<&str> = left.iter().map(|(_, digest)| &**digest).collect();
        let mut found = BTreeMap::new();
        let mut look = |path: TreePath| {
            let digest = digest(&path);
            if path.root == root && wanted.contains(&*digest) {
                found.insert(digest, path);
            }
            found.len() < wanted.len()
        };
        let mut more = steps(records).all(|step| look(target(step).clone()));
        let (store, mut after) = (&self.node.store, (0, 0));
        while more {
            let rows = store.changed_since(after, PAGE)?;
            more = rows.len() == PAGE;
            for row in &rows {
                after = (row.seq, row.id);
                more &= store.path_of(row.id)?.is_none_or(&mut look);
            }
        }
        Ok(found)
    }

    /// Whether it came from replication: by a record, by the index, or as a further name of a file that the index knows.
    fn came_by_replication(
        &mut self,
        at: (BorrowedFd<'_>, &[u8]),
        seen: &Seen,
        (path, records): (&TreePath, &[Record]),
    ) -> Result<bool, Fault> {
        for step in steps(records) {
            if let Step::Put {
                path: to, entry, ..
            } = step
                && to == path
                && drift::holds(at.0, at.1, seen, entry).map_err(Fault::of("compare it"))?
            {
                return Ok(true);
            }
        }
        let row = self.node.store.lookup(path)?;
        Ok(
            drift::is_replicated(at.0, at.1, seen, row.as_ref())
                .map_err(Fault::of("compare it"))?
                || self.stands_elsewhere(&seen.stamp, path)?,
        )
    }
}

fn steps(records: &[Record]) -> impl Iterator<Item = &Step> {
    records.iter().flat_map(|r| &r.steps).map(|(_, step)| step)
}

fn target(step: &Step) -> &TreePath {
    match step {
        Step::Move { to, .. } => to,
        Step::Put { path, .. } | Step::Delete { path } | Step::Lack { path, .. } => path,
    }
}

/// Gives the new content of a record its slot again; whether this is one.
fn back_in_slot(
    (staging, name): (&OwnedFd, &str),
    seen: &Seen,
    (path, records): (&TreePath, &[Record]),
) -> Result<bool, Fault> {
    for step in steps(records) {
        let Step::Put {
            path: to,
            entry,
            source: Source::Slot { name: slot, .. },
            ..
        } = step
        else {
            continue;
        };
        let fds = (staging.as_fd(), name.as_bytes());
        if to != path
            || !drift::holds(fds.0, fds.1, seen, entry).map_err(Fault::of("compare it"))?
        {
            continue;
        }
        match rfs::renameat_with(
            staging,
            name,
            staging,
            slot.as_str(),
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => return Ok(true),
            // That of an earlier record with the same content, whose slot was never used.
            Err(Errno::EXIST) => {}
            Err(e) => return Err(Fault::of("rename it")(e.into())),
        }
    }
    Ok(false)
}
