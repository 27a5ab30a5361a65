//! What the standby cannot put although its number says that it has it: it asks for that again, whoever becomes active.

use std::fs;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, ctl, flushed_equal, idle, in_sync, is_preserved, state, until, wait_equal,
    wait_problem, wait_serve_gone,
};
use crate::common::tree;
use crate::options;

/// Somebody renames a directory on the standby: the next change in it brings all of it back.
#[test]
fn a_directory_that_is_gone_from_the_standby_comes_back_whole() {
    let pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir_all(a.join("d/below")).expect("directories");
    for name in ["d/one", "d/two", "d/below/three"] {
        fs::write(a.join(name), name).expect("a file");
    }
    fs::write(a.join("d/large"), vec![7; 3 << 20]).expect("a file");
    flushed_equal(&pair, "data");
    for times in 0..3 {
        fs::rename(b.join("d"), b.join(format!("away{times}"))).expect("renamed");
        fs::write(a.join("d/below/new"), format!("number {times}")).expect("a file");
        fs::write(a.join("beside"), format!("number {times}")).expect("a file");
        pair.flush().expect("flushed");
        tree::assert_equal(&a.join("d"), &b.join("d"));
        let beside = fs::read_to_string(b.join("beside")).expect("it came");
        assert_eq!(beside, format!("number {times}"));
    }
    assert!(b.join("away0/below/three").exists(), "nobody removed it");
}

/// A is active, B holds an edit of its own that cannot be moved aside, and so cannot put what A wrote; then A stops. Both
/// stand at the same number.
fn refused() -> Pair {
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("d")).expect("a directory");
    for name in ["f", "d/f"] {
        fs::write(a.join(name), "as replicated").expect("a file");
    }
    flushed_equal(&pair, "data");
    let notes = state(&pair, Side::B).join("preserved.jsonl");
    fs::create_dir(&notes).expect("in the way");
    for name in ["f", "d/f"] {
        fs::write(b.join(name), "edited on osm2").expect("an edit");
        fs::write(a.join(name), "changed on osm1").expect("written");
        wait_problem(&mut pair, &format!("data:{name}"), true);
    }
    let (code, text) = ctl(&pair, Side::A, &["deactivate", "--timeout", "1s"]);
    assert_eq!(code, 0, "{text}");
    wait_serve_gone(&pair, Side::B);
    // As where the answer that told of it was lost.
    let index = rusqlite::Connection::open(state(&pair, Side::A).join("index.db"));
    let index = index.expect("the index");
    index.execute("DELETE FROM owed", []).expect("forgotten");
    fs::remove_dir(&notes).expect("mended");
    pair
}

#[test]
fn a_standby_that_becomes_active_takes_first_what_it_could_not_put() {
    let pair = refused();
    activate(&pair, Side::B);
    for name in ["f", "d/f"] {
        let found = fs::read_to_string(pair.root(Side::B, "data").join(name));
        assert_eq!(found.expect("a file"), "changed on osm1");
    }
    assert!(is_preserved(&pair, Side::B, "data", b"edited on osm2"));
    wait_equal(&pair, "data");
}

#[test]
fn what_the_other_node_never_took_is_preserved_before_it_makes_way() {
    let pair = refused();
    pair.cut().expect("cut");
    activate(&pair, Side::B);
    let b = pair.root(Side::B, "data");
    fs::remove_dir_all(b.join("d")).expect("removed");
    let gone = || {
        let status = pair.status_of(Side::B).expect("status");
        status["pending"]["paths"].as_u64() >= Some(1)
    };
    assert!(until(LONG, gone), "{:?}", pair.status_of(Side::B));
    pair.restore().expect("mended");
    wait_equal(&pair, "data");
    assert_eq!(
        fs::read_to_string(b.join("f")).expect("a file"),
        "edited on osm2"
    );
    let kept = crate::common::steps::preserved(&pair, Side::A, "data");
    let mut names: Vec<_> = kept
        .iter()
        .filter(|(_, bytes)| bytes == b"changed on osm1")
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["d/f", "f"], "{kept:?}");
}
