//! Kinds of change that are not plain contents and names: file types, attributes, oddities.

use std::fs::{self, File, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::{Held, Kind, Place, as_root, done, edit, kind, noise, write};

pub(super) const TYPES: [Kind; 5] = [
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

pub(super) const ATTRIBUTES: [Kind; 6] = [
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

pub(super) fn set_mtime(path: &Path, sec: i64, nsec: i64) -> io::Result<Held> {
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

pub(super) const ODDITIES: [Kind; 4] = [
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
