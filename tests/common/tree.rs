//! Snapshots of two trees and their differences: the judge of every test and of the benchmark.
//!
//! A snapshot reads everything that replication promises to keep: kind, mode, owner, size, modification time,
//! link target, device number, extended attributes (ACLs are among them), content, hard-link groups and holes.
//! It never follows a symbolic link and never changes a tree. Directories are walked by descriptor, so names
//! of any bytes and paths of any length are read like all others.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::extents;

/// Differences in allocation below this many bytes are the file system's business.
pub const HOLE_SLACK: u64 = 64 * 1024;
/// Name at the top of a root that is never replicated.
const PRIVATE: &[u8] = b".osm-failover";

/// What a path is, in everything two equal trees must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `file`, `dir`, `symlink`, `fifo`, `char`, `block` or `socket`.
    pub kind: &'static str,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes, 0 for directories.
    pub size: u64,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, i64),
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// Device number, 0 unless this is a device.
    pub rdev: u64,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// blake3 of the content of a file.
    pub hash: Option<[u8; 32]>,
    /// First path (in byte order) of the hard-link group, where the file has more than one name in the tree.
    pub group: Option<Vec<u8>>,
    /// Bytes of the file's length for which there is no data; counted in full detail only.
    pub holes: u64,
}

/// The tree below a directory by relative path; the directory itself is the empty path.
pub type Snapshot = BTreeMap<Vec<u8>, Facts>;

/// How much a snapshot reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Full,
    /// Kind, size, mode and time only: contents and attributes stay unread.
    Names,
}

/// Everything below `dir`.
///
/// # Errors
/// The first call that fails, with the path it was made for.
pub fn snapshot(dir: &Path) -> io::Result<Snapshot> {
    snapshot_with(dir, Detail::Full)
}

/// As [`snapshot`], reading as much as `detail` says.
///
/// # Errors
/// The first call that fails, with the path it was made for.
pub fn snapshot_with(dir: &Path, detail: Detail) -> io::Result<Snapshot> {
    let mut walk = Walk::new(detail);
    walk.tree(dir, &mut Vec::new())?;
    Ok(walk.finish())
}

/// The trees below several directories of one parent, each under its name, with the hard links between them.
///
/// # Errors
/// The first call that fails, with the path it was made for.
pub fn snapshot_together(parent: &Path, names: &[&str]) -> io::Result<Snapshot> {
    let mut walk = Walk::new(Detail::Full);
    for name in names {
        walk.tree(&parent.join(name), &mut name.as_bytes().to_vec())?;
    }
    Ok(walk.finish())
}

fn named(what: &str, path: &[u8], e: impl Into<io::Error>) -> io::Error {
    let e: io::Error = e.into();
    io::Error::new(e.kind(), format!("{what} {}: {e}", show(path)))
}

struct Walk {
    out: Snapshot,
    names: HashMap<(u64, u64), Vec<Vec<u8>>>,
    buf: Vec<u8>,
    detail: Detail,
    /// Path of the root that is being walked.
    top: Vec<u8>,
}

impl Walk {
    fn new(detail: Detail) -> Self {
        Self {
            out: Snapshot::new(),
            names: HashMap::new(),
            buf: vec![0; 256 * 1024],
            detail,
            top: Vec::new(),
        }
    }

    /// Takes in the tree at `dir` under the name `path`.
    fn tree(&mut self, dir: &Path, path: &mut Vec<u8>) -> io::Result<()> {
        let fd = rustix::fs::open(
            dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| named("open", dir.as_os_str().as_encoded_bytes(), e))?;
        let st = rustix::fs::fstat(&fd)?;
        let facts = self.facts(fd.as_fd(), b".", path, &st)?;
        self.out.insert(path.clone(), facts);
        self.top.clone_from(path);
        self.dir(&fd, path)
    }

    fn finish(mut self) -> Snapshot {
        self.group_links();
        self.out
    }

    fn dir(&mut self, fd: &OwnedFd, path: &mut Vec<u8>) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in Dir::read_from(fd).map_err(|e| named("list", path, e))? {
            let entry = entry.map_err(|e| named("list", path, e))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !(*path == self.top && name == PRIVATE) {
                names.push(name.to_vec());
            }
        }
        for name in names {
            let keep = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.entry(fd, &name, path)?;
            path.truncate(keep);
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, name: &[u8], path: &mut Vec<u8>) -> io::Result<()> {
        let st = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| named("stat", path, e))?;
        let facts = self.facts(parent.as_fd(), name, path, &st)?;
        let is_dir = facts.kind == "dir";
        if !is_dir && st.st_nlink > 1 {
            self.names
                .entry((st.st_dev, st.st_ino))
                .or_default()
                .push(path.clone());
        }
        self.out.insert(path.clone(), facts);
        if is_dir {
            let fd = rustix::fs::openat(
                parent,
                name,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| named("open", path, e))?;
            self.dir(&fd, path)?;
        }
        Ok(())
    }

    fn facts(
        &mut self,
        at: std::os::fd::BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        st: &Stat,
    ) -> io::Result<Facts> {
        let file_type = FileType::from_raw_mode(st.st_mode);
        let is_file = file_type == FileType::RegularFile;
        let size = u64::try_from(st.st_size).unwrap_or(0);
        let full = self.detail == Detail::Full;
        let target = if file_type == FileType::Symlink {
            let t = rustix::fs::readlinkat(at, name, Vec::new())
                .map_err(|e| named("read link", path, e))?;
            Some(t.into_bytes())
        } else {
            None
        };
        let (hash, holes) = if full && is_file {
            let (hash, holes) = self.content(at, name).map_err(|e| named("read", path, e))?;
            (Some(hash), holes)
        } else {
            (None, 0)
        };
        Ok(Facts {
            kind: kind_name(file_type),
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            size: if file_type == FileType::Directory {
                0
            } else {
                size
            },
            mtime: (st.st_mtime, st.st_mtime_nsec.cast_signed()),
            target,
            rdev: match file_type {
                FileType::CharacterDevice | FileType::BlockDevice => st.st_rdev,
                _ => 0,
            },
            xattrs: if full {
                self.xattrs(at, name)
                    .map_err(|e| named("read attributes of", path, e))?
            } else {
                BTreeMap::new()
            },
            hash,
            group: None,
            holes,
        })
    }

    fn xattrs(
        &mut self,
        at: std::os::fd::BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        // A path through the open directory: attributes of symbolic links and devices cannot be had by descriptor,
        // and the whole path may be longer than the kernel takes.
        let mut via = format!("/proc/self/fd/{}/", at.as_raw_fd()).into_bytes();
        via.extend_from_slice(name);
        let n = rustix::fs::llistxattr(&via[..], &mut self.buf[..])?;
        let list = self.buf[..n].to_vec();
        let mut all = BTreeMap::new();
        for key in list.split(|b| *b == 0).filter(|k| !k.is_empty()) {
            let n = rustix::fs::lgetxattr(&via[..], key, &mut self.buf[..])?;
            all.insert(key.to_vec(), self.buf[..n].to_vec());
        }
        Ok(all)
    }

    /// Hash of a file, and how much of it is holes.
    fn content(
        &mut self,
        at: std::os::fd::BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<([u8; 32], u64)> {
        let fd = rustix::fs::openat(
            at,
            name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut file = std::fs::File::from(fd);
        let holes = extents::holes(&file)?;
        file.rewind()?;
        let mut hasher = blake3::Hasher::new();
        loop {
            let n = file.read(&mut self.buf)?;
            if n == 0 {
                return Ok((*hasher.finalize().as_bytes(), holes));
            }
            hasher.update(&self.buf[..n]);
        }
    }

    fn group_links(&mut self) {
        for names in self.names.values() {
            let first = names.iter().min().cloned();
            for name in names.iter().filter(|_| names.len() > 1) {
                if let Some(f) = self.out.get_mut(name) {
                    f.group.clone_from(&first);
                }
            }
        }
    }
}

fn kind_name(t: FileType) -> &'static str {
    match t {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Socket => "socket",
        FileType::Unknown => "unknown",
    }
}

/// Bytes of a name for a person: printable, shortened in the middle.
pub fn show(path: &[u8]) -> String {
    let s: String = path.iter().map(|b| b.escape_ascii().to_string()).collect();
    if s.is_empty() {
        return ".".to_owned();
    }
    if s.len() <= 160 {
        return s;
    }
    format!(
        "{}...{} ({} bytes)",
        &s[..70],
        &s[s.len() - 70..],
        path.len()
    )
}

/// What differs between two snapshots, one line for each fact; empty if nothing does.
pub fn diff(a: &Snapshot, b: &Snapshot) -> Vec<String> {
    let mut out = Vec::new();
    for (path, fa) in a {
        match b.get(path) {
            None => out.push(format!("{}: {} only in the first", show(path), fa.kind)),
            Some(fb) => facts_diff(path, fa, fb, &mut out),
        }
    }
    for (path, fb) in b.iter().filter(|(p, _)| !a.contains_key(*p)) {
        out.push(format!("{}: {} only in the second", show(path), fb.kind));
    }
    out
}

fn facts_diff(path: &[u8], a: &Facts, b: &Facts, out: &mut Vec<String>) {
    let mut say = |what: &str, a: String, b: String| {
        out.push(format!("{}: {what} {a} and {b}", show(path)));
    };
    if a.kind != b.kind {
        say("kind", a.kind.to_owned(), b.kind.to_owned());
        return;
    }
    if a.mode != b.mode {
        say("mode", format!("{:04o}", a.mode), format!("{:04o}", b.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        say(
            "owner",
            format!("{}:{}", a.uid, a.gid),
            format!("{}:{}", b.uid, b.gid),
        );
    }
    if a.size != b.size {
        say("size", a.size.to_string(), b.size.to_string());
    } else if a.hash != b.hash {
        say("content", "one".to_owned(), "another".to_owned());
    }
    if a.mtime != b.mtime {
        let t = |m: (i64, i64)| format!("{}.{:09}", m.0, m.1);
        say("mtime", t(a.mtime), t(b.mtime));
    }
    if a.target != b.target {
        let t = |t: &Option<Vec<u8>>| show(t.as_deref().unwrap_or_default());
        say("target", t(&a.target), t(&b.target));
    }
    if a.rdev != b.rdev {
        say("device", format!("{:#x}", a.rdev), format!("{:#x}", b.rdev));
    }
    if a.xattrs != b.xattrs {
        say("xattrs", show_xattrs(&a.xattrs), show_xattrs(&b.xattrs));
    }
    if a.group != b.group {
        let g = |g: &Option<Vec<u8>>| g.as_deref().map_or("none".to_owned(), show);
        say("hard link group", g(&a.group), g(&b.group));
    }
    if a.holes.abs_diff(b.holes) > HOLE_SLACK {
        say("holes", a.holes.to_string(), b.holes.to_string());
    }
}

fn show_xattrs(x: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let all: Vec<_> = x
        .iter()
        .map(|(k, v)| format!("{}={}", show(k), show(v)))
        .collect();
    format!("[{}]", all.join(" "))
}

/// Panics with the differences unless both trees are equal in everything.
pub fn assert_equal(a: &Path, b: &Path) {
    let left = snapshot(a).expect("the first tree can be read");
    let right = snapshot(b).expect("the second tree can be read");
    let d = diff(&left, &right);
    assert!(
        d.is_empty(),
        "{} and {} differ in {} facts:\n{}",
        a.display(),
        b.display(),
        d.len(),
        d.iter().take(50).cloned().collect::<Vec<_>>().join("\n")
    );
}

/// Names, sizes, modes and times (of all but directories, to the second) that differ, at most `limit` lines; contents stay unread.
///
/// # Errors
/// A tree that cannot be read.
pub fn quick_diff(a: &Path, b: &Path, limit: usize) -> io::Result<Vec<String>> {
    let mut left = snapshot_with(a, Detail::Names)?;
    let mut right = snapshot_with(b, Detail::Names)?;
    for f in left.values_mut().chain(right.values_mut()) {
        f.mtime.1 = 0;
        if f.kind == "dir" {
            f.mtime.0 = 0;
        }
    }
    let mut d = diff(&left, &right);
    // How rsync and others write files leaves allocation to chance, and only a full compare asks for it.
    d.retain(|line| !line.contains(": holes "));
    d.truncate(limit);
    Ok(d)
}

/// The bytes of a path.
pub fn path_bytes(p: &Path) -> Vec<u8> {
    p.as_os_str().to_owned().into_vec()
}
