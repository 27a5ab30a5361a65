//! Small contents, which travel inside their operation.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::node::Node;
use crate::model::batch::Content;
use crate::model::entry::{Hash, Stamp};
use crate::model::path::{RelPath, RootId, TreePath};
use crate::sys::holes::has_hole;
use crate::sys::tree::{Look, look_at, open_unchecked};

/// Files up to this many bytes travel inside their operation; larger ones as transfers.
pub const INLINE_MAX: u64 = 128 * 1024;
/// Zeros of this length at a multiple of it are a hole in a sparse file, in bytes: the smallest block of the file
/// systems in use.
const HOLE: usize = 4096;

/// A small file as it was read.
#[derive(Debug)]
pub struct Small {
    /// blake3 of its content.
    pub hash: Hash,
    /// The content, with the file's holes.
    pub content: Content,
}

/// The directory that was opened last: files are mostly asked for directory by directory.
///
/// To be kept for a moment only. Who reads through it must know the file by its stamp, since the directory may be
/// elsewhere by then.
#[derive(Debug, Default)]
pub struct LastDir(Option<(RootId, RelPath, OwnedFd)>);

impl LastDir {
    /// The directory of a path, open.
    fn of(&mut self, node: &Node, path: &TreePath) -> io::Result<BorrowedFd<'_>> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let parent = path.path.parent().ok_or_else(missing)?;
        let known = |(root, dir, _): &(RootId, RelPath, _)| *root == path.root && *dir == parent;
        if !self.0.as_ref().is_some_and(known) {
            let root = &node.root(path.root).ok_or_else(missing)?.root;
            let fd = root.open_dir(&parent)?;
            self.0 = Some((path.root, parent, fd));
        }
        self.0
            .as_ref()
            .map(|(_, _, fd)| fd.as_fd())
            .ok_or_else(missing)
    }
}

/// Reads a small file; `None` where it is not, before and after, the one that `stamp`, as a row keeps it, describes.
///
/// # Errors
/// What the system says.
pub fn read_steady(
    node: &Node,
    path: &TreePath,
    stamp: &Stamp,
    last: &mut LastDir,
) -> io::Result<Option<Small>> {
    let dir = last.of(node, path)?;
    let file = open_unchecked(dir, path.path.name().unwrap_or_default())?;
    let same = |f: &File| matches!(look_at(f.as_fd(), b""), Ok(Look::There(s)) if s.entry.kind.is_file() && stamp.is_of(&s.stamp));
    if stamp.size > INLINE_MAX || !same(&file) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(stamp.size).unwrap_or_default()];
    match file.read_exact_at(&mut bytes, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    if !same(&file) {
        return Ok(None);
    }
    let hash = Hash::of(&bytes);
    let content = if has_holes(&file, &bytes)? {
        Content::Sparse(bytes)
    } else {
        Content::Inline(bytes)
    };
    Ok(Some(Small { hash, content }))
}

fn has_holes(file: &File, bytes: &[u8]) -> io::Result<bool> {
    // Most files have no block of zeros, and then nothing more needs to be asked.
    let zeros = bytes.chunks_exact(HOLE).any(is_zero);
    Ok(zeros && has_hole(file, bytes.len() as u64)?)
}

/// Writes content to a new file.
///
/// # Errors
/// What the system says.
pub fn write(file: &File, bytes: &[u8], sparse: bool) -> io::Result<()> {
    if !sparse {
        return file.write_all_at(bytes, 0);
    }
    // Within its final length no file system allocates ahead of what is written.
    file.set_len(bytes.len() as u64)?;
    for (i, block) in bytes.chunks(HOLE).enumerate() {
        if !is_zero(block) {
            file.write_all_at(block, (i * HOLE) as u64)?;
        }
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_written_sparse_take_no_space_and_read_as_zeros() {
        let mut bytes = vec![0u8; 100_000];
        bytes[50_000..50_010].fill(7);
        let (thin, full) = (
            tempfile::tempfile().expect("a file"),
            tempfile::tempfile().expect("a file"),
        );
        write(&thin, &bytes, true).expect("written");
        write(&full, &bytes, false).expect("written");
        for file in [&thin, &full] {
            let mut back = vec![0u8; bytes.len()];
            file.read_exact_at(&mut back, 0).expect("read");
            assert!(back == bytes);
            assert_eq!(file.metadata().expect("facts").len(), bytes.len() as u64);
        }
        assert!(has_holes(&thin, &bytes).expect("asked"));
        assert!(!has_holes(&full, &bytes).expect("asked"));
    }
}
