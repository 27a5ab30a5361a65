//! Roots that are missing, emptied, unmounted or replaced: nothing of them is deleted on the standby.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::node::{Options, Pair, Side};
use crate::common::steps::{
    LONG, Mount, ctl, ctl_when_free, daemon_ended, flushed_equal, idle, in_sync, is_root,
    lose_index, must, preserved, start, state, until, wait_equal, wait_peer, wait_problem, well,
};
use crate::common::tree;
use crate::options;

fn two_roots() -> Options {
    let mut options = options!();
    options.roots = vec![
        ("one".to_owned(), "/one".to_owned()),
        ("two".to_owned(), "/two".to_owned()),
    ];
    options
}

fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("d/e")).expect("directories");
    for name in ["f", "d/g", "d/e/h"] {
        fs::write(dir.join(name), name).expect("a file");
    }
}

/// A change in root `two` arrives, which proves that the engine went on after what was done to `one`.
fn other_root_goes_on(pair: &Pair, mark: &str) {
    fs::write(pair.root(Side::A, "two").join(mark), mark).expect("a file");
    let there = pair.root(Side::B, "two").join(mark);
    assert!(
        until(LONG, || there.exists()),
        "the other root stands still: {:?}",
        pair.status()
    );
}

#[test]
fn a_root_that_is_missing_at_the_start_is_named() {
    let pair = idle(options!());
    let root = pair.root(Side::A, "data");
    fs::remove_dir_all(&root).expect("removed");
    let (code, text) = daemon_ended(&pair, Side::A);
    assert_ne!(code, 0, "{text}");
    assert!(text.contains(&root.display().to_string()), "{text}");
    assert!(
        text.contains("hint:") || text.contains("mount"),
        "no remedy: {text}"
    );
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_root_that_is_missing_on_the_standby_is_named() {
    let mut pair = idle(options!());
    let root = pair.root(Side::B, "data");
    fs::remove_dir_all(&root).expect("removed");
    start(&mut pair, Side::A);
    let shown = root.display().to_string();
    pair.wait_status(LONG, "naming the missing root", |s| {
        s["peer"]["reason"].as_str().unwrap_or("").contains(&shown)
    })
    .expect("the reason");
    fs::create_dir(&root).expect("made");
    fs::write(pair.root(Side::A, "data").join("f"), "later").expect("a file");
    wait_equal(&pair, "data");
}

#[test]
fn an_emptied_root_deletes_nothing() {
    let mut pair = in_sync(two_roots());
    let one = pair.root(Side::A, "one");
    fill(&one);
    fs::remove_file(one.join("f")).expect("removed");
    flushed_equal(&pair, "one");
    let before = tree::snapshot(&pair.root(Side::B, "one")).expect("B can be read");
    // One rename empties it, as an unmount does; file by file each delete would be a change like any other.
    let aside = pair.dir().join("aside");
    fs::rename(one.join("d"), &aside).expect("moved away");
    wait_problem(&mut pair, "one:.", true);
    assert_eq!(pair.status().expect("status")["halted_roots"][0], "one");
    let told = well(&pair, Side::A, &["status", "--ocf"]);
    assert_eq!(told, "active degraded 10000\n");
    other_root_goes_on(&pair, "mark");
    let after = tree::snapshot(&pair.root(Side::B, "one")).expect("B can be read");
    let lost: Vec<_> = before.keys().filter(|k| !after.contains_key(*k)).collect();
    assert!(lost.is_empty(), "deleted on the standby: {lost:?}");
    fs::rename(&aside, one.join("d")).expect("moved back");
    fs::write(one.join("new"), "goes on").expect("a file");
    wait_problem(&mut pair, "one:.", false);
    let told = well(&pair, Side::A, &["status", "--ocf"]);
    assert_eq!(told, "active ok 10000\n");
    wait_equal(&pair, "one");
}

#[test]
fn a_root_that_is_removed_and_made_again_is_taken_up() {
    let mut pair = in_sync(two_roots());
    let one = pair.root(Side::A, "one");
    fill(&one);
    flushed_equal(&pair, "one");
    let aside = pair.dir().join("aside");
    fs::rename(&one, &aside).expect("moved away");
    wait_problem(&mut pair, "one:.", true);
    other_root_goes_on(&pair, "mark");
    assert!(
        pair.root(Side::B, "one").join("d/e/h").exists(),
        "deleted on the standby"
    );
    // Another directory, with other content, at the same path.
    let fresh = pair.dir().join("fresh");
    fill(&fresh);
    fs::write(fresh.join("f"), "other content").expect("a file");
    fs::write(fresh.join("new"), "new").expect("a file");
    fs::remove_file(fresh.join("d/g")).expect("removed");
    fs::rename(&fresh, &one).expect("made again");
    wait_problem(&mut pair, "one:.", false);
    wait_equal(&pair, "one");
    fs::write(one.join("d/e/later"), "is watched").expect("a file");
    wait_equal(&pair, "one");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "one");
    flushed_equal(&pair, "two");
}

#[test]
fn an_unmounted_root_deletes_nothing() {
    if !is_root("an unmounted root") {
        return;
    }
    let mut pair = idle(two_roots());
    let one = pair.root(Side::A, "one");
    let mount = Mount::tmpfs(&one, "8m");
    fill(&one);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "one");
    must("umount", &["-l", &one.display().to_string()]);
    wait_problem(&mut pair, "one:.", true);
    other_root_goes_on(&pair, "mark");
    let there = pair.root(Side::B, "one");
    for name in ["f", "d/g", "d/e/h"] {
        assert_eq!(
            fs::read(there.join(name)).expect("still there"),
            name.as_bytes()
        );
    }
    drop(mount);
    // A process that begins takes what stands there for the root where a person says so, and then as one without data.
    pair.stop(Side::A);
    well(&pair, Side::A, &["approve", "one"]);
    start(&mut pair, Side::A);
    fs::write(one.join("new"), "goes on").expect("a file");
    wait_equal(&pair, "one");
    assert!(there.join("d/e/h").exists(), "deleted on the standby");
    pair.wait_in_sync(Duration::from_secs(40)).expect("in sync");
}

/// A root of two hundred files, old enough that their loss counts.
fn many(window: &str) -> Pair {
    let mut options = options!();
    options.sync_lines = format!("max_delete = {{ percent = 50, window = \"{window}\" }}\n");
    let pair = in_sync(options);
    let a = pair.root(Side::A, "data");
    for dir in ["one", "two"] {
        fs::create_dir(a.join(dir)).expect("a directory");
        for i in 0..150 {
            fs::write(a.join(dir).join(format!("f{i}")), "content").expect("a file");
        }
    }
    flushed_equal(&pair, "data");
    // Files younger than the window come and go without anybody being asked.
    let newest = fs::metadata(a.join("two/f149")).expect("a file");
    let age = || newest.modified().ok().and_then(|t| t.elapsed().ok());
    assert!(until(LONG, || age() > Some(Duration::from_millis(1200))));
    pair
}

/// Waits until the root is held; why it is.
fn told_of_root(pair: &mut Pair) -> String {
    wait_problem(pair, "data:.", true);
    let status = pair.status().expect("a status");
    let problems = status["problems"].as_array().expect("a list");
    let of_root = problems.iter().find(|p| p["path"] == "data:.");
    of_root.expect("the root")["cause"]
        .as_str()
        .expect("a cause")
        .to_owned()
}

fn files(root: &Path) -> usize {
    let below =
        ["one", "two", "three"].map(|d| fs::read_dir(root.join(d)).map_or(0, Iterator::count));
    below.iter().sum()
}

#[test]
fn a_mass_deletion_waits_for_a_person() {
    let mut pair = many("1s");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    // While nobody watches, so that it is found at once.
    pair.stop(Side::A);
    fs::remove_dir_all(a.join("one")).expect("removed");
    for i in 0..60 {
        fs::remove_file(a.join(format!("two/f{i}"))).expect("removed");
    }
    start(&mut pair, Side::A);
    let told = told_of_root(&mut pair);
    assert!(
        told.contains("max_delete") && told.contains("syncctl approve data"),
        "{told}"
    );
    assert_eq!(files(&b), 300, "nothing was deleted");
    let (code, text) = ctl(&pair, Side::A, &["flush", "--timeout", "5s"]);
    assert_eq!(code, 6, "{text}");
    let (code, text) = ctl(&pair, Side::A, &["approve", "nowhere"]);
    assert_eq!(code, 2, "{text}");
    let text = well(&pair, Side::A, &["approve"]);
    assert!(text.contains("data"), "{text}");
    flushed_equal(&pair, "data");
    assert_eq!(files(&b), 90);
    assert!(well(&pair, Side::A, &["approve"]).contains("nothing waits"));
}

#[test]
fn what_was_missing_and_is_put_back_needs_no_approval() {
    let mut pair = many("1s");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    pair.stop(Side::A);
    let aside = pair.dir().join("aside");
    fs::rename(a.join("one"), &aside).expect("moved away");
    for i in 0..60 {
        fs::remove_file(a.join(format!("two/f{i}"))).expect("removed");
    }
    start(&mut pair, Side::A);
    wait_problem(&mut pair, "data:.", true);
    fs::rename(&aside, a.join("one")).expect("put back");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    assert_eq!(files(&b), 240);
}

#[test]
fn renames_are_no_deletions() {
    let mut pair = many("1s");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    pair.stop(Side::A);
    fs::create_dir(a.join("three")).expect("a directory");
    for dir in ["one", "two"] {
        for i in 0..150 {
            let to = a.join(format!("three/{dir}{i}"));
            fs::rename(a.join(dir).join(format!("f{i}")), to).expect("renamed");
        }
    }
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    assert_eq!(files(&b), 300);
}

/// A directory by one rename, and its files one by one, so many that both names of one are not looked at together.
#[test]
fn renames_that_are_watched_are_no_deletions() {
    let mut pair = many("1s");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::rename(a.join("one"), a.join("a new name")).expect("renamed");
    fs::rename(a.join("two"), a.join("a new name/two")).expect("renamed");
    flushed_equal(&pair, "data");
    assert_eq!(files(&b.join("a new name")), 150);
    fs::rename(a.join("a new name"), a.join("one")).expect("renamed");
    flushed_equal(&pair, "data");
    for to in ["three", "before"] {
        fs::create_dir(a.join(to)).expect("a directory");
        let from = [a.join("one"), a.join("three")].into_iter();
        let from = from.rev().find(|d| d.join("f0").exists()).expect("one");
        for i in 0..150 {
            let name = format!("f{i}");
            fs::rename(from.join(&name), a.join(to).join(&name)).expect("renamed");
        }
        flushed_equal(&pair, "data");
        assert_eq!(fs::read_dir(b.join(to)).expect("there").count(), 150);
    }
    pair.wait_in_sync(LONG).expect("in sync");
}

#[test]
fn a_removal_that_is_watched_is_stopped_on_its_way() {
    let mut options = options!();
    options.sync_lines = "max_delete = { count = 100, window = \"1s\" }\n".into();
    let mut pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("one")).expect("a directory");
    fs::write(a.join("stays"), "content").expect("a file");
    for i in 0..500 {
        fs::write(a.join(format!("one/f{i}")), "content").expect("a file");
    }
    flushed_equal(&pair, "data");
    let newest = fs::metadata(a.join("one/f499")).expect("a file");
    let age = || newest.modified().ok().and_then(|t| t.elapsed().ok());
    assert!(until(LONG, || age() > Some(Duration::from_millis(1200))));
    fs::remove_dir_all(a.join("one")).expect("removed");
    wait_problem(&mut pair, "data:.", true);
    assert!(files(&b) >= 400, "{}", files(&b));
    well(&pair, Side::A, &["approve", "data"]);
    flushed_equal(&pair, "data");
    assert!(!b.join("one").exists());
}

#[test]
fn a_vanished_mount_inside_a_root_deletes_nothing() {
    if !is_root("a mount inside a root") {
        return;
    }
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("inner")).expect("a directory");
    fs::write(a.join("beside"), "content").expect("a file");
    let mount = Mount::tmpfs(&a.join("inner"), "8m");
    for i in 0..5 {
        fs::write(a.join(format!("inner/f{i}")), "content").expect("a file");
    }
    // One mark covers one file system; a restart has the new one found.
    pair.stop(Side::A);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    assert!(until(LONG, || b.join("inner/f4").exists()));
    pair.stop(Side::A);
    let kept = pair.dir().join("kept");
    fs::create_dir(&kept).expect("a directory");
    for i in 0..5 {
        fs::copy(a.join(format!("inner/f{i}")), kept.join(format!("f{i}"))).expect("a copy");
    }
    drop(mount);
    start(&mut pair, Side::A);
    let told = told_of_root(&mut pair);
    assert!(
        told.contains("inner") && told.contains("mount it again"),
        "{told}"
    );
    assert!(b.join("inner/f4").exists());
    let _again = Mount::tmpfs(&a.join("inner"), "8m");
    for i in 0..5 {
        fs::copy(kept.join(format!("f{i}")), a.join(format!("inner/f{i}"))).expect("a copy");
    }
    pair.wait_in_sync(LONG).expect("in sync");
    assert!(b.join("inner/f4").exists());
}

/// The active node's index is lost and most of its files with it, as after a restore from an incomplete backup: nothing
/// says that they were deleted.
#[test]
fn a_full_comparison_asks_before_it_deletes() {
    let mut pair = many("1s");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    pair.stop(Side::A);
    fs::remove_dir_all(a.join("one")).expect("removed");
    for i in 50..150 {
        fs::remove_file(a.join(format!("two/f{i}"))).expect("removed");
    }
    fs::write(a.join("two/f0"), "newer content").expect("a file");
    lose_index(&pair, Side::A);
    fs::write(b.join("stray"), "made by hand").expect("a file");
    start(&mut pair, Side::A);
    let status = wait_peer(&mut pair, "halted", "max_delete");
    let reason = status["peer"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("syncctl approve data"), "{reason}");
    assert!(
        reason.contains("251 of 303"),
        "a directory and what was in it, and files: {reason}"
    );
    assert_eq!(files(&b), 300, "nothing was deleted");
    let (code, text) = ctl_when_free(&pair, Side::B, &["resync"]);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("syncctl approve data"), "{text}");
    let (code, text) = ctl(&pair, Side::A, &["flush", "--timeout", "5s"]);
    assert_eq!(code, 6, "{text}");
    assert_eq!(files(&b), 300, "nothing was deleted");
    // Asked for once more it is compared once more, and comes to the same.
    let (code, text) = ctl(&pair, Side::A, &["resync", "--full"]);
    assert_eq!(code, 6, "{text}");
    let text = well(&pair, Side::A, &["approve"]);
    assert!(text.contains("data"), "{text}");
    pair.wait_in_sync(LONG).expect("in sync");
    wait_equal(&pair, "data");
    assert_eq!(files(&b), 50);
    // What was deleted had come from the active node; what had not is preserved.
    assert_eq!(preserved(&pair, Side::B, "data").len(), 1);
}

/// The standby was away while most of it was deleted on the active node, and a person approved that then.
#[test]
fn what_was_deleted_knowingly_is_not_asked_for_again() {
    let mut pair = many("1s");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    pair.cut().expect("cut");
    fs::remove_dir_all(a.join("one")).expect("removed");
    for i in 50..150 {
        fs::remove_file(a.join(format!("two/f{i}"))).expect("removed");
    }
    let held = until(LONG, || {
        let (_, text) = ctl(&pair, Side::A, &["approve"]);
        text.contains("approved")
    });
    assert!(held, "{:?}", pair.status());
    let (code, text) = ctl(&pair, Side::A, &["flush", "--timeout", "1s"]);
    assert_ne!(code, 0, "{text}");
    // Everything is compared, as after a catch-up that was interrupted, and what is gone has its tombstone.
    let epochs = state(&pair, Side::B).join("epochs.json");
    let text = fs::read_to_string(&epochs).expect("a history");
    let marked = text.replace("\"catching_up\": false", "\"catching_up\": true");
    assert_ne!(text, marked);
    fs::write(&epochs, marked).expect("a history");
    pair.restore().expect("mended");
    pair.wait_in_sync(LONG).expect("in sync");
    assert!(
        pair.log(Side::A).contains("full: true }"),
        "{}",
        pair.log(Side::A)
    );
    wait_equal(&pair, "data");
    assert_eq!(files(&b), 50);
    assert_eq!(preserved(&pair, Side::B, "data"), []);
}

/// A standby that was filled by other means, and whose files were never compared, loses nothing by the first comparison.
#[test]
fn a_first_comparison_preserves_and_needs_no_approval() {
    let mut options = options!();
    options.sync_lines = "max_delete = { percent = 50, window = \"1s\" }\n".into();
    let mut pair = idle(options);
    let b = pair.root(Side::B, "data");
    for i in 0..150 {
        fs::write(b.join(format!("stray{i}")), format!("stray {i}")).expect("a file");
    }
    fs::write(pair.root(Side::A, "data").join("f"), "content").expect("a file");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    wait_equal(&pair, "data");
    assert_eq!(preserved(&pair, Side::B, "data").len(), 150);
}
