//! Metadata of one file: reading its extended attributes, setting everything that makes it equal.
//!
//! A file is pinned first (a descriptor of the inode itself), and every change
//! goes through the pin, so a name that is swapped meanwhile never receives
//! another file's owner or mode. Order matters: changing the owner clears setuid and
//! capabilities, so owner comes first, then attributes, then the mode, then the times.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as rfs, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use crate::model::entry::{Entry, Kind, MAX_XATTRS, Stamp, Timestamp, Xattr};
use crate::model::path::Escaped;

/// Longest list of attribute names and longest value Linux knows.
const XATTR_MAX: usize = 65_536;

/// A change of metadata that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: {source}")]
pub struct MetaError {
    /// What was tried, as `set owner`.
    pub operation: String,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

fn failed(operation: &str) -> impl FnOnce(rustix::io::Errno) -> MetaError + '_ {
    move |e| MetaError {
        operation: operation.to_owned(),
        source: e.into(),
    }
}

/// A pinned file: whatever happens to its name, changes reach this inode.
#[derive(Debug)]
pub struct Pin {
    fd: OwnedFd,
    path: String,
    symlink: bool,
}

impl Pin {
    /// Pins what stands at `name` in an open directory, without following it; an empty name pins the directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if name.is_empty() { b"." } else { name };
        let fd = rfs::openat(dir, name, flags, Mode::empty())?;
        let symlink =
            rfs::FileType::from_raw_mode(rfs::fstat(&fd)?.st_mode) == rfs::FileType::Symlink;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Ok(Self { fd, path, symlink })
    }

    /// As [`Self::new`], where it still is what was seen there: a name may have come to stand for another file meanwhile,
    /// even for one outside the root by a further name.
    ///
    /// # Errors
    /// What the system says; `ESTALE` where something else stands there.
    pub fn of_seen(dir: BorrowedFd<'_>, name: &[u8], seen: &Stamp) -> io::Result<Self> {
        let pin = Self::new(dir, name)?;
        is_seen(&pin.fd, seen)?;
        Ok(pin)
    }

    /// The pinned inode.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// All extended attributes, sorted by name.
    ///
    /// # Errors
    /// What the system says.
    pub fn xattrs(&self) -> io::Result<Vec<Xattr>> {
        read_xattrs(&self.path)
    }

    /// Makes the metadata equal to `want`'s; `have` is what stands there, to skip what is equal already.
    ///
    /// # Errors
    /// [`MetaError`] for the first change the system refuses.
    pub fn apply(&self, want: &Entry, have: Option<&Entry>) -> Result<(), MetaError> {
        let owner_differs = have.is_none_or(|h| (h.uid, h.gid) != (want.uid, want.gid));
        if owner_differs {
            rfs::chownat(
                &self.fd,
                "",
                Some(Uid::from_raw(want.uid)),
                Some(Gid::from_raw(want.gid)),
                AtFlags::EMPTY_PATH,
            )
            .map_err(failed("set owner"))?;
        }
        let present = match have {
            Some(h) => h.xattrs.clone(),
            None => self.xattrs().map_err(|source| MetaError {
                operation: "read attributes".into(),
                source,
            })?,
        };
        let attributes_differ = present != want.xattrs || (owner_differs && has_capability(want));
        if attributes_differ {
            set_xattrs(&self.path, &present, &want.xattrs)?;
        }
        let mode_may_differ =
            owner_differs || attributes_differ || have.is_none_or(|h| h.mode != want.mode);
        if mode_may_differ && !self.symlink {
            rfs::chmod(&self.path, Mode::from_raw_mode(want.mode)).map_err(failed("set mode"))?;
        }
        // A time that is right is left alone: should somebody write to the file just now, its time goes on telling.
        if have.is_none_or(|h| h.mtime != want.mtime) {
            self.set_mtime(want.mtime)?;
        }
        Ok(())
    }

    /// Sets the modification time; the access time stays.
    ///
    /// # Errors
    /// [`MetaError`].
    pub fn set_mtime(&self, mtime: Timestamp) -> Result<(), MetaError> {
        rfs::utimensat(rfs::CWD, &self.path, &times(mtime), AtFlags::empty())
            .map_err(failed("set times"))
    }
}

/// Makes the metadata of a file that was just created by this process, and that nobody else can reach yet, equal to `want`'s.
/// `mode` is what it was created with.
///
/// # Errors
/// [`MetaError`] for the first change the system refuses.
pub fn dress(fd: BorrowedFd<'_>, want: &Entry, mode: u32) -> Result<(), MetaError> {
    let own = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let owner = own != (want.uid, want.gid);
    if owner {
        rfs::fchown(
            fd,
            Some(Uid::from_raw(want.uid)),
            Some(Gid::from_raw(want.gid)),
        )
        .map_err(failed("set owner"))?;
    }
    for x in &want.xattrs {
        rfs::fsetxattr(fd, x.name.as_slice(), &x.value, XattrFlags::empty())
            .map_err(|e| xattr_failed(x, e))?;
    }
    if owner || !want.xattrs.is_empty() || mode != want.mode {
        rfs::fchmod(fd, Mode::from_raw_mode(want.mode)).map_err(failed("set mode"))?;
    }
    rfs::futimens(fd, &times(want.mtime)).map_err(failed("set times"))
}

fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rfs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.sec,
            tv_nsec: mtime.nsec.into(),
        },
    }
}

/// Checks that an open file is the one that was seen.
///
/// # Errors
/// What the system says; `ESTALE` where it is another one.
pub fn is_seen(file: impl AsFd, seen: &Stamp) -> io::Result<()> {
    let st = rfs::fstat(file)?;
    if (st.st_dev, st.st_ino) == (seen.dev, seen.ino) {
        Ok(())
    } else {
        Err(rustix::io::Errno::STALE.into())
    }
}

fn has_capability(entry: &Entry) -> bool {
    entry
        .xattrs
        .iter()
        .any(|x| x.name == b"security.capability")
}

fn xattr_failed(x: &Xattr, e: rustix::io::Errno) -> MetaError {
    MetaError {
        operation: format!("set attribute {}", Escaped(&x.name)),
        source: e.into(),
    }
}

fn set_xattrs(path: &str, present: &[Xattr], want: &[Xattr]) -> Result<(), MetaError> {
    for x in present {
        if !want.iter().any(|w| w.name == x.name) {
            match rfs::removexattr(path, x.name.as_slice()) {
                Ok(()) | Err(rustix::io::Errno::NODATA) => {}
                Err(e) => {
                    let operation = format!("remove attribute {}", Escaped(&x.name));
                    return Err(MetaError {
                        operation,
                        source: e.into(),
                    });
                }
            }
        }
    }
    for x in want {
        if !present.contains(x) || x.name == b"security.capability" {
            rfs::setxattr(path, x.name.as_slice(), &x.value, XattrFlags::empty())
                .map_err(|e| xattr_failed(x, e))?;
        }
    }
    Ok(())
}

fn read_xattrs(path: &str) -> io::Result<Vec<Xattr>> {
    let mut names = [0u8; 1024];
    let listed = match rfs::listxattr(path, &mut names[..]) {
        Ok(0) => return Ok(Vec::new()),
        Ok(n) => names[..n].to_vec(),
        Err(rustix::io::Errno::RANGE) => {
            let mut all = vec![0u8; XATTR_MAX];
            let n = rfs::listxattr(path, &mut all[..])?;
            all.truncate(n);
            all
        }
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in listed.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0u8; XATTR_MAX];
        match rfs::getxattr(path, name, &mut value[..]) {
            Ok(n) => {
                if found.len() == MAX_XATTRS {
                    // Nobody could read the row or the message that holds them.
                    return Err(io::Error::other(format!(
                        "it has more than {MAX_XATTRS} extended attributes, which are not replicated"
                    )));
                }
                value.truncate(n);
                value.shrink_to_fit();
                found.push(Xattr {
                    name: name.to_vec(),
                    value,
                });
            }
            // Removed meanwhile; the next event tells.
            Err(rustix::io::Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The extended attributes of a name in an open directory, sorted; the name is not followed.
///
/// # Errors
/// What the system says.
pub fn xattrs_of(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<Xattr>> {
    // Most files have none, and one call tells.
    if !name.is_empty() {
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        // An empty buffer would ask for the length, which this wrapper does not tell.
        let mut names = [0u8; 256];
        let listed = rfs::llistxattr(path, &mut names[..]);
        if let Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) = listed {
            return Ok(Vec::new());
        }
    }
    Pin::new(dir, name)?.xattrs()
}

/// Makes a symbolic link, fifo or device at `name` in an open directory that nobody else can reach.
///
/// # Errors
/// [`MetaError`]; `EINVAL` for kinds that are not made by one call.
pub fn make_special(dir: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), MetaError> {
    let mode = Mode::from_raw_mode(entry.mode);
    let made = match &entry.kind {
        Kind::Symlink { target } => rfs::symlinkat(target.as_slice(), dir, name),
        Kind::Fifo => rfs::mknodat(dir, name, rfs::FileType::Fifo, mode, 0),
        Kind::CharDev { rdev } => {
            rfs::mknodat(dir, name, rfs::FileType::CharacterDevice, mode, *rdev)
        }
        Kind::BlockDev { rdev } => rfs::mknodat(dir, name, rfs::FileType::BlockDevice, mode, *rdev),
        Kind::Dir => rfs::mkdirat(dir, name, mode),
        Kind::File { .. } => Err(rustix::io::Errno::INVAL),
    };
    made.map_err(failed("create"))?;
    let pin = Pin::new(dir, name).map_err(|source| MetaError {
        operation: "open".into(),
        source,
    })?;
    pin.apply(entry, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tree::{Look, look_at};

    fn entry(kind: Kind, mode: u32) -> Entry {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        Entry {
            kind,
            mode,
            uid,
            gid,
            mtime: Timestamp {
                sec: 1_000_000,
                nsec: 123_456_789,
            },
            xattrs: vec![],
        }
    }

    #[test]
    fn special_files_get_their_metadata() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let dir = std::fs::File::open(tmp.path()).expect("opens");
        for (name, e) in [
            (
                &b"l"[..],
                entry(
                    Kind::Symlink {
                        target: b"no/where".to_vec(),
                    },
                    0o777,
                ),
            ),
            (b"p", entry(Kind::Fifo, 0o4640)),
            (b"d", entry(Kind::Dir, 0o1777)),
        ] {
            make_special(dir.as_fd(), name, &e).expect("made");
            let Look::There(seen) = look_at(dir.as_fd(), name).expect("looked") else {
                panic!("nothing there")
            };
            assert_eq!(seen.entry, e);
        }
    }

    /// Such a row could be written and not be read again.
    #[test]
    fn more_attributes_than_a_row_may_have_are_refused() {
        let tmp = tempfile::tempdir_in("/dev/shm").expect("temp dir");
        let path = tmp.path().join("f");
        let file = std::fs::File::create(&path).expect("a file");
        for n in 0..=MAX_XATTRS {
            let name = format!("user.{n}");
            if rfs::fsetxattr(&file, name.as_str(), b"", XattrFlags::empty()).is_err() {
                println!("skipped: this file system does not take that many attributes");
                return;
            }
        }
        let dir = std::fs::File::open(tmp.path()).expect("opens");
        let refused = xattrs_of(dir.as_fd(), b"f").expect_err("one too many");
        assert!(refused.to_string().contains("more than 1024"), "{refused}");
        rfs::fremovexattr(&file, "user.0").expect("removed");
        assert_eq!(
            xattrs_of(dir.as_fd(), b"f").expect("read").len(),
            MAX_XATTRS
        );
    }

    #[test]
    fn attributes_are_set_changed_and_removed() {
        let tmp = tempfile::tempdir_in("/var/tmp").expect("temp dir");
        let dir = std::fs::File::open(tmp.path()).expect("opens");
        std::fs::write(tmp.path().join("f"), b"x").expect("written");
        let pin = Pin::new(dir.as_fd(), b"f").expect("pinned");
        let x = |n: &str, v: &str| Xattr {
            name: n.into(),
            value: v.into(),
        };
        let mut e = entry(
            Kind::File {
                size: 1,
                hash: None,
            },
            0o600,
        );
        e.xattrs = vec![x("user.a", "1"), x("user.b", "2")];
        pin.apply(&e, None).expect("applied");
        assert_eq!(pin.xattrs().expect("read"), e.xattrs);
        assert_eq!(xattrs_of(dir.as_fd(), b"f").expect("read"), e.xattrs);
        assert_eq!(xattrs_of(dir.as_fd(), b"").expect("read"), []);
        let before = e.clone();
        e.xattrs = vec![x("user.b", "3")];
        e.mode = 0o644;
        pin.apply(&e, Some(&before)).expect("applied");
        assert_eq!(pin.xattrs().expect("read"), e.xattrs);
        let Look::There(seen) = look_at(dir.as_fd(), b"f").expect("looked") else {
            panic!("nothing there")
        };
        assert_eq!(seen.entry.mode, 0o644);
    }
}
