//! Transfers that arrive: contents of large files on their way into staging slots.
//!
//! Bytes are hashed as they are written, and a transfer counts only once its
//! blake3 equals the sender's. Memory is bounded: one buffer per transfer, never the file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::node::Node;
use super::staging::Staging;
use crate::decide::blocks::{BlockHasher, Blocks};
use crate::decide::delta::apply::{Applier, Target};
use crate::model::entry::{Hash, Stamp};
use crate::model::path::{RootId, TreePath};
use crate::sys::tree::{Look, look_at, open_regular};
use crate::wire::message::Form;

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
    open: HashMap<u64, Open>,
    finished: HashMap<u64, Finished>,
    /// Transfers that turned out to be of no use; their chunks are ignored.
    broken: HashMap<u64, ()>,
}

impl Incoming {
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
        let basis = match form {
            Form::Whole => None,
            Form::Delta { basis } | Form::Append { basis, .. } => {
                Some(find_basis(node, path, *basis).inspect_err(|_| {
                    self.broken.insert(id, ());
                })?)
            }
        };
        let slot = staging.fresh();
        let file = staging.create(path.root, &slot, 0o600)?;
        let mut open = Open {
            root: path.root,
            slot,
            size,
            hasher: BlockHasher::new(size),
            sink: Sink {
                file,
                at: 0,
                sparse,
                basis: None,
                cloned: false,
            },
            applier: None,
            append: None,
        };
        if let (
            Some(basis),
            Form::Append {
                basis: wanted,
                size: old,
            },
        ) = (&basis, form)
        {
            let Some(hasher) = append_hasher(basis, *wanted, *old) else {
                staging.discard(path.root, &open.slot);
                self.broken.insert(id, ());
                return Err(Broken::Want);
            };
            open.hasher = hasher;
            open.append = Some((*old, basis.stamp));
        } else if let Some(basis) = basis {
            open.applier = Some(Applier::new(basis.stamp.size, size));
            open.sink.cloned = rustix::fs::ioctl_ficlone(&open.sink.file, &basis.file).is_ok();
            open.sink.basis = Some(basis.file);
        }
        if sparse && open.append.is_none() {
            // Within its final length no file system allocates ahead of what is written.
            open.sink.file.set_len(size)?;
        }
        self.open.insert(id, open);
        Ok(())
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
    pub fn end(&mut self, staging: &Staging, id: u64, hash: Hash) -> Result<(), Broken> {
        let Some(open) = self.open.remove(&id) else {
            return Ok(());
        };
        let (root, slot) = (open.root, open.slot.clone());
        match open.finish(hash) {
            Ok(done) => {
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

    /// Drops every transfer: the session is over.
    pub fn clear(&mut self, staging: &Staging) {
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

struct Basis {
    file: File,
    stamp: Stamp,
    blocks: Option<Blocks>,
}

/// The version of a file that a delta builds on, if it is what stands there.
fn find_basis(node: &mut Node, path: &TreePath, hash: Hash) -> Result<Basis, Broken> {
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
        Look::There(seen) if seen.stamp == row.stamp => {}
        _ => return Err(Broken::Want),
    }
    let blocks = node
        .store
        .blocks(row.id)
        .ok()
        .flatten()
        .and_then(|b| Blocks::decode(&b).ok());
    Ok(Basis {
        file,
        stamp: row.stamp,
        blocks: blocks.filter(|b| b.root() == hash),
    })
}

/// A hasher that has seen the basis: from its block list and its last partial block, or by reading it where no list is kept.
fn append_hasher(basis: &Basis, hash: Hash, size: u64) -> Option<BlockHasher> {
    if basis.stamp.size != size {
        return None;
    }
    let Some(blocks) = basis.blocks.as_ref().filter(|b| b.size() == size) else {
        let mut hasher = BlockHasher::new(size);
        let mut buf = vec![0u8; BUFFER];
        while hasher.size() < size {
            let n = basis.file.read_at(&mut buf, hasher.size()).ok()?;
            let left = usize::try_from(size - hasher.size()).unwrap_or(BUFFER);
            if n == 0 {
                return None;
            }
            hasher.update(&buf[..n.min(left)]);
        }
        return (hasher.clone().finish().root() == hash).then_some(hasher);
    };
    let tail = blocks.tail();
    let mut bytes = vec![0u8; usize::try_from(tail.end - tail.start).ok()?];
    basis.file.read_exact_at(&mut bytes, tail.start).ok()?;
    blocks.append_state(&bytes).ok()
}

impl Open {
    fn take(&mut self, offset: u64, data: &[u8]) -> Result<(), Broken> {
        if let Some(applier) = &mut self.applier {
            let mut target = Hashing {
                sink: &mut self.sink,
                hasher: &mut self.hasher,
            };
            return applier.push(data, &mut target).map_err(|e| match e {
                crate::decide::delta::apply::DeltaError::Io(e) => Broken::Stage(e),
                other => {
                    tracing::warn!("a delta from the peer is refused: {other}");
                    Broken::Want
                }
            });
        }
        let at = self
            .append
            .map_or(self.hasher.size(), |(old, _)| self.hasher.size() - old);
        let fits = offset >= at && offset + data.len() as u64 <= self.size;
        if !fits || (self.append.is_some() && offset != at) {
            return Err(Broken::Want);
        }
        hash_zeros(&mut self.hasher, offset - at);
        self.hasher.update(data);
        self.sink.at = offset;
        self.sink.write(data)?;
        Ok(())
    }

    fn finish(mut self, hash: Hash) -> Result<Finished, Broken> {
        if let Some(applier) = self.applier.take() {
            applier.finish().map_err(|_| Broken::Want)?;
        }
        let old = self.append.map_or(0, |(old, _)| old);
        let total = if self.append.is_some() {
            old + self.size
        } else {
            self.size
        };
        if self.append.is_none() && self.hasher.size() < total {
            let missing = total - self.hasher.size();
            hash_zeros(&mut self.hasher, missing);
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

fn hash_zeros(hasher: &mut BlockHasher, mut count: u64) {
    static ZEROS: [u8; BUFFER] = [0; BUFFER];
    while count > 0 {
        let n = usize::try_from(count).unwrap_or(BUFFER).min(BUFFER);
        hasher.update(&ZEROS[..n]);
        count -= n as u64;
    }
}

/// Where content is written.
struct Sink {
    file: File,
    at: u64,
    sparse: bool,
    basis: Option<File>,
    /// The slot began as a reflink of the basis: what stands at its old offset need not be written.
    cloned: bool,
}

impl Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let to_edge = HOLE - usize::try_from(self.at % HOLE as u64).unwrap_or(0);
            let (now, next) = if self.sparse {
                rest.split_at(to_edge.min(rest.len()))
            } else {
                (rest, &rest[..0])
            };
            let zeros = self.sparse && now.iter().all(|b| *b == 0);
            if zeros && self.cloned {
                // The slot began as the basis, whose bytes may stand here.
                let flags =
                    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&self.file, flags, self.at, now.len() as u64)?;
            } else if !zeros {
                // A new slot reads as zeros wherever nothing was written.
                self.file.write_all_at(now, self.at)?;
            }
            self.at += now.len() as u64;
            rest = next;
        }
        Ok(())
    }
}

/// Carries out a delta's commands and hashes what they yield.
struct Hashing<'a> {
    sink: &'a mut Sink,
    hasher: &'a mut BlockHasher,
}

impl Target for Hashing<'_> {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.sink.write(bytes)
    }

    fn copy(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let mut buf = vec![0u8; BUFFER];
        let (mut from, mut left) = (offset, len);
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let basis = self
                .sink
                .basis
                .as_ref()
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            basis.read_exact_at(&mut buf[..n], from)?;
            self.hasher.update(&buf[..n]);
            if self.sink.cloned && from == self.sink.at {
                self.sink.at += n as u64;
            } else {
                self.sink.write(&buf[..n])?;
            }
            from += n as u64;
            left -= n as u64;
        }
        Ok(())
    }
}
