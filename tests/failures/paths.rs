//! Single paths that cannot be read here or made there, edits on the standby, a full disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::kinds::noise;
use crate::common::node::{Pair, Side};
use crate::common::steps::{
    Immutable, LONG, Mount, activate, ctl, deactivate, flushed_equal, has_problem, idle, in_sync,
    is_preserved, is_root, lose_index, start, unprivileged, until, wait_equal, wait_peer,
    wait_problem,
};
use crate::options;

/// Changes who may read what stands there.
fn change(at: &Path, mode: u32) {
    fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn an_unreadable_file_is_a_problem_of_its_own() {
    let Some(options) = unprivileged(options!()) else {
        return;
    };
    let mut pair = in_sync(options);
    let root = pair.root(Side::A, "data");
    let closed = root.join("closed");
    fs::write(&closed, "not yet").expect("a file");
    pair.flush().expect("flush");
    fs::write(root.join("new.tmp"), "secret").expect("a file");
    change(&root.join("new.tmp"), 0o0);
    fs::rename(root.join("new.tmp"), &closed).expect("replaced");
    fs::write(root.join("open"), "goes on").expect("a file");
    wait_problem(&mut pair, "data:closed", true);
    let other = pair.root(Side::B, "data");
    let came = until(LONG, || {
        fs::read(other.join("open")).is_ok_and(|c| c == b"goes on")
    });
    assert!(came, "others wait for one unreadable file");
    change(&closed, 0o644);
    wait_problem(&mut pair, "data:closed", false);
    wait_equal(&pair, "data");
}

/// A standby without an index cannot tell what stands there, and says so until it can; then it is preserved, as all that only
/// it has.
#[test]
fn what_a_new_standby_cannot_list_is_a_problem_until_it_can() {
    let Some(options) = unprivileged(options!()) else {
        return;
    };
    let mut pair = idle(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for (root, dirs) in [
        (&a, &["closed", "kept"][..]),
        (&b, &["closed", "kept", "own"]),
    ] {
        for dir in dirs {
            fs::create_dir(root.join(dir)).expect("a directory");
        }
    }
    for dir in ["closed", "kept", "own"] {
        let text = format!("in {dir} on B alone");
        fs::write(b.join(dir).join("stray"), text).expect("a file");
        change(&b.join(dir), 0o0);
    }
    let Some(refuses) = Immutable::new(&b.join("kept")) else {
        return;
    };
    activate(&pair, Side::A);
    wait_problem(&mut pair, "data:kept", true);
    let preserved = |pair: &Pair, dir| {
        let text = format!("in {dir} on B alone");
        is_preserved(pair, Side::B, "data", text.as_bytes())
    };
    // It got its mode with the first round.
    assert!(until(LONG, || preserved(&pair, "closed")));
    wait_problem(&mut pair, "data:own", true);
    assert!(!preserved(&pair, "kept") && !preserved(&pair, "own"));
    change(&b.join("own"), 0o755);
    assert!(until(LONG, || preserved(&pair, "own")));
    drop(refuses);
    assert!(until(LONG, || preserved(&pair, "kept")));
    wait_problem(&mut pair, "data:kept", false);
    wait_equal(&pair, "data");
}

/// An active node whose index is made anew does not know what stands in a directory that it cannot list, and must not have it
/// deleted on the other node.
#[test]
fn what_a_new_index_of_the_active_node_cannot_list_stays_on_the_standby() {
    let Some(options) = unprivileged(options!()) else {
        return;
    };
    let mut pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir_all(a.join("closed/deeper")).expect("directories");
    for name in ["gone", "kept", "deeper/kept"] {
        fs::write(a.join("closed").join(name), name).expect("a file");
    }
    flushed_equal(&pair, "data");
    let inode = || {
        fs::metadata(b.join("closed/deeper/kept"))
            .expect("a file")
            .ino()
    };
    pair.stop(Side::A);
    lose_index(&pair, Side::A);
    fs::remove_file(a.join("closed/gone")).expect("removed");
    let closed = a.join("closed");
    change(&closed, 0o0);
    let stood = inode();
    // A further process knows no more.
    for _ in 0..2 {
        start(&mut pair, Side::A);
        wait_peer(&mut pair, "in-sync", "");
        wait_problem(&mut pair, "data:closed", true);
        pair.stop(Side::A);
    }
    start(&mut pair, Side::A);
    change(&closed, 0o755);
    wait_problem(&mut pair, "data:closed", false);
    wait_equal(&pair, "data");
    assert!(a.join("closed/deeper/kept").exists() && !a.join("closed/gone").exists());
    assert_eq!(inode(), stood, "it was away");
}

/// What cannot be read is not told to be missing, nor to be another content.
#[test]
fn a_comparison_says_what_it_could_not_read() {
    let Some(options) = unprivileged(options!()) else {
        return;
    };
    let mut pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("dir")).expect("a directory");
    fs::write(a.join("dir/within"), "x").expect("a file");
    fs::write(a.join("closed"), "x").expect("a file");
    flushed_equal(&pair, "data");
    change(&a.join("closed"), 0o0);
    wait_problem(&mut pair, "data:closed", true);
    change(&b.join("dir"), 0o0);
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert_eq!(code, 1, "{said}");
    let mut lines: Vec<_> = said.lines().filter(|l| l.starts_with("data:")).collect();
    lines.sort_unstable();
    let expected = [
        "data:closed  unreadable-here",
        "data:dir  mode",
        "data:dir  unreadable-on-peer",
        "data:dir/within  unreadable-on-peer",
    ];
    assert_eq!(lines, expected, "{said}");
    change(&a.join("closed"), 0o644);
    wait_problem(&mut pair, "data:closed", false);
    wait_equal(&pair, "data");
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert_eq!(code, 0, "{said}");
}

/// Whoever asks whether everything is on the peer is told that it is not, until it is.
#[test]
fn no_flush_passes_over_what_cannot_be_read() {
    let Some(options) = unprivileged(options!()) else {
        return;
    };
    let mut pair = in_sync(options);
    let root = pair.root(Side::A, "data");
    let (file, dir) = (root.join("closed"), root.join("dir"));
    fs::create_dir(&dir).expect("a directory");
    pair.flush().expect("flush");
    fs::write(&file, "secret").expect("a file");
    change(&file, 0o0);
    wait_problem(&mut pair, "data:closed", true);
    let flush = ["flush", "--timeout", "3s"];
    let (code, text) = ctl(&pair, Side::A, &flush);
    assert_eq!(code, 7, "{text}");
    change(&file, 0o600);
    flushed_equal(&pair, "data");
    // A directory that comes from elsewhere is listed.
    let away = pair.dir().join("away");
    fs::create_dir(&away).expect("a directory");
    fs::write(away.join("within"), "x").expect("a file");
    change(&away, 0o0);
    fs::rename(&away, dir.join("came")).expect("renamed");
    wait_problem(&mut pair, "data:dir/came", true);
    let (code, text) = ctl(&pair, Side::A, &flush);
    assert_eq!(code, 7, "{text}");
    change(&dir.join("came"), 0o700);
    flushed_equal(&pair, "data");
}

/// A look at the directory itself finds nothing wrong with it.
#[test]
fn a_directory_that_cannot_be_listed_stays_a_problem_until_it_can() {
    let Some(options) = unprivileged(options!()) else {
        return;
    };
    let mut pair = idle(options);
    let root = pair.root(Side::A, "data");
    let closed = root.join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::write(closed.join("within"), "x").expect("a file");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    pair.kill(Side::A);
    fs::write(closed.join("later"), "x").expect("a file");
    change(&closed, 0o0);
    start(&mut pair, Side::A);
    wait_problem(&mut pair, "data:closed", true);
    // Longer than the first tries take.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        let status = pair.status().expect("a status");
        assert!(has_problem(&status, "data:closed"), "{status}");
    }
    change(&closed, 0o755);
    let begun = Instant::now();
    wait_problem(&mut pair, "data:closed", false);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "it was not listed at once"
    );
    wait_equal(&pair, "data");
}

#[test]
fn a_path_the_standby_cannot_make_is_a_problem_of_its_own() {
    if !is_root("a path the standby cannot make") {
        return;
    }
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("d")).expect("a directory");
    fs::write(a.join("d/f"), "one").expect("a file");
    flushed_equal(&pair, "data");
    let Some(refuses) = Immutable::new(&b.join("d")) else {
        return;
    };
    fs::write(a.join("d/g"), "refused").expect("a file");
    fs::write(a.join("beside"), "goes on").expect("a file");
    let came = until(LONG, || {
        fs::read(b.join("beside")).is_ok_and(|c| c == b"goes on")
    });
    let listed = until(LONG, || {
        pair.status()
            .is_ok_and(|s| crate::common::steps::has_problem(&s, "data:d/g"))
    });
    let status = pair.status();
    drop(refuses);
    assert!(came, "others wait for one path: {status:?}");
    assert!(listed, "{status:?}");
    wait_problem(&mut pair, "data:d/g", false);
    wait_equal(&pair, "data");
    pair.wait_status(LONG, "without problems", |s| {
        s["problems"].as_array().is_some_and(Vec::is_empty)
    })
    .expect("no problem is left");
}

/// What the peer refused is on this node alone, also after this node's process ended and the peer is away: a number that
/// was acknowledged says nothing of it.
#[test]
fn what_the_peer_refused_is_pending_after_a_restart() {
    if !is_root("a path the standby cannot make") {
        return;
    }
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("d")).expect("a directory");
    flushed_equal(&pair, "data");
    let Some(refuses) = Immutable::new(&b.join("d")) else {
        return;
    };
    fs::write(a.join("d/g"), "refused").expect("a file");
    let listed = until(LONG, || {
        pair.status().is_ok_and(|s| has_problem(&s, "data:d/g"))
    });
    pair.cut().expect("cut");
    let noted = pair.wait_status(LONG, "unreachable", |s| s["peer"]["state"] == "unreachable");
    pair.kill_daemon(Side::A);
    activate(&pair, Side::A);
    let told = until(LONG, || {
        let status = pair.status_of(Side::A);
        status.is_ok_and(|s| s["pending"]["paths"].as_u64() > Some(0))
    });
    let left = deactivate(&pair, Side::A);
    drop(refuses);
    assert!(listed, "refused");
    noted.expect("noticed");
    assert!(told, "nothing is said to be pending");
    assert!(left["paths"].as_u64() > Some(0), "{left}");
    pair.restore().expect("mended");
    activate(&pair, Side::A);
    wait_equal(&pair, "data");
}

#[test]
fn edits_on_the_standby_are_preserved_and_found() {
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for name in ["over", "gone", "found"] {
        fs::write(a.join(name), name).expect("a file");
    }
    flushed_equal(&pair, "data");
    for name in ["over", "gone", "found"] {
        fs::write(b.join(name), format!("{name}, edited on the standby")).expect("an edit");
    }
    fs::write(b.join("stray"), "made on the standby").expect("a file");
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert_ne!(code, 0, "{said}");
    for name in ["over", "gone", "found", "stray"] {
        assert!(said.contains(name), "{name} is not in:\n{said}");
    }
    wait_equal(&pair, "data");
    for name in ["over", "gone", "found"] {
        let edit = format!("{name}, edited on the standby");
        assert!(
            is_preserved(&pair, Side::B, "data", edit.as_bytes()),
            "{name}"
        );
    }
    assert!(is_preserved(&pair, Side::B, "data", b"made on the standby"));
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert_eq!(code, 0, "{said}");
    pair.wait_in_sync(LONG).expect("in sync");
}

#[test]
fn edits_on_the_standby_are_preserved_when_overwritten_and_deleted() {
    let pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("tree")).expect("a directory");
    for name in ["over", "gone", "tree/inside"] {
        fs::write(a.join(name), name).expect("a file");
    }
    flushed_equal(&pair, "data");
    for name in ["over", "gone", "tree/inside"] {
        fs::write(b.join(name), format!("{name}, edited on the standby")).expect("an edit");
    }
    fs::write(b.join("tree/stray"), "a stray file").expect("a file");
    fs::write(a.join("over"), "the new content").expect("a file");
    fs::remove_file(a.join("gone")).expect("removed");
    fs::remove_dir_all(a.join("tree")).expect("removed");
    flushed_equal(&pair, "data");
    for name in ["over", "gone"] {
        let edit = format!("{name}, edited on the standby");
        assert!(
            is_preserved(&pair, Side::B, "data", edit.as_bytes()),
            "{name}"
        );
    }
    let dir = b.join(".osm-failover/preserved");
    let kept = |content: &[u8]| {
        walkdir::WalkDir::new(&dir)
            .into_iter()
            .flatten()
            .any(|f| f.file_type().is_file() && fs::read(f.path()).is_ok_and(|c| c == content))
    };
    assert!(kept(b"tree/inside, edited on the standby"));
    assert!(kept(b"a stray file"));
}

#[test]
fn a_full_disk_on_the_standby_holds_and_goes_on() {
    if !is_root("a full disk") {
        return;
    }
    let mut pair = idle(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let _mount = Mount::tmpfs(&b, "6m");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    fs::write(a.join("small"), "fits").expect("a file");
    flushed_equal(&pair, "data");
    fs::write(b.join(".osm-failover/ballast"), noise(4 << 20, 1)).expect("ballast");
    fs::write(a.join("large"), noise(3 << 20, 2)).expect("a file");
    for i in 0..20 {
        fs::write(a.join(format!("f{i}")), noise(50_000, 3 + i)).expect("a file");
    }
    pair.wait_status(LONG, "saying that the disk is full", |s| {
        s.to_string().contains("No space left")
    })
    .expect("the message");
    assert_eq!(fs::read(b.join("small")).expect("still there"), b"fits");
    fs::remove_file(b.join(".osm-failover/ballast")).expect("space is freed");
    wait_equal(&pair, "data");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
}

#[test]
fn content_that_nothing_names_any_more_is_given_up() {
    let pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("stays"), "or the root is empty").expect("a file");
    let content = vec![7u8; 6 << 20];
    for i in 0..30 {
        let dir = a.join(format!("d{i}"));
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("large"), &content).expect("a file");
        // Gone at any moment of its way: before it is read, while it is, and after.
        std::thread::sleep(Duration::from_millis(i));
        fs::remove_dir_all(&dir).expect("removed");
    }
    flushed_equal(&pair, "data");
    let left = || -> Vec<_> {
        let staging = fs::read_dir(b.join(".osm-failover/staging")).expect("the staging area");
        staging.flatten().map(|e| e.file_name()).collect()
    };
    assert!(until(LONG, || left().is_empty()), "{:?}", left());
}
