//! Operations on what is not content: mode, owner, extended attributes, times.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use super::{History, Now};

impl History {
    pub(super) fn chmod(&mut self, now: &Now) -> io::Result<Option<String>> {
        let path = if self.random.once_in(3) {
            self.dir(now)
        } else {
            self.in_place(now)
        };
        let Some(path) = path else { return Ok(None) };
        // The owner keeps all rights, so that an ordinary user can go on.
        let bits = u32::try_from(self.random.below(0o100)).unwrap_or(0);
        fs::set_permissions(&path, Permissions::from_mode(0o700 | bits))?;
        self.tell("chmod", &[&path])
    }

    pub(super) fn chown(&mut self, now: &Now) -> io::Result<Option<String>> {
        let path = self.any(now);
        let path = path.filter(|path| self.root_user && self.is_looked_at(path));
        let Some(path) = path else { return Ok(None) };
        let owner = u32::try_from(self.random.below(3)).unwrap_or(0);
        lchown(&path, Some(owner), Some(1_000 + owner))?;
        self.tell("chown", &[&path])
    }

    pub(super) fn xattr(&mut self, now: &Now) -> io::Result<Option<String>> {
        let path = if self.random.once_in(3) {
            self.dir(now)
        } else {
            self.in_place(now)
        };
        let Some(path) = path else { return Ok(None) };
        let name = format!("user.x{}", self.random.below(3));
        if self.random.once_in(4) {
            rustix::fs::removexattr(&path, &*name)?;
        } else {
            let value = self.bytes(40);
            rustix::fs::setxattr(&path, &*name, &value, XattrFlags::empty())?;
        }
        self.tell("xattr", &[&path])
    }

    pub(super) fn mtime(&mut self, now: &Now) -> io::Result<Option<String>> {
        let path = self.any(now).filter(|path| self.is_looked_at(path));
        let Some(path) = path else { return Ok(None) };
        let t = Timespec {
            tv_sec: i64::try_from(1_000_000_000 + self.random.below(100_000_000)).unwrap_or(0),
            tv_nsec: i64::try_from(self.random.below(1_000_000_000)).unwrap_or(0),
        };
        let times = Timestamps {
            last_access: t,
            last_modification: t,
        };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        self.tell("mtime", &[&path])
    }
}
