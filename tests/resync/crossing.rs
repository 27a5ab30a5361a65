//! Both nodes dial each other at the same moment: of the two streams they choose the same.

use std::fs;

use crate::common::kinds::noise;
use crate::common::node::Side;
use crate::common::steps::{
    LONG, ctl, edit_config, flushed_equal, idle, in_sync, start, until, wait_serve_gone,
};
use crate::common::tree;
use crate::options;

#[test]
fn a_resync_goes_on_while_the_active_node_calls() {
    let pair = in_sync(options!());
    flushed_equal(&pair, "data");
    pair.cut().expect("cut");
    wait_serve_gone(&pair, Side::B);
    let a = pair.root(Side::A, "data");
    for d in 0..20 {
        let dir = a.join(format!("d{d}"));
        fs::create_dir(&dir).expect("a directory");
        for f in 0..500 {
            fs::write(dir.join(f.to_string()), "missed").expect("a file");
        }
    }
    // What A starts on B comes a moment later, in the middle of B's own session.
    let wrapper = pair.dir().join("serve-b.sh");
    let text = fs::read_to_string(&wrapper).expect("the wrapper");
    fs::write(&wrapper, text.replace("exec ", "sleep 0.4; exec ")).expect("the wrapper");
    let mut crossed = 0;
    let met = until(LONG, || {
        pair.restore().expect("mended");
        let (code, text) = ctl(&pair, Side::B, &["resync", "--full", "--checksum"]);
        // Where A's call was there before the command was, there is nothing to cross.
        if !text.contains("this node receives from") {
            assert_eq!(code, 0, "after {crossed} rounds: {text}");
            crossed += 1;
        }
        pair.cut().expect("cut");
        wait_serve_gone(&pair, Side::B);
        crossed == 4
    });
    assert!(met, "only {crossed} calls crossed");
}

#[test]
fn two_that_call_each_other_meet() {
    let mut pair = in_sync(options!());
    fs::write(pair.root(Side::A, "data").join("file"), "first").expect("a file");
    flushed_equal(&pair, "data");
    pair.stop(Side::A);
    wait_serve_gone(&pair, Side::B);
    for round in 0..10 {
        let both = [Side::A, Side::B];
        let said = std::thread::scope(|s| {
            let pair = &pair;
            let calls = both.map(|side| s.spawn(move || ctl(pair, side, &["resync"])));
            calls.map(|c| c.join().expect("no panic"))
        });
        for (code, text) in &said {
            assert_eq!(*code, 0, "round {round}: {text}");
        }
    }
}

/// The node that sends, with nobody active, is asked for a resync as well: it goes on with what it does.
#[test]
fn a_resync_under_way_is_asked_for_on_the_other_node_as_well() {
    let mut pair = idle(options!());
    edit_config(&pair, |text| {
        text.replace("[sync]", "[sync]\nbandwidth_limit = \"4MiB/s\"")
    });
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    for (round, asked) in [
        &["resync"][..],
        &["resync", "--full"],
        &["resync", "--dry-run"],
    ]
    .into_iter()
    .enumerate()
    {
        pair.cut().expect("cut");
        fs::write(a.join("large"), noise(8 << 20, round as u64)).expect("a file");
        pair.wait_status(LONG, "noting it", |s| {
            s["peer"]["state"] == "unreachable" && s["pending"]["paths"].as_u64() >= Some(1)
        })
        .expect("noted");
        pair.stop(Side::A);
        pair.restore().expect("mended");
        wait_serve_gone(&pair, Side::B);
        let said = std::thread::scope(|s| {
            let pair = &pair;
            let first = s.spawn(move || ctl(pair, Side::B, &["resync"]));
            let sends = until(LONG, || {
                pair.status_of(Side::A)
                    .is_ok_and(|s| s["peer"]["state"] == "catching-up")
            });
            assert!(sends, "{:?}", pair.status_of(Side::A));
            let second = ctl(pair, Side::A, asked);
            [first.join().expect("no panic"), second]
        });
        for (code, text) in &said {
            assert_eq!(*code, 0, "{asked:?}: {text}");
        }
        tree::assert_equal(&a, &b);
        start(&mut pair, Side::A);
        pair.wait_in_sync(LONG).expect("in sync");
    }
}

#[test]
fn an_activation_has_the_newest_data_while_the_peer_calls() {
    let mut pair = in_sync(options!());
    let a = pair.root(Side::A, "data");
    fs::write(a.join("file"), "first").expect("a file");
    flushed_equal(&pair, "data");
    pair.stop(Side::A);
    wait_serve_gone(&pair, Side::B);
    for round in 0..6 {
        // In turn: the one whose name comes first takes over, and the other one.
        let (taker, other) = if round % 2 == 0 {
            (Side::B, Side::A)
        } else {
            (Side::A, Side::B)
        };
        let [taken, resynced] = std::thread::scope(|s| {
            let pair = &pair;
            let calls = [(taker, "activate"), (other, "resync")]
                .map(|(side, what)| s.spawn(move || ctl(pair, side, &[what])));
            calls.map(|c| c.join().expect("no panic"))
        });
        assert_eq!(taken.0, 0, "round {round}: {taken:?}");
        let status = pair.status_of(taker).expect("status");
        let how = status["activation"].as_str().expect("a sentence");
        assert!(how.contains("newest data"), "round {round}: {how}");
        assert_eq!(resynced.0, 0, "round {round}: {resynced:?}");
        let (code, text) = ctl(&pair, taker, &["deactivate"]);
        assert_eq!(code, 0, "round {round}: {text}");
    }
}
