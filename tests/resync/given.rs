//! A standby that gives its data to a node that has none: what the disk of the active node held is on the standby alone.

use std::fs;

use serde_json::Value;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, ctl, ctl_when_free, deactivate, flushed_equal, idle, state, until, wait_equal,
    wait_serve_gone,
};
use crate::common::tree;
use crate::options;

/// Two nodes in step, of which A was active and stopped.
fn stopped(fill: impl Fn(&Pair)) -> Pair {
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    fill(&pair);
    deactivate(&pair, Side::A);
    wait_serve_gone(&pair, Side::B);
    pair
}

/// A's disk is a new one.
fn lose_disk(pair: &Pair) {
    for dir in [pair.root(Side::A, "data"), state(pair, Side::A)] {
        fs::remove_dir_all(&dir).expect("removed");
        fs::create_dir(&dir).expect("a directory");
    }
}

/// Two nodes as [`stopped`], with two files of which somebody removed one on B.
fn without_one() -> Pair {
    let pair = stopped(|pair| {
        let a = pair.root(Side::A, "data");
        for name in ["stays", "goes"] {
            fs::write(a.join(name), "on both").expect("a file");
        }
        flushed_equal(pair, "data");
    });
    fs::remove_file(pair.root(Side::B, "data").join("goes")).expect("removed");
    pair
}

/// The index of the standby knows its files as they were when a name of them came or went.
#[test]
fn files_that_were_renamed_and_linked_are_given() {
    let pair = stopped(|pair| {
        let a = pair.root(Side::A, "data");
        fs::create_dir(a.join("d")).expect("a directory");
        for i in 0..30 {
            fs::write(a.join(format!("f{i}")), format!("number {i}")).expect("a file");
        }
        fs::write(a.join("large"), vec![7; 3 << 20]).expect("a file");
        flushed_equal(pair, "data");
        for i in 0..10 {
            fs::rename(a.join(format!("f{i}")), a.join(format!("d/g{i}"))).expect("renamed");
        }
        fs::rename(a.join("large"), a.join("d/large")).expect("renamed");
        for i in 10..20 {
            fs::hard_link(a.join(format!("f{i}")), a.join(format!("d/h{i}"))).expect("a link");
        }
        flushed_equal(pair, "data");
        for i in 10..15 {
            fs::remove_file(a.join(format!("f{i}"))).expect("removed");
        }
        flushed_equal(pair, "data");
    });
    let before = tree::snapshot(&pair.root(Side::B, "data")).expect("B can be read");
    lose_disk(&pair);
    activate(&pair, Side::A);
    let now = tree::snapshot(&pair.root(Side::A, "data")).expect("A can be read");
    assert_eq!(tree::diff(&before, &now), Vec::<String>::new());
    wait_equal(&pair, "data");
}

/// What somebody changed on the standby is what there is of the file.
#[test]
fn what_was_changed_on_the_standby_is_given_as_it_is() {
    let pair = stopped(|pair| {
        let a = pair.root(Side::A, "data");
        for name in ["same", "edited", "touched"] {
            fs::write(a.join(name), "on both").expect("a file");
        }
        fs::write(a.join("large"), vec![7; 3 << 20]).expect("a file");
        flushed_equal(pair, "data");
    });
    let b = pair.root(Side::B, "data");
    fs::write(b.join("edited"), "changed on osm2").expect("written");
    fs::write(b.join("large"), vec![8; 2 << 20]).expect("written");
    fs::write(b.join("touched"), "on both").expect("written");
    lose_disk(&pair);
    let (code, text) = ctl(&pair, Side::A, &["resync"]);
    assert_eq!(code, 0, "{text}");
    tree::assert_equal(&pair.root(Side::A, "data"), &b);
}

/// What is not there cannot be given, and nobody is told to have everything.
#[test]
fn what_is_gone_from_the_standby_is_told() {
    let pair = without_one();
    lose_disk(&pair);
    let (code, text) = ctl(&pair, Side::A, &["resync"]);
    assert_ne!(code, 0, "{text}");
    assert!(
        text.contains("data:goes") && text.contains("osm2"),
        "{text}"
    );
    assert!(pair.root(Side::A, "data").join("stays").exists());
    // The node that gives is told the same, where it is the one that was asked.
    let (code, text) = ctl_when_free(&pair, Side::B, &["resync"]);
    assert_ne!(code, 0, "{text}");
    assert!(text.contains("cannot send data:goes"), "{text}");
}

/// A node that becomes active does so with what it was given, and nothing of the rest is lost on the node that kept it.
#[test]
fn a_node_that_was_not_given_everything_becomes_active_all_the_same() {
    let pair = without_one();
    let b = pair.root(Side::B, "data");
    fs::create_dir(b.join("goes")).expect("replaced");
    fs::write(b.join("goes/new"), "on osm2 alone").expect("a file");
    lose_disk(&pair);
    let (code, text) = ctl(&pair, Side::A, &["activate"]);
    assert_eq!(code, 0, "{text}");
    for part in ["cannot send data:goes", "between two states"] {
        assert!(text.contains(part), "{text}");
    }
    let stays = fs::read(pair.root(Side::A, "data").join("stays"));
    assert_eq!(stays.expect("it was given"), b"on both");
    let status = pair.status_of(Side::A).expect("status");
    assert_eq!(status["incomplete"], true, "{status}");
    // The node that kept its data takes nothing from that one, and is the way out.
    let is = |side, wanted: fn(&Value) -> bool| {
        until(LONG, || pair.status_of(side).is_ok_and(|s| wanted(&s)))
    };
    assert!(is(Side::A, |s| s["peer"]["state"] == "halted"));
    deactivate(&pair, Side::A);
    activate(&pair, Side::B);
    wait_equal(&pair, "data");
    assert_eq!(
        fs::read(b.join("goes/new")).expect("kept"),
        b"on osm2 alone"
    );
    assert!(is(Side::A, |s| s["incomplete"] == false));
}
