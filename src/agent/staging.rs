//! The staging area of a root: slots in its private directory, on its own file system.
//!
//! A slot is invisible to everybody else (0700) and becomes part of the tree by
//! one rename. Slots that no redo record names are left-overs and are swept when a receiver starts, but for the parts of
//! large contents that the next session goes on with.

mod parts;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags};

use super::node::{Node, PRESERVED, STAGING};
use super::pool::Pool;
use crate::model::entry::Hash;
use crate::model::path::{RootId, TreePath};

struct Area {
    staging: Arc<OwnedFd>,
    preserved: OwnedFd,
}

pub use parts::{PART_MIN, Part, is_part};

/// How the names of what was moved aside begin, as no slot's does.
const ASIDE: &str = "x";

/// Stands for a path in a name.
#[must_use]
pub fn digest(path: &TreePath) -> String {
    let hash = Hash::of(path.path.as_bytes());
    let hex = hash.0.iter().take(16).map(|b| format!("{b:02x}"));
    hex.collect()
}

/// Slots up to which each is synced by itself; more are synced as their file systems.
pub const FEW_SLOTS: usize = 16;

/// New slots that must survive power loss.
#[derive(Debug, Default)]
pub struct Slots {
    roots: BTreeSet<RootId>,
    /// As long as they are few.
    files: Vec<File>,
    many: bool,
}

impl Slots {
    /// Takes in a slot of a root; without its file the whole file system is synced.
    pub fn add(&mut self, root: RootId, file: Option<File>) {
        self.roots.insert(root);
        match file {
            Some(file) if !self.many && self.files.len() < FEW_SLOTS => self.files.push(file),
            _ => {
                self.many = true;
                self.files.clear();
            }
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }
}

fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rfs::unlinkat(dir, name, AtFlags::empty()) {
        Err(rustix::io::Errno::ISDIR) => Ok(rfs::unlinkat(dir, name, AtFlags::REMOVEDIR)?),
        other => Ok(other?),
    }
}

/// The staging areas of all roots.
pub struct Staging {
    areas: Vec<Area>,
    next: u64,
    /// Who fills slots.
    pub pool: Pool,
}

impl Staging {
    /// Opens the staging areas of a node.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(node: &Node) -> io::Result<Self> {
        let open = |r: &super::node::NodeRoot| {
            Ok(Area {
                staging: Arc::new(r.root.open_private(STAGING)?),
                preserved: r.root.open_private(PRESERVED)?,
            })
        };
        let areas = node.roots.iter().map(open).collect::<io::Result<_>>()?;
        let mut this = Self {
            areas,
            next: 0,
            pool: Pool::new(),
        };
        this.pass_left_overs()?;
        Ok(this)
    }

    /// Fresh names begin after those an earlier process left: a replay needs slots while they stand there.
    fn pass_left_overs(&mut self) -> io::Result<()> {
        for at in 0..self.areas.len() {
            for name in crate::sys::tree::list(self.areas[at].staging.as_fd(), false)? {
                self.pass(&String::from_utf8_lossy(&name));
            }
        }
        Ok(())
    }

    /// No slot gets this name any more.
    pub fn pass(&mut self, name: &str) {
        let number = match name.strip_prefix(ASIDE) {
            Some(rest) => rest.split('-').next(),
            None => name.strip_prefix('s'),
        };
        let number = number.and_then(|n| n.parse().ok());
        self.next = self.next.max(number.unwrap_or(0));
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

    /// As [`Self::dir`], for who changes this state meanwhile.
    ///
    /// # Errors
    /// `ENOENT` for a root that does not exist.
    pub fn shared_dir(&self, root: RootId) -> io::Result<Arc<OwnedFd>> {
        Ok(self.area(root)?.staging.clone())
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

    /// A name for what is moved aside from a path: nobody has it yet, and after a crash it tells the path.
    pub fn aside(&mut self, path: &TreePath) -> String {
        self.next += 1;
        format!("{ASIDE}{}-{}", self.next, digest(path))
    }

    /// What a process that died had moved aside in a root: the names, and the digest of the path of each.
    ///
    /// # Errors
    /// What the system says.
    pub fn left_aside(&self, root: RootId) -> io::Result<Vec<(String, String)>> {
        let names = crate::sys::tree::list(self.dir(root)?, false)?;
        let names = names.into_iter().filter_map(|n| String::from_utf8(n).ok());
        let split = |name: String| {
            let (_, digest) = name.strip_prefix(ASIDE)?.split_once('-')?;
            Some((name.clone(), digest.to_owned()))
        };
        Ok(names.filter_map(split).collect())
    }

    /// Makes an empty file in the slot `name`, which is a [`Self::fresh`] one, readable for its owner alone unless `mode`
    /// says otherwise.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self, root: RootId, name: &str, mode: u32) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::openat(self.dir(root)?, name, flags, Mode::from_raw_mode(mode))?;
        Ok(File::from(fd))
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

    /// Removes every slot but the [`parts`] and what is aside: whatever the journal named has been placed.
    ///
    /// # Errors
    /// What the system says.
    pub fn sweep(&mut self) -> io::Result<()> {
        for area in &self.areas {
            let dir = area.staging.as_fd();
            let mut kept = 0;
            for name in crate::sys::tree::list(dir, false)? {
                if name.starts_with(ASIDE.as_bytes()) {
                    continue;
                }
                if kept < parts::MOST && parts::is_of_use(dir, &name)? {
                    kept += 1;
                } else {
                    remove(dir, &name)?;
                }
            }
        }
        Ok(())
    }

    /// Makes new slots survive power loss: each file by itself where they are few, else the whole file system.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self, slots: &Slots) -> io::Result<()> {
        for file in &slots.files {
            file.sync_all()?;
        }
        for root in &slots.roots {
            let dir = self.dir(*root)?;
            if slots.many {
                rfs::syncfs(dir)?;
            } else {
                rfs::fsync(dir)?;
            }
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
