//! Content of a transfer on its way into its slot, and the commands of a delta that yield it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{BUFFER, HOLE};
use crate::decide::blocks::BlockHasher;
use crate::decide::delta::apply::Target;
use crate::sys::holes::next_data;
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
    /// Where zeros begin that are still to become a hole: in parts, blocks that two parts share would stay.
    pub(super) zeros_from: Option<u64>,
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
                self.zeros_from.get_or_insert(self.at);
            } else if !zeros {
                self.punch()?;
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

    /// Whether what the basis has at an offset is in the slot already, where it belongs.
    fn stands_at(&self, offset: u64) -> bool {
        self.basis.is_in_place() && offset == self.at
    }

    /// So many bytes are there already.
    fn keep(&mut self, len: u64) -> io::Result<()> {
        if len > 0 {
            self.punch()?;
        }
        self.at += len;
        Ok(())
    }

    /// So many zeros that become a hole.
    fn skip(&mut self, len: u64) {
        if len > 0 && self.basis.is_in_place() {
            self.zeros_from.get_or_insert(self.at);
        }
        self.at += len;
    }

    /// The next range of the basis that is to be read; what lies before it are zeros.
    fn data_of_basis(&self, from: u64, end: u64) -> io::Result<(u64, u64)> {
        match &self.basis {
            // A basis that became shorter has zeros here, which the hash of the whole refuses.
            Basis::File(basis) | Basis::Cloned(basis) if self.sparse => next_data(basis, from, end),
            _ => Ok((from, end)),
        }
    }

    fn read_basis(&self, buf: &mut [u8], from: u64) -> io::Result<()> {
        match &self.basis {
            Basis::None => Err(io::ErrorKind::NotFound.into()),
            Basis::File(basis) | Basis::Cloned(basis) => basis.read_exact_at(buf, from),
            // What stood there is written over.
            Basis::Itself if from < self.at => Err(overwritten()),
            Basis::Itself => self.file.read_exact_at(buf, from),
        }
    }

    /// Makes a hole of the zeros so far.
    pub(super) fn punch(&mut self) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        if let Some(from) = self.zeros_from.take() {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.file, flags, from, self.at - from)?;
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
        let (mut from, end) = (offset, offset + len);
        while from < end {
            let (start, stop) = self.sink.data_of_basis(from, end)?;
            self.hasher.zeros(start - from);
            if self.sink.stands_at(from) {
                self.sink.keep(start - from)?;
            } else {
                self.sink.skip(start - from);
            }
            from = start;
            while from < stop {
                let n = usize::try_from(stop - from).map_or(BUFFER, |left| left.min(BUFFER));
                self.sink.read_basis(&mut buf[..n], from)?;
                self.hasher.update(&buf[..n]);
                if self.sink.stands_at(from) {
                    self.sink.keep(n as u64)?;
                } else {
                    self.sink.write(&buf[..n])?;
                }
                from += n as u64;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Bytes on disk of a file of sevens over which these parts of zeros were written.
    fn left(parts: &[usize]) -> u64 {
        let file = tempfile::tempfile().expect("a file");
        let length = parts.iter().sum();
        file.write_all_at(&vec![7; length], 0).expect("written");
        let mut sink = Sink {
            file,
            at: 0,
            sparse: true,
            basis: Basis::Itself,
            zeros_from: None,
            behind: None,
        };
        for n in parts {
            sink.write(&vec![0; *n]).expect("written");
        }
        sink.punch().expect("punched");
        let mut back = vec![1; length];
        sink.file.read_exact_at(&mut back, 0).expect("read");
        assert!(back.iter().all(|b| *b == 0));
        sink.file.metadata().expect("facts").blocks() * 512
    }

    #[test]
    fn zeros_that_come_in_parts_become_one_hole() {
        assert_eq!(left(&[8 * HOLE]), 0);
        assert_eq!(left(&[HOLE - 7, HOLE, 14, 6 * HOLE - 7]), 0);
    }
}
