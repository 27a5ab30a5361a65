//! Large files: read, hashed and sent on a thread of their own, a chunk at a time.
//!
//! Mostly a file is read twice, for the hash that decides how it travels and then to be sent. A version counts only if the
//! file did not change while it was read (or two readings of the same range agree, for a file that keeps growing), so a torn
//! one is never published. The receiver compares the hash of the whole result again. Memory is one buffer and one block list.

mod append;
mod at_once;
mod send;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use self::send::Ask;
use super::hashing::see;
use super::peer::{Gone, Peer};
use super::staging::PART_MIN;
use crate::decide::blocks::{BlockHasher, Blocks};
use crate::model::entry::{Entry, Hash, Kind, Stamp, Timestamp};
use crate::model::path::TreePath;
use crate::sys::clock;
use crate::sys::holes::has_hole;
use crate::sys::meta::xattrs_of;
use crate::sys::tree::{Look, Root, look_at, open_regular};
use std::os::fd::AsFd;

/// Bytes read at a time.
const WINDOW: usize = 1024 * 1024;
/// Bytes sent in one chunk.
const CHUNK: usize = 128 * 1024;
/// Readings of a file that keeps changing before it is given back.
const TRIES: u32 = 4;

/// What the receiver is known to have of the file.
#[derive(Debug)]
pub enum Basis {
    /// Nothing.
    None,
    /// The version with this block list.
    Blocks(Blocks),
    /// A version of which only the hash and the length are known.
    Version(Hash, u64),
}

/// A file to send.
pub struct Job {
    /// Its path.
    pub path: TreePath,
    /// Its root.
    pub root: Arc<Root>,
    /// The session and number of the transfer; without one the file is only hashed.
    pub to: Option<(Peer, u64)>,
    /// What the receiver has.
    pub basis: Basis,
    /// The file whose content the basis is, where the index of this node says so. Another one that took its name must become
    /// another file there, too: the receiver's may have further names.
    pub known: Option<Stamp>,
    /// Where it is longer than the basis, what the basis covers is taken for unchanged.
    pub only_grows: bool,
    /// When the change was first noticed (ms of the engine's clock).
    pub since: u64,
    /// When this was handed to the thread (ms of the same): what was noticed before is in what it reads.
    pub handed: u64,
}

impl Job {
    /// Whether a file is the one whose content the basis is.
    #[must_use]
    pub fn is_of(&self, stamp: &Stamp) -> bool {
        self.known.is_none_or(|known| known.same_file(stamp))
    }
}

/// How the content travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It does not: the receiver has it.
    Not,
    /// As this transfer.
    Staged(u64),
    /// As a transfer to be appended.
    Append {
        /// Its number.
        id: u64,
        /// All of the file was read, not its end alone.
        whole: bool,
    },
}

/// A file that was read.
#[derive(Debug)]
pub struct Read {
    /// Kind, metadata and hash.
    pub entry: Entry,
    /// How this host recognises the version.
    pub stamp: Stamp,
    /// Time before it was looked at.
    pub tick: Timestamp,
    /// Its block list.
    pub blocks: Blocks,
    /// How the content travels.
    pub sent: Sent,
}

/// Why a file was not sent.
#[derive(Debug)]
pub enum Failed {
    /// It vanished or is no regular file any more.
    Vanished,
    /// It changed all the time while it was read.
    Unsteady,
    /// It cannot be read.
    Io(io::Error),
    /// The session ended.
    Gone,
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        if crate::sys::tree::is_absent(&e) || e.raw_os_error() == Some(libc::EINVAL) {
            Self::Vanished
        } else {
            Self::Io(e)
        }
    }
}

impl From<Gone> for Failed {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Parts of signatures that wait for the thread: as many as the longest signature has.
pub const MAX_PARTS: usize = 512;

/// A part of a signature, or that there is none.
pub type SignaturePart = Option<(Hash, u64, Vec<u8>, bool)>;

/// Reads and sends files until the queue closes; `done` takes each result.
pub fn run(
    jobs: &Receiver<Job>,
    signatures: &Receiver<(TreePath, SignaturePart)>,
    done: &mut dyn FnMut(Job, Result<Read, Failed>),
) {
    while let Ok(job) = jobs.recv() {
        let mut result = read_and_send(&job, signatures);
        // The operation that uses the transfer must not overtake it.
        if let (Ok(_), Some((peer, _))) = (&result, &job.to)
            && let Err(gone) = peer.drain_bulk()
        {
            result = Err(gone.into());
        }
        done(job, result);
    }
}

/// A way to hand the thread its work.
pub struct Handle {
    /// Files to send.
    pub jobs: Sender<Job>,
    /// Signatures that arrived.
    pub signatures: SyncSender<(TreePath, SignaturePart)>,
}

struct Source {
    file: File,
    entry: Entry,
    stamp: Stamp,
    tick: Timestamp,
    sparse: bool,
}

impl Source {
    /// The version that was read, and how it was sent.
    fn read(&self, blocks: Blocks, sent: Sent) -> Read {
        let mut entry = self.entry.clone();
        entry.kind = Kind::File {
            size: blocks.size(),
            hash: Some(blocks.root()),
        };
        Read {
            entry,
            stamp: self.stamp,
            tick: self.tick,
            blocks,
            sent,
        }
    }
}

fn open(job: &Job) -> Result<Source, Failed> {
    let tick = clock::tick();
    let (dir, name) = job.root.open_parent(&job.path.path)?;
    let file = open_regular(dir.as_fd(), name)?;
    let mut seen = look(&file)?;
    seen.entry.xattrs = xattrs_of(dir.as_fd(), name)?;
    let sparse = has_hole(&file, seen.stamp.size)?;
    Ok(Source {
        file,
        entry: seen.entry,
        stamp: seen.stamp,
        tick,
        sparse,
    })
}

fn look(file: &File) -> Result<crate::sys::tree::Seen, Failed> {
    match look_at(file.as_fd(), b"")? {
        Look::There(seen) => Ok(*seen),
        _ => Err(Failed::Vanished),
    }
}

fn read_and_send(
    job: &Job,
    signatures: &Receiver<(TreePath, SignaturePart)>,
) -> Result<Read, Failed> {
    // The receiver reads all it kept to sign it, and gives it up once another transfer of the file has begun.
    let (mut part, mut asked) = (None, false);
    for _ in 0..TRIES {
        let source = open(job)?;
        if let (Basis::Blocks(old), Some((peer, id))) = (&job.basis, &job.to)
            && job.is_of(&source.stamp)
            && source.stamp.size > old.size()
            && old.size() > 0
            && let Some(read) = append::send(job, &source, old, (peer, *id))?
        {
            return Ok(read);
        }
        if let (Basis::None, Some((peer, id))) = (&job.basis, &job.to)
            && source.stamp.size >= PART_MIN
        {
            if !std::mem::replace(&mut asked, true) {
                part = send::ask(peer, &job.path, Ask::Part, signatures)?;
            }
            if part.is_none()
                && let Some(read) = at_once::send(&job.path, &source, (peer, *id))?
            {
                return Ok(read);
            }
        }
        let size = source.stamp.size;
        let Some(blocks) = hash(&source.file, size)? else {
            continue;
        };
        let now = look(&source.file)?;
        // A file that only grew still had this prefix if a second reading finds it again.
        let steady = now.stamp == source.stamp
            || (now.stamp.size >= size && hash(&source.file, size)?.as_ref() == Some(&blocks));
        if !steady {
            continue;
        }
        if let Some(sent) = send::transfer(job, &source, &blocks, part.take(), signatures)? {
            return Ok(source.read(blocks, sent));
        }
    }
    Err(Failed::Unsteady)
}

/// The block list of the first `size` bytes; `None` where the file is shorter by now.
fn hash(file: &File, size: u64) -> Result<Option<Blocks>, Failed> {
    let mut hasher = BlockHasher::new(size);
    let whole = see(file, 0..size, &mut hasher, &mut |_| true)?;
    Ok(whole.then(|| hasher.finish()))
}
