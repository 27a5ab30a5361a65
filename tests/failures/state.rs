//! State that is newer, damaged or gone: refused or built anew, never a reason to lose or to push something stale.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::common::kinds::noise;
use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, Mount, activate, ctl, daemon_ended, flushed_equal, in_sync, is_root, preserved, start,
    state, until, wait_equal, wait_peer, well,
};
use crate::options;

fn filled() -> Pair {
    let pair = in_sync(options!());
    let root = pair.root(Side::A, "data");
    fs::create_dir(root.join("d")).expect("a directory");
    for i in 0..30u64 {
        fs::write(root.join(format!("d/f{i}")), noise(3000, i)).expect("a file");
    }
    flushed_equal(&pair, "data");
    pair
}

fn set_version(pair: &Pair, side: Side, version: u32) {
    let db = rusqlite::Connection::open(state(pair, side).join("index.db")).expect("the index");
    db.execute_batch(&format!("PRAGMA user_version={version}"))
        .expect("the version");
}

#[test]
fn a_newer_index_is_refused() {
    let mut pair = filled();
    pair.stop(Side::A);
    set_version(&pair, Side::A, 99);
    let (code, text) = daemon_ended(&pair, Side::A);
    assert_ne!(code, 0, "{text}");
    assert!(
        text.contains("newer version") && text.contains("99"),
        "{text}"
    );
    set_version(&pair, Side::A, 1);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    pair.stop(Side::A);
    set_version(&pair, Side::B, 99);
    start(&mut pair, Side::A);
    wait_peer(&mut pair, "unreachable", "newer version");
    set_version(&pair, Side::B, 1);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
}

/// Overwrites the index of a node, which runs nothing, with bytes that are none.
fn damage(pair: &Pair, side: Side, whole: bool) {
    let file = state(pair, side).join("index.db");
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(state(pair, side).join(format!("index.db{suffix}")));
    }
    let mut bytes = fs::read(&file).expect("the index");
    let from = if whole { 0 } else { 4096.min(bytes.len()) };
    let noise = noise(bytes.len() - from, 77);
    bytes[from..].copy_from_slice(&noise);
    fs::write(&file, bytes).expect("damaged");
}

/// What is read of a file's row is none; SQLite sees nothing wrong.
fn damage_row(pair: &Pair, side: Side) {
    let db = rusqlite::Connection::open(state(pair, side).join("index.db")).expect("the index");
    let changed = db.execute(
        "UPDATE node SET data=x'07' WHERE name=CAST('f1' AS BLOB)",
        [],
    );
    assert_eq!(changed.expect("damaged"), 1);
}

fn survives(side: Side, damage: impl Fn(&Pair, Side)) {
    let mut pair = filled();
    pair.stop(Side::A);
    pair.kill_serve(Side::B);
    damage(&pair, side);
    let root = pair.root(Side::A, "data");
    fs::remove_file(root.join("d/f0")).expect("removed");
    fs::write(root.join("d/f1"), "changed meanwhile").expect("a file");
    fs::write(root.join("d/new"), "made meanwhile").expect("a file");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    wait_equal(&pair, "data");
    assert_eq!(
        fs::read(root.join("d/f1")).expect("a file"),
        b"changed meanwhile"
    );
    assert!(root.join("d/new").exists() && root.join("d/f29").exists());
    assert!(!root.join("d/f0").exists(), "a deleted file came back");
    let aside = fs::read_dir(state(&pair, side))
        .expect("the state")
        .flatten()
        .any(|f| f.file_name().to_string_lossy().contains("damaged"));
    assert!(aside, "the damaged index was not set aside");
    flushed_equal(&pair, "data");
    assert!(preserved(&pair, Side::A, "data").is_empty());
}

#[test]
fn a_damaged_index_of_the_active_node_is_built_anew() {
    survives(Side::A, |pair, side| damage(pair, side, true));
}

#[test]
fn a_damaged_index_of_the_standby_is_built_anew() {
    survives(Side::B, |pair, side| damage(pair, side, true));
}

#[test]
fn an_index_damaged_behind_its_header_is_built_anew() {
    for side in [Side::A, Side::B] {
        survives(side, |pair, side| damage(pair, side, false));
    }
}

/// Nothing but a look at the row shows it, which may come days later.
#[test]
fn an_index_with_a_damaged_row_is_built_anew() {
    for side in [Side::A, Side::B] {
        survives(side, damage_row);
    }
}

/// An active node whose state lies on a small file system of its own.
fn cramped() -> (Pair, Mount) {
    let pair = Pair::new(options!()).expect("a pair");
    let mount = Mount::tmpfs(&state(&pair, Side::A), "6m");
    let mut pair = pair;
    activate(&pair, Side::A);
    fs::write(pair.root(Side::A, "data").join("first"), "first").expect("a file");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    (pair, mount)
}

/// Fills the file system of the state, and changes data until the index can take no more.
fn stall(pair: &Pair) -> PathBuf {
    let filler = state(pair, Side::A).join("filler");
    let mut file = fs::File::create(&filler).expect("a file");
    let block = noise(4096, 5);
    while file.write_all(&block).is_ok() {}
    let mut n = 0;
    let stalled = until(LONG, || {
        for _ in 0..200 {
            n += 1;
            let at = pair.root(Side::A, "data").join(format!("more{n}"));
            fs::write(at, n.to_string()).expect("a file");
        }
        let status = pair.status().expect("a status");
        status["peer"]["state"] == "halted"
    });
    let status = pair.status().expect("a status");
    assert!(stalled, "{status}");
    filler
}

/// The disk of the state is full: the node stays active and says why, and goes on by itself.
#[test]
fn a_full_disk_of_the_state_halts_and_goes_on() {
    if !is_root("a full disk of the state") {
        return;
    }
    let (mut pair, _mount) = cramped();
    let before = pair.daemon(Side::A);
    let filler = stall(&pair);
    let status = pair.status().expect("a status");
    assert_eq!(status["role"], "active");
    assert_eq!(status["pending"]["scanning"], true, "{status}");
    let told = status["problems"].to_string();
    assert!(
        told.contains("full") && told.contains("free space"),
        "{told}"
    );
    let (code, text) = ctl(&pair, Side::A, &["flush", "--timeout", "2s"]);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains("free space"), "{text}");
    // What comes and goes without anybody noting it is found afterwards.
    let root = pair.root(Side::A, "data");
    fs::write(root.join("meanwhile"), "not noted").expect("a file");
    fs::remove_file(root.join("first")).expect("removed");
    fs::remove_file(filler).expect("removed");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    assert_eq!(pair.daemon(Side::A), before, "it is another process");
    let status = pair.status().expect("a status");
    assert_eq!(
        status["problems"].as_array().map(Vec::len),
        Some(0),
        "{status}"
    );
}

/// A node whose state cannot be used can be stopped, and what it could not note is not passed over by the node that takes over.
#[test]
fn what_was_changed_while_the_state_was_full_outlasts_a_stop() {
    if !is_root("a stop while the state is full") {
        return;
    }
    let (pair, _mount) = cramped();
    let filler = stall(&pair);
    let said = well(&pair, Side::A, &["resume"]);
    assert!(
        said.contains("halted") && said.contains("free space"),
        "{said}"
    );
    let root = pair.root(Side::A, "data");
    fs::write(root.join("first"), "the newest").expect("a file");
    fs::write(root.join("later"), "made while the state was full").expect("a file");
    let (code, text) = ctl(&pair, Side::A, &["deactivate"]);
    assert!(
        code == 0 && text.contains("are not on osm2"),
        "{code} {text}"
    );
    assert_eq!(pair.daemon(Side::A), None, "{text}");
    fs::remove_file(filler).expect("removed");
    activate(&pair, Side::B);
    let b = pair.root(Side::B, "data");
    assert_eq!(fs::read(b.join("first")).expect("a file"), b"the newest");
    wait_equal(&pair, "data");
    assert!(b.join("later").exists());
}

/// The same node is started again.
#[test]
fn a_node_whose_state_is_full_can_be_stopped() {
    if !is_root("a stop while the state is full") {
        return;
    }
    let (mut pair, _mount) = cramped();
    let filler = stall(&pair);
    let (_, text) = ctl(&pair, Side::A, &["deactivate"]);
    assert!(text.contains("are not on osm2"), "{text}");
    fs::remove_file(filler).expect("removed");
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
}
