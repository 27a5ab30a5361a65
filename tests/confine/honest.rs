//! What a receiver does for a living goes on under confinement.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::apart::{self, Log};
use crate::common::node::Side;
use crate::common::steps::{idle, is_root, state};
use crate::options;

fn attribute(at: &Path, name: &std::ffi::CStr) -> io::Result<()> {
    let path = CString::new(at.as_os_str().as_bytes()).expect("a path");
    // SAFETY: path, name and value live for the call.
    let done = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), c"v".as_ptr().cast(), 1, 0) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn work_in_roots(log: &mut Log, one: &Path, other: &Path) {
    let file = one.join("f");
    log.tried("write", fs::write(&file, "content"));
    log.tried("read", fs::read(&file));
    log.tried(
        "cut off",
        File::options()
            .write(true)
            .open(&file)
            .and_then(|f| f.set_len(1)),
    );
    log.tried("make a directory", fs::create_dir_all(one.join("a/b")));
    log.tried(
        "move to another directory",
        fs::rename(&file, one.join("a/b/f")),
    );
    log.tried(
        "move to another root",
        fs::rename(one.join("a/b/f"), other.join("f")),
    );
    log.tried("link", fs::hard_link(other.join("f"), one.join("g")));
    log.tried("make a link", symlink("/etc/shadow", one.join("l")));
    let modes = Mode::S_IRUSR;
    for (name, kind) in [
        ("pipe", SFlag::S_IFIFO),
        ("char", SFlag::S_IFCHR),
        ("block", SFlag::S_IFBLK),
        ("socket", SFlag::S_IFSOCK),
    ] {
        let made = mknod(&one.join(name), kind, modes, makedev(1, 3));
        log.tried(&format!("make a {name}"), made.map_err(io::Error::from));
    }
    let own = one.join("g");
    log.tried("change the owner", chown(&own, Some(65534), Some(65534)));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o6755);
    log.tried("change the mode", fs::set_permissions(&own, mode));
    log.tried("write somebody else's", fs::write(&own, "more"));
    log.tried("trusted attribute", attribute(&own, c"trusted.osm"));
    log.tried("security attribute", attribute(&own, c"security.osm"));
    log.tried("remove", fs::remove_file(&own));
    log.tried("remove a directory", fs::remove_dir_all(one.join("a")));
}

fn work_in_state(log: &mut Log, state: &Path) {
    let (new, file) = (state.join("x.new"), state.join("x"));
    log.tried("write state", fs::write(&new, "x"));
    log.tried("replace state", fs::rename(&new, &file));
    log.tried("remove state", fs::remove_file(&file));
    // As much as SQLite does not keep in memory, so that it makes temporary files.
    let sorted = rusqlite::Connection::open(state.join("t.db")).and_then(|db| {
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA temp_store=FILE; PRAGMA cache_size=10; PRAGMA temp.cache_size=1;
             CREATE TABLE t (a BLOB); CREATE TEMP TABLE big (a BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
             INSERT INTO big SELECT randomblob(2000) FROM n;
             INSERT INTO t SELECT a FROM big ORDER BY a; CREATE INDEX i ON t(a);",
        )
    });
    log.tried("sort in the index", sorted.map_err(io::Error::other));
    log.tried("start a thread", std::thread::Builder::new().spawn(|| ()));
    log.tried("read the boot", fs::read("/proc/sys/kernel/random/boot_id"));
}

#[test]
fn a_receiver_does_its_work() {
    if apart::is_done_alone() {
        return;
    }
    if !is_root("a_receiver_does_its_work") {
        return;
    }
    let mut options = options!();
    options.parent = "/var/tmp".into();
    options.roots.push(("other".into(), "/other".into()));
    options.tables = "[metrics]\ntextfile = 'FIGURES'\n".into();
    let pair = idle(options);
    let figures = pair.dir().join("figures");
    fs::create_dir(&figures).expect("a directory");
    crate::common::steps::edit_config(&pair, |t| {
        t.replace("FIGURES", &figures.join("x.prom").display().to_string())
    });
    let (one, other) = (pair.root(Side::B, "data"), pair.root(Side::B, "other"));
    let state = state(&pair, Side::B);
    let worked = apart::start(|log| {
        apart::confine(&pair.config());
        work_in_roots(log, &one, &other);
        work_in_state(log, &state);
        let written = osm_failover::sys::replace::replace(&figures.join("x.prom"), b"x 1\n");
        log.tried("write figures", written);
    });
    let lines = worked.lines();
    let failed: Vec<_> = lines.iter().filter(|l| !l.ends_with(": done")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(lines.len() >= 26, "{lines:#?}");
}

/// Of a root that is one file the directory is reached, and nothing beyond.
#[test]
fn a_root_of_one_file_is_its_directory() {
    if apart::is_done_alone() {
        return;
    }
    let mut options = options!();
    options.roots = vec![("one".into(), "/dir/one".into())];
    let pair = idle(options);
    let one = pair.root(Side::B, "one");
    fs::remove_dir(&one).expect("a directory was made of it");
    fs::write(&one, "x").expect("a file");
    let outside = pair.dir().join("outside");
    fs::write(&outside, "x").expect("a file");
    let tried = apart::start(|log| {
        apart::confine(&pair.config());
        let new = one.with_file_name(".new");
        log.tried("write", fs::write(&new, "y"));
        log.tried("replace", fs::rename(&new, &one));
        log.tried("outside", fs::read(&outside));
    });
    let lines = tried.lines();
    assert_eq!(lines[..2], ["write: done", "replace: done"]);
    assert!(lines[2].contains("denied"), "{lines:?}");
}
