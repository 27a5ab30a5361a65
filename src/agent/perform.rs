//! Doing the steps of a redo record.
//!
//! Used for a batch that just arrived and for records found after a crash: each
//! step first looks at what stands there, so doing it again is harmless. A file
//! appears by one rename, complete with owner, mode and attributes. One step that fails never stops the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{self as rfs, AtFlags, OFlags, RenameFlags};

pub use self::replay::{Planned, Replay};
use super::drift;
use super::links::other_names;
use super::node::Node;
use super::redo::{Source, Step};
use super::staging::Staging;
use crate::index::store::{Row, StoreError};
use crate::model::entry::{Entry, Kind, Timestamp};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::meta::{self, MetaError, Pin};
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
    pub(super) outcome: Outcome,
}

/// The place of a path: its open directory, its name there, what stands there.
pub(super) struct Place {
    pub(super) dir: OwnedFd,
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
            outcome: Outcome::default(),
        }
    }

    /// Does all steps, then sets the times of the directories they touched.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails; the record is then to be done again.
    pub fn run(mut self, steps: &[(Seq, Step)]) -> Result<Outcome, StoreError> {
        for (seq, step) in steps {
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
                Step::Delete { path } => self.delete(path),
            };
            let path = match step {
                Step::Move { to, .. } => to,
                Step::Put { path, .. } | Step::Delete { path } => path,
            };
            if self.replay.is_some() {
                // What was done before the crash moved the time of its directory, whether or not it is done again.
                self.touch(path);
            }
            match done {
                Ok(()) => {}
                Err(Fault::Want) => self.outcome.wants.push(path.clone()),
                Err(Fault::Problem { operation, cause }) => self.problem(path, operation, cause),
                Err(Fault::Index(e)) => return Err(e),
            }
        }
        self.set_times()?;
        Ok(self.outcome)
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
        let (dir, name) = match root.open_parent(&path.path) {
            Ok(found) => found,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(Fault::of("open the directory")(e)),
        };
        let look = look_at(dir.as_fd(), name).map_err(Fault::of("look at it"))?;
        let socket = look == Look::Socket;
        let have = if let Look::There(seen) = look {
            Some(*seen)
        } else {
            None
        };
        Ok(Some(Place {
            dir,
            name: name.to_vec(),
            have,
            socket,
        }))
    }

    fn touch(&mut self, path: &TreePath) {
        if let Some(parent) = path.path.parent() {
            self.touched.insert(TreePath::new(path.root, parent));
        }
    }

    fn put(
        &mut self,
        seq: Seq,
        path: &TreePath,
        entry: &Entry,
        source: &Source,
        blocks: &[u8],
    ) -> Result<(), Fault> {
        if path.path.is_root() {
            return self.put_root(seq, path, entry);
        }
        if self.went_on(path) {
            return Ok(());
        }
        let Some(place) = self.place(path)? else {
            return Err(Fault::Problem {
                operation: "create it".into(),
                cause: "its directory is missing".into(),
            });
        };
        let row = self.node.store.lookup(path)?;
        match (&entry.kind, source) {
            (Kind::Dir, _) => self.put_dir(path, entry, &place, row.as_ref())?,
            (Kind::File { .. }, Source::Keep) => {
                keep_content(entry, &place, row.as_ref(), self.replay.is_some())?
            }
            (_, Source::Append { name, offset }) => {
                self.append(path, entry, &place, (name, *offset))?
            }
            _ => self.put_other(path, entry, source, &place, row.as_ref())?,
        }
        self.record(seq, path, entry, &place, blocks)
    }

    /// Whether, in a replay, a later step moved the directory of this path away before the crash.
    fn went_on(&self, path: &TreePath) -> bool {
        let Some(replay) = self.replay else {
            return false;
        };
        let mut moves = replay.planned.moves(replay.at);
        moves.any(|m| {
            path.root == m.from.root
                && path.path.is_within(&m.from.path)
                && self.inode(&m.from) != Some(m.ino)
        })
    }

    /// The inode at a path.
    pub(super) fn inode(&self, path: &TreePath) -> Option<u64> {
        let place = self.place(path).ok().flatten()?;
        Some(place.have?.stamp.ino)
    }

    fn put_root(&mut self, seq: Seq, path: &TreePath, entry: &Entry) -> Result<(), Fault> {
        let Some(r) = self.node.root(path.root) else {
            return Err(Fault::Want);
        };
        if r.root.only.is_some() {
            return Ok(());
        }
        let fd = r.root.fd();
        let Look::There(seen) = look_at(fd, b"").map_err(Fault::of("look at it"))? else {
            return Err(Fault::Want);
        };
        let pin = Pin::new(fd, b"").map_err(Fault::of("open it"))?;
        let mut have = seen.entry;
        have.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
        pin.apply(entry, Some(&have))?;
        self.times.insert(path.clone(), entry.mtime);
        self.node.store.put(path, entry, &seen.stamp, seq)?;
        Ok(())
    }

    /// Notes in the index what now stands at a path.
    fn record(
        &mut self,
        seq: Seq,
        path: &TreePath,
        entry: &Entry,
        place: &Place,
        blocks: &[u8],
    ) -> Result<(), Fault> {
        let look = look_at(place.dir.as_fd(), &place.name).map_err(Fault::of("look at it"))?;
        let Look::There(seen) = look else {
            return Err(Fault::Problem {
                operation: "create it".into(),
                cause: "it vanished at once".into(),
            });
        };
        // The active node's own rows count from 0 where it found its tree; here 0 stands for what was never compared.
        let id = self.node.store.put(path, entry, &seen.stamp, seq.max(1))?;
        if id.is_none() {
            // Its directory is not in the index; without a row of its own it would pass for a local file.
            tracing::warn!(
                "{}: its directory is unknown to the index",
                self.node.show(path)
            );
            return Err(Fault::Want);
        }
        if let Some(id) = id
            && !blocks.is_empty()
        {
            self.node.store.set_blocks(id, blocks)?;
        }
        // What was done to the file in place shows under its other names, too: replication did it there as well.
        if seen.stamp.nlink > 1 && !entry.kind.is_dir() {
            for (_, other) in other_names(self.node, path, &seen.stamp)? {
                if other.seq != 0 {
                    self.node
                        .store
                        .update(other.id, entry, &seen.stamp, other.seq)?;
                }
            }
        }
        Ok(())
    }

    fn put_dir(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        place: &Place,
        row: Option<&Row>,
    ) -> Result<(), Fault> {
        self.times.insert(path.clone(), entry.mtime);
        if let Some(have) = place.have.as_ref().filter(|h| h.entry.kind.is_dir()) {
            let pin = Pin::new(place.dir.as_fd(), &place.name).map_err(Fault::of("open it"))?;
            let mut have = have.entry.clone();
            have.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
            return Ok(pin.apply(entry, Some(&have))?);
        }
        self.clear(path, place, row)?;
        let slot = self.staging.fresh();
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        meta::make_special(staging, slot.as_bytes(), entry)?;
        let placed = rfs::renameat_with(
            staging,
            slot.as_str(),
            &place.dir,
            place.name.as_slice(),
            RenameFlags::NOREPLACE,
        );
        if let Err(e) = placed {
            if let Err(e) = rfs::unlinkat(staging, slot.as_str(), AtFlags::REMOVEDIR) {
                tracing::debug!("the staging slot {slot} stays until the next start: {e}");
            }
            return Err(Fault::of("create it")(e.into()));
        }
        self.touch(path);
        Ok(())
    }

    /// Makes room where something stands that cannot be replaced by a rename, or that replication did not put there.
    fn clear(&mut self, path: &TreePath, place: &Place, row: Option<&Row>) -> Result<(), Fault> {
        let at = (place.dir.as_fd(), place.name.as_slice());
        match &place.have {
            None if !place.socket => Ok(()),
            None => self.preserve(path, at, "a socket stood where replication puts a file"),
            Some(have) if have.entry.kind.is_dir() => {
                if !self.remove_tree(path)? {
                    let cause = "a directory with excluded files stands in its place".into();
                    return Err(Fault::Problem {
                        operation: "replace it".into(),
                        cause,
                    });
                }
                Ok(())
            }
            Some(have) => {
                if drift::is_replicated(at.0, at.1, have, row).map_err(Fault::of("compare it"))? {
                    rfs::unlinkat(at.0, at.1, AtFlags::empty())
                        .map_err(|e| Fault::of("remove it")(e.into()))?;
                    return Ok(());
                }
                let why = drift::explain(have, row);
                self.preserve(
                    path,
                    at,
                    &format!("changed here, not by replication ({why})"),
                )
            }
        }
    }

    pub(super) fn preserve(
        &mut self,
        path: &TreePath,
        at: (BorrowedFd<'_>, &[u8]),
        reason: &str,
    ) -> Result<(), Fault> {
        let root = self
            .node
            .root(path.root)
            .map_or(String::new(), |r| r.root.name.clone());
        drift::preserve(self.staging, &self.node.state_dir, &root, path, at, reason)
            .map_err(Fault::of("preserve the local version"))?;
        self.outcome.preserved += 1;
        self.touch(path);
        Ok(())
    }

    /// Files, links and special files: made in a slot, then renamed over whatever file stands there.
    fn put_other(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        source: &Source,
        place: &Place,
        row: Option<&Row>,
    ) -> Result<(), Fault> {
        if let Some(replay) = self.replay
            && self.is_done(&replay, source, place, path)?
        {
            return Ok(());
        }
        let slot = self.fill_slot(path, entry, source)?;
        let have_dir = place.have.as_ref().is_some_and(|h| h.entry.kind.is_dir());
        let known = match &place.have {
            Some(have) if !have_dir => {
                let at = (place.dir.as_fd(), place.name.as_slice());
                drift::is_replicated(at.0, at.1, have, row).map_err(Fault::of("compare it"))?
                    || drift::holds(at.0, at.1, have, entry).map_err(Fault::of("compare it"))?
                    || self.stands_elsewhere(&have.stamp, path)?
            }
            Some(_) => false,
            None => !place.socket,
        };
        if !known && let Err(e) = self.clear(path, place, row) {
            self.staging.discard(path.root, &slot);
            return Err(e);
        }
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        if let Err(e) = rfs::renameat(staging, slot.as_str(), &place.dir, place.name.as_slice()) {
            self.staging.discard(path.root, &slot);
            return Err(cannot_place(e));
        }
        if matches!(source, Source::Link(_)) {
            // Renaming a link over another link of the same file does nothing and leaves the slot.
            self.staging.discard(path.root, &slot);
        }
        self.touch(path);
        Ok(())
    }

    /// Whether a replayed put was done before the crash.
    fn is_done(
        &self,
        replay: &Replay<'_>,
        source: &Source,
        place: &Place,
        path: &TreePath,
    ) -> Result<bool, Fault> {
        if let Source::Slot { name, .. } = source {
            let staging = self
                .staging
                .dir(path.root)
                .map_err(Fault::of("open staging"))?;
            let look = look_at(staging, name.as_bytes()).map_err(Fault::of("look at its slot"))?;
            return Ok(look == Look::Absent);
        }
        let later = replay.planned.states(path, replay.at);
        Self::holds_any(place, later)
    }

    /// Whether one of these states stands at a place, contents included: a rename may have reached the disk before the
    /// bytes did.
    pub(super) fn holds_any<'e>(
        place: &Place,
        states: impl Iterator<Item = &'e Entry>,
    ) -> Result<bool, Fault> {
        let Some(have) = &place.have else {
            return Ok(false);
        };
        for state in states.filter(|e| e.kind.same_type(&have.entry.kind)) {
            let holds = drift::holds(place.dir.as_fd(), &place.name, have, state);
            if holds.map_err(Fault::of("compare it"))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings the new file into a slot of its root; returns the slot's name.
    fn fill_slot(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        source: &Source,
    ) -> Result<String, Fault> {
        match source {
            Source::Slot {
                name,
                linked: false,
            } => Ok(name.clone()),
            Source::Slot { name, linked: true } => {
                self.dress_slot(path, name, entry)?;
                Ok(name.clone())
            }
            Source::Inline(bytes) | Source::Sparse(bytes) => {
                let (name, file) = self
                    .staging
                    .create(path.root, entry.mode & 0o777)
                    .map_err(Fault::of("create it"))?;
                let sparse = matches!(source, Source::Sparse(_));
                let written =
                    super::content::write(&file, bytes, sparse).map_err(Fault::of("write it"));
                let done = written
                    .and_then(|()| Ok(meta::dress(file.as_fd(), entry, entry.mode & 0o777)?));
                if let Err(e) = done {
                    self.staging.discard(path.root, &name);
                    return Err(e);
                }
                Ok(name)
            }
            Source::Link(target) => self.link_slot(path, target, entry),
            Source::Keep | Source::Append { .. } => {
                let name = self.staging.fresh();
                let staging = self
                    .staging
                    .dir(path.root)
                    .map_err(Fault::of("open staging"))?;
                meta::make_special(staging, name.as_bytes(), entry)
                    .inspect_err(|_| self.staging.discard(path.root, &name))?;
                Ok(name)
            }
        }
    }

    /// A slot that is a further link to the file at `target`, if that file is the wanted one.
    fn link_slot(
        &mut self,
        path: &TreePath,
        target: &TreePath,
        entry: &Entry,
    ) -> Result<String, Fault> {
        let same = |row: &Row| {
            row.entry.kind == entry.kind && (entry.kind.hash().is_some() || !entry.kind.is_file())
        };
        let row = self.node.store.lookup(target)?.filter(same);
        let Some(from) = self.place(target)?.filter(|_| row.is_some()) else {
            return Err(Fault::Want);
        };
        // A file that was edited here gets no further names.
        let replicated = from.have.as_ref().is_some_and(|have| {
            drift::is_replicated(from.dir.as_fd(), &from.name, have, row.as_ref()).unwrap_or(false)
        });
        if !replicated {
            return Err(Fault::Want);
        }
        let name = self.staging.fresh();
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        rfs::linkat(
            &from.dir,
            from.name.as_slice(),
            staging,
            name.as_str(),
            AtFlags::empty(),
        )
        .map_err(|_| Fault::Want)?;
        if let Err(e) = self.dress_slot(path, &name, entry) {
            self.staging.discard(path.root, &name);
            return Err(e);
        }
        Ok(name)
    }

    /// Gives a slot that is a further name of a file in the tree the wanted owner, mode, times and attributes.
    fn dress_slot(&mut self, path: &TreePath, slot: &str, entry: &Entry) -> Result<(), Fault> {
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        let Look::There(seen) =
            look_at(staging, slot.as_bytes()).map_err(Fault::of("look at its slot"))?
        else {
            return Err(Fault::Want);
        };
        let pin = Pin::new(staging, slot.as_bytes()).map_err(Fault::of("open its slot"))?;
        let mut have = seen.entry;
        have.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
        Ok(pin.apply(entry, Some(&have))?)
    }

    /// Writes a slot's bytes behind the present content of a file.
    fn append(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        place: &Place,
        (slot, offset): (&str, u64),
    ) -> Result<(), Fault> {
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        if look_at(staging, slot.as_bytes()).map_err(Fault::of("look at its slot"))? == Look::Absent
        {
            return Ok(());
        }
        let have = place
            .have
            .as_ref()
            .filter(|h| h.entry.kind.is_file() && h.entry.kind.size() >= offset)
            .ok_or(Fault::Want)?;
        let mut bytes = crate::sys::tree::open_regular(staging, slot.as_bytes())
            .map_err(Fault::of("read its slot"))?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rfs::openat(&place.dir, place.name.as_slice(), flags, rfs::Mode::empty())
            .map_err(|e| Fault::of("write it")(e.into()))?;
        let file = std::fs::File::from(file);
        copy_to(&mut bytes, &file, offset).map_err(Fault::of("write it"))?;
        file.set_len(entry.kind.size())
            .map_err(Fault::of("write it"))?;
        let pin = Pin::new(place.dir.as_fd(), &place.name).map_err(Fault::of("open it"))?;
        let mut now = have.entry.clone();
        now.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
        pin.apply(entry, Some(&now))?;
        if self.sync {
            file.sync_data().map_err(Fault::of("sync it"))?;
        }
        self.staging.discard(path.root, slot);
        Ok(())
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
            .map_err(cannot_place)?;
        } else if self.replay.is_none() && target.have.as_ref().is_none_or(|h| h.stamp.ino != ino) {
            // (In a replay it was moved already, perhaps on to where a later step moves it; the rows follow.)
            return Err(Fault::Want);
        }
        self.touch(from);
        self.touch(to);
        self.node.store.move_row(from, to, seq)?;
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
            let (Some(mtime), Ok(dir)) = (mtime, root.root.open_dir(&path.path)) else {
                continue;
            };
            let done = Pin::new(dir.as_fd(), b"")
                .map_err(Fault::of("open it"))
                .and_then(|p| Ok(p.set_mtime(mtime)?));
            if let Err(Fault::Problem { operation, cause }) = done {
                self.problem(&path, operation, cause);
            }
        }
        Ok(())
    }
}

/// A metadata change of a file whose content stays: only on the content both sides know.
fn keep_content(
    entry: &Entry,
    place: &Place,
    row: Option<&Row>,
    replay: bool,
) -> Result<(), Fault> {
    let have = place
        .have
        .as_ref()
        .filter(|h| h.entry.kind.is_file())
        .ok_or(Fault::Want)?;
    let row = row
        .filter(|r| r.entry.kind == entry.kind && entry.kind.hash().is_some())
        .ok_or(Fault::Want)?;
    let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
    let mut now = have.entry.clone();
    let pin = Pin::new(dir, name).map_err(Fault::of("open it"))?;
    now.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
    // A crash may have come between owner, mode and time; the content alone tells then.
    let ours = if replay {
        drift::holds_content(dir, name, have, &row.entry)
    } else {
        drift::is_replicated(dir, name, have, Some(row))
    };
    if !ours.map_err(Fault::of("compare it"))? {
        return Err(Fault::Want);
    }
    Ok(pin.apply(entry, Some(&now))?)
}

fn cannot_place(e: rustix::io::Errno) -> Fault {
    let cause = match e {
        rustix::io::Errno::XDEV => {
            "it lies on another file system than its root; make that mount a [[root]] of its own on both nodes".to_owned()
        }
        other => io::Error::from(other).to_string(),
    };
    Fault::Problem {
        operation: "put it in place".into(),
        cause,
    }
}

/// Copies a whole file to an offset of another.
fn copy_to(from: &mut std::fs::File, to: &std::fs::File, mut offset: u64) -> io::Result<()> {
    use std::io::Read;
    let mut buf = vec![0u8; 256 * 1024];
    loop {
        let n = match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all_at(&buf[..n], offset)?;
        offset += n as u64;
    }
}

mod remove;
mod replay;
