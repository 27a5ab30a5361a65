//! Content of a transfer on its way into its slot, and the commands of a delta that yield it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{BUFFER, HOLE};
use crate::decide::blocks::BlockHasher;
use crate::decide::delta::apply::Target;
use crate::sys::writeback;

/// Where content is written.
pub(super) struct Sink {
    /// The slot.
    pub(super) file: File,
    /// Bytes of the content so far.
    pub(super) at: u64,
    /// Zeros become holes.
    pub(super) sparse: bool,
    pub(super) basis: Basis,
    /// Where the part begins that is not on its way to disk; `None` where nobody will wait for that.
    pub(super) behind: Option<u64>,
}

/// Bytes after which they are sent on their way to disk.
const STRIDE: u64 = 16 * 1024 * 1024;

/// What the commands of a delta copy from.
pub(super) enum Basis {
    /// Nothing: the content comes whole.
    None,
    /// A file of the tree.
    File(File),
    /// A file of the tree whose reflink the slot began as: what stands at its old offset need not be written.
    Cloned(File),
    /// What the slot itself held before, from a transfer that was cut off.
    Itself,
}

impl Basis {
    /// Whether the slot began with the basis in it.
    fn is_in_place(&self) -> bool {
        matches!(self, Self::Cloned(_) | Self::Itself)
    }
}

impl Sink {
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let to_edge = HOLE - usize::try_from(self.at % HOLE as u64).unwrap_or(0);
            let (now, next) = if self.sparse {
                rest.split_at(to_edge.min(rest.len()))
            } else {
                (rest, &rest[..0])
            };
            let zeros = self.sparse && now.iter().all(|b| *b == 0);
            if zeros && self.basis.is_in_place() {
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
        if let Some(from) = self.behind
            && self.at >= from + STRIDE
        {
            writeback::begin(&self.file, from, self.at - from);
            self.behind = Some(self.at);
        }
        Ok(())
    }
}

/// Carries out a delta's commands and hashes what they yield.
pub(super) struct Hashing<'a> {
    pub(super) sink: &'a mut Sink,
    pub(super) hasher: &'a mut BlockHasher,
}

/// The delta asks for bytes that its own result took the place of.
fn overwritten() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "what is to be copied is no longer there",
    )
}

/// Whether a delta failed because of that.
pub(super) fn is_overwritten(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::InvalidData
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
            match &self.sink.basis {
                Basis::None => return Err(io::ErrorKind::NotFound.into()),
                Basis::File(basis) | Basis::Cloned(basis) => {
                    basis.read_exact_at(&mut buf[..n], from)?;
                }
                // What stood there is written over.
                Basis::Itself if from < self.sink.at => return Err(overwritten()),
                Basis::Itself => self.sink.file.read_exact_at(&mut buf[..n], from)?,
            }
            self.hasher.update(&buf[..n]);
            if self.sink.basis.is_in_place() && from == self.sink.at {
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
