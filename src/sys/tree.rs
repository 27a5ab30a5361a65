//! Files below an open root.
//!
//! Every operation starts from the root's descriptor and resolves without
//! leaving it: no symbolic link, no `..`, no magic link is followed, in no
//! component (`openat2`). A directory that somebody swaps for a link while we work is an
//! error here, never a way out. Paths longer than `PATH_MAX` are walked in hops.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};

use crate::model::entry::{Entry, Kind, Stamp, Timestamp};
use crate::model::path::{PRIVATE_DIR, RelPath, RootId};

/// Longest piece of a path given to the kernel in one call.
const HOP: usize = 3500;
/// Tries of an `openat2` that the kernel gave up because of a concurrent rename.
const TRIES: u32 = 64;

/// Why a root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Nothing stands at the path.
    #[error(
        "root \"{name}\": {path} does not exist; mount its file system or create it (an empty directory where this node is to receive it)"
    )]
    Missing {
        /// Name of the root.
        name: String,
        /// Its path.
        path: PathBuf,
    },
    /// The path is neither a directory nor a regular file.
    #[error("root \"{name}\": {path} is neither a directory nor a regular file")]
    Kind {
        /// Name of the root.
        name: String,
        /// Its path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("root \"{name}\": cannot open {path}: {source}")]
    Io {
        /// Name of the root.
        name: String,
        /// Its path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// An open root.
#[derive(Debug)]
pub struct Root {
    /// Its position in the configuration.
    pub id: RootId,
    /// Its name.
    pub name: String,
    /// The directory all paths of the root lie in.
    pub path: PathBuf,
    /// The root is this one file in the directory.
    pub only: Option<Vec<u8>>,
    dir: OwnedFd,
}

/// What a look at a name found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Absent,
    /// A socket, which is of no use to another host.
    Socket,
    /// Something to replicate.
    There(Box<Seen>),
}

/// What stands at a name, without extended attributes and content hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Kind and metadata; `xattrs` is empty and the hash `None`.
    pub entry: Entry,
    /// How this host recognises it.
    pub stamp: Stamp,
}

impl Root {
    /// Opens a root.
    ///
    /// # Errors
    /// [`RootError`] where it is missing, of a wrong kind or may not be opened.
    pub fn open(id: RootId, name: &str, path: &Path) -> Result<Self, RootError> {
        let fail = |source: io::Error| RootError::Io {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        };
        let meta = match std::fs::metadata(path) {
            Ok(m) => m,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(RootError::Missing {
                    name: name.to_owned(),
                    path: path.to_owned(),
                });
            }
            Err(e) => return Err(fail(e)),
        };
        let (base, only) = if meta.is_dir() {
            (path.to_owned(), None)
        } else if meta.is_file() {
            let only = path.file_name().map(|n| n.as_bytes().to_vec());
            (path.parent().unwrap_or(Path::new("/")).to_owned(), only)
        } else {
            return Err(RootError::Kind {
                name: name.to_owned(),
                path: path.to_owned(),
            });
        };
        let dir = rfs::open(
            &base,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| fail(e.into()))?;
        Ok(Self {
            id,
            name: name.to_owned(),
            path: base,
            only,
            dir,
        })
    }

    /// The root's own descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Device and inode of the root's directory, by which a replaced root is noticed.
    ///
    /// # Errors
    /// What the system says.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let st = rfs::fstat(&self.dir)?;
        Ok((st.st_dev, st.st_ino))
    }

    /// Whether the path still leads to the directory that is open.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        match (rfs::stat(&self.path), rfs::fstat(&self.dir)) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) && b.st_nlink > 0,
            _ => false,
        }
    }

    /// Opens a directory below the root for reading.
    ///
    /// # Errors
    /// What the system says; `ELOOP` or `ENOTDIR` where a component is no directory.
    pub fn open_dir(&self, rel: &RelPath) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if rel.is_root() {
            return Ok(rfs::openat(
                &self.dir,
                ".",
                flags | OFlags::CLOEXEC,
                Mode::empty(),
            )?);
        }
        open_below(self.dir.as_fd(), rel.as_bytes(), flags)
    }

    /// Opens the directory that holds `rel`; the name within it comes along.
    ///
    /// # Errors
    /// What the system says; `EINVAL` for the root itself.
    pub fn open_parent<'p>(&self, rel: &'p RelPath) -> io::Result<(OwnedFd, &'p [u8])> {
        let (Some(parent), Some(name)) = (rel.parent(), rel.name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        Ok((self.open_dir(&parent)?, name))
    }

    /// Looks at a path without following it.
    ///
    /// # Errors
    /// What the system says; a missing directory on the way is [`Look::Absent`].
    pub fn look(&self, rel: &RelPath) -> io::Result<Look> {
        if rel.is_root() {
            return look_at(self.dir.as_fd(), b"");
        }
        let (dir, name) = match self.open_parent(rel) {
            Ok(found) => found,
            Err(e) if is_absent(&e) => return Ok(Look::Absent),
            Err(e) => return Err(e),
        };
        look_at(dir.as_fd(), name)
    }

    /// As [`Self::look`]; where nothing of use stands at the path, the directory that was asked comes along, if there is
    /// one: a name can be missing because its directory is elsewhere at that moment.
    ///
    /// # Errors
    /// What the system says.
    pub fn look_within(&self, rel: &RelPath) -> io::Result<(Look, Option<Stamp>)> {
        if rel.is_root() {
            return Ok((look_at(self.dir.as_fd(), b"")?, None));
        }
        let (dir, name) = match self.open_parent(rel) {
            Ok(found) => found,
            Err(e) if is_absent(&e) => return Ok((Look::Absent, None)),
            Err(e) => return Err(e),
        };
        let look = look_at(dir.as_fd(), name)?;
        if matches!(look, Look::There(_)) {
            return Ok((look, None));
        }
        let without = match look_at(dir.as_fd(), b"")? {
            Look::There(seen) => Some(seen.stamp),
            Look::Absent | Look::Socket => None,
        };
        Ok((look, without))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// What the system says; never follows a link.
    pub fn open_file(&self, rel: &RelPath) -> io::Result<File> {
        let (dir, name) = self.open_parent(rel)?;
        open_regular(dir.as_fd(), name)
    }

    /// Makes the root's private directory and those below it that the agent needs, 0700 and without inherited ACLs.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_private(&self, names: &[&str]) -> io::Result<()> {
        private_dir(self.dir.as_fd(), PRIVATE_DIR)?;
        let base = open_below(
            self.dir.as_fd(),
            PRIVATE_DIR,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        )?;
        for name in names {
            private_dir(base.as_fd(), name.as_bytes())?;
        }
        Ok(())
    }

    /// Opens a directory inside the private directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_private(&self, name: &str) -> io::Result<OwnedFd> {
        let mut path = PRIVATE_DIR.to_vec();
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        open_below(
            self.dir.as_fd(),
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        )
    }
}

fn private_dir(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rfs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let fd = open_below(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
    )?;
    rfs::fchmod(&fd, Mode::RWXU)?;
    match rfs::fremovexattr(&fd, "system.posix_acl_default") {
        Ok(()) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Whether an error says that nothing stands at a path (or that no path leads there).
#[must_use]
pub fn is_absent(e: &io::Error) -> bool {
    let code = e.raw_os_error();
    [libc::ENOENT, libc::ENOTDIR, libc::ELOOP]
        .iter()
        .any(|c| code == Some(*c))
}

/// Opens a path below `dir` without ever leaving it or following a link.
///
/// # Errors
/// What the system says.
pub fn open_below(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > HOP {
        let cut = rest[..HOP]
            .iter()
            .rposition(|b| *b == b'/')
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
        let hop = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let next = open_hop(at.as_ref().map_or(dir, AsFd::as_fd), &rest[..cut], hop)?;
        at = Some(next);
        rest = &rest[cut + 1..];
    }
    open_hop(at.as_ref().map_or(dir, AsFd::as_fd), rest, flags)
}

fn open_hop(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match rfs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Opens a regular file in an open directory for reading; anything else is refused without side effect.
///
/// # Errors
/// What the system says; `EINVAL` where the name is no regular file.
pub fn open_regular(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let file = open_unchecked(dir, name)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(file)
}

/// As [`open_regular`], for who looks at what was opened before it is read: it may be of any kind but a link.
///
/// # Errors
/// What the system says.
pub fn open_unchecked(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    // O_NONBLOCK keeps a fifo that took the file's place from blocking us; it means nothing to a regular file.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(File::from(rfs::openat(dir, name, flags, Mode::empty())?))
}

/// Looks at a name in an open directory without following it; an empty name is the directory itself.
///
/// # Errors
/// What the system says.
pub fn look_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Look> {
    let flags = if name.is_empty() {
        AtFlags::EMPTY_PATH
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    };
    let st = match rfs::statx(
        dir,
        name,
        flags,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    ) {
        Ok(st) => st,
        Err(rustix::io::Errno::NOENT) => return Ok(Look::Absent),
        Err(e) => return Err(e.into()),
    };
    let kind = match rfs::FileType::from_raw_mode(st.stx_mode.into()) {
        rfs::FileType::RegularFile => Kind::File {
            size: st.stx_size,
            hash: None,
        },
        rfs::FileType::Directory => Kind::Dir,
        rfs::FileType::Symlink => match rfs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Kind::Symlink {
                target: target.into_bytes(),
            },
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => return Ok(Look::Absent),
            Err(e) => return Err(e.into()),
        },
        rfs::FileType::Fifo => Kind::Fifo,
        rfs::FileType::CharacterDevice => Kind::CharDev { rdev: device(&st) },
        rfs::FileType::BlockDevice => Kind::BlockDev { rdev: device(&st) },
        _ => return Ok(Look::Socket),
    };
    let stamp = Stamp {
        dev: rfs::makedev(st.stx_dev_major, st.stx_dev_minor),
        ino: st.stx_ino,
        btime: if st.stx_mask & StatxFlags::BTIME.bits() != 0 {
            time(st.stx_btime)
        } else {
            Timestamp::default()
        },
        ctime: time(st.stx_ctime),
        size: kind.size(),
        nlink: if kind.is_dir() { 0 } else { st.stx_nlink },
    };
    let mode = u32::from(st.stx_mode) & 0o7777;
    let entry = Entry {
        kind,
        mode,
        uid: st.stx_uid,
        gid: st.stx_gid,
        mtime: time(st.stx_mtime),
        xattrs: Vec::new(),
    };
    Ok(Look::There(Box::new(Seen { entry, stamp })))
}

fn device(st: &rfs::Statx) -> u64 {
    rfs::makedev(st.stx_rdev_major, st.stx_rdev_minor)
}

fn time(t: rfs::StatxTimestamp) -> Timestamp {
    Timestamp {
        sec: t.tv_sec,
        nsec: t.tv_nsec,
    }
}

/// The names in an open directory, sorted; the private directory of a root is left out where `top` says that this is a root.
///
/// # Errors
/// What the system says.
pub fn list(dir: BorrowedFd<'_>, top: bool) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for item in rfs::Dir::read_from(dir)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if name != b"." && name != b".." && !(top && name == PRIVATE_DIR) {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
#[path = "tree/tests.rs"]
mod tests;
