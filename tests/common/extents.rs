//! What a file system has allocated for a file.
//!
//! `SEEK_DATA` counts as data what xfs set aside for copying shared blocks on writing, and lets go of minutes later;
//! `FIEMAP` does not.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rustix::fs::SeekFrom;

/// `_IOWR('f', 11, struct fiemap)`, linux/fiemap.h.
const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
/// Writes the file back first, so that everything has its place.
const SYNC: u32 = 1;
/// Flags of an extent: the last one; allocated and never written.
const LAST: u32 = 1;
const UNWRITTEN: u32 = 0x800;
/// Extents asked for at a time.
const MANY: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; MANY],
}

/// Bytes of a file that no data stands for.
///
/// # Errors
/// What the system says.
pub fn holes(file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    // Most files have none, and then nothing more is asked.
    match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(at) if at < size => {}
        Ok(_) | Err(rustix::io::Errno::NXIO) => return Ok(0),
        Err(e) => return Err(e.into()),
    }
    match mapped(file, size) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(size - sought(file, size)?),
        data => Ok(size - data?),
    }
}

/// Bytes of data, by the extents.
fn mapped(file: &File, size: u64) -> io::Result<u64> {
    let (mut data, mut start) = (0, 0);
    while start < size {
        let mut map = Map {
            start,
            length: u64::MAX - start,
            flags: SYNC,
            mapped: 0,
            count: u32::try_from(MANY).unwrap_or(0),
            reserved: 0,
            extents: [Extent::default(); MANY],
        };
        // SAFETY: the structure is laid out as the kernel wants it, with room for as many extents as it says.
        if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let found = &map.extents[..usize::try_from(map.mapped).unwrap_or(0).min(MANY)];
        for e in found.iter().filter(|e| e.flags & UNWRITTEN == 0) {
            data += (e.logical + e.length).min(size).saturating_sub(e.logical);
        }
        match found.last() {
            Some(e) if e.flags & LAST == 0 => start = e.logical + e.length,
            _ => break,
        }
    }
    Ok(data)
}

/// The same where the file system does not tell its extents.
fn sought(file: &File, size: u64) -> io::Result<u64> {
    let (mut at, mut data) = (0, 0);
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        data += at.min(size) - start;
    }
    Ok(data)
}
