//! What a preserved version is, and what stands at its path today: owner, mode, time, size.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as rfs, AtFlags};

use super::{Item, Preserved, kind};
use crate::sys::deep;

/// What a person may want to know of a file before choosing between two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What it is, as `file`.
    pub kind: &'static str,
    /// Bytes it takes; of a directory the sum.
    pub size: u64,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was last written, in milliseconds since 1970; 0 for times before.
    pub modified: u64,
}

impl Facts {
    fn of(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let millis =
            u64::try_from(stat.st_mtime).map_or(0, |s| s * 1000 + stat.st_mtime_nsec / 1_000_000);
        Ok(Self {
            kind: kind(&stat),
            size: deep::measure(dir, name)?,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: millis,
        })
    }
}

impl Preserved {
    /// What the version is.
    ///
    /// # Errors
    /// What the system says.
    pub fn facts(&self, item: &Item) -> io::Result<Facts> {
        let open = self.shelf(item).ok_or(io::ErrorKind::NotFound)?;
        Facts::of(open.dir.as_fd(), &item.name)
    }

    /// What stands at its path now; `None` where nothing does, or where nobody knows its path.
    ///
    /// # Errors
    /// What the system says.
    pub fn facts_now(&self, item: &Item) -> io::Result<Option<Facts>> {
        let (Some(open), Some(path)) = (self.shelf(item), &item.path) else {
            return Ok(None);
        };
        let found = open
            .root
            .open_parent(path)
            .and_then(|(dir, name)| Facts::of(dir.as_fd(), name));
        match found {
            Ok(facts) => Ok(Some(facts)),
            Err(e) if crate::sys::tree::is_absent(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
