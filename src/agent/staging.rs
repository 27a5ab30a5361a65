//! The staging area of a root: slots in its private directory, on its own file system.
//!
//! A slot is invisible to everybody else (0700) and becomes part of the tree by
//! one rename. Slots that no redo record names are left-overs and are swept when a receiver starts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags};

use super::node::{Node, PRESERVED, STAGING};
use crate::model::path::RootId;

struct Area {
    staging: OwnedFd,
    preserved: OwnedFd,
}

/// The staging areas of all roots.
pub struct Staging {
    areas: Vec<Area>,
    next: u64,
}

impl Staging {
    /// Opens the staging areas of a node.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(node: &Node) -> io::Result<Self> {
        let open = |r: &super::node::NodeRoot| {
            Ok(Area {
                staging: r.root.open_private(STAGING)?,
                preserved: r.root.open_private(PRESERVED)?,
            })
        };
        let areas = node.roots.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { areas, next: 0 })
    }

    fn area(&self, root: RootId) -> io::Result<&Area> {
        self.areas
            .get(usize::from(root.0))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The directory that holds a root's slots.
    ///
    /// # Errors
    /// `ENOENT` for a root that does not exist.
    pub fn dir(&self, root: RootId) -> io::Result<BorrowedFd<'_>> {
        Ok(self.area(root)?.staging.as_fd())
    }

    /// The directory that holds a root's preserved files.
    ///
    /// # Errors
    /// `ENOENT` for a root that does not exist.
    pub fn preserved(&self, root: RootId) -> io::Result<BorrowedFd<'_>> {
        Ok(self.area(root)?.preserved.as_fd())
    }

    /// A name no slot has yet.
    pub fn fresh(&mut self) -> String {
        self.next += 1;
        format!("s{}", self.next)
    }

    /// Makes an empty file in a new slot, readable for its owner alone unless `mode` says otherwise.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&mut self, root: RootId, mode: u32) -> io::Result<(String, File)> {
        let name = self.fresh();
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(
            self.dir(root)?,
            name.as_str(),
            flags,
            Mode::from_raw_mode(mode),
        )?;
        Ok((name, File::from(fd)))
    }

    /// Removes a slot that holds no directory; a missing one is fine.
    pub fn discard(&self, root: RootId, name: &str) {
        let done = self
            .dir(root)
            .and_then(|d| Ok(rfs::unlinkat(d, name, AtFlags::empty())?));
        if let Err(e) = done
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove the staging slot {name}: {e}");
        }
    }

    /// Removes every slot: whatever the journal named has been placed.
    ///
    /// # Errors
    /// What the system says.
    pub fn sweep(&mut self) -> io::Result<()> {
        for area in &self.areas {
            for name in crate::sys::tree::list(area.staging.as_fd(), false)? {
                match rfs::unlinkat(&area.staging, name.as_slice(), AtFlags::empty()) {
                    Err(rustix::io::Errno::ISDIR) => {
                        rfs::unlinkat(&area.staging, name.as_slice(), AtFlags::REMOVEDIR)?
                    }
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Makes new slots survive power loss: each file by itself where they are few, else the whole file system.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self, slots: &[(RootId, File)]) -> io::Result<()> {
        const FEW: usize = 16;
        let mut roots: Vec<RootId> = slots.iter().map(|(r, _)| *r).collect();
        roots.sort_unstable();
        roots.dedup();
        if slots.len() > FEW {
            for root in roots {
                rfs::syncfs(self.dir(root)?)?;
            }
            return Ok(());
        }
        for (_, file) in slots {
            file.sync_all()?;
        }
        for root in roots {
            rfs::fsync(self.dir(root)?)?;
        }
        Ok(())
    }

    /// Makes everything done to the trees so far survive power loss.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync_trees(&self) -> io::Result<()> {
        self.areas
            .iter()
            .try_for_each(|a| Ok(rfs::syncfs(&a.staging)?))
    }
}
