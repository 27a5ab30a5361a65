//! Each of the 35 kinds of single change arrives exactly, with `syncd` on both ends of a pipe.

mod common;

use std::time::Duration;

use common::kinds::{self, Place};
use common::node::{Options, Pair, Side};
use common::tree;

fn pair() -> Pair {
    let mut options = Options::new(env!("CARGO_BIN_EXE_syncd"), env!("CARGO_BIN_EXE_syncctl"));
    options.roots = vec![
        ("one".to_owned(), "/one".to_owned()),
        ("two".to_owned(), "/two".to_owned()),
    ];
    let mut pair = Pair::new(options).expect("directories and configuration");
    pair.start(Side::A).expect("syncd starts");
    pair.wait_in_sync(Duration::from_secs(30))
        .expect("two empty nodes come in sync");
    pair
}

/// Differences between the nodes in both roots, after a flush.
fn differences(pair: &Pair) -> Vec<String> {
    if let Err(e) = pair.flush() {
        return vec![e];
    }
    ["one", "two"]
        .iter()
        .flat_map(|root| {
            let left = tree::snapshot(&pair.root(Side::A, root)).expect("A can be read");
            let right = tree::snapshot(&pair.root(Side::B, root)).expect("B can be read");
            tree::diff(&left, &right)
        })
        .collect()
}

#[test]
fn there_are_35_kinds() {
    assert_eq!(kinds::all().len(), 35);
}

#[test]
fn every_kind_of_single_change_arrives_exactly() {
    let pair = pair();
    let root = rustix::process::geteuid().is_root();
    let mut wrong = Vec::new();
    for (n, kind) in kinds::all().iter().enumerate() {
        if kind.root_only && !root {
            println!("skipped: {}: needs root", kind.name);
            continue;
        }
        let (one, two) = (pair.root(Side::A, "one"), pair.root(Side::A, "two"));
        let place = Place::make(&one, &two, n).expect("a place");
        (kind.prepare)(&place).expect("the state before");
        let before = differences(&pair);
        let held = (kind.change)(&place).expect("the change");
        let after = differences(&pair);
        drop(held);
        if before.is_empty() && after.is_empty() {
            println!("{}: ok", kind.name);
            continue;
        }
        println!("{}: differs", kind.name);
        let lines = before.iter().map(|l| format!("before the change: {l}"));
        wrong.extend(lines.chain(after).map(|l| format!("{}: {l}", kind.name)));
    }
    assert!(wrong.is_empty(), "not exact:\n{}", wrong.join("\n"));
}
