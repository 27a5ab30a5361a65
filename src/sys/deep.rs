//! Walks through what stands at one name in an open directory, however deep it is: measuring it, removing it.
//!
//! One descriptor is open at a time: the way back up is `..` of the directory below, and it must lead to where the walk came
//! from, else the walk ends with an error. No link is followed, and no file system that is mounted inside is entered.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self as rfs, AtFlags, Mode, OFlags, Stat};

use super::tree::list;

/// Bytes of a block in `st_blocks`.
const BLOCK: u64 = 512;

/// What a walk meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A directory, before what is in it.
    Enter,
    /// Anything else.
    Leaf,
    /// A directory, after what is in it.
    Leave,
}

/// What is told of each step: the directory that holds it, its name there, and what it was when it was met.
pub type Visit<'v> = dyn FnMut(Step, BorrowedFd<'_>, &[u8], &Stat) -> io::Result<()> + 'v;

struct Level {
    name: Vec<u8>,
    stat: Stat,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Walks through what stands at `name` in `dir`: directories before and after what is in them, names in order.
///
/// # Errors
/// The first error of `visit` or of the system; `EXDEV` where a file system is mounted inside, `ESTALE` where a directory was
/// moved away meanwhile. What vanishes meanwhile is passed over, except `name` itself.
pub fn walk(dir: BorrowedFd<'_>, name: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
    let top = stat(dir, name)?;
    if !is_dir(&top) {
        return visit(Step::Leaf, dir, name, &top);
    }
    visit(Step::Enter, dir, name, &top)?;
    let (mut here, level) = enter(dir, name.to_vec(), top)?;
    let mut levels = vec![level];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.names.next() {
            let met = match stat(here.as_fd(), &name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if !is_dir(&met) {
                visit(Step::Leaf, here.as_fd(), &name, &met)?;
                continue;
            }
            if met.st_dev != top.st_dev {
                return Err(io::Error::from_raw_os_error(libc::EXDEV));
            }
            visit(Step::Enter, here.as_fd(), &name, &met)?;
            let (next, level) = enter(here.as_fd(), name, met)?;
            here = next;
            levels.push(level);
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let Some(above) = levels.last() else {
            return visit(Step::Leave, dir, name, &top);
        };
        here = rfs::openat(&here, "..", flags(), Mode::empty())?;
        same(&here, &above.stat)?;
        visit(Step::Leave, here.as_fd(), &done.name, &done.stat)?;
    }
    Ok(())
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn enter(dir: BorrowedFd<'_>, name: Vec<u8>, stat: Stat) -> io::Result<(OwnedFd, Level)> {
    let fd = rfs::openat(dir, name.as_slice(), flags(), Mode::empty())?;
    same(&fd, &stat)?;
    let names = list(fd.as_fd(), false)?.into_iter();
    Ok((fd, Level { name, stat, names }))
}

fn same(fd: &OwnedFd, wanted: &Stat) -> io::Result<()> {
    let is = rfs::fstat(fd)?;
    if (is.st_dev, is.st_ino) == (wanted.st_dev, wanted.st_ino) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::ESTALE))
}

fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    Ok(rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn is_dir(stat: &Stat) -> bool {
    rfs::FileType::from_raw_mode(stat.st_mode) == rfs::FileType::Directory
}

/// Bytes of content that something takes: of a sparse file those that are there. A directory itself counts nothing.
#[must_use]
pub fn bytes(stat: &Stat) -> u64 {
    if is_dir(stat) {
        return 0;
    }
    let length = u64::try_from(stat.st_size).unwrap_or(0);
    if rfs::FileType::from_raw_mode(stat.st_mode) != rfs::FileType::RegularFile {
        return length;
    }
    length.min(u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK)
}

/// Bytes that what stands at `name` takes, with everything below it.
///
/// # Errors
/// As [`walk`].
pub fn measure(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<u64> {
    let mut sum = 0u64;
    walk(dir, name, &mut |step, _, _, met| {
        if step == Step::Leaf {
            sum = sum.saturating_add(bytes(met));
        }
        Ok(())
    })?;
    Ok(sum)
}

/// Removes what stands at `name`, with everything below it, as long as `go` says so.
///
/// # Errors
/// As [`walk`]; `ErrorKind::Interrupted` where `go` said no. What was removed until then is gone.
pub fn remove(dir: BorrowedFd<'_>, name: &[u8], go: &mut dyn FnMut() -> bool) -> io::Result<()> {
    walk(dir, name, &mut |step, at, name, _| {
        if !go() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let how = match step {
            Step::Enter => return Ok(()),
            Step::Leaf => AtFlags::empty(),
            Step::Leave => AtFlags::REMOVEDIR,
        };
        match rfs::unlinkat(at, name, how) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    fn go() -> bool {
        true
    }

    #[test]
    fn a_tree_is_measured_and_removed_and_nothing_else() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let (at, beside) = (tmp.path().join("t"), tmp.path().join("beside"));
        std::fs::create_dir_all(at.join("a/b")).expect("made");
        std::fs::create_dir(&beside).expect("made");
        std::fs::write(beside.join("stays"), "x").expect("written");
        std::fs::write(at.join("one"), vec![1; 5000]).expect("written");
        std::fs::write(at.join("a/two"), vec![2; 70]).expect("written");
        symlink(&beside, at.join("a/b/link")).expect("linked");
        let sparse = File::create(at.join("sparse")).expect("a file");
        sparse.set_len(1 << 40).expect("a hole");
        let dir = File::open(tmp.path()).expect("opens");
        let link = beside.as_os_str().len() as u64;
        assert_eq!(measure(dir.as_fd(), b"t").expect("measured"), 5070 + link);
        remove(dir.as_fd(), b"t", &mut go).expect("removed");
        assert!(!at.exists() && beside.join("stays").exists());
        symlink(&beside, &at).expect("linked");
        remove(dir.as_fd(), b"t", &mut go).expect("removed");
        assert!(!at.is_symlink() && beside.join("stays").exists());
        let gone = measure(dir.as_fd(), b"t").expect_err("nothing there");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn depth_has_no_limit() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let dir = File::open(tmp.path()).expect("opens");
        let mut at = OwnedFd::from(dir.try_clone().expect("another"));
        // Far more levels than a process may open files.
        for _ in 0..3000 {
            rfs::mkdirat(&at, "deeper", Mode::RWXU).expect("made");
            at = rfs::openat(&at, "deeper", flags(), Mode::empty()).expect("opens");
        }
        remove(dir.as_fd(), b"deeper", &mut go).expect("removed");
        assert_eq!(std::fs::read_dir(tmp.path()).expect("listed").count(), 0);
    }

    #[test]
    fn an_end_is_heard_at_each_step() {
        let tmp = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(tmp.path().join("t")).expect("made");
        for i in 0..10 {
            std::fs::write(tmp.path().join(format!("t/{i}")), "x").expect("written");
        }
        let dir = File::open(tmp.path()).expect("opens");
        let mut steps = 0;
        let mut four = || {
            steps += 1;
            steps <= 4
        };
        let ended = remove(dir.as_fd(), b"t", &mut four).expect_err("ended");
        assert_eq!(ended.kind(), io::ErrorKind::Interrupted);
        let left = std::fs::read_dir(tmp.path().join("t")).expect("listed");
        assert_eq!(left.count(), 7, "one step enters, three remove");
    }

    #[test]
    fn a_directory_moved_away_ends_the_walk() {
        let tmp = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir_all(tmp.path().join("t/a/b")).expect("made");
        std::fs::write(tmp.path().join("victim"), "x").expect("written");
        let dir = File::open(tmp.path()).expect("opens");
        let (from, to) = (tmp.path().join("t/a/b"), tmp.path().join("elsewhere"));
        let walked = walk(dir.as_fd(), b"t", &mut |step, _, name, _| {
            if step == Step::Enter && name == b"b" {
                // The walk opens it next; meanwhile somebody puts it elsewhere and another one in its place.
                std::fs::rename(&from, &to)?;
                std::fs::create_dir(&from)?;
            }
            Ok(())
        });
        let code = walked.expect_err("noticed").raw_os_error();
        assert_eq!(code, Some(libc::ESTALE));
    }
}
