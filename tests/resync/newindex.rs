//! A node that lost its index and holds the newer data: what it has is told by looking, not by numbers.

use std::fs;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, flushed_equal, in_sync, is_preserved, json, lose_index, preserved, start,
    until, wait_serve_gone,
};
use crate::common::tree;
use crate::options;

/// A is active and in sync with B.
fn filled() -> Pair {
    let pair = in_sync(options!());
    let a = pair.root(Side::A, "data");
    fs::create_dir(a.join("d")).expect("a directory");
    for name in ["changed", "gone", "same", "d/changed", "d/same"] {
        fs::write(a.join(name), format!("first {name}")).expect("a file");
    }
    flushed_equal(&pair, "data");
    pair
}

/// Whose process ended and whose index is gone may still be the one that is ahead: nothing that it changed has a number any
/// more, and the other node, which stands behind, must not count as equal.
#[test]
fn a_node_that_is_ahead_and_lost_its_index_brings_everything() {
    for asks in [Side::A, Side::B] {
        let mut pair = filled();
        let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
        pair.cut().expect("cut");
        pair.wait_status(LONG, "alone", |s| s["peer"]["state"] == "unreachable")
            .expect("alone");
        fs::write(a.join("changed"), "changed on osm1 alone").expect("written");
        fs::write(a.join("d/new"), "made on osm1 alone").expect("written");
        fs::remove_file(a.join("gone")).expect("removed");
        pair.wait_status(LONG, "noting it", |s| s["epoch"].as_u64() >= Some(2))
            .expect("an epoch of A");
        pair.stop(Side::A);
        pair.restore().expect("mended");
        wait_serve_gone(&pair, Side::B);
        lose_index(&pair, Side::A);
        let before = tree::snapshot(&a).expect("A can be read");
        json(&pair, asks, &["resync"]);
        let now = tree::snapshot(&a).expect("A can be read");
        assert_eq!(tree::diff(&before, &now), Vec::<String>::new(), "{asks:?}");
        tree::assert_equal(&a, &b);
    }
}

/// A standby that lost its index and becomes active before it was compared with the other node knows nothing of what it
/// once failed to take, or of what somebody did there by hand: the other node gets it, and keeps its own.
#[test]
fn what_an_active_node_without_its_index_may_never_have_had_is_preserved() {
    for dials in [false, true] {
        let mut pair = filled();
        let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
        // B notes where it stands with the end of a comparison.
        pair.stop(Side::A);
        start(&mut pair, Side::A);
        pair.wait_in_sync(LONG).expect("in sync");
        pair.kill(Side::A);
        wait_serve_gone(&pair, Side::B);
        lose_index(&pair, Side::B);
        for name in ["changed", "d/changed"] {
            fs::write(b.join(name), "as osm2 has it").expect("an edit");
        }
        fs::remove_file(b.join("gone")).expect("removed");
        // A does not answer, or takes the call and dies.
        let wrapper = pair.dir().join("serve-a.sh");
        let script = fs::read_to_string(&wrapper).expect("the wrapper");
        let other = if dials { "#!/bin/sh\n" } else { "exit 255\n" };
        fs::write(&wrapper, other).expect("the wrapper");
        activate(&pair, Side::B);
        let scanned = until(LONG, || {
            pair.status_of(Side::B)
                .is_ok_and(|s| s["pending"]["scanning"] == false)
        });
        assert!(scanned, "{}", pair.log(Side::B));
        fs::write(&wrapper, script).expect("the wrapper");
        // That it is to be compared is remembered, also where the process ends before the peer is back.
        pair.kill(Side::B);
        start(&mut pair, Side::B);
        let equal = until(LONG, || {
            tree::snapshot(&a).ok() == tree::snapshot(&b).ok()
                && !preserved(&pair, Side::A, "data").is_empty()
        });
        let log = pair.log(Side::B);
        assert!(equal, "dials: {dials}\n{log}");
        assert_eq!(
            fs::read_to_string(a.join("changed")).ok().as_deref(),
            Some("as osm2 has it")
        );
        for name in ["changed", "gone", "d/changed"] {
            let content = format!("first {name}");
            assert!(
                is_preserved(&pair, Side::A, "data", content.as_bytes()),
                "{name}, dials: {dials}\n{log}"
            );
        }
        assert_eq!(
            preserved(&pair, Side::A, "data").len(),
            3,
            "what is the same makes no way"
        );
    }
}
