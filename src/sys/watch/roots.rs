//! Where the roots are on disk, and which root an absolute path lies in.
//!
//! A root is armed while its path leads to the directory it was armed with
//! (device, inode, birth time); it is gone otherwise. Whether a directory that
//! came back may be trusted is not decided here. Nothing is followed below a
//! root: paths are matched as bytes, as the kernel reported them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::{COOKIE_DIR, Event, ExcludeDir, WatchRoot};
use crate::model::path::{PRIVATE_DIR, PathError, RelPath, RootId, TreePath};

/// Most cookie files that are touched after events were lost.
const MAX_COOKIES: usize = 1024;

/// Tells a directory from another one that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    dev: (u32, u32),
    ino: u64,
    born: (i64, u32),
}

/// Where a root is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Armed {
    /// Absolute, without symbolic links.
    path: Vec<u8>,
    identity: Identity,
}

#[derive(Debug)]
struct Root {
    config: WatchRoot,
    armed: Option<Armed>,
}

/// What a directory is to a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DirSpot {
    /// A directory of the tree.
    Tree(TreePath),
    /// The directory that holds a single-file root of this name.
    Single(RootId, Vec<u8>),
    /// The directory of cookie files.
    Cookies,
    /// Lies below this path, too deep for a path to name it.
    Deep(TreePath),
}

/// What an entry of a directory is to a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A path of the tree.
    Path(TreePath),
    /// Something below this path that cannot be named.
    Below(TreePath),
    /// A cookie file.
    Cookie(u64),
}

/// All roots.
pub(super) struct Roots {
    list: Vec<Root>,
    exclude: ExcludeDir,
}

impl Roots {
    /// Roots that are not armed yet.
    pub(super) fn new(roots: Vec<WatchRoot>, exclude: ExcludeDir) -> Self {
        let unarmed = |config| Root {
            config,
            armed: None,
        };
        Self {
            list: roots.into_iter().map(unarmed).collect(),
            exclude,
        }
    }

    /// Looks where the roots are for the first time; says which are missing.
    pub(super) fn arm(&mut self) -> Vec<Event> {
        self.recheck(&[]);
        let gone = self.list.iter().filter(|r| r.armed.is_none());
        gone.map(|r| Event::RootGone(r.config.id)).collect()
    }

    /// Looks again; `RootGone` and `RootBack` say what changed. The roots in `replaced` are known
    /// to be other directories than before, whatever they look like.
    pub(super) fn recheck(&mut self, replaced: &[RootId]) -> Vec<Event> {
        let mut events = Vec::new();
        for root in &mut self.list {
            let id = root.config.id;
            let now = look(&root.config.path);
            if now == root.armed && !(now.is_some() && replaced.contains(&id)) {
                continue;
            }
            if root.armed.is_some() {
                events.push(Event::RootGone(id));
            }
            if now.is_some() {
                events.push(Event::RootBack(id));
            }
            root.armed = now;
        }
        events
    }

    /// Whether a root is missing.
    pub(super) fn any_gone(&self) -> bool {
        self.list.iter().any(|r| r.armed.is_none())
    }

    /// The roots that are there: id, absolute path, whether the root is a single file.
    pub(super) fn armed(&self) -> impl Iterator<Item = (RootId, &[u8], bool)> {
        self.list.iter().filter_map(|r| {
            let armed = r.armed.as_ref()?;
            Some((r.config.id, armed.path.as_slice(), r.config.only.is_some()))
        })
    }

    /// The path of every root that is there, as a subtree.
    pub(super) fn all(&self) -> Vec<TreePath> {
        let ids = self.armed().map(|(id, ..)| id);
        ids.map(|id| TreePath::new(id, RelPath::root())).collect()
    }

    /// The absolute path of a path in a root; `None` where the root is gone.
    pub(super) fn absolute(&self, path: &TreePath) -> Option<PathBuf> {
        let (_, root, _) = self.armed().find(|(id, ..)| *id == path.root)?;
        let rel = OsStr::from_bytes(path.path.as_bytes());
        let root = Path::new(OsStr::from_bytes(root));
        Some(if path.path.is_root() {
            root.to_path_buf()
        } else {
            root.join(rel)
        })
    }

    /// The directory of cookie files of every root.
    pub(super) fn cookie_dirs(&self) -> Vec<PathBuf> {
        self.private_dirs()
            .into_iter()
            .map(|dir| dir.join(OsStr::from_bytes(COOKIE_DIR)))
            .collect()
    }

    /// The private directory of every root.
    pub(super) fn private_dirs(&self) -> Vec<PathBuf> {
        let paths = self.armed().map(|(_, path, _)| path);
        paths
            .map(|p| Path::new(OsStr::from_bytes(p)).join(OsStr::from_bytes(PRIVATE_DIR)))
            .collect()
    }

    /// Touches the cookie files that are there, for when their events may have been lost: each has
    /// a new event then, behind those of all changes made before.
    pub(super) fn nudge_cookies(&self) {
        let dirs = self.cookie_dirs();
        let listed = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok());
        let names = listed.flatten().take(MAX_COOKIES).filter_map(Result::ok);
        for entry in names.filter(|e| cookie(e.file_name().as_bytes()).is_some()) {
            let now = rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_NOW,
            };
            let times = rustix::fs::Timestamps {
                last_access: now,
                last_modification: now,
            };
            // One that is gone by now has nobody who waits for it.
            let _ = rustix::fs::utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW);
        }
    }

    /// What the directory at an absolute path is to each root; nothing where it is outside of
    /// all, private or excluded.
    pub(super) fn dir_spots(&self, dir: &[u8]) -> Vec<DirSpot> {
        let spot = |root: &Root| {
            let rel = below(&root.armed.as_ref()?.path, dir)?;
            let id = root.config.id;
            if is_cookie_dir(rel) {
                return Some(DirSpot::Cookies);
            }
            if let Some(only) = &root.config.only {
                let here = rel.is_empty();
                return here.then(|| DirSpot::Single(id, only.clone()));
            }
            match RelPath::parse(rel) {
                Ok(path) => {
                    let path = TreePath::new(id, path);
                    (!self.is_excluded(&path)).then_some(DirSpot::Tree(path))
                }
                Err(PathError::TooLong) => Some(DirSpot::Deep(TreePath::new(id, RelPath::root()))),
                Err(_) => None,
            }
        };
        self.list.iter().filter_map(spot).collect()
    }

    /// That everything below these directories may differ, for each root that they lie in.
    pub(super) fn subtrees(&self, dirs: &[Vec<u8>]) -> Vec<Event> {
        let spots = dirs.iter().flat_map(|dir| self.dir_spots(dir));
        let subtree = |spot| match spot {
            DirSpot::Tree(path) | DirSpot::Deep(path) => Some(Event::Subtree(path)),
            DirSpot::Single(..) | DirSpot::Cookies => None,
        };
        spots.filter_map(subtree).collect()
    }

    /// Whether a directory or one above it is excluded.
    fn is_excluded(&self, dir: &TreePath) -> bool {
        let mut above = RelPath::root();
        for name in dir.path.components() {
            // The components come from a checked path; a refusal would say "private".
            let Ok(next) = above.join(name) else {
                return true;
            };
            above = next;
            if (self.exclude)(dir.root, &above) {
                return true;
            }
        }
        false
    }

    /// What the entry `name` of a directory is; empty or `.` is the directory itself.
    pub(super) fn entry(&self, dir: &DirSpot, name: &[u8], is_dir: bool) -> Option<Entry> {
        let own = name.is_empty() || name == b".";
        match dir {
            DirSpot::Tree(dir) if own => Some(Entry::Path(dir.clone())),
            DirSpot::Tree(dir) => match dir.path.join(name) {
                Ok(path) if is_dir && (self.exclude)(dir.root, &path) => None,
                Ok(path) => Some(Entry::Path(TreePath::new(dir.root, path))),
                Err(PathError::TooLong) => Some(Entry::Below(dir.clone())),
                Err(_) => None,
            },
            DirSpot::Single(root, only) if only == name => {
                let path = RelPath::root().join(name).ok()?;
                Some(Entry::Path(TreePath::new(*root, path)))
            }
            DirSpot::Single(..) => None,
            DirSpot::Cookies => cookie(name).map(Entry::Cookie),
            DirSpot::Deep(path) => Some(Entry::Below(path.clone())),
        }
    }
}

/// The canonical path and the identity of a directory; `None` where there is none.
fn look(path: &Path) -> Option<Armed> {
    let path = std::fs::canonicalize(path).ok()?;
    let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let s = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, want).ok()?;
    if FileType::from_raw_mode(s.stx_mode.into()) != FileType::Directory {
        return None;
    }
    let identity = Identity {
        dev: (s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        born: (s.stx_btime.tv_sec, s.stx_btime.tv_nsec),
    };
    Some(Armed {
        path: path.as_os_str().as_bytes().to_vec(),
        identity,
    })
}

/// An absolute path, as the kernel reported it.
pub(super) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// The part of `path` below `root`, without a leading slash; empty for the root itself.
pub(super) fn below<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    if root == b"/" {
        return path.strip_prefix(b"/");
    }
    match path.strip_prefix(root)? {
        [] => Some(b""),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

fn is_cookie_dir(rel: &[u8]) -> bool {
    let rest = rel.strip_prefix(PRIVATE_DIR);
    rest.and_then(|r| r.strip_prefix(b"/")) == Some(COOKIE_DIR)
}

/// The number that a cookie file's name says.
fn cookie(name: &[u8]) -> Option<u64> {
    let digits = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    let name = std::str::from_utf8(name).ok().filter(|_| digits)?;
    name.parse().ok()
}

#[cfg(test)]
mod unit {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn below_a_root() {
        type Row = (&'static [u8], &'static [u8], Option<&'static [u8]>);
        let table: [Row; 6] = [
            (b"/", b"/", Some(b"")),
            (b"/", b"/a/b", Some(b"a/b")),
            (b"/a", b"/a", Some(b"")),
            (b"/a", b"/a/b", Some(b"b")),
            (b"/a", b"/ab", None),
            (b"/a", b"/", None),
        ];
        for (root, path, expected) in table {
            assert_eq!(below(root, path), expected);
        }
    }

    #[test]
    fn cookie_names() {
        assert_eq!(cookie(b"17"), Some(17));
        for name in [
            &b""[..],
            b"+1",
            b"x1",
            b"99999999999999999999",
            b"-1",
            b"1.tmp",
        ] {
            assert_eq!(cookie(name), None);
        }
    }

    #[test]
    fn spots_of_directories() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = |id, only: Option<&[u8]>| WatchRoot {
            id: RootId(id),
            path: dir.path().to_path_buf(),
            only: only.map(<[u8]>::to_vec),
        };
        let exclude: ExcludeDir = Arc::new(|_, p: &RelPath| p.name() == Some(b"cache"));
        let mut roots = Roots::new(vec![root(0, None), root(1, Some(b"passwd"))], exclude);
        assert_eq!(roots.arm(), []);
        let at = |rel: &str| {
            let dir = dir.path().canonicalize().expect("exists").join(rel);
            roots.dir_spots(dir.as_os_str().as_bytes())
        };
        let path = |p: &str| TreePath::new(RootId(0), RelPath::parse(p.as_bytes()).expect("safe"));
        assert_eq!(at("a/b"), [DirSpot::Tree(path("a/b"))]);
        let own = DirSpot::Single(RootId(1), b"passwd".to_vec());
        assert_eq!(at("./"), []);
        assert_eq!(
            roots.dir_spots(
                dir.path()
                    .canonicalize()
                    .expect("exists")
                    .as_os_str()
                    .as_bytes()
            ),
            [DirSpot::Tree(path("")), own]
        );
        assert_eq!(
            at(".osm-failover/cookies"),
            [DirSpot::Cookies, DirSpot::Cookies]
        );
        for outside in [
            ".osm-failover",
            ".osm-failover/staging",
            "a/cache",
            "cache/x/y",
        ] {
            assert_eq!(at(outside), [], "{outside}");
        }
        let deep = "abc/".repeat(20_000);
        assert_eq!(at(deep.trim_end_matches('/')), [DirSpot::Deep(path(""))]);
        let tree = DirSpot::Tree(path("a"));
        assert_eq!(roots.entry(&tree, b"cache", true), None);
        let file = Entry::Path(path("a/cache"));
        assert_eq!(roots.entry(&tree, b"cache", false), Some(file));
    }
}
