//! A disk with a write cache: of what it was sent since it was last told to flush, a power cut leaves what it likes.
//!
//! The disk is the one file of a FUSE file system, for a loop device on it to use: the device's flush arrives as `fsync`, and
//! until then nothing that was written reaches the image below.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyWrite, Request, WriteFlags,
};

use super::random::Random;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;
/// The name of the one file.
const NAME: &str = "disk";
/// Its number.
const DISK: INodeNo = INodeNo(2);
/// Nobody else changes what the kernel is told.
const FOR_GOOD: Duration = Duration::from_secs(3600);

/// What of the sectors that were not flushed a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// Everything, as a disk without a write cache does.
    All,
    /// Nothing.
    None,
    /// Of each sector any of the versions since the last flush, or the one before.
    Each,
}

impl Luck {
    /// One of them.
    pub fn draw(random: &mut Random) -> Self {
        *random
            .pick(&[Self::All, Self::None, Self::Each])
            .expect("one of three")
    }
}

type Version = Box<[u8; SECTOR]>;

/// The disk itself.
struct Disk {
    image: File,
    length: u64,
    /// What was written since the last flush: by the number of the sector, its versions in order.
    unflushed: BTreeMap<u64, Vec<Version>>,
}

/// A disk, and the file that it is, mounted until dropped.
pub struct Cache {
    disk: Arc<Mutex<Disk>>,
    at: PathBuf,
    _session: BackgroundSession,
}

fn sector(at: u64) -> u64 {
    at / SECTOR as u64
}

impl Disk {
    fn read(&self, at: u64, size: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size.min(left)];
        self.image.read_exact_at(&mut bytes, at)?;
        let end = at + bytes.len() as u64;
        for (n, versions) in self
            .unflushed
            .range(sector(at)..sector(end + SECTOR as u64 - 1))
        {
            let (Some(last), from) = (versions.last(), n * SECTOR as u64) else {
                continue;
            };
            let (begin, stop) = (from.max(at), (from + SECTOR as u64).min(end));
            let cut =
                |place: u64, base: u64| usize::try_from(place - base).expect("within one read");
            bytes[cut(begin, at)..cut(stop, at)]
                .copy_from_slice(&last[cut(begin, from)..cut(stop, from)]);
        }
        Ok(bytes)
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        assert_eq!(
            (at % SECTOR as u64, data.len() % SECTOR),
            (0, 0),
            "whole sectors"
        );
        for (n, bytes) in (sector(at)..).zip(data.chunks_exact(SECTOR)) {
            let version = Box::new(bytes.try_into().expect("a sector"));
            self.unflushed.entry(n).or_default().push(version);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let last = |versions: &[Version]| versions.len().checked_sub(1);
        settle(&self.image, &self.unflushed, last)?;
        self.unflushed.clear();
        Ok(())
    }
}

/// Writes to an image of each sector the version that is chosen, if one is.
fn settle(
    image: &File,
    unflushed: &BTreeMap<u64, Vec<Version>>,
    mut choose: impl FnMut(&[Version]) -> Option<usize>,
) -> io::Result<()> {
    // Neighbours in one call.
    let (mut run, mut begin) = (Vec::new(), 0);
    for (n, versions) in unflushed {
        let Some(chosen) = choose(versions) else {
            continue;
        };
        if n * SECTOR as u64 != begin + run.len() as u64 {
            image.write_all_at(&run, begin)?;
            run.clear();
            begin = n * SECTOR as u64;
        }
        run.extend_from_slice(&*versions[chosen]);
    }
    image.write_all_at(&run, begin)
}

impl Cache {
    /// A disk whose flushed content is an image; its file lies in a directory that is made.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn new(image: &Path, at: &Path) -> io::Result<Self> {
        let image = File::options().read(true).write(true).open(image)?;
        let disk = Arc::new(Mutex::new(Disk {
            length: image.metadata()?.len(),
            image,
            unflushed: BTreeMap::new(),
        }));
        fs::create_dir(at)?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("osm-failover-test".into())];
        Ok(Self {
            _session: fuser::spawn_mount(Served(disk.clone()), at, &config)?,
            disk,
            at: at.to_owned(),
        })
    }

    /// The disk, as a file.
    pub fn file(&self) -> PathBuf {
        self.at.join(NAME)
    }

    /// The power goes now: what is on the disk then becomes an image of its own, beside the one below.
    ///
    /// # Errors
    /// What the system says.
    pub fn cut(&self, after: &Path, luck: Luck, random: &mut Random) -> io::Result<()> {
        let disk = lock(&self.disk);
        let after = File::create_new(after)?;
        rustix::fs::ioctl_ficlone(&after, &disk.image)?;
        settle(&after, &disk.unflushed, |versions| {
            let of = versions.len() as u64;
            let chosen = match luck {
                Luck::All => of,
                Luck::None => 0,
                Luck::Each => random.below(of + 1),
            };
            usize::try_from(chosen).expect("fits").checked_sub(1)
        })
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        super::disk::unmount(&self.at);
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    // A disk goes on whatever became of the one who looked at it.
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file system whose one file the disk is.
struct Served(Arc<Mutex<Disk>>);

impl Served {
    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0),
            DISK => (FileType::RegularFile, lock(&self.0).length),
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / SECTOR as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let named = parent == INodeNo::ROOT && name == NAME;
        match self.attr(DISK).filter(|_| named) {
            Some(attr) => reply.entry(&FOR_GOOD, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&FOR_GOOD, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // The times of the file matter to nobody.
        match self.attr(ino) {
            Some(attr) => reply.attr(&FOR_GOOD, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        lock(&self.0).write(offset, data);
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match lock(&self.0).flush() {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    /// Closing a file flushes no disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
