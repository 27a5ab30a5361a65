//! The 35 kinds of single change: each file type and attribute, each way to make, replace, move and remove.
//!
//! A kind prepares a small directory in each of two roots, waits for whoever replicates, then makes one change. It
//! never looks at the other side: the caller compares. Each kind has directories of its own, so one that arrives
//! wrong spoils no other.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};

/// A kind's own directory in each of the two roots.
#[derive(Debug, Clone)]
pub struct Place {
    /// In the first root.
    pub one: PathBuf,
    /// In the second root.
    pub two: PathBuf,
}

impl Place {
    /// Makes the directories of kind number `n` below both roots.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn make(first: &Path, second: &Path, n: usize) -> io::Result<Self> {
        let name = format!("k{n:02}");
        let place = Self {
            one: first.join(&name),
            two: second.join(&name),
        };
        fs::create_dir_all(&place.one)?;
        fs::create_dir_all(&place.two)?;
        Ok(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.one.join(name)
    }
}

/// What must stay open until the trees were compared.
pub type Held = Vec<File>;

/// One kind of change.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What is changed, in a few words.
    pub name: &'static str,
    /// Whether only root can make this change.
    pub root_only: bool,
    /// Makes the state before.
    pub prepare: fn(&Place) -> io::Result<()>,
    /// Makes the change.
    pub change: fn(&Place) -> io::Result<Held>,
}

const fn kind(
    name: &'static str,
    prepare: fn(&Place) -> io::Result<()>,
    change: fn(&Place) -> io::Result<Held>,
) -> Kind {
    Kind {
        name,
        root_only: false,
        prepare,
        change,
    }
}

const fn as_root(mut k: Kind) -> Kind {
    k.root_only = true;
    k
}

/// All kinds. The path that is too long for a system call comes last: some tools stop deleting after it.
pub fn all() -> Vec<Kind> {
    [
        &CONTENTS[..],
        &DIRECTORIES,
        &MOVES,
        &LINKS,
        &TYPES,
        &ATTRIBUTES,
        &ODDITIES,
    ]
    .concat()
}

fn done() -> io::Result<Held> {
    Ok(Vec::new())
}

/// Bytes that repeat for nobody: `n` of them, different for each seed.
pub fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut v = Vec::with_capacity(n + 8);
    while v.len() < n {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        v.extend_from_slice(&x.to_le_bytes());
    }
    v.truncate(n);
    v
}

/// A small file. Each seed has a length of its own: tools that compare length and second must see a swap.
fn write(path: PathBuf, seed: u64) -> io::Result<()> {
    let length = 5000 + usize::try_from(seed).unwrap_or(0) * 7;
    fs::write(path, noise(length, seed))
}

fn edit(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

const CONTENTS: [Kind; 7] = [
    kind(
        "new file, and an empty one",
        |_| Ok(()),
        |p| {
            write(p.at("new"), 1)?;
            File::create(p.at("empty"))?;
            done()
        },
    ),
    kind(
        "overwrite in place, same length",
        |p| fs::write(p.at("f"), noise(5000, 2)),
        |p| {
            edit(&p.at("f"))?.write_all(&noise(5000, 3))?;
            done()
        },
    ),
    kind(
        "truncate",
        |p| write(p.at("f"), 4),
        |p| {
            edit(&p.at("f"))?.set_len(1234)?;
            done()
        },
    ),
    kind(
        "append",
        |p| write(p.at("f"), 5),
        |p| {
            OpenOptions::new()
                .append(true)
                .open(p.at("f"))?
                .write_all(b"one more line\n")?;
            done()
        },
    ),
    kind(
        "replace by rename of a temporary file",
        |p| write(p.at("f"), 6),
        |p| {
            write(p.at("f.tmp"), 7)?;
            fs::rename(p.at("f.tmp"), p.at("f"))?;
            done()
        },
    ),
    kind(
        "three bytes inside a large file",
        |p| fs::write(p.at("f"), noise(9_000_000, 8)),
        |p| {
            edit(&p.at("f"))?.write_all_at(b"new", 5_555_555)?;
            done()
        },
    ),
    kind(
        "write through a shared mapping",
        |p| fs::write(p.at("f"), noise(20_000, 9)),
        |p| {
            map_and_write(&p.at("f"))?;
            done()
        },
    ),
];

fn map_and_write(path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let file = edit(path)?;
    // SAFETY: a fresh shared mapping of a file of 20,000 bytes that only this test writes; unmapped below.
    unsafe {
        let p = libc::mmap(
            std::ptr::null_mut(),
            20_000,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        p.cast::<u8>().add(10_000).copy_from(b"mapped".as_ptr(), 6);
        if libc::munmap(p, 20_000) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

const DIRECTORIES: [Kind; 2] = [
    kind(
        "mkdir and rmdir",
        |p| fs::create_dir(p.at("old")),
        |p| {
            fs::create_dir(p.at("new"))?;
            fs::remove_dir(p.at("old"))?;
            done()
        },
    ),
    kind(
        "rm -r",
        |p| {
            fs::create_dir_all(p.at("d/e/f"))?;
            write(p.at("d/e/f/file"), 10)?;
            write(p.at("d/other"), 11)?;
            symlink("other", p.at("d/link"))
        },
        |p| {
            fs::remove_dir_all(p.at("d"))?;
            done()
        },
    ),
];

const MOVES: [Kind; 6] = [
    kind(
        "rename of a file into another directory",
        |p| {
            fs::create_dir(p.at("d"))?;
            write(p.at("f"), 12)
        },
        |p| {
            fs::rename(p.at("f"), p.at("d/g"))?;
            done()
        },
    ),
    kind("rename of a directory", with_two_dirs, |p| {
        fs::rename(p.at("d"), p.at("e/d2"))?;
        done()
    }),
    kind(
        "rename over an existing file",
        |p| {
            write(p.at("f"), 13)?;
            write(p.at("g"), 14)
        },
        |p| {
            fs::rename(p.at("f"), p.at("g"))?;
            done()
        },
    ),
    kind(
        "swap of two files",
        |p| {
            write(p.at("f"), 15)?;
            write(p.at("g"), 16)
        },
        |p| swap(&p.at("f"), &p.at("g")),
    ),
    kind("swap of two directories", with_two_dirs, |p| {
        swap(&p.at("d"), &p.at("e"))
    }),
    kind(
        "move from one root to another",
        |p| write(p.at("f"), 17),
        |p| {
            fs::rename(p.at("f"), p.two.join("f"))?;
            done()
        },
    ),
];

fn with_two_dirs(p: &Place) -> io::Result<()> {
    for (dir, seed) in [("d", 18), ("e", 30)] {
        fs::create_dir_all(p.at(dir).join("sub"))?;
        write(p.at(dir).join("same name"), seed)?;
        write(p.at(dir).join("sub/file"), seed + 1)?;
    }
    set_mtime(&p.at("e"), 1_200_000_000, 5)?;
    Ok(())
}

fn swap(a: &Path, b: &Path) -> io::Result<Held> {
    rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?;
    done()
}

const LINKS: [Kind; 5] = [
    kind(
        "new hard link",
        |p| write(p.at("f"), 40),
        |p| {
            fs::hard_link(p.at("f"), p.at("g"))?;
            done()
        },
    ),
    kind("write through a hard link", with_hard_link, |p| {
        edit(&p.at("g"))?.write_all(b"through the other name")?;
        done()
    }),
    kind("unlink one of two names", with_hard_link, |p| {
        fs::remove_file(p.at("f"))?;
        done()
    }),
    kind(
        "new symlinks: relative, absolute, dangling",
        |p| write(p.at("f"), 41),
        |p| {
            symlink("f", p.at("relative"))?;
            symlink("/etc/hostname", p.at("absolute"))?;
            symlink("../no/such\nfile", p.at("dangling"))?;
            done()
        },
    ),
    kind(
        "symlink to another target",
        |p| symlink("first", p.at("l")),
        |p| {
            fs::remove_file(p.at("l"))?;
            symlink("other", p.at("l"))?;
            done()
        },
    ),
];

fn with_hard_link(p: &Place) -> io::Result<()> {
    write(p.at("f"), 42)?;
    fs::hard_link(p.at("f"), p.at("g"))
}

const TYPES: [Kind; 5] = [
    kind(
        "file becomes directory",
        |p| write(p.at("x"), 43),
        |p| {
            fs::remove_file(p.at("x"))?;
            fs::create_dir(p.at("x"))?;
            write(p.at("x/inside"), 44)?;
            done()
        },
    ),
    kind("directory becomes file", with_full_dir, |p| {
        fs::remove_dir_all(p.at("x"))?;
        write(p.at("x"), 45)?;
        done()
    }),
    kind("directory becomes symlink", with_full_dir, |p| {
        fs::remove_dir_all(p.at("x"))?;
        symlink(".", p.at("x"))?;
        done()
    }),
    kind(
        "named pipe",
        |_| Ok(()),
        |p| {
            node(&p.at("pipe"), FileType::Fifo, 0)?;
            done()
        },
    ),
    as_root(kind(
        "device",
        |_| Ok(()),
        |p| {
            let null = rustix::fs::makedev(1, 3);
            node(&p.at("null"), FileType::CharacterDevice, null)?;
            node(
                &p.at("disk"),
                FileType::BlockDevice,
                rustix::fs::makedev(7, 9),
            )?;
            done()
        },
    )),
];

fn with_full_dir(p: &Place) -> io::Result<()> {
    fs::create_dir_all(p.at("x/sub"))?;
    write(p.at("x/sub/file"), 46)
}

fn node(path: &Path, t: FileType, dev: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(
        CWD,
        path,
        t,
        Mode::from_bits_truncate(0o640),
        dev,
    )?)
}

const ATTRIBUTES: [Kind; 6] = [
    kind(
        "chmod with setuid, setgid and sticky",
        |p| {
            write(p.at("f"), 47)?;
            fs::create_dir(p.at("d"))
        },
        |p| {
            fs::set_permissions(p.at("f"), Permissions::from_mode(0o6751))?;
            fs::set_permissions(p.at("d"), Permissions::from_mode(0o1773))?;
            done()
        },
    ),
    as_root(kind(
        "chown of file, directory and symlink",
        |p| {
            write(p.at("f"), 48)?;
            fs::create_dir(p.at("d"))?;
            symlink("f", p.at("l"))
        },
        |p| {
            chown(p.at("f"), Some(12_345), Some(54_321))?;
            chown(p.at("d"), Some(12_346), None)?;
            std::os::unix::fs::lchown(p.at("l"), None, Some(54_322))?;
            done()
        },
    )),
    kind(
        "modification time of a file, to the nanosecond",
        |p| write(p.at("f"), 49),
        |p| set_mtime(&p.at("f"), 1_000_000_001, 123_456_789),
    ),
    kind(
        "modification time of a directory",
        |p| fs::create_dir(p.at("d")),
        |p| set_mtime(&p.at("d"), 1_100_000_000, 987_654_321),
    ),
    kind(
        "extended attributes set and removed",
        |p| {
            write(p.at("f"), 50)?;
            xattr(&p.at("f"), "user.gone", b"soon")
        },
        |p| {
            xattr(&p.at("f"), "user.new", b"bytes \x00\xff")?;
            xattr(&p.one, "user.on-directory", b"")?;
            rustix::fs::removexattr(p.at("f"), "user.gone")?;
            done()
        },
    ),
    kind(
        "ACL of a file, default ACL of a directory",
        |p| {
            write(p.at("f"), 51)?;
            fs::create_dir(p.at("d"))
        },
        |p| {
            xattr(&p.at("f"), "system.posix_acl_access", &acl(4321))?;
            xattr(&p.at("d"), "system.posix_acl_default", &acl(4322))?;
            write(p.at("d/heir"), 52)?;
            done()
        },
    ),
];

fn set_mtime(path: &Path, sec: i64, nsec: i64) -> io::Result<Held> {
    let t = Timespec {
        tv_sec: sec,
        tv_nsec: nsec,
    };
    let times = Timestamps {
        last_access: t,
        last_modification: t,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    done()
}

fn xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(
        path,
        name,
        value,
        XattrFlags::empty(),
    )?)
}

/// `u::rw-,u:USER:r--,g::r--,m::rw-,o::---` as the kernel stores it.
fn acl(user: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut v = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (0x01u16, 6u16, NOBODY),
        (0x02, 4, user),
        (0x04, 4, NOBODY),
        (0x10, 6, NOBODY),
        (0x20, 0, NOBODY),
    ] {
        v.extend_from_slice(&tag.to_le_bytes());
        v.extend_from_slice(&perm.to_le_bytes());
        v.extend_from_slice(&id.to_le_bytes());
    }
    v
}

const ODDITIES: [Kind; 4] = [
    kind(
        "sparse file of 20 MB that gains a block",
        |p| {
            let f = File::create(p.at("f"))?;
            f.set_len(20_000_000)?;
            f.write_all_at(&noise(4096, 53), 8_192_000)
        },
        |p| {
            edit(&p.at("f"))?.write_all_at(&noise(4096, 54), 16_384_000)?;
            done()
        },
    ),
    kind(
        "append to a file that stays open",
        |p| write(p.at("f"), 55),
        |p| {
            let mut f = edit(&p.at("f"))?;
            f.seek(SeekFrom::End(0))?;
            f.write_all(b"still open\n")?;
            Ok(vec![f])
        },
    ),
    kind(
        "names with newline, invalid UTF-8, 255 bytes",
        |_| Ok(()),
        |p| {
            let longest = [b'n'; 255];
            for name in [
                &b"line\nbreak \x1b"[..],
                b"not \xff\xfe utf-8",
                &longest,
                b"-rf *",
            ] {
                let path = p.one.join(std::ffi::OsStr::from_bytes(name));
                write(path, 56)?;
            }
            done()
        },
    ),
    kind(
        "a path longer than PATH_MAX",
        |_| Ok(()),
        |p| {
            let dir = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let name = "d".repeat(200);
            let mut at = rustix::fs::open(&p.one, dir, Mode::empty())?;
            for _ in 0..24 {
                rustix::fs::mkdirat(&at, &*name, Mode::from_bits_truncate(0o755))?;
                at = rustix::fs::openat(&at, &*name, dir, Mode::empty())?;
            }
            let mode = Mode::from_bits_truncate(0o644);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            let f = rustix::fs::openat(&at, "at the bottom", flags, mode)?;
            File::from(f).write_all(&noise(5000, 57))?;
            done()
        },
    ),
];
