//! Devices may be made in a root and not be opened, where the mounts of the host are shared, as systemd has them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::apart::{self, Log};
use crate::common::node::Side;
use crate::common::steps::{idle, is_root};
use crate::options;

/// In a name space whose mounts tell each other of changes.
fn share() {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNS).expect("a name space");
    change("/", libc::MS_SHARED | libc::MS_REC);
}

fn change(at: &str, flags: libc::c_ulong) {
    let at = std::ffi::CString::new(at).expect("a path");
    // SAFETY: both texts live for the call.
    let done = unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            at.as_ptr(),
            c"tmpfs".as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    assert_eq!(done, 0, "mount: {}", io::Error::last_os_error());
}

fn unmount(at: &str) -> io::Result<()> {
    let at = std::ffi::CString::new(at).expect("a path");
    // SAFETY: the text lives for the call.
    match unsafe { libc::umount2(at.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn try_devices(log: &mut Log, root: &Path) {
    let at = root.join("device");
    let made = mknod(&at, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5));
    log.tried("make", made.map_err(io::Error::from));
    log.tried("read", File::open(&at));
    log.tried("write", File::options().write(true).open(&at));
}

#[test]
fn a_device_can_be_made_and_not_be_opened() {
    if apart::is_done_alone() {
        return;
    }
    if !is_root("a_device_can_be_made_and_not_be_opened") {
        return;
    }
    let pair = idle(options!());
    let root = pair.root(Side::B, "data");
    let tried = apart::start(|log| {
        share();
        let confined = apart::confine(&pair.config());
        log.note("lacks", &format!("{:?}", confined.lacks));
        try_devices(log, &root);
    });
    let lines = tried.lines();
    assert_eq!(lines[1], "make: done");
    for line in &lines[2..] {
        assert!(line.contains("Permission denied"), "{lines:#?}");
    }
    if osm_failover::sys::confine::abi() >= 6 {
        assert_eq!(lines[0], "lacks: []");
    }
}

/// Where they are not, a receiver sees the mounts of its host, and says what is open.
#[test]
fn where_mounts_are_not_shared_it_is_told() {
    if apart::is_done_alone() {
        return;
    }
    if !is_root("where_mounts_are_not_shared_it_is_told") {
        return;
    }
    let pair = idle(options!());
    let tried = apart::start(|log| {
        share();
        change("/", libc::MS_PRIVATE | libc::MS_REC);
        let confined = apart::confine(&pair.config());
        log.note("lacks", &confined.lacks.join(";"));
    });
    let lines = tried.lines();
    assert!(
        lines[0].contains("a device") && lines[0].contains("not shared"),
        "{lines:?}"
    );
}

/// What the host mounts in a root is there for the receiver, too, and goes when it is unmounted.
#[test]
fn mounts_of_the_host_are_followed() {
    if apart::is_done_alone() {
        return;
    }
    if !is_root("mounts_of_the_host_are_followed") {
        return;
    }
    let pair = idle(options!());
    let inner = pair.root(Side::B, "data").join("inner");
    fs::create_dir(&inner).expect("a directory");
    let told = apart::start(|log| {
        share();
        let (mut hear, mut say) = io::pipe().expect("a pipe");
        let (mut wait, mut go) = io::pipe().expect("a pipe");
        let receiver = apart::start(|log| {
            apart::confine(&pair.config());
            let mut byte = [0];
            let mut next = || {
                say.write_all(b".").expect("said");
                wait.read_exact(&mut byte).expect("heard");
            };
            next();
            let held = File::open(inner.join("there"));
            log.tried("open it", held.as_ref().map_err(|e| e.kind().into()));
            next();
            drop(held);
            next();
            log.tried("open it when it is gone", File::open(inner.join("there")));
        });
        let mut byte = [0];
        hear.read_exact(&mut byte).expect("heard");
        let at = inner.display().to_string();
        change(&at, 0);
        fs::write(inner.join("there"), "x").expect("a file");
        go.write_all(b".").expect("said");
        hear.read_exact(&mut byte).expect("heard");
        log.tried("unmount it while it is open", unmount(&at));
        go.write_all(b".").expect("said");
        hear.read_exact(&mut byte).expect("heard");
        log.tried("unmount it", unmount(&at));
        go.write_all(b".").expect("said");
        for line in receiver.lines() {
            log.note("the receiver", &line);
        }
    });
    let lines = told.lines();
    // As for any process that has a file open there.
    assert!(
        lines[0].starts_with("unmount it while it is open: "),
        "{lines:#?}"
    );
    assert!(lines[0].contains("busy"), "{lines:#?}");
    assert_eq!(lines[1], "unmount it: done");
    assert_eq!(lines[2], "the receiver: open it: done");
    assert!(lines[3].contains("No such file"), "{lines:#?}");
}
