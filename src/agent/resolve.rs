//! From hints to operations: look at each path as it is now, compare with the index, say what the peer needs.
//!
//! Hints only say where to look. A rename is recognised by the file itself (device, inode and birth
//! time), never by events, and is confirmed by size and time before it is used; everything else follows from the
//! present state. The index is changed first, then the operations are sent, so a crash between the two
//! is a change the peer has not acknowledged yet, nothing more.

mod files;
pub mod guard;
mod moves;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

pub use self::files::settle_large;
use self::guard::Stopped;
use super::content::INLINE_MAX;
use super::links::{Departed, Written, changed_names, other_names, relink, stands};
use super::mounts::AWAY;
use super::node::Node;
use crate::decide::guard::Guard;
use crate::index::epochs::EpochsError;
use crate::index::store::{Row, StoreError};
use crate::model::batch::{Content, Op};
use crate::model::entry::{Entry, Kind, Stamp, Timestamp};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::clock;
use crate::sys::meta::xattrs_of;
use crate::sys::tree::{Look, Seen, is_absent};

/// Why resolving stopped.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The epoch history failed.
    #[error(transparent)]
    Epochs(#[from] EpochsError),
}

/// What came of the hints.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Operations in the order in which they are to be done.
    pub ops: Vec<(Seq, Op)>,
    /// Large files that must be read on the bulk thread; their rows are not changed yet.
    pub bulk: Vec<TreePath>,
    /// Directories to scan: new ones, moved ones.
    pub scan: Vec<TreePath>,
    /// Other names of files that lost a name: a change told of that name alone shows under them.
    pub look: Vec<TreePath>,
    /// Files that changed while they were read.
    pub unsteady: Vec<TreePath>,
    /// Large files that are to be read whole: not all of what is known of them under another name was read.
    pub doubted: Vec<TreePath>,
    /// Paths that cannot be read: path, operation, cause.
    pub problems: Vec<(TreePath, &'static str, String)>,
    /// Paths without problems.
    pub fine: Vec<TreePath>,
    /// Bytes of content in `ops`.
    pub bytes: u64,
    /// Roots of which nothing but moves of directories was resolved.
    pub stopped: Vec<Stopped>,
}

/// Resolves hints against a node.
pub struct Resolver<'a> {
    node: &'a mut Node,
    /// The peer follows closely: contents are read for it now.
    live: bool,
    /// Paths whose content must be sent whole although the index knows it.
    force: &'a BTreeMap<TreePath, u64>,
    departed: &'a mut Departed,
    guard: &'a mut Guard,
    /// Time of the guard, in milliseconds.
    now: u64,
    moves: Vec<(Seq, Op)>,
    puts: Vec<(Seq, Op)>,
    links: Vec<(Seq, Op)>,
    deletes: Vec<(Seq, Op)>,
    out: Resolved,
    limbo: u32,
    /// Time before the first look.
    tick: Timestamp,
}

/// A path that was looked at.
struct Looked {
    path: TreePath,
    seen: Option<Seen>,
    /// Where nothing stands: the directory that has no such name.
    without: Option<Stamp>,
}

impl<'a> Resolver<'a> {
    /// A resolver; `live` when the peer follows closely, `force` for paths to be sent whole, `departed` with the names that
    /// files lost before, the guard against mass deletion and its time.
    pub fn new(
        node: &'a mut Node,
        live: bool,
        force: &'a BTreeMap<TreePath, u64>,
        departed: &'a mut Departed,
        (guard, now): (&'a mut Guard, u64),
    ) -> Self {
        let (moves, puts, links, deletes) = Default::default();
        Self {
            node,
            live,
            force,
            departed,
            guard,
            now,
            moves,
            puts,
            links,
            deletes,
            out: Resolved::default(),
            limbo: 0,
            tick: clock::tick(),
        }
    }

    /// Resolves paths; the caller holds the index's transaction.
    ///
    /// # Errors
    /// [`ResolveError`] where index or history fail; the transaction must then be dropped.
    pub fn run(mut self, paths: Vec<TreePath>) -> Result<Resolved, ResolveError> {
        let mut all: BTreeSet<TreePath> = BTreeSet::new();
        for path in paths {
            // A change of a name is a change of its directory's time.
            if let Some(parent) = path.path.parent() {
                all.insert(TreePath::new(path.root, parent));
            }
            all.insert(path);
        }
        let mut looked = Vec::with_capacity(all.len());
        for path in all {
            looked.extend(self.look(path));
        }
        for l in &looked {
            self.look_at_other_names(l)?;
        }
        for l in &looked {
            if let Some(seen) = l.seen.as_ref().filter(|s| s.entry.kind.is_dir()) {
                self.find_move(&l.path, seen)?;
            }
        }
        // What lies below a directory that moved is not missing.
        self.guard(&mut looked)?;
        for l in &looked {
            if let Some(seen) = &l.seen {
                self.present(l, seen)?;
            }
        }
        for l in &looked {
            if l.seen.is_none() {
                self.absent(l)?;
            }
        }
        self.finish()
    }

    /// Where a file lost this name, what was done to it before shows under its other names, and no event tells of them.
    fn look_at_other_names(&mut self, l: &Looked) -> Result<(), ResolveError> {
        let row = self.node.store.lookup(&l.path)?;
        let stays = |r: &Row| l.seen.as_ref().is_some_and(|s| r.stamp.same_file(&s.stamp));
        let former = match row.filter(|r| !r.entry.kind.is_dir() && !stays(r)) {
            Some(row) => {
                self.departed.note(&l.path, row.stamp);
                Some(row.stamp)
            }
            None => self.departed.at(&l.path),
        };
        if let Some(former) = former {
            let mut changed = changed_names(self.node, &l.path, &former)?;
            self.out.look.append(&mut changed);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Resolved, ResolveError> {
        self.node
            .store
            .set_number("head", self.node.epochs.history().head())?;
        let mut out = self.out;
        out.ops = self.moves;
        out.ops.append(&mut self.puts);
        out.ops.append(&mut self.links);
        out.ops.append(&mut self.deletes);
        Ok(out)
    }

    fn next(&mut self) -> Result<Seq, ResolveError> {
        let name = self.node.name.clone();
        Ok(self.node.epochs.next(&name)?)
    }

    /// What stands at a path; `None` where it is not to be looked at.
    fn look(&mut self, path: TreePath) -> Option<Looked> {
        if self.node.hides(&path) {
            self.out.problems.push((path, "look at", AWAY.into()));
            return None;
        }
        let r = self.node.root(path.root)?;
        if path.path.is_root() && r.root.only.is_some() {
            return None;
        }
        let (seen, without) = match r.root.look_within(&path.path) {
            Ok((Look::There(seen), _)) => (Some(*seen), None),
            Ok((Look::Absent, without)) => (None, without),
            Ok((Look::Socket, without)) => {
                tracing::info!(
                    "{}: a socket is of no use to another host and is left out",
                    self.node.show(&path)
                );
                (None, without)
            }
            Err(e) => {
                self.out.problems.push((path, "look at", e.to_string()));
                return None;
            }
        };
        let is_dir = seen.as_ref().is_some_and(|s| s.entry.kind.is_dir());
        if !path.path.is_root() && self.node.excluded(&path, is_dir) {
            return None;
        }
        Some(Looked {
            path,
            seen,
            without,
        })
    }

    fn absent(&mut self, l: &Looked) -> Result<(), ResolveError> {
        let path = &l.path;
        if let Some(dir) = self.away(l)? {
            // Both are looked at again, so nothing is taken for deleted because a directory was elsewhere for a moment.
            self.out.look.extend([dir, path.clone()]);
            return Ok(());
        }
        self.out.fine.push(path.clone());
        if path.path.is_root() || self.node.store.lookup(path)?.is_none() {
            if self.force.contains_key(path) {
                let seq = self.next()?;
                self.deletes.push((seq, Op::Delete { path: path.clone() }));
            }
            return Ok(());
        }
        let seq = self.next()?;
        self.node.store.remove(path)?;
        self.node.store.tomb(path, seq)?;
        self.deletes.push((seq, Op::Delete { path: path.clone() }));
        Ok(())
    }

    fn present(&mut self, l: &Looked, seen: &Seen) -> Result<(), ResolveError> {
        let path = &l.path;
        let row = self.node.store.lookup(path)?;
        if let Some(row) = &row
            && self.lost_mount(l, row)
        {
            return Ok(());
        }
        self.node.note_mount(path, seen)?;
        let forced = self.force.contains_key(path);
        if !forced
            && row.as_ref().is_some_and(|r| {
                r.knows(&seen.stamp, seen.entry.mtime) && r.entry.kind.same_type(&seen.entry.kind)
            })
        {
            self.out.fine.push(path.clone());
            return Ok(());
        }
        // The peer does not have what the row says: everything about the path is sent.
        let row = row.filter(|_| !forced);
        let mut entry = seen.entry.clone();
        match self.xattrs(path) {
            Ok(xattrs) => entry.xattrs = xattrs,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => {
                self.out
                    .problems
                    .push((path.clone(), "read the attributes of", e.to_string()));
                return Ok(());
            }
        }
        match entry.kind {
            Kind::File { size, .. } if size > INLINE_MAX => {
                self.large(path, seen, entry, row.as_ref(), forced)
            }
            Kind::File { .. } => self.small(path, seen, entry, row.as_ref(), forced),
            _ => self.plain(path, seen, &entry, row.as_ref()),
        }
    }

    fn xattrs(&self, path: &TreePath) -> io::Result<Vec<crate::model::entry::Xattr>> {
        let r = self
            .node
            .root(path.root)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        if path.path.is_root() {
            return xattrs_of(r.root.fd(), b"");
        }
        let (dir, name) = r.root.open_parent(&path.path)?;
        xattrs_of(dir.as_fd(), name)
    }

    /// Directories, links and special files.
    fn plain(
        &mut self,
        path: &TreePath,
        seen: &Seen,
        entry: &Entry,
        row: Option<&Row>,
    ) -> Result<(), ResolveError> {
        let Some(seq) = self.note(path, entry, &seen.stamp, row)? else {
            return Ok(());
        };
        // Another directory at a known path: what lay in the former one is gone, and no event may have said so.
        let same_dir = |r: &Row| r.entry.kind.is_dir() && r.stamp.same_file(&seen.stamp);
        if entry.kind.is_dir() && !row.is_some_and(same_dir) {
            self.out.scan.push(path.clone());
        }
        let linked = seen.stamp.nlink > 1;
        if linked && let Some((other, _)) = self.link_target(path, seen, entry)? {
            self.links.push((
                seq,
                Op::Put {
                    path: path.clone(),
                    entry: entry.clone(),
                    content: Content::Link(other),
                },
            ));
            return Ok(());
        }
        self.puts.push((
            seq,
            Op::Put {
                path: path.clone(),
                entry: entry.clone(),
                content: Content::Keep,
            },
        ));
        self.relink(path, seen, entry, Written::Anew)
    }

    /// Changes the row of a path; returns the number of the change, `None` where only the stamp changed.
    fn note(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        stamp: &Stamp,
        row: Option<&Row>,
    ) -> Result<Option<Seq>, ResolveError> {
        self.out.fine.push(path.clone());
        if let Some(row) =
            row.filter(|r| r.entry.same_as(entry) && r.entry.kind.is_dir() == entry.kind.is_dir())
        {
            let kept = self.node.kept(stamp, self.tick);
            self.node.store.update(row.id, entry, &kept, row.seq)?;
            return Ok(None);
        }
        let seq = self.next()?;
        let kept = self.node.kept(stamp, self.tick);
        if !self.live {
            self.out.bytes += entry.kind.size();
        }
        if self.node.store.put(path, entry, &kept, seq)?.is_none() {
            // Its directory is not known yet; looking at that one first brings this path back.
            if let Some(parent) = path.path.parent() {
                self.out.scan.push(TreePath::new(path.root, parent));
            }
            return Ok(None);
        }
        Ok(Some(seq))
    }

    /// Another name of this file that the peer has with the same content and metadata.
    fn link_target(
        &self,
        path: &TreePath,
        seen: &Seen,
        entry: &Entry,
    ) -> Result<Option<(TreePath, Row)>, ResolveError> {
        let others = other_names(self.node, path, &seen.stamp)?;
        let fits =
            |(at, row): &(TreePath, Row)| row.entry == *entry && stands(self.node, at, &seen.stamp);
        Ok(others.into_iter().find(fits))
    }

    fn relink(
        &mut self,
        path: &TreePath,
        seen: &Seen,
        entry: &Entry,
        written: Written,
    ) -> Result<(), ResolveError> {
        let kept = self.node.kept(&seen.stamp, self.tick);
        let mut links = relink(self.node, path, entry, &kept, written)?;
        self.links.append(&mut links);
        Ok(())
    }
}
