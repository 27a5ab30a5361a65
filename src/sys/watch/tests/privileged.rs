//! Tests that need a namespace of their own: mounts, and the limit of watches. They change
//! nothing outside of it, and say why where they cannot run.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::super::*;
use super::bench::{Bench, ROOT, covers, each, make_root, path};

fn mount(source: &str, at: &Path, kind: &str, flags: libc::c_ulong) -> bool {
    let text = |s: &[u8]| CString::new(s).expect("no NUL");
    let (source, kind) = (text(source.as_bytes()), text(kind.as_bytes()));
    let at = text(at.as_os_str().as_bytes());
    // SAFETY: three C strings that outlive the call, and no data.
    let done = unsafe {
        libc::mount(
            source.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    done == 0
}

fn unmount(at: &Path) {
    let at = CString::new(at.as_os_str().as_bytes()).expect("no NUL");
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        // SAFETY: a C string that outlives the call.
        if unsafe { libc::umount2(at.as_ptr(), 0) } == 0 {
            return;
        }
        // A child that another test starts has this process's descriptors until it executes its program.
        let e = std::io::Error::last_os_error();
        let busy = e.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < end;
        assert!(busy, "unmounting: {e}");
        std::thread::yield_now();
    }
}

/// Runs a test in a thread with a mount namespace of its own, which ends with it.
fn in_mount_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let body = || {
            // SAFETY: it changes this thread's namespace and nothing in memory.
            let own = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
            let private = libc::MS_PRIVATE | libc::MS_REC;
            if own && mount("none", Path::new("/"), "none", private) {
                test();
            } else {
                println!(
                    "skipped: no mount namespace: {}",
                    std::io::Error::last_os_error()
                );
            }
        };
        scope.spawn(body).join().expect("the test passes");
    });
}

#[test]
fn mounts_below_a_root_come_and_go() {
    in_mount_namespace(|| {
        each(|choice, base| {
            let prepare = |dir: &Path| {
                fs::create_dir_all(dir.join("m/under")).expect("made");
                fs::create_dir_all(dir.join("early")).expect("made");
                assert!(mount("tmpfs", &dir.join("early"), "tmpfs", 0));
            };
            let Some(b) = Bench::start(choice, base, prepare) else {
                return;
            };
            b.write("early/f");
            assert!(covers(&b.events(), &path("early/f")));
            assert!(mount("tmpfs", &b.at("m"), "tmpfs", 0));
            b.sink.wait_event(&Event::Subtree(path("m")));
            b.sink.lock().events.clear();
            fs::create_dir(b.at("m/d")).expect("made");
            let file = [b.write("m/d/f")];
            b.settle();
            b.assert_covered(&file);
            unmount(&b.at("m"));
            b.sink.wait_event(&Event::Subtree(path("m")));
            let file = [b.write("m/under/f")];
            b.settle();
            b.assert_covered(&file);
            unmount(&b.at("early"));
        });
    });
}

/// Takes every descriptor that this thread may still open, in a table of its own, so that no other test lacks any. The
/// others' descriptors are not kept open by it.
fn no_descriptor_left() -> Vec<OwnedFd> {
    let file = fs::File::open("/dev/null").expect("opens");
    let mut taken = vec![OwnedFd::from(file)];
    while let Ok(next) = taken[0].try_clone() {
        taken.push(next);
    }
    taken
}

fn own_descriptors() {
    // SAFETY: this thread holds no descriptor yet, and the table of the others stays as it is.
    let own = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE as i32) };
    assert_eq!(own, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_mount_that_cannot_be_marked_at_first_is_watched_later() {
    in_mount_namespace(|| {
        own_descriptors();
        let prepare = |dir: &Path| fs::create_dir(dir.join("m")).expect("made");
        let Some(b) = Bench::start(Choice::Fanotify, "/tmp", prepare) else {
            return;
        };
        let taken = no_descriptor_left();
        assert!(mount("tmpfs", &b.at("m"), "tmpfs", 0));
        b.sink.wait("degraded", |s| {
            let mut events = s.events.iter();
            events.any(|e| matches!(e, Event::Degraded(_)))
        });
        drop(taken);
        let unseen = b.write("m/unseen");
        b.sink.wait_event(&Event::Restored);
        let files = [unseen, b.write("m/f")];
        b.settle();
        b.assert_covered(&files);
        unmount(&b.at("m"));
    });
}

#[test]
fn a_root_that_is_a_mount_can_be_unmounted_and_comes_back() {
    in_mount_namespace(|| {
        each(|choice, base| {
            let prepare = |dir: &Path| {
                assert!(mount("tmpfs", dir, "tmpfs", 0));
                make_root(dir);
            };
            let Some(b) = Bench::start(choice, base, prepare) else {
                return;
            };
            b.write("f");
            b.settle();
            unmount(&b.dir);
            b.sink.wait_event(&Event::RootGone(ROOT));
            b.sink.wait_event(&Event::RootBack(ROOT));
            let file = [b.write("bare")];
            b.settle();
            b.assert_covered(&file);
            b.sink.lock().events.clear();
            assert!(mount("tmpfs", &b.dir, "tmpfs", 0));
            b.sink.wait_event(&Event::RootBack(ROOT));
            make_root(&b.dir);
            fs::create_dir(b.at("d")).expect("made");
            let file = [b.write("d/f")];
            b.settle();
            b.assert_covered(&file);
            unmount(&b.dir);
        });
    });
}

#[test]
fn a_root_reached_through_a_bind_mount() {
    in_mount_namespace(|| {
        each(|choice, base| {
            let prepare = |dir: &Path| {
                let source = dir.with_file_name("source");
                make_root(&source);
                let source = source.to_str().expect("plain").to_owned();
                assert!(mount(&source, dir, "none", libc::MS_BIND));
            };
            let Some(b) = Bench::start(choice, base, prepare) else {
                return;
            };
            let source = b.dir.with_file_name("source");
            fs::create_dir_all(b.at("a/b")).expect("made");
            let through = [b.write("a/b/f")];
            b.settle();
            b.assert_covered(&through);
            // The same file through the other name of the directory.
            fs::write(source.join("a/b/g"), super::CONTENT).expect("written");
            fs::write(b.dir.with_file_name("elsewhere"), b"x").expect("written");
            b.settle();
            b.assert_covered(&[b.at("a/b/g")]);
            unmount(&b.dir);
        });
    });
}

/// What runs in the user namespace: at most 40 watches, and no fanotify.
const INNER: &str = "OSM_TEST_WATCH_LIMIT";

#[test]
fn the_limit_of_watches_is_said_and_auto_falls_back() {
    if std::env::var_os(INNER).is_some() {
        return limited();
    }
    let exe = std::env::current_exe().expect("known");
    let name = "sys::watch::tests::privileged::the_limit_of_watches_is_said_and_auto_falls_back";
    let script = "echo 40 > /proc/sys/user/max_inotify_watches || exit 77; exec \"$0\" \"$@\"";
    let done = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script])
        .arg(exe)
        .args(["--exact", "--nocapture", name])
        .env(INNER, "1")
        .output();
    let done = match done {
        Ok(done) => done,
        Err(e) => return println!("skipped: no unshare: {e}"),
    };
    let out = String::from_utf8_lossy(&done.stdout);
    let err = String::from_utf8_lossy(&done.stderr);
    if done.status.success() {
        assert!(out.contains("1 passed"), "{out}{err}");
    } else if out.contains("running 1 test") {
        panic!("{out}{err}");
    } else {
        println!("skipped: no user namespace: {err}");
    }
}

fn limited() {
    let prepare = |dir: &Path| {
        for i in 0..100 {
            fs::create_dir(dir.join(i.to_string())).expect("made");
        }
    };
    let b = Bench::start(Choice::Auto, "/tmp", prepare).expect("falls back");
    let watcher = b.watcher.as_ref().expect("runs");
    assert_eq!(watcher.backend(), Backend::Inotify);
    let watched = watcher.directories();
    assert!((30..=40).contains(&watched), "{watched}");
    let told = |s: &super::bench::Seen| {
        let texts = s.events.iter().filter_map(|e| match e {
            Event::Degraded(text) => Some(text.contains("fs.inotify.max_user_watches")),
            _ => None,
        });
        texts.collect::<Vec<_>>() == [true]
    };
    b.sink.wait("the limit is told once", told);
    // What is watched stays watched; what is not has a subtree of its own when it is made.
    b.write("in-the-root");
    fs::create_dir(b.at("new")).expect("made");
    b.sink.wait_event(&Event::Subtree(path("new")));
    b.sink
        .wait("touched", |s| covers(&s.events, &path("in-the-root")));
    b.sink.wait("still told once", told);
    // What the message asks for helps without a restart.
    fs::write("/proc/sys/user/max_inotify_watches", "1000").expect("raised");
    b.sink.wait_event(&Event::Restored);
    assert!(watcher.directories() > 100, "{}", watcher.directories());
    let file = [b.write("99/f")];
    b.settle();
    b.assert_covered(&file);
    let exclude: ExcludeDir = std::sync::Arc::new(|_, _| false);
    let root = WatchRoot {
        id: ROOT,
        path: b.dir.clone(),
        only: None,
    };
    let refused = start(Choice::Fanotify, vec![root], exclude, b.sink.clone());
    let refused = refused.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        refused.starts_with("fanotify cannot watch") && refused.contains("hint"),
        "{refused}"
    );
}
