//! A node that crashed comes back while the other one is active.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, ctl, ctl_when_free, flushed_equal, idle, in_sync, is_preserved, json, noted,
    preserved, signal, start, state, until, wait_serve_gone,
};
use crate::common::tree;
use crate::options;

/// A directory `d` of twenty files and a few at the top.
fn fill(root: &Path) {
    fs::create_dir(root.join("d")).expect("a directory");
    for i in 0..20 {
        fs::write(root.join(format!("d/f{i}")), format!("first {i}")).expect("a file");
    }
    for name in ["both", "gone", "kept"] {
        fs::write(root.join(name), format!("first {name}")).expect("a file");
    }
}

/// A in sync with B; then B stops hearing, A writes three files and crashes before it noticed that nobody listens.
fn crashed_with_a_tail() -> Pair {
    let mut pair = in_sync(options!());
    let a = pair.root(Side::A, "data");
    fill(&a);
    flushed_equal(&pair, "data");
    let sequence = pair.status().expect("status")["sequence"].as_u64();
    let serve: i32 = fs::read_to_string(pair.dir().join("serve-b.pid"))
        .expect("the pid of syncd serve")
        .trim()
        .parse()
        .expect("a pid");
    signal(serve, "STOP");
    // In one piece: of more batches than may be on their way at a time, the last would get no number.
    let syncd = pair.pid(Side::A).and_then(|p| p.try_into().ok());
    signal(syncd.expect("a pid"), "STOP");
    for name in ["tail 1", "tail 2", "both"] {
        fs::write(a.join(name), format!("the tail of {name}")).expect("a file");
    }
    signal(syncd.expect("a pid"), "CONT");
    pair.wait_status(LONG, "noting the tail", |s| {
        s["sequence"].as_u64() >= sequence.map(|n| n + 3)
    })
    .expect("the changes have numbers");
    pair.kill(Side::A);
    pair.kill_serve(Side::B);
    assert!(!pair.root(Side::B, "data").join("tail 1").exists());
    pair
}

/// Makes B active and changes the same paths there.
fn take_over(pair: &mut Pair) {
    pair.cut().expect("A is down");
    wait_serve_gone(pair, Side::B);
    start(pair, Side::B);
    let up = until(LONG, || {
        pair.status_of(Side::B).is_ok_and(|s| s["role"] == "active")
    });
    assert!(up, "{}", pair.log(Side::B));
    let b = pair.root(Side::B, "data");
    fs::write(b.join("both"), "of the new active node").expect("a file");
    fs::remove_file(b.join("gone")).expect("removed");
    fs::remove_dir_all(b.join("d")).expect("removed");
    fs::create_dir(b.join("d")).expect("a directory");
    fs::write(b.join("d/f3"), "made anew").expect("a file");
    fs::write(b.join("new"), "made on osm2").expect("a file");
    let noted = until(
        LONG,
        noted(pair, Side::B, |s| s["epoch"].as_u64() >= Some(2)),
    );
    assert!(noted, "{:?}", pair.status_of(Side::B));
}

#[test]
fn a_returned_node_receives_and_its_tail_is_preserved() {
    let mut pair = crashed_with_a_tail();
    take_over(&mut pair);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let here = tree::snapshot(&a).expect("A can be read");
    let there = tree::snapshot(&b).expect("B can be read");
    // B reaches nobody yet, so that nothing but the dry run can change A.
    let wrapper = pair.dir().join("serve-a.sh");
    let script = fs::read_to_string(&wrapper).expect("the wrapper");
    fs::write(&wrapper, "exit 255\n").expect("the wrapper");
    pair.restore().expect("the link is back");
    let report = json(&pair, Side::A, &["resync", "--dry-run"]);
    assert_eq!(report["resync"]["direction"], "receive", "{report}");
    assert!(report["resync"]["puts"].as_u64() >= Some(3), "{report}");
    assert!(report["resync"]["deletes"].as_u64() >= Some(1), "{report}");
    let now = tree::snapshot(&a).expect("A can be read");
    assert_eq!(
        tree::diff(&here, &now),
        Vec::<String>::new(),
        "a dry run changed A"
    );
    assert!(preserved(&pair, Side::A, "data").is_empty());
    let (code, said) = ctl_when_free(&pair, Side::A, &["resync"]);
    assert_eq!(code, 0, "{said}\n{}", pair.log(Side::B));
    tree::assert_equal(&a, &b);
    let now = tree::snapshot(&b).expect("B can be read");
    assert_eq!(
        tree::diff(&there, &now),
        Vec::<String>::new(),
        "something stale came to B"
    );
    for name in ["tail 1", "tail 2", "both"] {
        let content = format!("the tail of {name}");
        assert!(
            is_preserved(&pair, Side::A, "data", content.as_bytes()),
            "{name}"
        );
    }
    let log = fs::read_to_string(state(&pair, Side::A).join("preserved.jsonl")).expect("notes");
    let notes: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).expect("a note"))
        .collect();
    assert!(notes.iter().all(|n| n["root"] == "data"), "{log}");
    // From now on A follows.
    fs::write(&wrapper, script).expect("the wrapper");
    fs::write(b.join("later"), "after the resync").expect("a file");
    let came = until(LONG, || tree_equal(&pair));
    assert!(came, "A does not follow: {:?}", pair.status_of(Side::B));
}

fn tree_equal(pair: &Pair) -> bool {
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    match (tree::snapshot(&a), tree::snapshot(&b)) {
        (Ok(a), Ok(b)) => tree::diff(&a, &b).is_empty(),
        _ => false,
    }
}

#[test]
fn a_returned_node_that_is_started_first_takes_nothing_away() {
    let mut pair = crashed_with_a_tail();
    take_over(&mut pair);
    let b = pair.root(Side::B, "data");
    let there = tree::snapshot(&b).expect("B can be read");
    pair.restore().expect("the link is back");
    start(&mut pair, Side::A);
    // B is active: A must not become a second source.
    let over = until(LONG, || pair.ended(Side::A).is_some() || tree_equal(&pair));
    assert!(over, "{}", pair.log(Side::A));
    let now = tree::snapshot(&b).expect("B can be read");
    assert_eq!(
        tree::diff(&there, &now),
        Vec::<String>::new(),
        "something stale came to B"
    );
}

#[test]
fn two_nodes_that_wrote_while_apart_are_diverged() {
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fill(&a);
    flushed_equal(&pair, "data");
    pair.cut().expect("cut");
    pair.wait_status(LONG, "alone", |s| s["peer"]["state"] == "unreachable")
        .expect("alone");
    fs::write(a.join("both"), "of A").expect("a file");
    fs::write(a.join("only A"), "of A").expect("a file");
    pair.wait_status(LONG, "noting it", |s| s["epoch"].as_u64() >= Some(2))
        .expect("an epoch of A");
    wait_serve_gone(&pair, Side::B);
    start(&mut pair, Side::B);
    let up = until(LONG, || {
        pair.status_of(Side::B).is_ok_and(|s| s["role"] == "active")
    });
    assert!(up, "{}", pair.log(Side::B));
    fs::write(b.join("both"), "of B").expect("a file");
    let noted = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["epoch"].as_u64() >= Some(2))
    });
    assert!(noted, "{:?}", pair.status_of(Side::B));
    pair.kill(Side::A);
    let (here, there) = (
        tree::snapshot(&a).expect("A"),
        tree::snapshot(&b).expect("B"),
    );
    pair.restore().expect("mended");
    for args in [
        &["resync", "--dry-run"][..],
        &["resync"],
        &["resync", "--full"],
    ] {
        let (code, said) = ctl_when_free(&pair, Side::A, args);
        assert_eq!(code, 5, "{args:?}: {said}");
        assert!(said.contains("both changed"), "{said}");
    }
    let diverged = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["peer"]["state"] == "diverged")
    });
    assert!(diverged, "{:?}", pair.status_of(Side::B));
    let (code, said) = ctl(&pair, Side::B, &["resync"]);
    assert_eq!(code, 5, "{said}");
    for (root, before) in [(&a, &here), (&b, &there)] {
        let now = tree::snapshot(root).expect("a tree");
        assert_eq!(
            tree::diff(before, &now),
            Vec::<String>::new(),
            "{}",
            root.display()
        );
    }
    assert!(preserved(&pair, Side::A, "data").is_empty());
    assert!(preserved(&pair, Side::B, "data").is_empty());
    // A node without its state takes the other one's data; its own are preserved.
    fs::rename(state(&pair, Side::A), pair.dir().join("state-of-a")).expect("moved away");
    let (code, said) = ctl_when_free(&pair, Side::A, &["resync"]);
    assert_eq!(code, 0, "{said}");
    tree::assert_equal(&a, &b);
    assert!(is_preserved(&pair, Side::A, "data", b"of A"));
}

#[test]
fn the_tree_before_the_first_activation_belongs_to_an_epoch() {
    let mut pair = idle(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fill(&a);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let status = pair.status().expect("status");
    assert_eq!(status["epoch"], 1, "{status}");
    pair.kill(Side::A);
    pair.kill_serve(Side::B);
    activate(&pair, Side::B);
    let status = pair.status_of(Side::B).expect("status");
    assert_eq!(status["epoch"], 1, "{status}");
    let how = status["activation"].as_str().expect("a sentence");
    let same = how.contains("with the newest data") && how.contains("0 paths taken");
    assert!(same, "{how}");
    fs::write(b.join("d/f3"), "changed on osm2").expect("a file");
    let is_noted = noted(&pair, Side::B, |s| s["epoch"].as_u64() >= Some(2));
    assert!(until(LONG, is_noted), "{:?}", pair.status_of(Side::B));
    let (code, said) = ctl_when_free(&pair, Side::A, &["resync"]);
    assert_eq!(code, 0, "{said}");
    assert!(until(LONG, || tree_equal(&pair)), "{said}");
    // Both know what they share, so only the change is looked at, and nothing has to make way.
    let log = fs::read_to_string(pair.daemon_log(Side::B)).expect("the log");
    assert!(log.contains("full: false"), "{log}");
    assert!(!log.contains("full: true"), "{log}");
    assert!(preserved(&pair, Side::A, "data").is_empty());
}
