//! Roots that are missing, emptied, unmounted or replaced: nothing of them is deleted on the standby.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::node::{Options, Pair, Side};
use crate::common::steps::{
    LONG, Mount, daemon_ended, flushed_equal, idle, in_sync, is_root, must, start, until,
    wait_equal, wait_problem,
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
    other_root_goes_on(&pair, "mark");
    let after = tree::snapshot(&pair.root(Side::B, "one")).expect("B can be read");
    let lost: Vec<_> = before.keys().filter(|k| !after.contains_key(*k)).collect();
    assert!(lost.is_empty(), "deleted on the standby: {lost:?}");
    fs::rename(&aside, one.join("d")).expect("moved back");
    fs::write(one.join("new"), "goes on").expect("a file");
    wait_problem(&mut pair, "one:.", false);
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
    // The remedy of the message: what is there now is accepted by a restart, and an empty directory still deletes nothing.
    pair.stop(Side::A);
    start(&mut pair, Side::A);
    wait_problem(&mut pair, "one:.", true);
    other_root_goes_on(&pair, "again");
    assert!(there.join("d/e/h").exists(), "deleted on the standby");
    fill(&one);
    fs::write(one.join("new"), "goes on").expect("a file");
    wait_problem(&mut pair, "one:.", false);
    wait_equal(&pair, "one");
    pair.wait_in_sync(Duration::from_secs(40)).expect("in sync");
}
