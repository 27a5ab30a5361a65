//! Removing and replacing what was looked at, and nothing else.
//!
//! Between a look at a name and the call that changes it somebody on this node may put another file there. So nothing is
//! unlinked where it stands, nor renamed over: it goes aside, into the staging area, by one rename (an exchange where
//! something takes its place), and is let go there only if it is what was seen. A process that dies in between leaves it
//! aside; [`super::rescue`] finds it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self as rfs, AtFlags, RenameFlags};
use rustix::io::Errno;

use super::{Fault, Performer, Place, cannot_place};
use crate::model::entry::Stamp;
use crate::model::path::TreePath;
use crate::sys::tree::{Look, Seen, look_at};

impl Performer<'_> {
    /// Removes the file that was seen at a place; what came there since is preserved.
    pub(super) fn take_away(
        &mut self,
        path: &TreePath,
        place: &Place,
        seen: &Seen,
    ) -> Result<(), Fault> {
        let aside = self.staging.aside(path);
        let staging = self.staging_of(path)?;
        let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
        match rfs::renameat_with(dir, name, &staging, &*aside, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            // It lies on a file system of its own below the root: there is nowhere it could go aside.
            Err(Errno::XDEV) => return unlink_there(place, seen),
            Err(e) => return Err(Fault::of("remove it")(e.into())),
        }
        let gone = self.let_go(path, (&staging, &aside), seen);
        if gone.is_err()
            && let Err(e) = rfs::renameat_with(&staging, &*aside, dir, name, RenameFlags::NOREPLACE)
        {
            self.stays_aside(path, &aside, &e.to_string());
        }
        gone
    }

    /// Puts what a slot holds in the place of the file that was seen there, so that the path is never without one; that file
    /// is preserved where there is a reason to keep it, and what came there since in any case. Where that fails everything
    /// stands as it did, the slot included.
    pub(super) fn put_over(
        &mut self,
        path: &TreePath,
        place: &Place,
        (seen, keep): (&Seen, Option<&str>),
        (slot, made): (&str, Option<Stamp>),
    ) -> Result<(), Fault> {
        let aside = self.staging.aside(path);
        let staging = self.staging_of(path)?;
        let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
        // From here on the name says that what has it may be somebody's.
        rfs::renameat(&staging, slot, &staging, &*aside)
            .map_err(|e| Fault::of("rename its slot")(e.into()))?;
        let exchange = || rfs::renameat_with(&staging, &*aside, dir, name, RenameFlags::EXCHANGE);
        if let Err(e) = exchange() {
            self.back_to_slot(path, (&staging, &aside), (slot, made));
            return Err(match e {
                Errno::NOENT => Fault::Want,
                e => cannot_place(e),
            });
        }
        let gone = match keep {
            Some(reason) => self.preserve(path, (staging.as_fd(), aside.as_bytes()), reason),
            None => self.let_go(path, (&staging, &aside), seen),
        };
        if gone.is_err() {
            match exchange() {
                Ok(()) => self.back_to_slot(path, (&staging, &aside), (slot, made)),
                // It was preserved, and only that this is on the disk is not known.
                Err(Errno::NOENT) => {}
                Err(e) => self.stays_aside(path, &aside, &e.to_string()),
            }
        }
        gone
    }

    /// Gives what is aside the name of its slot again, if it is what was made there: where it was exchanged back, something
    /// else may have come to the place meanwhile.
    pub(super) fn back_to_slot(
        &self,
        path: &TreePath,
        (staging, aside): (&OwnedFd, &str),
        (slot, made): (&str, Option<Stamp>),
    ) {
        let look = look_at(staging.as_fd(), aside.as_bytes());
        let is_ours = matches!((look, made), (Ok(Look::There(now)), Some(made)) if now.stamp.same_file(&made));
        if !is_ours {
            return self.stays_aside(path, aside, "it came while another version was put back");
        }
        if let Err(e) = rfs::renameat(staging, aside, staging, slot) {
            self.stays_aside(path, aside, &e.to_string());
        }
    }

    /// Removes what was moved aside from a path, if it is what was seen there; else preserves it.
    fn let_go(
        &mut self,
        path: &TreePath,
        (staging, aside): (&OwnedFd, &str),
        seen: &Seen,
    ) -> Result<(), Fault> {
        let at = (staging.as_fd(), aside.as_bytes());
        let look = look_at(at.0, at.1).map_err(Fault::of("look at what it was"))?;
        let known = match &look {
            Look::Absent => return Ok(()),
            Look::Socket => false,
            Look::There(now) if now.stamp.same_file(&seen.stamp) && now.entry == seen.entry => true,
            Look::There(now) => {
                !now.entry.kind.is_dir() && self.stands_elsewhere(&now.stamp, path)?
            }
        };
        if known {
            return rfs::unlinkat(at.0, at.1, AtFlags::empty())
                .map_err(|e| Fault::of("remove it")(e.into()));
        }
        self.preserve(path, at, "came here while replication changed this path")
    }

    fn staging_of(&self, path: &TreePath) -> Result<Arc<OwnedFd>, Fault> {
        let dir = self.staging.shared_dir(path.root);
        dir.map_err(Fault::of("open staging"))
    }

    fn stays_aside(&self, path: &TreePath, aside: &str, why: &str) {
        tracing::error!(
            "{}: a version of it cannot be put back ({why}); it stays in staging as {aside} until the next start",
            self.node.show(path)
        );
    }
}

/// Removes a file where it stands, if it still is what was seen.
fn unlink_there(place: &Place, seen: &Seen) -> Result<(), Fault> {
    let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
    match look_at(dir, name).map_err(Fault::of("look at it"))? {
        Look::Absent => Ok(()),
        Look::There(now) if now.stamp == seen.stamp => {
            rfs::unlinkat(dir, name, AtFlags::empty()).map_err(|e| Fault::of("remove it")(e.into()))
        }
        _ => Err(Fault::Want),
    }
}
