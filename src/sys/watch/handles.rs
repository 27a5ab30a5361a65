//! Directory handles of fanotify, turned into places below the roots.
//!
//! A handle is opened through the mount that a root (or a mount below it) is
//! on, and `/proc/thread-self/fd` tells its path. No descriptor is kept between two
//! rounds, so a watched filesystem can be unmounted. Answers are cached, the
//! negative ones too; whoever sees a directory renamed empties the cache.
//!
//! Invariant: a handle that cannot be resolved for any other reason than that
//! the directory is deleted is an error, never "outside".

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::record::MAX_HANDLE;
use super::roots::{DirSpot, Roots};

/// Most handles in the cache; beyond it the cache starts anew.
const MAX_CACHED: usize = 65_536;
/// Most bytes of paths in the cache, likewise.
const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;
/// Most levels walked up to find a directory whose path `/proc` can tell.
const MAX_UP: usize = 40_000;
/// Length of a filesystem id at the front of a key.
const FSID: usize = 8;
/// What `/proc` puts behind the path of a deleted directory.
const DELETED: &[u8] = b" (deleted)";

/// A mount through which handles are opened.
#[derive(Debug)]
pub(super) struct View {
    /// A directory on it.
    pub(super) at: PathBuf,
    /// Number of the mount.
    pub(super) mount: u64,
    /// Id of its filesystem, as events carry it.
    pub(super) fsid: [u8; FSID],
}

impl View {
    /// The mount that the directory `at` is on.
    pub(super) fn of(at: &Path) -> io::Result<Self> {
        let fd = open_dir(at)?;
        Self::of_fd(at, fd.as_fd())
    }

    fn of_fd(at: &Path, fd: BorrowedFd<'_>) -> io::Result<Self> {
        let s = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        let id = rustix::fs::fstatvfs(fd)?.f_fsid;
        let halves = id.to_le_bytes();
        let mut fsid = [0; FSID];
        // Two native 32-bit numbers, the first one in the low half.
        for (half, out) in halves.chunks_exact(4).zip(fsid.chunks_exact_mut(4)) {
            let number = u32::from_le_bytes([half[0], half[1], half[2], half[3]]);
            out.copy_from_slice(&number.to_ne_bytes());
        }
        Ok(Self {
            at: at.to_path_buf(),
            mount: s.stx_mnt_id,
            fsid,
        })
    }

    /// Proves that the filesystem's handles can be opened and lead back to the same path.
    pub(super) fn check_handles(&self) -> io::Result<()> {
        let fd = open_dir(&self.at)?;
        let handle = handle_of(fd.as_fd())?;
        let opened = open_handle(fd.as_fd(), &handle)?;
        match path_of(opened.as_fd())? {
            Some(path) if path == self.at.as_os_str().as_bytes() => Ok(()),
            _ => Err(io::Error::other(
                "its file handles do not lead back to paths",
            )),
        }
    }
}

/// The cache and the mounts.
#[derive(Debug, Default)]
pub(super) struct Handles {
    views: Vec<View>,
    open: Vec<Option<OwnedFd>>,
    cache: Cache,
}

/// Answers by handle, with the id of its filesystem before it.
#[derive(Debug, Default)]
struct Cache {
    spots: HashMap<Box<[u8]>, Arc<[DirSpot]>>,
    /// Bytes of the paths in them.
    bytes: usize,
}

impl Cache {
    fn clear(&mut self) {
        self.spots.clear();
        self.bytes = 0;
    }

    fn insert(&mut self, key: &[u8], spots: &Arc<[DirSpot]>) {
        if self.spots.len() >= MAX_CACHED || self.bytes >= MAX_CACHED_BYTES {
            self.clear();
        }
        let path = |spot: &DirSpot| match spot {
            DirSpot::Tree(path) | DirSpot::Deep(path) => path.path.as_bytes().len(),
            DirSpot::Single(..) | DirSpot::Cookies => 0,
        };
        self.bytes += spots.iter().map(path).sum::<usize>();
        self.spots.insert(key.into(), Arc::clone(spots));
    }
}

impl Handles {
    /// Replaces the mounts and forgets all answers.
    pub(super) fn set_views(&mut self, views: Vec<View>) {
        self.close();
        self.forget();
        self.views = views;
    }

    /// Forgets all answers, since paths have changed.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
    }

    /// Closes the descriptors of a round.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    /// What the directory of a handle (with the filesystem id before it) is to the roots.
    pub(super) fn resolve(&mut self, key: &[u8], roots: &Roots) -> io::Result<Arc<[DirSpot]>> {
        if let Some(spots) = self.cache.spots.get(key) {
            return Ok(Arc::clone(spots));
        }
        let Some((fsid, handle)) = key.split_at_checked(FSID) else {
            return Ok(Arc::new([]));
        };
        let mut found: Vec<DirSpot> = Vec::new();
        let mut dead = false;
        self.open.resize_with(self.views.len(), || None);
        for (view, slot) in self.views.iter().zip(&mut self.open) {
            if view.fsid != fsid {
                continue;
            }
            let Some(mount) = view_fd(view, slot)? else {
                continue;
            };
            match spots_through(mount, (fsid, handle), roots, &self.cache)? {
                Some(spots) => found.extend(spots),
                None => dead = true,
            }
        }
        let mut unique: Vec<DirSpot> = Vec::new();
        for spot in found {
            if !unique.contains(&spot) {
                unique.push(spot);
            }
        }
        let spots: Arc<[DirSpot]> = unique.into();
        if !dead {
            self.cache.insert(key, &spots);
        }
        Ok(spots)
    }
}

/// The mount's descriptor of this round; `None` where another or no mount is there now, which
/// the mount table or the check of the roots tells the watcher.
fn view_fd<'a>(view: &View, slot: &'a mut Option<OwnedFd>) -> io::Result<Option<BorrowedFd<'a>>> {
    if slot.is_none() {
        let fd = match open_dir(&view.at) {
            Ok(fd) => fd,
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        if View::of_fd(&view.at, fd.as_fd())?.fsid != view.fsid {
            return Ok(None);
        }
        *slot = Some(fd);
    }
    Ok(slot.as_ref().map(AsFd::as_fd))
}

/// The places of a handle seen through one mount; `None` where the directory is deleted.
fn spots_through(
    mount: BorrowedFd<'_>,
    (fsid, handle): (&[u8], &[u8]),
    roots: &Roots,
    cache: &Cache,
) -> io::Result<Option<Vec<DirSpot>>> {
    let dir = match open_handle(mount, handle) {
        Ok(dir) => dir,
        Err(e) if is_gone(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    match path_of(dir.as_fd()) {
        Ok(path) => Ok(path.map(|p| roots.dir_spots(&p))),
        Err(e) if e.raw_os_error() == Some(libc::ENAMETOOLONG) => {
            deep_spots(dir, fsid, roots, cache).map(Some)
        }
        Err(e) => Err(e),
    }
}

/// The nearest directory above that is known already, or whose path can be told, as the place of what lies below it.
fn deep_spots(
    mut dir: OwnedFd,
    fsid: &[u8],
    roots: &Roots,
    cache: &Cache,
) -> io::Result<Vec<DirSpot>> {
    let below = |spot: DirSpot| match spot {
        DirSpot::Tree(path) | DirSpot::Deep(path) => Some(DirSpot::Deep(path)),
        DirSpot::Single(..) | DirSpot::Cookies => None,
    };
    let dev = rustix::fs::fstat(&dir)?.st_dev;
    for _ in 0..MAX_UP {
        dir = rustix::fs::openat(dir, "..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // Directories mostly come one in the other, the upper one first. Handles of another file system say nothing here.
        if rustix::fs::fstat(&dir)?.st_dev == dev
            && let Ok(handle) = handle_of(dir.as_fd())
            && let Some(known) = cache.spots.get(&*[fsid, &handle].concat())
        {
            return Ok(known.iter().cloned().filter_map(below).collect());
        }
        match path_of(dir.as_fd()) {
            Ok(path) => {
                let spots = path.map_or_else(Vec::new, |p| roots.dir_spots(&p));
                return Ok(spots.into_iter().filter_map(below).collect());
            }
            Err(e) if e.raw_os_error() == Some(libc::ENAMETOOLONG) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

/// The path of an open directory; `None` where it is deleted.
fn path_of(dir: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let link = format!("/proc/thread-self/fd/{}", dir.as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?.into_bytes();
    if path.ends_with(DELETED) {
        // A directory may really have such a name: then the path leads to it.
        let own = rustix::fs::fstat(dir)?;
        let there = rustix::fs::lstat(Path::new(OsStr::from_bytes(&path)));
        let same = there.is_ok_and(|t| (t.st_dev, t.st_ino) == (own.st_dev, own.st_ino));
        return Ok(same.then_some(path));
    }
    Ok(Some(path))
}

fn is_gone(e: &io::Error) -> bool {
    let gone = [libc::ESTALE, libc::ENOENT, libc::ENOTDIR];
    e.raw_os_error().is_some_and(|n| gone.contains(&n))
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// A `struct file_handle` with room, aligned as the kernel wants it.
#[repr(C, align(8))]
struct RawHandle([u8; 8 + MAX_HANDLE]);

/// The handle of an open directory, as events carry it.
fn handle_of(dir: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut raw = RawHandle([0; 8 + MAX_HANDLE]);
    let room = u32::try_from(MAX_HANDLE).unwrap_or_default();
    raw.0[..4].copy_from_slice(&room.to_ne_bytes());
    let mut mount: libc::c_int = 0;
    // SAFETY: the handle has the room that its first field says, the path is an empty C string,
    // and both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            c"".as_ptr(),
            raw.0.as_mut_ptr(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut length = [0; 4];
    length.copy_from_slice(&raw.0[..4]);
    let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(MAX_HANDLE);
    Ok(raw.0[..8 + length.min(MAX_HANDLE)].to_vec())
}

/// Opens a handle (only as a place in the tree) through a mount.
fn open_handle(mount: BorrowedFd<'_>, handle: &[u8]) -> io::Result<OwnedFd> {
    let mut raw = RawHandle([0; 8 + MAX_HANDLE]);
    let Some(room) = raw.0.get_mut(..handle.len()) else {
        return Err(Errno::INVAL.into());
    };
    room.copy_from_slice(handle);
    // SAFETY: the parser has checked that the handle's length field matches its bytes, and the
    // buffer has room for the longest handle and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            raw.0.as_mut_ptr(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_deleted_directory_and_one_with_a_misleading_name() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let real = tmp.path().join("x (deleted)");
        let dead = tmp.path().join("x");
        for dir in [&real, &dead] {
            std::fs::create_dir(dir).expect("made");
        }
        let (real_fd, dead_fd) = (
            open_dir(&real).expect("opens"),
            open_dir(&dead).expect("opens"),
        );
        std::fs::remove_dir(&dead).expect("removed");
        assert_eq!(path_of(dead_fd.as_fd()).expect("told"), None);
        let path = real.as_os_str().as_bytes().to_vec();
        assert_eq!(path_of(real_fd.as_fd()).expect("told"), Some(path));
    }
}
