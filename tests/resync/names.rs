//! Files with several names stay one file, whichever name a change comes through.

use std::fs::{self, OpenOptions};
use std::io::Write;

use serde_json::Value;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, ctl, flushed_equal, in_sync, noted, signal, start, until, wait_serve_gone, well,
};
use crate::common::tree;
use crate::options;

fn two_roots() -> Pair {
    let mut options = options!();
    options.roots = ["data", "more"]
        .map(|n| (n.to_owned(), format!("/{n}")))
        .to_vec();
    let pair = in_sync(options);
    for root in ["data", "more"] {
        let keep = pair.root(Side::A, root).join("keep");
        fs::write(keep, "so that the root is never empty").expect("a file");
    }
    pair
}

/// Both nodes hold the same, links between the roots included.
fn assert_equal(pair: &Pair) {
    let all = |side| {
        let root = pair.root(side, "data");
        tree::snapshot_together(root.parent().expect("a parent"), &["data", "more"])
            .expect("a tree")
    };
    assert_eq!(
        tree::diff(&all(Side::A), &all(Side::B)),
        Vec::<String>::new()
    );
}

/// As [`assert_equal`] once everything is flushed, and they say so.
fn assert_same(pair: &Pair) {
    pair.flush().expect("flushed");
    assert_equal(pair);
    let (code, said) = ctl(pair, Side::A, &["verify"]);
    assert_eq!(code, 0, "{said}");
}

/// The last name to be looked at brings the content, the others were noted before: all stay one file.
#[test]
fn names_of_a_file_written_while_apart_stay_one_file() {
    let mut pair = two_roots();
    let (a, more) = (pair.root(Side::A, "data"), pair.root(Side::A, "more"));
    fs::create_dir_all(a.join("d/e")).expect("directories");
    fs::write(a.join("d/e/first"), "content").expect("a file");
    fs::hard_link(a.join("d/e/first"), a.join("d/e/second")).expect("a link");
    flushed_equal(&pair, "data");
    for (n, restart) in [(1, false), (2, true)] {
        pair.cut().expect("cut");
        pair.wait_status(LONG, "alone", |s| s["peer"]["state"] == "unreachable")
            .expect("alone");
        if restart {
            pair.kill(Side::A);
        }
        fs::write(a.join("d/e/first"), format!("content {n}")).expect("written");
        let (from, to) = if restart {
            (more.join("second"), a.join("second"))
        } else {
            (a.join("d/e/second"), more.join("second"))
        };
        fs::rename(from, to).expect("renamed");
        fs::rename(a.join("d"), a.join("moved")).expect("renamed");
        fs::rename(a.join("moved"), a.join("d")).expect("renamed");
        if restart {
            start(&mut pair, Side::A);
        }
        pair.restore().expect("mended");
        pair.wait_in_sync(LONG).expect("in sync");
        assert_same(&pair);
    }
}

/// A change through a name that is gone a moment later, or that went while the file was held open.
#[test]
fn a_change_through_a_lost_name_shows_under_the_others() {
    let pair = two_roots();
    let (a, more) = (pair.root(Side::A, "data"), pair.root(Side::A, "more"));
    for (first, second) in [("one", "two"), ("three", "four")] {
        fs::write(a.join(first), "written").expect("a file");
        fs::hard_link(a.join(first), more.join(second)).expect("a link");
    }
    fs::create_dir(a.join("d")).expect("a directory");
    fs::hard_link(a.join("one"), a.join("d/third")).expect("a link");
    flushed_equal(&pair, "data");
    let open = |name| {
        OpenOptions::new()
            .append(true)
            .open(a.join(name))
            .expect("open")
    };
    let mut held = open("three");
    open("one").write_all(b", then more").expect("written");
    fs::remove_file(a.join("one")).expect("removed");
    open("d/third")
        .write_all(b", then yet more")
        .expect("written");
    fs::remove_dir_all(a.join("d")).expect("removed");
    fs::remove_file(a.join("three")).expect("removed");
    assert_same(&pair);
    held.write_all(b", through a descriptor").expect("written");
    assert_same(&pair);
    let there = pair.root(Side::B, "more");
    let read = |name| fs::read_to_string(there.join(name)).expect("a file");
    assert_eq!(read("two"), "written, then more, then yet more");
    assert_eq!(read("four"), "written, through a descriptor");
}

/// As a program replaces a file by a further name of it that it made just before: the index knows one name alone at any time.
#[test]
fn a_change_through_a_name_that_went_as_another_one_came_shows_under_that_one() {
    let pair = two_roots();
    let a = pair.root(Side::A, "data");
    for (name, size) in [("small", 10), ("large", 300_000)] {
        let (first, second) = (a.join(name), a.join(format!("{name} again")));
        fs::write(&first, name.repeat(size)).expect("a file");
        assert_same(&pair);
        let mut held = OpenOptions::new().append(true).open(&first).expect("open");
        fs::hard_link(&first, &second).expect("a link");
        fs::remove_file(&first).expect("removed");
        assert_same(&pair);
        held.write_all(b", through a descriptor").expect("written");
        assert_same(&pair);
        let there = fs::read_to_string(pair.root(Side::B, "data").join(format!("{name} again")));
        assert!(there.expect("a file").ends_with("descriptor"));
    }
}

/// As an editor saves: the file becomes its own backup, and another one takes its name that is the same, or the same and more.
#[test]
fn a_file_that_takes_the_name_of_another_becomes_another_file() {
    let pair = two_roots();
    let a = pair.root(Side::A, "data");
    let daemon = i32::try_from(pair.pid(Side::A).expect("running")).expect("a pid");
    for (size, more) in [(10, "more"), (300_000, ""), (300_000, "more")] {
        let name = format!("{size}{more}");
        let (file, backup) = (a.join(&name), a.join(format!("{name}~")));
        let text = name.repeat(size / name.len());
        fs::write(&file, &text).expect("a file");
        assert_same(&pair);
        signal(daemon, "STOP");
        fs::rename(&file, &backup).expect("renamed");
        fs::write(&file, text + more).expect("another file");
        signal(daemon, "CONT");
        assert_same(&pair);
        let mut held = OpenOptions::new().append(true).open(&file).expect("open");
        held.write_all(b", and yet more").expect("written");
        assert_same(&pair);
    }
}

/// A node loses some names of files, and what it did counts for nothing: it asks for those names alone.
/// A changed names of its files while nobody listened, and died before it noticed that, so that what it did is a tail and no
/// epoch of its own; `None` where it noticed.
fn tail_of_names() -> Option<Pair> {
    let mut pair = two_roots();
    let (a, more) = (pair.root(Side::A, "data"), pair.root(Side::A, "more"));
    let files = [("small", 10), ("large", 300_000)];
    for (name, size) in files {
        let first = a.join(format!("{name} 1"));
        fs::write(&first, name.repeat(size)).expect("a file");
        for n in 2..4 {
            fs::hard_link(&first, a.join(format!("{name} {n}"))).expect("a link");
        }
        fs::hard_link(&first, more.join(name)).expect("a link");
    }
    assert_same(&pair);
    // Nobody listens.
    let before = pair.status().expect("a status")["sequence"].as_u64();
    let serve = fs::read_to_string(pair.dir().join("serve-b.pid")).expect("the pid of syncd serve");
    signal(serve.trim().parse().expect("a pid"), "STOP");
    for (name, _) in files {
        fs::remove_file(a.join(format!("{name} 1"))).expect("removed");
        fs::write(a.join("anew"), "another file").expect("a file");
        fs::rename(a.join("anew"), a.join(format!("{name} 2"))).expect("replaced");
    }
    pair.wait_status(LONG, "noting the tail", |s| {
        s["sequence"].as_u64() >= before.map(|n| n + 4)
    })
    .expect("the changes have numbers");
    pair.kill(Side::A);
    if pair.log(Side::A).contains("has been silent") {
        // On a busy machine it came in more batches than may be on their way: what came last waited for an answer.
        return None;
    }
    pair.kill_serve(Side::B);
    pair.cut().expect("cut");
    wait_serve_gone(&pair, Side::B);
    Some(pair)
}

#[test]
fn names_that_a_returned_node_had_lost_are_names_of_the_file_again() {
    let pair = (0..5).find_map(|_| tail_of_names());
    let pair = pair.expect("A dies in time");
    activate(&pair, Side::B);
    fs::write(pair.root(Side::B, "data").join("keep"), "what counts").expect("a file");
    let epoch = |s: &Value| s["epoch"].as_u64() >= Some(2);
    assert!(until(LONG, noted(&pair, Side::B, epoch)));
    pair.restore().expect("mended");
    well(&pair, Side::A, &["resync"]);
    assert_equal(&pair);
}
