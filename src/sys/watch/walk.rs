//! The directories that inotify watches, and the walk that adds them.
//!
//! A directory is watched first and listed afterwards, so whatever appears in
//! it is either listed or reported. The walk opens directories below the root
//! without following symbolic links. `notify` knows watches by path and the
//! kernel by inode, hence the books kept here: before an inode is watched
//! under a second path, its first watch is removed, since the two would share
//! one kernel watch and the end of either would silently end both.
//!
//! Invariant: after `add` every directory at or below the given one, excluded
//! ones aside, is watched under its present path, or is said to be not.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use notify::{ErrorKind, INotifyWatcher, RecursiveMode, Watcher};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::roots::{DirSpot, Roots, below};

type Inode = (u64, u64);

/// Something that a walk has to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The limit of watches is reached.
    Limit,
    /// A directory cannot be watched; the path and why.
    Unwatched(String),
    /// A watch may have landed on another directory: all of them must be made anew.
    Confused,
}

/// The books of what is watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    by_path: BTreeMap<Arc<[u8]>, Inode>,
    by_inode: HashMap<Inode, Arc<[u8]>>,
    count: Arc<AtomicU64>,
}

enum Added {
    Dir(OwnedFd),
    Skipped,
    Failed(Trouble),
}

impl Watched {
    /// Empty books that keep `count` at the number of watched directories.
    pub(super) fn new(count: Arc<AtomicU64>) -> Self {
        count.store(0, Ordering::Relaxed);
        Self {
            count,
            ..Self::default()
        }
    }

    /// Number of watched directories.
    pub(super) fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Strikes out a directory that went away, and all below it; `false` if it was not watched.
    pub(super) fn forget(&mut self, dir: &[u8]) -> bool {
        if !self.by_path.contains_key(dir) {
            return false;
        }
        let mut below = dir.to_vec();
        below.push(b'/');
        let range = (Bound::Included(below.as_slice()), Bound::Unbounded);
        let inner = self.by_path.range::<[u8], _>(range);
        let inner = inner.take_while(|(p, _)| p.starts_with(&below));
        let mut gone: Vec<Arc<[u8]>> = inner.map(|(p, _)| Arc::clone(p)).collect();
        gone.push(dir.into());
        for path in gone {
            let Some(inode) = self.by_path.remove(&path) else {
                continue;
            };
            if self.by_inode.get(&inode) == Some(&path) {
                self.by_inode.remove(&inode);
            }
        }
        self.tell();
        true
    }

    fn tell(&self) {
        let n = u64::try_from(self.by_path.len()).unwrap_or(u64::MAX);
        self.count.store(n, Ordering::Relaxed);
    }

    /// Watches the directory at an absolute path and all below it.
    pub(super) fn add(
        &mut self,
        start: &[u8],
        roots: &Roots,
        watcher: &mut INotifyWatcher,
    ) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut stack = vec![start.to_vec()];
        let mut opener = Opener { roots, base: None };
        while let Some(path) = stack.pop() {
            let spots = roots.dir_spots(&path);
            if spots.is_empty() {
                continue;
            }
            match self.watch(&path, &mut opener, watcher) {
                Added::Dir(dir) => {
                    let tree = |s: &DirSpot| matches!(s, DirSpot::Tree(_) | DirSpot::Deep(_));
                    if spots.iter().any(tree) {
                        list(&dir, &path, &mut stack, &mut troubles);
                    }
                }
                Added::Skipped => {}
                Added::Failed(Trouble::Limit) => {
                    troubles.push(Trouble::Limit);
                    break;
                }
                Added::Failed(trouble) => troubles.push(trouble),
            }
        }
        self.tell();
        troubles
    }

    /// Watches one directory that need not lie in a tree, as the private one.
    pub(super) fn add_single(&mut self, path: &Path, watcher: &mut INotifyWatcher) -> bool {
        watcher.watch(path, RecursiveMode::NonRecursive).is_ok()
    }

    fn watch(
        &mut self,
        path: &[u8],
        opener: &mut Opener<'_>,
        watcher: &mut INotifyWatcher,
    ) -> Added {
        let dir = match opener.open(path, OFlags::RDONLY) {
            Ok(dir) => dir,
            Err(e) => return not_open(path, e),
        };
        let Ok(inode) = inode(&dir) else {
            return Added::Skipped;
        };
        if let Some(first) = self.by_inode.get(&inode).filter(|p| ***p != *path).cloned() {
            if self.by_path.get(&first) == Some(&inode) {
                let there = opener.open(&first, OFlags::PATH);
                let there = there.and_then(|d| self::inode(&d));
                if there.is_ok_and(|i| i == inode) {
                    let why = format!(
                        "{} is the same directory as {}, which is watched",
                        lossy(path),
                        lossy(&first)
                    );
                    return Added::Failed(Trouble::Unwatched(why));
                }
                // Not found means that notify has seen the rename already.
                let _ = watcher.unwatch(Path::new(OsStr::from_bytes(&first)));
                self.by_path.remove(&first);
            }
            self.by_inode.remove(&inode);
        }
        let at = Path::new(OsStr::from_bytes(path));
        if let Err(e) = watcher.watch(at, RecursiveMode::NonRecursive) {
            return match e.kind {
                ErrorKind::MaxFilesWatch => Added::Failed(Trouble::Limit),
                ErrorKind::PathNotFound => Added::Skipped,
                ErrorKind::Io(e) if e.kind() == io::ErrorKind::NotFound => Added::Skipped,
                _ => Added::Failed(Trouble::Unwatched(format!("{}: {e}", lossy(path)))),
            };
        }
        self.enter(path, inode);
        // The kernel followed the path, not our descriptor. Where a link came between, the watch
        // may have been taken from the directory that the link leads to. Where another directory
        // came, its own event follows.
        match opener.open(path, OFlags::PATH) {
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => Added::Failed(Trouble::Confused),
            _ => Added::Dir(dir),
        }
    }

    fn enter(&mut self, path: &[u8], inode: Inode) {
        let path: Arc<[u8]> = path.into();
        let before = self.by_path.insert(Arc::clone(&path), inode);
        if let Some(before) = before.filter(|b| *b != inode)
            && self.by_inode.get(&before) == Some(&path)
        {
            self.by_inode.remove(&before);
        }
        self.by_inode.insert(inode, path);
    }
}

fn not_open(path: &[u8], e: Errno) -> Added {
    match e {
        // Gone, or replaced by something that is no directory.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => Added::Skipped,
        e => Added::Failed(Trouble::Unwatched(format!("{}: {e}", lossy(path)))),
    }
}

/// Opens directories below the roots; no symbolic link below a root is followed.
struct Opener<'a> {
    roots: &'a Roots,
    /// The root opened last.
    base: Option<(&'a [u8], OwnedFd)>,
}

impl Opener<'_> {
    fn open(&mut self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = self.roots.armed().map(|(_, root, _)| root);
        let root = root.filter(|r| below(r, path).is_some());
        let root = root.max_by_key(|r| r.len()).ok_or(Errno::NOENT)?;
        let rel = below(root, path).unwrap_or_default();
        if rel.is_empty() {
            return rustix::fs::openat(CWD, OsStr::from_bytes(root), flags, Mode::empty());
        }
        let base = match self.base.take().filter(|(of, _)| *of == root) {
            Some(base) => base,
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let base = OsStr::from_bytes(root);
                (root, rustix::fs::openat(CWD, base, flags, Mode::empty())?)
            }
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let rel = OsStr::from_bytes(rel);
        let opened = rustix::fs::openat2(&base.1, rel, flags, Mode::empty(), resolve);
        self.base = Some(base);
        opened
    }
}

fn inode(dir: &OwnedFd) -> Result<Inode, Errno> {
    let s = rustix::fs::fstat(dir)?;
    Ok((s.st_dev, s.st_ino))
}

/// Puts the directories in `dir` on the stack.
fn list(dir: &OwnedFd, path: &[u8], stack: &mut Vec<Vec<u8>>, troubles: &mut Vec<Trouble>) {
    let entries = match Dir::read_from(dir) {
        Ok(entries) => entries,
        Err(e) => {
            troubles.push(Trouble::Unwatched(format!("{}: {e}", lossy(path))));
            return;
        }
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // Deleted while it was listed: nothing is left to watch.
            Err(Errno::NOENT) => return,
            Err(e) => {
                troubles.push(Trouble::Unwatched(format!("{}: {e}", lossy(path))));
                return;
            }
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let s = rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
            kind = s.map_or(kind, |s| FileType::from_raw_mode(s.st_mode));
        }
        if kind == FileType::Directory {
            let mut child = path.to_vec();
            if path != b"/" {
                child.push(b'/');
            }
            child.extend_from_slice(name.to_bytes());
            stack.push(child);
        }
    }
}

fn lossy(path: &[u8]) -> String {
    crate::model::path::Escaped(path).to_string()
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::model::path::{RelPath, RootId};
    use crate::sys::watch::WatchRoot;

    fn setup(dir: &Path) -> (Roots, INotifyWatcher, Watched) {
        let root = WatchRoot {
            id: RootId(0),
            path: dir.to_path_buf(),
            only: None,
        };
        let mut roots = Roots::new(vec![root], Arc::new(|_, _: &RelPath| false));
        assert_eq!(roots.arm(), []);
        let ignore = |_: notify::Result<notify::Event>| ();
        let watcher = INotifyWatcher::new(ignore, notify::Config::default());
        let count = Arc::new(AtomicU64::new(0));
        (roots, watcher.expect("inotify works"), Watched::new(count))
    }

    #[test]
    fn a_renamed_directory_is_not_watched_under_two_paths() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let dir = tmp.path().canonicalize().expect("exists");
        let (roots, mut watcher, mut watched) = setup(&dir);
        let (old, new) = (dir.join("d"), dir.join("e"));
        let inner = old.join("x");
        std::fs::create_dir_all(&inner).expect("made");
        let bytes = |p: &Path| p.as_os_str().as_bytes().to_vec();
        // The root itself is not watched here, so notify does not see the rename by itself.
        assert_eq!(watched.add(&bytes(&old), &roots, &mut watcher), []);
        std::fs::rename(&old, &new).expect("renamed");
        assert_eq!(watched.add(&bytes(&new), &roots, &mut watcher), []);
        assert_eq!(watched.len(), 2);
        assert!(watcher.unwatch(&old).is_err() && watcher.unwatch(&inner).is_err());
        assert!(watched.forget(&bytes(&new)) && !watched.forget(&bytes(&old)));
        assert_eq!((watched.len(), watched.by_inode.len()), (0, 0));
        assert!(watcher.unwatch(&new).is_ok() && watcher.unwatch(&new.join("x")).is_ok());
    }

    #[test]
    fn forgetting_takes_what_is_below_and_nothing_beside() {
        let tmp = tempfile::tempdir().expect("temporary directory");
        let dir = tmp.path().canonicalize().expect("exists");
        let (roots, mut watcher, mut watched) = setup(&dir);
        for d in ["a/b/c", "a.b", "ab"] {
            std::fs::create_dir_all(dir.join(d)).expect("made");
        }
        let bytes = |p: &Path| p.as_os_str().as_bytes().to_vec();
        assert_eq!(watched.add(&bytes(&dir), &roots, &mut watcher), []);
        assert_eq!(watched.len(), 6);
        assert!(watched.forget(&bytes(&dir.join("a"))));
        let left: Vec<Vec<u8>> = watched.by_path.keys().map(|p| p.to_vec()).collect();
        let expected = [dir.clone(), dir.join("a.b"), dir.join("ab")];
        assert_eq!(left, expected.map(|p| bytes(&p)));
        assert_eq!(watched.by_inode.len(), 3);
    }
}
