//! State that is newer, damaged or gone: refused or built anew, never a reason to lose or to push something stale.

use std::fs;

use crate::common::kinds::noise;
use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, daemon_ended, flushed_equal, in_sync, preserved, start, state, wait_equal, wait_peer,
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

fn survives(side: Side, whole: bool) {
    let mut pair = filled();
    pair.stop(Side::A);
    pair.kill_serve(Side::B);
    damage(&pair, side, whole);
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
    survives(Side::A, true);
}

#[test]
fn a_damaged_index_of_the_standby_is_built_anew() {
    survives(Side::B, true);
}

#[test]
fn an_index_damaged_behind_its_header_is_built_anew() {
    survives(Side::A, false);
    survives(Side::B, false);
}
