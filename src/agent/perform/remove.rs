//! Removing what stands at a path and everything below it, except what replication did not put there.
//!
//! Edits made on this node are preserved, excluded files stay (and so do the
//! directories that hold them). The walk keeps its own stack, so depth is bounded by nothing but the index.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as rfs, AtFlags};

use super::{Fault, Performer, Place};
use crate::agent::drift;
use crate::agent::links::other_names;
use crate::decide::kept;
use crate::index::store::Row;
use crate::model::entry::Stamp;
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::tree::{is_absent, list};

struct Level {
    path: TreePath,
    names: std::vec::IntoIter<Vec<u8>>,
    /// Something below stays, so this directory stays too.
    kept: bool,
}

impl Performer<'_> {
    /// Does a delete; a directory that holds excluded files cannot go.
    pub(super) fn delete(&mut self, seq: Seq, path: &TreePath) -> Result<(), Fault> {
        let known = self.node.store.lookup(path)?.is_some();
        if self.remove_tree(path)? {
            if known {
                self.node.store.tomb(path, seq)?;
            }
            return Ok(());
        }
        if self.replay.is_some() {
            return Err(Fault::Want);
        }
        let cause = "it holds excluded files; remove or move them if they are not needed".into();
        Err(Fault::Problem {
            operation: "remove the directory".into(),
            cause,
        })
    }

    /// Removes what stands at `path`, and its rows; returns whether nothing stands there any more.
    pub(super) fn remove_tree(&mut self, path: &TreePath) -> Result<bool, Fault> {
        let gone = match self.place(path)? {
            None => true,
            Some(place) if self.came_later(path, &place)? => false,
            Some(place) if place.have.as_ref().is_some_and(|h| h.entry.kind.is_dir()) => {
                self.remove_below(path)?
            }
            Some(_) => self.remove_file(path)?,
        };
        if gone {
            self.node.store.remove(path)?;
            self.touch(path);
        }
        Ok(gone)
    }

    /// Removes a directory from its leaves upwards.
    fn remove_below(&mut self, top: &TreePath) -> Result<bool, Fault> {
        let mut stack = vec![self.level(top)?];
        while let Some(level) = stack.last_mut() {
            if let Some(name) = level.names.next() {
                let Ok(rel) = level.path.path.join(&name) else {
                    continue;
                };
                let path = TreePath::new(level.path.root, rel);
                let Some(place) = self.place(&path)? else {
                    continue;
                };
                let is_dir = place.have.as_ref().is_some_and(|h| h.entry.kind.is_dir());
                if self.node.excluded(&path, is_dir) || self.came_later(&path, &place)? {
                    if let Some(level) = stack.last_mut() {
                        level.kept = true;
                    }
                } else if is_dir {
                    let next = self.level(&path)?;
                    stack.push(next);
                } else if !self.remove_file(&path)?
                    && let Some(level) = stack.last_mut()
                {
                    level.kept = true;
                }
                continue;
            }
            let Some(done) = stack.pop() else { break };
            let kept = done.kept || !self.remove_dir(&done.path)?;
            match stack.last_mut() {
                Some(above) => above.kept |= kept,
                None => return Ok(!kept),
            }
        }
        Ok(true)
    }

    fn level(&self, path: &TreePath) -> Result<Level, Fault> {
        let root = &self.node.root(path.root).ok_or(Fault::Want)?.root;
        let names = match root.open_dir(&path.path) {
            Ok(dir) => {
                list(dir.as_fd(), path.path.is_root()).map_err(Fault::of("list the directory"))?
            }
            Err(e) if is_absent(&e) => Vec::new(),
            Err(e) => return Err(Fault::of("open the directory")(e)),
        };
        Ok(Level {
            path: path.clone(),
            names: names.into_iter(),
            kept: false,
        })
    }

    fn remove_dir(&mut self, path: &TreePath) -> Result<bool, Fault> {
        let Some(place) = self.place(path)? else {
            return Ok(true);
        };
        match rfs::unlinkat(&place.dir, place.name.as_slice(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => Ok(false),
            Err(e) => Err(Fault::of("remove the directory")(e.into())),
        }
    }

    /// Removes one file, or preserves it where replication did not put it there.
    fn remove_file(&mut self, path: &TreePath) -> Result<bool, Fault> {
        let Some(place) = self.place(path)? else {
            return Ok(true);
        };
        let at = (place.dir.as_fd(), place.name.as_slice());
        let Some(have) = &place.have else {
            if place.socket {
                self.preserve(
                    path,
                    at,
                    "a socket stood in a directory that the active node deleted",
                )?;
            }
            return Ok(true);
        };
        let row = self.node.store.lookup(path)?;
        let safe_elsewhere = self.stands_elsewhere(&have.stamp, path)?;
        if !safe_elsewhere
            && !drift::is_replicated(at.0, at.1, have, row.as_ref())
                .map_err(Fault::of("compare it"))?
        {
            let why = drift::explain(have, row.as_ref());
            self.preserve(
                path,
                at,
                &format!("changed here, deleted on the active node ({why})"),
            )?;
            return Ok(true);
        }
        self.take_away(path, &place, have)?;
        if have.stamp.nlink > 1 {
            self.note_name_gone(path, &have.stamp)?;
        }
        Ok(true)
    }

    /// A name of a file went, which moved the file's change time: its other names know it by the new one, if they knew it
    /// until now.
    fn note_name_gone(&mut self, path: &TreePath, was: &Stamp) -> Result<(), Fault> {
        for (at, row) in other_names(self.node, path, was)? {
            if row.seq == 0 || row.stamp != *was {
                continue;
            }
            if let Some(now) = self.place(&at)?.and_then(|p| p.have)
                && now.stamp.same_file(was)
            {
                self.node.store.refine(row.id, &row.entry, &now.stamp)?;
            }
        }
        Ok(())
    }

    /// Whether this very file also stands at another path that replication recorded: then this name of it can go, whatever
    /// was done to the file through its other names meanwhile.
    pub(super) fn stands_elsewhere(&self, stamp: &Stamp, here: &TreePath) -> Result<bool, Fault> {
        if stamp.nlink < 2 {
            return Ok(false);
        }
        for row in self.node.store.by_inode(stamp.ino)? {
            let Some(at) = self.node.store.path_of(row.id)?.filter(|at| at != here) else {
                continue;
            };
            let same = |p: Place| p.have.is_some_and(|h| h.stamp.same_file(stamp));
            if row.seq != 0 && row.stamp.same_file(stamp) && self.place(&at)?.is_some_and(same) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes room where something stands that cannot be replaced by a rename, or that replication did not put there.
    pub(super) fn clear(
        &mut self,
        path: &TreePath,
        place: &Place,
        row: Option<&Row>,
    ) -> Result<(), Fault> {
        if self.came_later(path, place)? {
            return Err(Fault::Want);
        }
        let at = (place.dir.as_fd(), place.name.as_slice());
        match &place.have {
            None if !place.socket => Ok(()),
            None => self.preserve(path, at, "a socket stood where replication puts a file"),
            Some(have) if have.entry.kind.is_dir() => {
                if !self.remove_tree(path)? {
                    let cause = "a directory with excluded files stands in its place".into();
                    return Err(Fault::Problem {
                        operation: "replace it".into(),
                        cause,
                    });
                }
                Ok(())
            }
            Some(have) => {
                if drift::is_replicated(at.0, at.1, have, row).map_err(Fault::of("compare it"))? {
                    return self.take_away(path, place, have);
                }
                self.preserve(path, at, &drift::not_replicated(have, row))
            }
        }
    }

    /// Moves what stands at a path to the preserved directory of its root.
    pub(super) fn preserve(
        &mut self,
        path: &TreePath,
        at: (BorrowedFd<'_>, &[u8]),
        reason: &str,
    ) -> Result<(), Fault> {
        let node = &mut *self.node;
        let root = node
            .root(path.root)
            .map_or(String::new(), |r| r.root.name.clone());
        let row = node.store.lookup(path)?;
        let origin = kept::origin(node.standing(), row.map(|r| r.seq));
        let why = (origin, reason);
        drift::preserve(self.staging, &node.state_dir, &root, path, at, why)
            .map_err(Fault::of("preserve the local version"))?;
        self.outcome.preserved += 1;
        self.touch(path);
        Ok(())
    }
}
