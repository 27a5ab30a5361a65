//! The mount table: what is mounted at or below the roots, and when that changes.
//!
//! It only reads `/proc/thread-self/mountinfo`; it mounts nothing and judges
//! nothing. The kernel makes the open file pollable (`POLLPRI`) on every
//! change of the table, so nobody has to look at intervals.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;

use super::wake::wait;

/// The table of the namespace that the calling thread lives in.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Number that the kernel gave it; may be given again after an unmount.
    pub(super) id: u64,
    /// `major:minor` of its filesystem.
    pub(super) dev: Vec<u8>,
    /// Where it is, absolute.
    pub(super) point: Vec<u8>,
}

/// The open mount table.
#[derive(Debug)]
pub(super) struct MountTable {
    file: File,
}

impl MountTable {
    /// Opens the table of the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let file = File::open(MOUNTINFO)?;
        Ok(Self { file })
    }

    /// Whether it has changed since this was last asked.
    pub(super) fn has_changed(&self) -> bool {
        wait([(self.as_fd(), PollFlags::PRI)], Some(0)).is_ok_and(|[changed]| changed)
    }

    /// Reads the table.
    pub(super) fn read(&mut self) -> io::Result<Vec<Mount>> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut bytes)?;
        Ok(parse(&bytes))
    }
}

impl AsFd for MountTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Parses mountinfo; lines that do not have the fields are skipped.
fn parse(bytes: &[u8]) -> Vec<Mount> {
    let lines = bytes.split(|b| *b == b'\n');
    lines.filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let dev = fields.nth(1)?.to_vec();
    let point = unescape(fields.nth(1)?);
    Some(Mount { id, dev, point })
}

/// Undoes the kernel's `\ooo` for blank, tab, newline, `#` and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = field.get(i + 1..i + 4).filter(|_| field[i] == b'\\');
        let octal = octal.and_then(|o| std::str::from_utf8(o).ok());
        if let Some(byte) = octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            out.push(byte);
            i += 4;
        } else {
            out.push(field[i]);
            i += 1;
        }
    }
    out
}

/// The mount points at which `old` and `new` differ.
pub(super) fn changed(old: &[Mount], new: &[Mount]) -> Vec<Vec<u8>> {
    let only = |a: &[Mount], b: &[Mount]| {
        let missing = a.iter().filter(|m| !b.contains(m));
        missing.map(|m| m.point.clone()).collect::<Vec<_>>()
    };
    let mut points = only(old, new);
    points.extend(only(new, old));
    points.sort_unstable();
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        30 22 0:26 / /srv/my\\040data\\134x rw - tmpfs tmpfs rw\n\
        broken\n\
        31 22 254:0 /a /srv/bind rw master:1 - ext4 /dev/vda rw\n";

    #[test]
    fn fields_and_escapes() {
        let mounts = parse(TABLE);
        let points: Vec<_> = mounts.iter().map(|m| m.point.as_slice()).collect();
        assert_eq!(points, [&b"/"[..], b"/srv/my data\\x", b"/srv/bind"]);
        assert_eq!((mounts[1].id, &mounts[1].dev[..]), (30, &b"0:26"[..]));
    }

    #[test]
    fn a_mount_an_unmount_and_one_replaced() {
        let old = parse(TABLE);
        let mut new = old.clone();
        assert!(changed(&old, &new).is_empty());
        new.remove(2);
        new[1].id = 40;
        assert_eq!(changed(&old, &new), [&b"/srv/bind"[..], b"/srv/my data\\x"]);
    }

    #[test]
    fn the_real_table_has_a_root() {
        let mounts = MountTable::open().expect("opens").read().expect("reads");
        assert!(mounts.iter().any(|m| m.point == b"/"));
    }
}
