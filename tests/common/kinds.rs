//! The 35 kinds of single change: each file type and attribute, each way to make, replace, move and remove.
//!
//! A kind prepares a small directory in each of two roots, waits for whoever replicates, then makes one change. It
//! never looks at the other side: the caller compares. Each kind has directories of its own, so one that arrives
//! wrong spoils no other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

mod special;

use special::{ATTRIBUTES, ODDITIES, TYPES, set_mtime};

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
