//! The unreplicated tail of a node that crashed, put back once the node is active again.

use std::fs;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, ctl, ctl_when_free, flushed_equal, in_sync, noted, signal, start, until, wait_equal,
    wait_serve_gone,
};
use crate::options;
use crate::{id, list, one};

/// A crashed with three changes that B never got, B took over and changed one of the paths, A came back and follows.
fn returned_with_a_tail() -> Pair {
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("d")).expect("a directory");
    for name in ["both", "d/one", "kept"] {
        fs::write(a.join(name), "first").expect("a file");
    }
    flushed_equal(&pair, "data");
    let sequence = pair.status().expect("status")["sequence"].as_u64();
    let serve = fs::read_to_string(pair.dir().join("serve-b.pid")).expect("the pid of syncd serve");
    signal(serve.trim().parse().expect("a pid"), "STOP");
    // In one piece: of more batches than may be on their way at a time, the last would get no number.
    let syncd = pair.pid(Side::A).and_then(|p| p.try_into().ok());
    signal(syncd.expect("a pid"), "STOP");
    for name in ["both", "d/one", "new"] {
        fs::write(a.join(name), format!("the tail of {name}")).expect("a file");
    }
    signal(syncd.expect("a pid"), "CONT");
    pair.wait_status(LONG, "noting the tail", |s| {
        s["sequence"].as_u64() >= sequence.map(|n| n + 3)
    })
    .expect("the changes have numbers");
    pair.kill(Side::A);
    pair.kill_serve(Side::B);
    wait_serve_gone(&pair, Side::B);
    pair.cut().expect("A is down");
    start(&mut pair, Side::B);
    active(&pair, Side::B);
    fs::write(b.join("both"), "of the new active node").expect("a file");
    fs::remove_dir_all(b.join("d")).expect("removed");
    // Before its own changes have numbers, B would seem to be behind.
    let noted = until(
        LONG,
        noted(&pair, Side::B, |s| s["epoch"].as_u64() >= Some(2)),
    );
    assert!(noted, "{:?}", pair.status_of(Side::B));
    pair.restore().expect("the link is back");
    let follows = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["peer"]["state"] == "in-sync")
    });
    assert!(follows, "{}", pair.log(Side::B));
    wait_equal(&pair, "data");
    pair
}

fn active(pair: &Pair, side: Side) {
    let up = until(LONG, || {
        pair.status_of(side).is_ok_and(|s| s["role"] == "active")
    });
    assert!(up, "{}", pair.log(side));
}

#[test]
fn a_tail_comes_back_on_the_active_node_and_reaches_the_other() {
    let mut pair = returned_with_a_tail();
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let items = list(&pair, Side::A);
    assert_eq!(items.len(), 3, "{items:?}");
    for name in ["both", "d/one", "new"] {
        let item = one(&items, name);
        let size = format!("the tail of {name}").len();
        assert_eq!(item["origin"], "tail", "{item}");
        assert_eq!(item["size"], size, "{item}");
    }
    // A edit made now, with the tail gone, is an edit.
    fs::write(a.join("kept"), "edited on the standby").expect("an edit");
    fs::write(b.join("kept"), "changed on the active node").expect("written");
    wait_equal(&pair, "data");
    assert_eq!(one(&list(&pair, Side::A), "kept")["origin"], "edit");
    // Back to A.
    pair.stop(Side::B);
    wait_serve_gone(&pair, Side::A);
    start(&mut pair, Side::A);
    active(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let item = one(&items, "new");
    let (code, said) = ctl(&pair, Side::A, &["preserved", "restore", id(&item)]);
    assert_eq!(code, 0, "{said}");
    let item = one(&items, "d/one");
    let (code, said) = ctl(&pair, Side::A, &["preserved", "restore", id(&item)]);
    assert!(code == 6 && said.contains("directory"), "{code}: {said}");
    let item = one(&items, "both");
    let (code, said) = ctl(&pair, Side::A, &["preserved", "restore", id(&item)]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("what stood there is preserved as"), "{said}");
    flushed_equal(&pair, "data");
    for name in ["both", "new"] {
        let content = format!("the tail of {name}");
        assert_eq!(fs::read_to_string(b.join(name)).expect("read"), content);
    }
    let now = list(&pair, Side::A);
    let replaced = one(&now, "both");
    assert_eq!(replaced["origin"], "replaced", "{replaced}");
    assert_eq!(now.len(), 3, "d/one, kept, and what was replaced: {now:?}");
    // And the other way round again: nothing is ever lost.
    let (code, said) = ctl_when_free(&pair, Side::A, &["preserved", "restore", id(&replaced)]);
    assert_eq!(code, 0, "{said}");
    flushed_equal(&pair, "data");
    assert_eq!(
        fs::read(b.join("both")).expect("read"),
        b"of the new active node"
    );
}
