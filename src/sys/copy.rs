//! A copy of what stands at a name, with everything that makes it equal: owner, mode, times, attributes, holes.
//!
//! For the one case in which a rename does not do: another file system. The copy is made under a name that nobody else
//! knows, brought to disk, and only then given its own name; what fails leaves nothing behind. Further names of a file
//! become files of their own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    self as rfs, AtFlags, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid,
};

use super::deep::{self, Step};
use super::holes;
use super::meta::{self, MetaError, Pin, xattrs_of};
use super::tree::{Look, look_at, open_regular};
use crate::model::entry::{Entry, Kind};

/// Copies what stands at `from` to the name `to`, where nothing may stand; `scratch` is a free name in the same directory.
///
/// # Errors
/// What the system says; `EEXIST` where something stands at `to`. Nothing new stands there then.
pub fn copy(
    from: (BorrowedFd<'_>, &[u8]),
    (dir, to): (BorrowedFd<'_>, &[u8]),
    scratch: &[u8],
) -> io::Result<()> {
    let copied = copy_under(from, dir, scratch).and_then(|()| {
        rfs::renameat_with(dir, scratch, dir, to, RenameFlags::NOREPLACE)?;
        Ok(rfs::fsync(dir)?)
    });
    if let Err(e) = copied {
        match deep::remove(dir, scratch, &mut || true) {
            Ok(()) => {}
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
            Err(left) => {
                let name = crate::model::path::Escaped(scratch).to_string();
                return Err(io::Error::other(format!("{e}; {name} is left: {left}")));
            }
        }
        return Err(e);
    }
    Ok(())
}

fn copy_under(
    (from, name): (BorrowedFd<'_>, &[u8]),
    dir: BorrowedFd<'_>,
    scratch: &[u8],
) -> io::Result<()> {
    // The directories of the copy that are open, outermost first.
    let mut open: Vec<OwnedFd> = Vec::new();
    deep::walk(from, name, &mut |step, at, name, met| {
        let target = open.last().map_or(dir, AsFd::as_fd);
        let new = if open.is_empty() { scratch } else { name };
        match step {
            Step::Enter => {
                rfs::mkdirat(target, new, Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rfs::openat(target, new, flags, Mode::empty())?;
                open.push(made);
                Ok(())
            }
            Step::Leaf => leaf((at, name), (target, new), met),
            Step::Leave => {
                let Some(done) = open.pop() else {
                    return Ok(());
                };
                let Look::There(seen) = look_at(at, name)? else {
                    return Err(io::ErrorKind::NotFound.into());
                };
                let want = Entry {
                    xattrs: xattrs_of(at, name)?,
                    ..seen.entry
                };
                Pin::new(done.as_fd(), b"")?
                    .apply(&want, None)
                    .map_err(plain)?;
                Ok(rfs::fsync(&done)?)
            }
        }
    })
}

fn leaf(
    (from, name): (BorrowedFd<'_>, &[u8]),
    (dir, new): (BorrowedFd<'_>, &[u8]),
    met: &Stat,
) -> io::Result<()> {
    let mut want = match look_at(from, name)? {
        Look::There(seen) => seen.entry,
        Look::Socket => return socket(dir, new, met),
        Look::Absent => return Err(io::ErrorKind::NotFound.into()),
    };
    want.xattrs = xattrs_of(from, name)?;
    if !matches!(want.kind, Kind::File { .. }) {
        return meta::make_special(dir, new, &want).map_err(plain);
    }
    let source = open_regular(from, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rfs::openat(dir, new, flags, Mode::RUSR | Mode::WUSR)?);
    file.set_len(source.metadata()?.len())?;
    holes::copy(&source, &file, 0)?;
    meta::dress(file.as_fd(), &want, 0o600).map_err(plain)?;
    file.sync_all()
}

fn socket(dir: BorrowedFd<'_>, new: &[u8], met: &Stat) -> io::Result<()> {
    let mode = Mode::from_raw_mode(met.st_mode & 0o7777);
    rfs::mknodat(dir, new, rfs::FileType::Socket, mode, 0)?;
    let (uid, gid) = (Uid::from_raw(met.st_uid), Gid::from_raw(met.st_gid));
    let how = AtFlags::SYMLINK_NOFOLLOW;
    rfs::chownat(dir, new, Some(uid), Some(gid), how)?;
    let time = Timespec {
        tv_sec: met.st_mtime,
        tv_nsec: met.st_mtime_nsec.try_into().unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rfs::utimensat(dir, new, &times, how)?)
}

fn plain(e: MetaError) -> io::Error {
    let code = e.source.kind();
    io::Error::new(code, e.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::*;

    /// Kind, mode, owner, time, attributes, content and places of everything below a path.
    fn shape(at: &Path) -> Vec<String> {
        let mut all: Vec<String> = walkdir::WalkDir::new(at)
            .sort_by_file_name()
            .into_iter()
            .map(|e| {
                let e = e.expect("walked");
                let m = e.metadata().expect("facts");
                let parent = File::open(e.path().parent().expect("a parent")).expect("opens");
                let name = e.file_name().as_encoded_bytes();
                let xattrs = xattrs_of(parent.as_fd(), name).expect("attributes");
                let content = m.is_file().then(|| std::fs::read(e.path()).expect("read"));
                let size = if m.is_dir() { 0 } else { m.len() };
                format!(
                    "{:?} {:o} {}:{} {}.{} {size} {xattrs:?} {:?}",
                    e.path().strip_prefix(at),
                    m.mode(),
                    m.uid(),
                    m.gid(),
                    m.mtime(),
                    m.mtime_nsec(),
                    content.map(|c| blake3::hash(&c))
                )
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_copy_is_equal_in_everything() {
        let tmp = tempfile::tempdir_in("/var/tmp").expect("temp dir");
        let from = tmp.path().join("from");
        std::fs::create_dir_all(from.join("d/e\n")).expect("made");
        std::fs::write(from.join("d/file"), vec![7; 300_000]).expect("written");
        symlink("no/where", from.join("link")).expect("linked");
        let dir = File::open(tmp.path()).expect("opens");
        let inside = File::open(&from).expect("opens");
        rfs::mknodat(&inside, "pipe", rfs::FileType::Fifo, Mode::RWXU, 0).expect("made");
        drop(UnixListener::bind(from.join("socket")).expect("bound"));
        let sparse = File::create(from.join("d/sparse")).expect("a file");
        sparse.write_all_at(b"x", 5 << 20).expect("written");
        sparse.set_len(9 << 20).expect("longer");
        let file = File::open(from.join("d/file")).expect("opens");
        rfs::fsetxattr(&file, "user.note", b"1", rfs::XattrFlags::empty()).expect("set");
        rfs::fchmod(&file, Mode::from_raw_mode(0o4711)).expect("set");
        rfs::chmod(from.join("d"), Mode::from_raw_mode(0o1750)).expect("set");
        for (i, name) in ["d/file", "d/sparse", "d/e\n", "d", "link", "pipe", "socket"]
            .into_iter()
            .enumerate()
        {
            let pin = Pin::new(inside.as_fd(), name.as_bytes()).expect("pinned");
            let sec = 1_000_000 + i as i64;
            let time = crate::model::entry::Timestamp { sec, nsec: 77 };
            pin.set_mtime(time).expect("another time");
        }
        copy((dir.as_fd(), b"from"), (dir.as_fd(), b"to"), b"scratch").expect("copied");
        assert_eq!(shape(&from), shape(&tmp.path().join("to")));
        let places = std::fs::metadata(tmp.path().join("to/d/sparse")).expect("facts");
        assert!(places.blocks() * 512 < 1 << 20, "its holes were filled");
        assert!(!tmp.path().join("scratch").exists());
    }

    #[test]
    fn what_cannot_be_finished_leaves_nothing() {
        let tmp = tempfile::tempdir().expect("temp dir");
        std::fs::write(tmp.path().join("from"), "new").expect("written");
        std::fs::write(tmp.path().join("to"), "old").expect("written");
        let dir = File::open(tmp.path()).expect("opens");
        let made = copy((dir.as_fd(), b"from"), (dir.as_fd(), b"to"), b"scratch");
        assert_eq!(
            made.expect_err("taken").kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read(tmp.path().join("to")).expect("read"), b"old");
        assert!(!tmp.path().join("scratch").exists());
    }
}
