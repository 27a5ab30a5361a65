//! Doing the steps of a redo record.
//!
//! Used for a batch that just arrived and for records found after a crash: each
//! step first looks at what stands there, so doing it again is harmless. A file
//! appears by one rename, complete with owner, mode and attributes. One step that fails never stops the others.

mod displace;
mod fill;
mod in_place;
mod lack;
mod put;
mod remove;
mod replay;
mod rescue;
mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{self as rfs, RenameFlags};
use rustix::io::Errno;

pub use self::fill::Filling;
pub use self::replay::{Planned, Replay};
use super::node::Node;
use super::redo::Step;
use super::staging::Staging;
use crate::index::store::StoreError;
use crate::model::entry::Timestamp;
use crate::model::epoch::Seq;
use crate::model::path::{RootId, TreePath};
use crate::sys::meta::{MetaError, Pin};
use crate::sys::tree::{Look, Seen, is_absent, look_at};
use crate::wire::message::PathProblem;

/// Why a step was not done.
#[derive(Debug)]
pub enum Fault {
    /// The system refuses; a person may have to help.
    Problem {
        /// What was tried.
        operation: String,
        /// Why it failed.
        cause: String,
    },
    /// What the step relies on is not here: the sender must send the content whole.
    Want,
    /// The index failed: nothing can be relied on.
    Index(StoreError),
}

impl Fault {
    /// A problem with an operation.
    pub fn of(operation: &str) -> impl FnOnce(io::Error) -> Self + '_ {
        move |e| Self::Problem {
            operation: operation.to_owned(),
            cause: e.to_string(),
        }
    }
}

impl From<MetaError> for Fault {
    fn from(e: MetaError) -> Self {
        Self::Problem {
            operation: e.operation,
            cause: e.source.to_string(),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        Self::Index(e)
    }
}

/// What came of the steps.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Paths whose content is needed whole.
    pub wants: Vec<TreePath>,
    /// Paths that could not be done.
    pub problems: Vec<PathProblem>,
    /// Local versions moved to the preserved directory.
    pub preserved: u64,
    /// More is lacked than is remembered path by path.
    pub lacks_more: bool,
}

impl Outcome {
    /// What came of further steps.
    pub fn add(&mut self, further: Self) {
        self.wants.extend(further.wants);
        self.problems.extend(further.problems);
        self.preserved += further.preserved;
        self.lacks_more |= further.lacks_more;
    }
}

/// Does the steps of one record.
pub struct Performer<'a> {
    pub(super) node: &'a mut Node,
    pub(super) staging: &'a mut Staging,
    /// In a replay, where the record may have been done before, in part or whole: what later steps bring.
    replay: Option<Replay<'a>>,
    /// Appended bytes must be on disk before their slot goes.
    sync: bool,
    /// Directories whose entries changed; their times are set at the end.
    touched: BTreeSet<TreePath>,
    times: BTreeMap<TreePath, Timestamp>,
    /// Number of the step that is being done.
    at: usize,
    /// Slots filled ahead, by the number of their step.
    filled: BTreeMap<usize, Result<(RootId, String), Fault>>,
    /// The directory of the file that was put last: files mostly come directory by directory.
    last: Option<(TreePath, Rc<OwnedFd>)>,
    pub(super) outcome: Outcome,
}

/// The place of a path: its open directory, its name there, what stands there.
pub(super) struct Place {
    pub(super) dir: Rc<OwnedFd>,
    pub(super) name: Vec<u8>,
    pub(super) have: Option<Seen>,
    socket: bool,
}

impl<'a> Performer<'a> {
    /// A performer on a node; `replay` for records found after a crash, `sync` for `durability = "fsync"`.
    pub fn new(
        node: &'a mut Node,
        staging: &'a mut Staging,
        replay: Option<Replay<'a>>,
        sync: bool,
    ) -> Self {
        Self {
            node,
            staging,
            replay,
            sync,
            touched: BTreeSet::new(),
            times: BTreeMap::new(),
            at: 0,
            filled: BTreeMap::new(),
            last: None,
            outcome: Outcome::default(),
        }
    }

    /// Does all steps, then sets the times of the directories they touched.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails; the record is then to be done again.
    pub fn run(mut self, steps: &[(Seq, Step)]) -> Result<Outcome, StoreError> {
        self.fill_ahead(steps);
        let done = self.go_through(steps);
        for (root, name) in std::mem::take(&mut self.filled).into_values().flatten() {
            // Its step failed before it came to use it.
            self.staging.discard(root, &name);
        }
        done?;
        self.set_times()?;
        Ok(self.outcome)
    }

    /// Brings the contents that the steps carry into slots, side by side. In a replay most of them are in place already.
    fn fill_ahead(&mut self, steps: &[(Seq, Step)]) {
        if self.replay.is_some() {
            return;
        }
        let carried = fill::carried(steps);
        let named: Vec<_> = carried.map(|c| (self.staging.fresh(), c)).collect();
        let staging = &*self.staging;
        let done = staging
            .pool
            .map(&named, |(name, (_, root, entry, bytes, sparse))| {
                let (root, sparse) = (*root, *sparse);
                let filling = Filling {
                    root,
                    name,
                    entry,
                    bytes,
                    sparse,
                };
                filling.fill(staging).map(drop)
            });
        for ((name, (at, root, ..)), done) in named.into_iter().zip(done) {
            self.filled.insert(at, done.map(|()| (root, name)));
        }
    }

    fn go_through(&mut self, steps: &[(Seq, Step)]) -> Result<(), StoreError> {
        for (at, (seq, step)) in steps.iter().enumerate() {
            self.at = at;
            if !matches!(step, Step::Put { .. }) {
                self.last = None;
            }
            if let Some(replay) = &mut self.replay {
                replay.at += 1;
            }
            let done = match step {
                Step::Move { from, to, ino } => self.relocate(*seq, from, to, *ino),
                Step::Put {
                    path,
                    entry,
                    source,
                    blocks,
                } => self.put(*seq, path, entry, source, blocks),
                Step::Delete { path } => self.delete(*seq, path),
                Step::Lack { wanted: true, .. } => Err(Fault::Want),
                Step::Lack { path, .. } => {
                    self.lack(path)?;
                    continue;
                }
            };
            let path = step.path();
            if self.replay.is_some() {
                // What was done before the crash moved the time of its directory, whether or not it is done again.
                self.touch(path);
            }
            match done {
                Ok(()) => {
                    // A batch may name a path twice.
                    self.outcome.problems.retain(|p| p.path != *path);
                    self.has(step)?;
                }
                Err(Fault::Want) => self.want(step, path)?,
                Err(Fault::Problem { operation, cause }) => {
                    self.lack_step(step, path)?;
                    self.refuse(step);
                    self.problem(path, operation, cause);
                }
                Err(Fault::Index(e)) => return Err(e),
            }
        }
        Ok(())
    }

    pub(super) fn problem(&mut self, path: &TreePath, operation: String, cause: String) {
        tracing::warn!("{}: cannot {operation}: {cause}", self.node.show(path));
        self.outcome.problems.push(PathProblem {
            path: path.clone(),
            operation,
            cause,
        });
    }

    /// Opens the directory of a path and looks at its name; `None` where the directory does not exist.
    pub(super) fn place(&self, path: &TreePath) -> Result<Option<Place>, Fault> {
        let root = &self.node.root(path.root).ok_or(Fault::Want)?.root;
        let dir = match root.open_parent(&path.path) {
            Ok((dir, _)) => dir,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(Fault::of("open the directory")(e)),
        };
        Self::place_in(Rc::new(dir), path).map(Some)
    }

    /// As [`Self::place`], for a file that is put. The directory stays open for the next one; every other step lets go of
    /// it, since it may move or remove it.
    fn place_of_file(&mut self, path: &TreePath) -> Result<Option<Place>, Fault> {
        let parent = path.path.parent().map(|p| TreePath::new(path.root, p));
        if let Some((at, dir)) = &self.last
            && Some(at) == parent.as_ref()
        {
            return Self::place_in(dir.clone(), path).map(Some);
        }
        let place = self.place(path)?;
        let dir = place.as_ref().map(|p| p.dir.clone());
        self.last = parent.zip(dir);
        Ok(place)
    }

    fn place_in(dir: Rc<OwnedFd>, path: &TreePath) -> Result<Place, Fault> {
        let name = path.path.name().unwrap_or_default();
        let look = look_at(dir.as_fd(), name).map_err(Fault::of("look at it"))?;
        let socket = look == Look::Socket;
        let have = if let Look::There(seen) = look {
            Some(*seen)
        } else {
            None
        };
        Ok(Place {
            dir,
            name: name.to_vec(),
            have,
            socket,
        })
    }

    fn touch(&mut self, path: &TreePath) {
        if let Some(parent) = path.path.parent() {
            self.touched.insert(TreePath::new(path.root, parent));
        }
    }

    /// The inode at a path.
    pub(super) fn inode(&self, path: &TreePath) -> Option<u64> {
        let place = self.place(path).ok().flatten()?;
        Some(place.have?.stamp.ino)
    }

    fn relocate(
        &mut self,
        seq: Seq,
        from: &TreePath,
        to: &TreePath,
        ino: u64,
    ) -> Result<(), Fault> {
        let source = self.place(from)?;
        let source = source.filter(|p| p.have.as_ref().is_some_and(|h| h.stamp.ino == ino));
        let Some(target) = self.place(to)? else {
            return Err(Fault::Want);
        };
        if let Some(source) = source {
            let row = self.node.store.lookup(to)?;
            if target.have.is_some() || target.socket {
                self.clear(to, &target, row.as_ref())?;
            }
            rfs::renameat_with(
                &source.dir,
                source.name.as_slice(),
                &target.dir,
                target.name.as_slice(),
                RenameFlags::NOREPLACE,
            )
            .map_err(|e| match e {
                // Somebody put it there just now. It is looked at when this comes again.
                Errno::EXIST => Fault::Want,
                e => cannot_place(e),
            })?;
        } else if self.replay.is_none() && target.have.as_ref().is_none_or(|h| h.stamp.ino != ino) {
            // (In a replay it was moved already, perhaps on to where a later step moves it; the rows follow.)
            return Err(Fault::Want);
        }
        self.touch(from);
        self.touch(to);
        if self.node.store.move_row(from, to, seq)? {
            self.node.store.tomb(from, seq)?;
        }
        Ok(())
    }

    /// Gives every directory that was touched the time its row or its put says, innermost first.
    fn set_times(&mut self) -> Result<(), StoreError> {
        let mut all: BTreeSet<TreePath> = std::mem::take(&mut self.touched);
        all.extend(self.times.keys().cloned());
        for path in all.into_iter().rev() {
            let mtime = match self.times.get(&path) {
                Some(t) => Some(*t),
                None => self.node.store.lookup(&path)?.map(|r| r.entry.mtime),
            };
            let Some(root) = self.node.root(path.root).filter(|r| r.root.only.is_none()) else {
                continue;
            };
            let Some(mtime) = mtime else {
                continue;
            };
            let done = match root.root.open_dir(&path.path) {
                // A later step removed it, or put something else there.
                Err(e) if is_absent(&e) => Ok(()),
                Err(e) => Err(Fault::of("open it")(e)),
                Ok(dir) => Pin::new(dir.as_fd(), b"")
                    .map_err(Fault::of("open it"))
                    .and_then(|p| Ok(p.set_mtime(mtime)?)),
            };
            if let Err(Fault::Problem { operation, cause }) = done {
                // It is no step that the sender would send again.
                self.lack(&path)?;
                self.problem(&path, operation, cause);
            }
        }
        Ok(())
    }
}

fn cannot_place(e: Errno) -> Fault {
    let cause = match e {
        Errno::XDEV => {
            "it lies on another file system than its root; make that mount a [[root]] of its own on both nodes".to_owned()
        }
        Errno::INVAL => {
            "its file system cannot exchange two names (renameat2), so a file that somebody puts there meanwhile could be lost; use ext4, xfs, btrfs, tmpfs or ZFS 2.2 on this node".to_owned()
        }
        other => io::Error::from(other).to_string(),
    };
    Fault::Problem {
        operation: "put it in place".into(),
        cause,
    }
}

#[cfg(test)]
#[path = "perform/tests.rs"]
mod tests;
