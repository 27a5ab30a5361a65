//! Where a file holds data, and where nothing was ever written.
//!
//! The number of allocated blocks does not tell: file systems allocate ahead of what is written, and count blocks of their
//! own. What was allocated and never written is a hole here, too.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes read or copied at a time.
const BUFFER: usize = 256 * 1024;

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch<'a> {
    /// So many zeros that were never written, and need not be read.
    Hole(u64),
    /// Data.
    Bytes(&'a [u8]),
}

/// Whether a hole lies within the first `size` bytes. The file's offset moves.
///
/// # Errors
/// What the system says.
pub fn has_hole(file: &File, size: u64) -> io::Result<bool> {
    match seek(file, SeekFrom::Hole(0)) {
        Ok(at) => Ok(at < size),
        // An empty file, or a file system that knows of none.
        Err(Errno::NXIO | Errno::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The next range of data from `at` on, within the first `size` bytes; an empty one at `size` where there is none. The
/// file's offset moves.
///
/// # Errors
/// What the system says.
pub fn next_data(file: &File, at: u64, size: u64) -> io::Result<(u64, u64)> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system that knows of no holes.
        Err(Errno::INVAL) => at,
        Err(e) => return Err(e.into()),
    };
    let end = seek(file, SeekFrom::Hole(start)).map_or(size, |end| end.min(size));
    Ok((start, end))
}

/// Reads a range stretch by stretch until `seen` has had enough; whether it saw all of it: the file may be shorter. The
/// file's offset moves.
///
/// # Errors
/// What the system says.
pub fn read(
    file: &File,
    range: Range<u64>,
    seen: &mut dyn FnMut(Stretch<'_>) -> bool,
) -> io::Result<bool> {
    let mut buf = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let (start, end) = next_data(file, at, range.end)?;
        // Beyond its end a file looks like a hole.
        if start > at && start == range.end && file.metadata()?.len() < range.end {
            return Ok(false);
        }
        if start > at && !seen(Stretch::Hole(start - at)) {
            return Ok(false);
        }
        at = start;
        while at < end {
            let most = usize::try_from(end - at).map_or(BUFFER, |left| left.min(BUFFER));
            buf.resize(most, 0);
            match file.read_at(&mut buf, at) {
                Ok(n) if n > 0 && seen(Stretch::Bytes(&buf[..n])) => at += n as u64,
                Ok(_) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(true)
}

/// Copies what a file holds to an offset of another, where nothing was written yet: holes stay holes. The length of the
/// other one ends with the last data.
///
/// # Errors
/// What the system says; `UnexpectedEof` where the file became shorter meanwhile.
pub fn copy(from: &File, to: &File, offset: u64) -> io::Result<()> {
    let size = from.metadata()?.len();
    let mut buf = vec![0u8; BUFFER];
    let mut at = 0;
    while at < size {
        let (start, end) = next_data(from, at, size)?;
        at = start;
        while at < end {
            let n = usize::try_from(end - at).map_or(BUFFER, |left| left.min(BUFFER));
            from.read_exact_at(&mut buf[..n], at)?;
            to.write_all_at(&buf[..n], offset + at)?;
            at += n as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn data_and_holes() {
        let file = tempfile::tempfile().expect("a file");
        assert!(!has_hole(&file, 0).expect("asked"));
        assert_eq!(next_data(&file, 0, 0).expect("asked"), (0, 0));
        file.write_all_at(&[7; 4096], 0).expect("written");
        assert!(!has_hole(&file, 4096).expect("asked"));
        file.set_len(4 * MIB).expect("longer");
        file.write_all_at(&[7; 4096], 2 * MIB).expect("written");
        assert!(has_hole(&file, 4 * MIB).expect("asked"));
        let (start, end) = next_data(&file, MIB, 4 * MIB).expect("asked");
        assert_eq!((start, end), (2 * MIB, 2 * MIB + 4096));
        let none = next_data(&file, 3 * MIB, 4 * MIB).expect("asked");
        assert_eq!(none, (4 * MIB, 4 * MIB));
    }

    #[test]
    fn a_range_is_read_with_its_holes() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[7; 4096], 2 * MIB).expect("written");
        file.set_len(4 * MIB).expect("longer");
        let stretches = |range: Range<u64>| {
            let mut seen = Vec::new();
            let all = read(&file, range, &mut |stretch| {
                match stretch {
                    Stretch::Hole(len) => seen.push((0, len)),
                    Stretch::Bytes(bytes) => {
                        assert!(bytes.iter().all(|b| *b == 7));
                        seen.push((7, bytes.len() as u64));
                    }
                }
                true
            });
            (all.expect("read"), seen)
        };
        let rest = 2 * MIB - 4096;
        let all = vec![(0, 2 * MIB), (7, 4096), (0, rest)];
        assert_eq!(stretches(0..4 * MIB), (true, all.clone()));
        assert_eq!(stretches(2 * MIB + 1..3 * MIB).1[0], (7, 4095));
        assert_eq!(stretches(5..5), (true, vec![]));
        // A file that became shorter has no zeros there.
        assert_eq!(stretches(0..4 * MIB + 1), (false, all[..2].to_vec()));
        let once = read(&file, 0..4 * MIB, &mut |_| false).expect("read");
        assert!(!once);
    }

    /// What is allocated behind the end, as xfs does by itself, hides no hole.
    #[test]
    fn space_that_was_allocated_ahead_is_no_data() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(MIB).expect("longer");
        file.write_all_at(&[7; 4096], MIB / 2).expect("written");
        let ahead =
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, MIB, 8 * MIB);
        if ahead.is_err() {
            return println!("skipped: the file system allocates nothing ahead");
        }
        assert!(has_hole(&file, MIB).expect("asked"));
    }
}
