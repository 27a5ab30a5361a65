//! Links on which one message takes longer than a peer may be silent: what is on its way shows that the peer lives.

use std::fs;

use crate::common::kinds::noise;
use crate::common::netns::{End, Ground, over_ssh};
use crate::common::node::{Options, Pair, Side};
use crate::common::steps::{LONG, flushed_equal, in_sync, well};
use crate::options;

/// A pair in sync, for which nothing is compressed.
fn pair(mut options: Options, lines: &str) -> Pair {
    options.sync_lines = format!("compression = \"never\"\n{lines}");
    in_sync(options)
}

/// A megabyte in small files is one batch. It comes, and the session is the same afterwards.
fn comes_in_one_session(pair: &mut Pair) {
    let sessions = |pair: &Pair| {
        let status = pair.status().expect("a status");
        status["totals"]["sessions"].as_u64().expect("a number")
    };
    let before = sessions(pair);
    // A pause ends the session.
    well(pair, Side::A, &["pause"]);
    for n in 0..10 {
        let file = pair.root(Side::A, "data").join(format!("f{n}"));
        fs::write(file, noise(100_000, n)).expect("a file");
    }
    pair.wait_status(LONG, "noticed", |s| {
        s["pending"]["paths"].as_u64() >= Some(10)
    })
    .expect("a status");
    well(pair, Side::A, &["resume"]);
    pair.wait_status(LONG, "everything", |s| {
        s["peer"]["state"] == "in-sync" && s["pending"]["paths"] == 0
    })
    .expect("a status");
    flushed_equal(pair, "data");
    assert_eq!(sessions(pair), before + 1, "{}", pair.log(Side::A));
}

#[test]
fn a_bandwidth_limit_silences_nobody() {
    comes_in_one_session(&mut pair(options!(), "bandwidth_limit = \"100KiB/s\""));
}

#[test]
fn a_slow_link_carries_large_batches() {
    let mut options = options!();
    let Some(Ground { net, .. }) = &over_ssh(&mut options) else {
        return;
    };
    for end in [End::A, End::B] {
        let words = "qdisc add dev veth root tbf rate 1mbit burst 16kb latency 2s";
        let mut command = net.command(end, "tc");
        let done = command.args(words.split(' ')).status();
        if !done.is_ok_and(|s| s.success()) {
            println!("skipped: tc cannot make a link slow");
            return;
        }
    }
    comes_in_one_session(&mut pair(options, ""));
}
