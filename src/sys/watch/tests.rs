//! One suite for both back ends, on a real kernel. Tests settle with cookies, so each of them
//! checks the order of cookies too; none of them sleeps.

mod bench;
mod churn;
mod privileged;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use bench::{Bench, CONTENT, ROOT, Recorder, covers, each, make_root, path};

#[test]
fn a_storm_in_new_directories_is_covered_before_the_cookie() {
    each(|choice, base| {
        let Some(b) = Bench::start(choice, base, |_| ()) else {
            return;
        };
        let mut files = Vec::new();
        for d in 0..500 {
            let dir = format!("a{}/b{d}/c", d % 7);
            fs::create_dir_all(b.at(&dir)).expect("made");
            files.extend((0..12).map(|f| b.write(format!("{dir}/{f}"))));
        }
        b.settle();
        b.assert_covered(&files);
        let dirs = if choice == Choice::Inotify { 1008 } else { 0 };
        let watched = b.watcher.as_ref().map(|w| w.directories());
        assert_eq!(watched, Some(dirs));
    });
}

#[test]
fn below_a_renamed_directory() {
    each(|choice, base| {
        let prepare = |dir: &Path| fs::create_dir_all(dir.join("d/s/t")).expect("made");
        let Some(b) = Bench::start(choice, base, prepare) else {
            return;
        };
        b.write("d/s/before");
        b.settle();
        for (from, to) in [
            ("d", "e"),
            ("e", "f"),
            ("f", "d"),
            ("d/s", "s"),
            ("s", "d/s"),
        ] {
            b.sink.lock().covered.clear();
            b.sink.lock().events.clear();
            fs::rename(b.at(from), b.at(to)).expect("renamed");
            let inner = [
                ("d", "s/t"),
                ("e", "s/t"),
                ("f", "s/t"),
                ("s", "t"),
                ("d/s", "t"),
            ];
            let inner = inner
                .iter()
                .find(|(d, _)| *d == to)
                .expect("in the table")
                .1;
            let files = [
                b.write(format!("{to}/f")),
                b.write(format!("{to}/{inner}/g")),
            ];
            b.settle();
            b.assert_covered(&files);
            let events = b.events();
            assert!(covers(&events, &path(from)) && covers(&events, &path(to)));
            // The queue may overflow by what other tests do on the same file system; then all is looked at.
            if choice == Choice::Fanotify && !events.contains(&Event::Overflow) {
                let pair = [from, to].map(|p| Event::Touched(path(p), Touch::Changed));
                assert!(events.windows(2).any(|w| w == pair), "{events:?}");
                // It may have been elsewhere meanwhile, so all of it is looked at, and nothing but it.
                let scans = events.iter().filter(|e| matches!(e, Event::Subtree(_)));
                assert!(
                    scans.eq([&Event::Subtree(path(to))]),
                    "{from} -> {to}: {events:?}"
                );
            }
        }
        // A rename right after writes, and the old name made again.
        for i in 0..30 {
            let (old, new) = (format!("r{i}"), format!("q{i}"));
            fs::create_dir_all(b.at(&old).join("x")).expect("made");
            fs::rename(b.at(&old), b.at(&new)).expect("renamed");
            fs::create_dir_all(b.at(&old).join("x")).expect("made");
            let files = [b.write(format!("{old}/x/1")), b.write(format!("{new}/x/2"))];
            b.settle();
            b.assert_covered(&files);
            let later = [b.write(format!("{old}/x/3")), b.write(format!("{new}/x/4"))];
            b.settle();
            b.assert_covered(&later);
        }
    });
}

#[test]
fn exchanged_directories() {
    each(|choice, base| {
        let prepare = |dir: &Path| {
            for d in ["a/x", "b/y"] {
                fs::create_dir_all(dir.join(d)).expect("made");
            }
        };
        let Some(b) = Bench::start(choice, base, prepare) else {
            return;
        };
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, b.at("a"), cwd, b.at("b"), flags).expect("exchanged");
        let mut files = vec![b.write("a/y/1"), b.write("b/x/1")];
        b.settle();
        files.extend([b.write("a/y/2"), b.write("b/x/2"), b.write("a/3")]);
        b.settle();
        b.assert_covered(&files);
    });
}

#[test]
fn moved_in_and_moved_out() {
    each(|choice, base| {
        let Some(b) = Bench::start(choice, base, |_| ()) else {
            return;
        };
        let outside = b.dir.with_file_name("outside");
        fs::create_dir_all(outside.join("x/y")).expect("made");
        fs::write(outside.join("x/y/old"), CONTENT).expect("written");
        fs::rename(&outside, b.at("in")).expect("moved");
        let files = [b.at("in/x/y/old"), b.write("in/x/new")];
        b.settle();
        b.assert_covered(&files);
        assert!(b.sink.lock().events.contains(&Event::Subtree(path("in"))));
        fs::rename(b.at("in"), &outside).expect("moved");
        assert!(covers(&b.events(), &path("in")));
        fs::write(outside.join("x/unseen"), CONTENT).expect("written");
        let events = b.events();
        // notify may be slower with removing the watch; a hint too many does no harm.
        assert!(events.is_empty() || choice == Choice::Inotify, "{events:?}");
    });
}

#[test]
fn what_each_change_says() {
    each(|choice, base| {
        let prepare = |dir: &Path| fs::write(dir.join("f"), b"x").expect("written");
        let Some(b) = Bench::start(choice, base, prepare) else {
            return;
        };
        let last = |b: &Bench, p: &str| {
            let events = b.events();
            let of = |e: &Event| match e {
                Event::Touched(t, touch) if *t == path(p) => Some(*touch),
                _ => None,
            };
            events.iter().filter_map(of).next_back()
        };
        fs::read(b.at("f")).expect("read");
        assert_eq!(b.events(), [], "reading says nothing");
        let open = fs::OpenOptions::new().append(true).open(b.at("f"));
        let mut open = open.expect("opened");
        std::io::Write::write_all(&mut open, b"more").expect("written");
        assert_eq!(last(&b, "f"), Some(Touch::Writing));
        drop(open);
        assert_eq!(last(&b, "f"), Some(Touch::Closed));
        let new = fs::File::create(b.at("g")).expect("created");
        assert_eq!(last(&b, "g"), Some(Touch::Writing));
        drop(new);
        assert_eq!(last(&b, "g"), Some(Touch::Closed));
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(b.at("f"), mode.clone()).expect("changed");
        assert_eq!(last(&b, "f"), Some(Touch::Changed));
        fs::hard_link(b.at("f"), b.at("hard")).expect("linked");
        assert_eq!(last(&b, "hard"), Some(Touch::Changed));
        symlink("nowhere", b.at("soft")).expect("linked");
        assert_eq!(last(&b, "soft"), Some(Touch::Changed));
        fs::create_dir(b.at("d")).expect("made");
        assert_eq!(last(&b, "d"), Some(Touch::Changed));
        fs::set_permissions(b.at("d"), fs::Permissions::from_mode(0o700)).expect("changed");
        assert_eq!(last(&b, "d"), Some(Touch::Changed));
        fs::set_permissions(&b.dir, fs::Permissions::from_mode(0o750)).expect("changed");
        assert_eq!(last(&b, ""), Some(Touch::Changed));
        fs::remove_file(b.at("f")).expect("removed");
        assert_eq!(last(&b, "f"), Some(Touch::Changed));
        fs::remove_dir(b.at("d")).expect("removed");
        assert_eq!(last(&b, "d"), Some(Touch::Changed));
    });
}

#[test]
fn names_of_all_bytes() {
    use std::os::unix::ffi::OsStrExt;
    each(|choice, base| {
        let Some(b) = Bench::start(choice, base, |_| ()) else {
            return;
        };
        let long = [b'x'; 255];
        let names = [
            &b"new\nline"[..],
            b"\xff\xfe",
            b" ",
            &long,
            b"a (deleted)",
            b"\\134",
        ];
        let mut files: Vec<PathBuf> = Vec::new();
        for name in names {
            let name = std::ffi::OsStr::from_bytes(name);
            fs::create_dir(b.at(name)).expect("made");
            b.settle();
            files.push(b.write(b.at(name).join(name)));
        }
        b.settle();
        b.assert_covered(&files);
        // Deeper than PATH_MAX, as far as a path can go; made hop by hop.
        let mut dir: std::os::fd::OwnedFd = fs::File::open(&b.dir).expect("opened").into();
        for _ in 0..24 {
            use rustix::fs::{Mode, OFlags, mkdirat, openat};
            mkdirat(&dir, &long[..200], Mode::RWXU).expect("made");
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            dir = openat(&dir, &long[..200], flags, Mode::empty()).expect("opened");
        }
        let deep = [&long[..200]; 24].join(&b'/');
        let events = b.events();
        let said = events.iter().any(|e| matches!(e, Event::Degraded(_)));
        assert!(covers(&events, &path(&deep)) || said, "{:?}", events.len());
    });
}

#[test]
fn the_root_is_removed_and_made_again() {
    each(|choice, base| {
        let prepare = |dir: &Path| fs::create_dir_all(dir.join("a/b")).expect("made");
        let Some(b) = Bench::start(choice, base, prepare) else {
            return;
        };
        let gone = |n: usize| {
            move |s: &bench::Seen| {
                let of = |e: &Event| s.events.iter().filter(|x| *x == e).count();
                of(&Event::RootGone(ROOT)) == n && of(&Event::RootBack(ROOT)) + 1 == n
            }
        };
        let back = |s: &bench::Seen| s.events.last() == Some(&Event::RootBack(ROOT));
        fs::remove_dir_all(&b.dir).expect("removed");
        b.sink.wait("gone", gone(1));
        make_root(&b.dir);
        b.sink
            .wait("back", |s| s.events.contains(&Event::RootBack(ROOT)));
        fs::create_dir(b.at("n")).expect("made");
        let files = [b.write("n/f")];
        b.settle();
        b.assert_covered(&files);
        // At once, and by another directory.
        let other = b.dir.with_file_name("other");
        make_root(&other);
        b.sink.lock().events.clear();
        fs::rename(&b.dir, b.dir.with_file_name("away")).expect("moved");
        fs::rename(&other, &b.dir).expect("moved");
        b.sink.wait("replaced", |s| {
            back(s) || s.events.contains(&Event::RootBack(ROOT))
        });
        let files = [b.write("g")];
        b.settle();
        b.assert_covered(&files);
    });
}

#[test]
fn a_root_that_is_missing_at_the_start() {
    each(|choice, base| {
        let Some(b) = Bench::start(choice, base, |dir| {
            fs::remove_dir_all(dir).expect("removed");
        }) else {
            return;
        };
        b.sink.wait_event(&Event::RootGone(ROOT));
        make_root(&b.dir);
        b.sink.wait_event(&Event::RootBack(ROOT));
        let files = [b.write("f")];
        b.settle();
        b.assert_covered(&files);
        let gone = Event::RootGone(ROOT);
        assert_eq!(
            b.sink.lock().events.iter().filter(|e| **e == gone).count(),
            1
        );
    });
}

#[test]
fn a_link_in_place_of_a_directory_is_not_followed() {
    each(|choice, base| {
        let prepare = |dir: &Path| fs::create_dir_all(dir.join("d/x")).expect("made");
        let Some(b) = Bench::start(choice, base, prepare) else {
            return;
        };
        let outside = b.dir.with_file_name("outside");
        fs::create_dir_all(outside.join("x")).expect("made");
        fs::remove_dir_all(b.at("d")).expect("removed");
        symlink(&outside, b.at("d")).expect("linked");
        assert!(covers(&b.events(), &path("d")));
        fs::write(outside.join("f"), CONTENT).expect("written");
        fs::write(outside.join("x/f"), CONTENT).expect("written");
        assert_eq!(b.events(), []);
    });
}

#[test]
fn a_single_file_is_a_root() {
    each(|choice, base| {
        let prepare = |dir: &Path| fs::create_dir(dir.join("d")).expect("made");
        let only = Some(&b"passwd"[..]);
        let Some(b) = Bench::start_with(choice, base, prepare, only, |_, _| false) else {
            return;
        };
        b.write("other");
        b.write("d/passwd");
        assert_eq!(b.events(), []);
        b.write("passwd.new");
        fs::rename(b.at("passwd.new"), b.at("passwd")).expect("renamed");
        let expected = [Event::Touched(path("passwd"), Touch::Changed)];
        assert_eq!(b.events(), expected);
    });
}

#[test]
fn excluded_and_private_directories_are_silent() {
    each(|choice, base| {
        let prepare = |dir: &Path| fs::create_dir_all(dir.join("a/cache/x")).expect("made");
        let exclude = |_: RootId, p: &RelPath| p.name() == Some(b"cache");
        let Some(b) = Bench::start_with(choice, base, prepare, None, exclude) else {
            return;
        };
        b.write("a/cache/x/f");
        fs::create_dir_all(b.at("a/cache/y/z")).expect("made");
        fs::create_dir(b.at(".osm-failover/staging")).expect("made");
        b.write(".osm-failover/staging/t");
        b.write(".osm-failover/cookies/no-number");
        assert_eq!(b.events(), []);
        // Out of what is excluded: its contents had no events.
        fs::rename(b.at("a/cache/x"), b.at("x")).expect("moved");
        b.settle();
        b.assert_covered(&[b.at("x/f")]);
        fs::rename(b.at(".osm-failover/staging/t"), b.at("t")).expect("moved");
        assert!(covers(&b.events(), &path("t")));
    });
}

#[test]
fn lost_events_end_in_a_subtree_and_the_watch_goes_on() {
    each(|choice, base| {
        if base == "/tmp" && Path::new("/dev/shm").is_dir() {
            return; // 20,000 files on a disk would only be slow.
        }
        let Some(mut b) = Bench::start(choice, base, |_| ()) else {
            return;
        };
        if choice == Choice::Inotify {
            // notify drains the kernel's queue at once; ours overflows instead.
            drop(b.watcher.take());
            let root = WatchRoot {
                id: ROOT,
                path: b.dir.clone(),
                only: None,
            };
            let sink: Arc<dyn Sink> = b.sink.clone();
            let exclude: ExcludeDir = Arc::new(|_, _| false);
            let started = inotify::start(vec![root], exclude, sink, 500);
            b.watcher = Some(Box::new(started.expect("starts")));
        }
        b.sink.block();
        b.write("first");
        b.sink.wait("blocked", |s| s.waiting);
        let mut files = Vec::new();
        fs::create_dir_all(b.at("born/meanwhile")).expect("made");
        for i in 0..20_000 {
            // In the root, which inotify watches even while our thread is blocked.
            let file = b.at(format!("{i}"));
            fs::write(&file, CONTENT).expect("written");
            files.push(file);
        }
        fs::create_dir_all(b.at("late/meanwhile")).expect("made");
        files.push(b.write("late/meanwhile/f"));
        b.sink.unblock();
        b.settle();
        b.assert_covered(&files);
        {
            let seen = b.sink.lock();
            let at = seen.events.iter().position(|e| *e == Event::Overflow);
            let rest = &seen.events[at.expect("an overflow")..];
            assert!(rest.contains(&Event::Subtree(path(""))));
        }
        let later = [b.write("born/meanwhile/g"), b.write("late/meanwhile/g")];
        b.settle();
        b.assert_covered(&later);
    });
}

#[test]
fn two_roots_in_one_directory_tree_and_a_linked_one() {
    each(|choice, base| {
        let tmp = tempfile::tempdir_in(base).expect("temporary directory");
        let dir = tmp.path().canonicalize().expect("exists");
        let (one, two, link) = (dir.join("one"), dir.join("two"), dir.join("link"));
        make_root(&one);
        make_root(&two);
        symlink(&two, &link).expect("linked");
        let sink = Recorder::new(&dir);
        let root = |id, path: &PathBuf, only: Option<&[u8]>| WatchRoot {
            id: RootId(id),
            path: path.clone(),
            only: only.map(<[u8]>::to_vec),
        };
        let roots = vec![
            root(0, &one, None),
            root(1, &link, None),
            root(2, &one, Some(b"f")),
        ];
        let started = start(choice, roots, Arc::new(|_, _| false), sink.clone());
        let Ok((watcher, _)) = started else {
            println!("skipped: fanotify cannot run here");
            return;
        };
        fs::write(one.join("f"), b"x").expect("written");
        fs::write(two.join("g"), b"x").expect("written");
        fs::write(two.join(".osm-failover/cookies/7"), b"").expect("written");
        sink.wait_event(&Event::Cookie(7));
        drop(watcher);
        let seen = sink.lock();
        let closed = |id, p: &str| {
            let path = RelPath::parse(p.as_bytes()).expect("safe");
            seen.events.contains(&Event::Touched(
                TreePath::new(RootId(id), path),
                Touch::Closed,
            ))
        };
        assert!(
            closed(0, "f") && closed(1, "g") && closed(2, "f"),
            "{:?}",
            seen.events
        );
        assert!(!closed(0, "g") && !closed(1, "f") && !closed(2, "g"));
    });
}

#[test]
fn dropping_ends_at_once_and_says_nothing_more() {
    each(|choice, base| {
        let Some(mut b) = Bench::start(choice, base, |_| ()) else {
            return;
        };
        let begin = std::time::Instant::now();
        drop(b.watcher.take());
        assert!(begin.elapsed() < std::time::Duration::from_secs(2));
        let count = Arc::strong_count(&b.sink);
        b.write("after");
        assert_eq!(count, 1, "no thread holds the sink");
        assert!(b.sink.lock().events.is_empty());
    });
}
