//! Transfers that arrive: contents of large files on their way into staging slots.
//!
//! Bytes are hashed as they are written, and a transfer counts only once its
//! blake3 equals the sender's. Memory is bounded: one buffer per transfer, never the file.

mod sink;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use self::sink::{Basis, Hashing, Sink};
use super::hashing::see;
use super::node::Node;
use super::staging::{self, PART_MIN, Part, Staging};
use crate::decide::blocks::{BlockHasher, Blocks, MAX_SIZE};
use crate::decide::delta::apply::{Applier, DeltaError};
use crate::model::entry::{Hash, Stamp};
use crate::model::path::{RootId, TreePath};
use crate::sys::tree::{Look, look_at, open_regular};
use crate::wire::message::{Form, MAX_HOLE};

/// Most transfers open or waiting for their batch at a time.
pub const MAX_TRANSFERS: usize = 64;
/// Bytes read or zeroed at a time.
const BUFFER: usize = 256 * 1024;
/// Granularity of holes in bytes.
const HOLE: usize = 4096;

/// Why a transfer is of no use.
#[derive(Debug)]
pub enum Broken {
    /// The content must be sent whole: basis or hash do not agree.
    Want,
    /// Nothing more can be staged (disk full, input/output error): the session must stop and try later.
    Stage(io::Error),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Self::Stage(e)
    }
}

/// A transfer that arrived whole.
#[derive(Debug)]
pub struct Finished {
    /// Root whose staging holds the slot.
    pub root: RootId,
    /// Name of the slot.
    pub slot: String,
    /// The slot, open.
    pub file: File,
    /// Block list of the content.
    pub blocks: Blocks,
    /// blake3 of the content.
    pub hash: Hash,
    /// For an append: length and stamp of the basis.
    pub append: Option<(u64, Stamp)>,
}

struct Open {
    root: RootId,
    slot: String,
    size: u64,
    hasher: BlockHasher,
    sink: Sink,
    applier: Option<Applier>,
    append: Option<(u64, Stamp)>,
}

/// The transfers of a session.
#[derive(Default)]
pub struct Incoming {
    /// What arrives is synced before it is acknowledged.
    durable: bool,
    open: HashMap<u64, Open>,
    finished: HashMap<u64, Finished>,
    /// Transfers that turned out to be of no use; their chunks are ignored.
    broken: HashMap<u64, ()>,
}

impl Incoming {
    /// None yet; `durable` says that what arrives will be synced before it is acknowledged.
    #[must_use]
    pub fn new(durable: bool) -> Self {
        Self {
            durable,
            ..Self::default()
        }
    }

    /// Begins a transfer.
    ///
    /// # Errors
    /// [`Broken::Want`] where the basis is not here; [`Broken::Stage`] where no slot can be made.
    pub fn begin(
        &mut self,
        node: &mut Node,
        staging: &mut Staging,
        id: u64,
        path: &TreePath,
        form: &Form,
        (size, sparse): (u64, bool),
    ) -> Result<(), Broken> {
        if self.open.len() + self.finished.len() >= MAX_TRANSFERS {
            return Err(Broken::Stage(io::Error::other(
                "the peer opened too many transfers at once",
            )));
        }
        if size > MAX_SIZE {
            return Err(Broken::Want);
        }
        let (mut append, mut applier) = (None, None);
        let mut hasher = BlockHasher::new(size);
        let (slot, file, basis) = match form {
            Form::Whole => {
                let (slot, file) = self.whole_slot(staging, path, size)?;
                (slot, file, Basis::None)
            }
            Form::Append { basis, size: old } => {
                let version = find_version(node, path, *basis);
                let found = version.and_then(|v| Ok((append_hasher(&v, *basis, *old)?, v.stamp)));
                let (seen, stamp) = found.inspect_err(|_| self.refuse(id))?;
                hasher = seen;
                append = Some((*old, stamp));
                let slot = staging.fresh();
                let file = staging.create(path.root, &slot, 0o600)?;
                (slot, file, Basis::None)
            }
            Form::Delta { basis } => {
                if let Some(part) = self.free_part(staging, path, *basis) {
                    applier = Some(Applier::new(part.stamp.size, size));
                    (part.slot, part.file, Basis::Itself)
                } else {
                    let version = find_version(node, path, *basis);
                    let version = version.inspect_err(|_| self.refuse(id))?;
                    applier = Some(Applier::new(version.stamp.size, size));
                    let slot = staging.fresh();
                    let file = staging.create(path.root, &slot, 0o600)?;
                    let cloned = rustix::fs::ioctl_ficlone(&file, &version.file).is_ok();
                    let basis = if cloned { Basis::Cloned } else { Basis::File };
                    (slot, file, basis(version.file))
                }
            }
        };
        if sparse {
            // Within its final length no file system allocates ahead of what is written.
            file.set_len(file.metadata()?.len().max(size))?;
        }
        let open = Open {
            root: path.root,
            slot,
            size,
            hasher,
            sink: Sink {
                file,
                at: 0,
                sparse,
                basis,
                zeros_from: None,
                behind: self.durable.then_some(0),
            },
            applier,
            append,
        };
        self.open.insert(id, open);
        Ok(())
    }

    /// A slot for content that comes whole; a large one's is found again if its transfer is cut off.
    fn whole_slot(
        &self,
        staging: &mut Staging,
        path: &TreePath,
        size: u64,
    ) -> io::Result<(String, File)> {
        let mut slot = Staging::part_name(path);
        if size < PART_MIN || self.is_open(path.root, &slot) {
            slot = staging.fresh();
        } else {
            staging.discard(path.root, &slot);
        }
        let file = staging.create(path.root, &slot, 0o600)?;
        Ok((slot, file))
    }

    /// The part that a delta builds on.
    fn free_part(&self, staging: &Staging, path: &TreePath, basis: Hash) -> Option<Part> {
        let part = staging.part(path)?;
        (part.tag() == basis && !self.is_open(path.root, &part.slot)).then_some(part)
    }

    fn is_open(&self, root: RootId, slot: &str) -> bool {
        let mut open = self.open.values();
        open.any(|o| o.root == root && o.slot == slot)
    }

    /// Ignores what comes of a transfer.
    fn refuse(&mut self, id: u64) {
        self.broken.insert(id, ());
    }

    /// Takes bytes of a transfer.
    ///
    /// # Errors
    /// [`Broken`]; the transfer is then given up.
    pub fn chunk(
        &mut self,
        staging: &Staging,
        id: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), Broken> {
        let Some(open) = self.open.get_mut(&id) else {
            return if self.broken.contains_key(&id) {
                Ok(())
            } else {
                Err(Broken::Want)
            };
        };
        match open.take(offset, data) {
            Ok(()) => Ok(()),
            Err(e) => {
                self.give_up(staging, id);
                Err(e)
            }
        }
    }

    /// Ends a transfer: its content must have the hash the sender says.
    ///
    /// # Errors
    /// [`Broken`]; the transfer is then given up.
    pub fn end(&mut self, staging: &mut Staging, id: u64, hash: Hash) -> Result<(), Broken> {
        let Some(open) = self.open.remove(&id) else {
            return Ok(());
        };
        let (root, slot) = (open.root, open.slot.clone());
        match open.finish(hash) {
            Ok(mut done) => {
                done.slot = staging.complete(root, done.slot)?;
                self.finished.insert(id, done);
                Ok(())
            }
            Err(e) => {
                staging.discard(root, &slot);
                self.broken.insert(id, ());
                Err(e)
            }
        }
    }

    /// Drops a transfer the sender abandoned, or that broke.
    pub fn give_up(&mut self, staging: &Staging, id: u64) {
        if let Some(open) = self.open.remove(&id) {
            staging.discard(open.root, &open.slot);
        }
        if let Some(done) = self.finished.remove(&id) {
            staging.discard(done.root, &done.slot);
        }
        if self.broken.len() > MAX_TRANSFERS * 16 {
            self.broken.clear();
        }
        self.broken.insert(id, ());
    }

    /// Hands out a transfer that arrived whole.
    pub fn take(&mut self, id: u64) -> Option<Finished> {
        self.finished.remove(&id)
    }

    /// Drops every transfer: the session is over. What arrived of large contents is kept in part.
    pub fn clear(&mut self, staging: &Staging) {
        self.open.retain(|_, open| !open.is_worth_keeping());
        let ids: Vec<u64> = self
            .open
            .keys()
            .chain(self.finished.keys())
            .copied()
            .collect();
        for id in ids {
            self.give_up(staging, id);
        }
        self.broken.clear();
    }
}

struct Version {
    file: File,
    stamp: Stamp,
    blocks: Option<Blocks>,
}

/// The version of a file that a delta builds on, if it is what stands there.
fn find_version(node: &mut Node, path: &TreePath, hash: Hash) -> Result<Version, Broken> {
    let row = node
        .store
        .lookup(path)
        .ok()
        .flatten()
        .filter(|r| r.entry.kind.hash() == Some(hash))
        .ok_or(Broken::Want)?;
    let root = &node.root(path.root).ok_or(Broken::Want)?.root;
    let (dir, name) = root.open_parent(&path.path).map_err(|_| Broken::Want)?;
    let file = open_regular(dir.as_fd(), name).map_err(|_| Broken::Want)?;
    match look_at(dir.as_fd(), name)? {
        Look::There(seen) if row.knows(&seen.stamp, seen.entry.mtime) => {}
        _ => return Err(Broken::Want),
    }
    let blocks = node
        .store
        .blocks(row.id)
        .ok()
        .flatten()
        .and_then(|b| Blocks::decode(&b).ok());
    Ok(Version {
        file,
        stamp: row.stamp,
        blocks: blocks.filter(|b| b.root() == hash),
    })
}

/// A hasher that has seen the basis: from its block list and its last partial block, or by reading it where no list is kept.
fn append_hasher(basis: &Version, hash: Hash, size: u64) -> Result<BlockHasher, Broken> {
    append_state(basis, hash, size).ok_or(Broken::Want)
}

fn append_state(basis: &Version, hash: Hash, size: u64) -> Option<BlockHasher> {
    if basis.stamp.size != size {
        return None;
    }
    let Some(blocks) = basis.blocks.as_ref().filter(|b| b.size() == size) else {
        let mut hasher = BlockHasher::new(size);
        let all = see(&basis.file, 0..size, &mut hasher, &mut |_| true).ok()?;
        return (all && hasher.clone().finish().root() == hash).then_some(hasher);
    };
    let tail = blocks.tail();
    let mut bytes = vec![0u8; usize::try_from(tail.end - tail.start).ok()?];
    basis.file.read_exact_at(&mut bytes, tail.start).ok()?;
    blocks.append_state(&bytes).ok()
}

impl Open {
    /// Whether the next session can go on with what has arrived.
    fn is_worth_keeping(&self) -> bool {
        let held = self.sink.file.metadata().map_or(0, |m| m.len());
        staging::is_part(&self.slot) && held >= PART_MIN
    }

    fn take(&mut self, offset: u64, data: &[u8]) -> Result<(), Broken> {
        if let Some(applier) = &mut self.applier {
            let mut target = Hashing {
                sink: &mut self.sink,
                hasher: &mut self.hasher,
            };
            return applier.push(data, &mut target).map_err(|e| match e {
                DeltaError::Io(e) if sink::is_overwritten(&e) => Broken::Want,
                DeltaError::Io(e) => Broken::Stage(e),
                other => {
                    tracing::warn!("a delta from the peer is refused: {other}");
                    Broken::Want
                }
            });
        }
        let at = self
            .append
            .map_or(self.hasher.size(), |(old, _)| self.hasher.size() - old);
        let end = offset.checked_add(data.len() as u64);
        let hole = offset.checked_sub(at).filter(|h| *h <= MAX_HOLE);
        let (Some(hole), true) = (hole, end.is_some_and(|end| end <= self.size)) else {
            return Err(Broken::Want);
        };
        if self.append.is_some() && hole > 0 {
            return Err(Broken::Want);
        }
        self.hasher.zeros(hole);
        self.hasher.update(data);
        self.sink.at = offset;
        self.sink.write(data)?;
        Ok(())
    }

    fn finish(mut self, hash: Hash) -> Result<Finished, Broken> {
        if let Some(applier) = self.applier.take() {
            applier.finish().map_err(|_| Broken::Want)?;
        }
        self.sink.punch()?;
        let old = self.append.map_or(0, |(old, _)| old);
        let total = if self.append.is_some() {
            old + self.size
        } else {
            self.size
        };
        if self.append.is_none() && self.hasher.size() < total {
            let missing = total - self.hasher.size();
            if missing > MAX_HOLE {
                return Err(Broken::Want);
            }
            self.hasher.zeros(missing);
        }
        let blocks = self.hasher.finish();
        if blocks.size() != total || blocks.root() != hash {
            tracing::warn!(
                "a transfer arrived with another hash than the sender's; it is asked for again"
            );
            return Err(Broken::Want);
        }
        self.sink.file.set_len(self.size)?;
        Ok(Finished {
            root: self.root,
            slot: self.slot,
            file: self.sink.file,
            blocks,
            hash,
            append: self.append,
        })
    }
}
