//! The other node died: how long an activation waits for it, over a real link that carries nothing any more.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::netns::{End, Ground, NetPair, over_ssh};
use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, deactivate, flushed_equal, idle, in_sync, said, state, until, wait_serve_gone,
};
use crate::options;

/// `syncctl` on B, in its own network: exit code, and what it said.
fn ctl_b(net: &NetPair, pair: &Pair, args: &[&str]) -> (i32, String) {
    let out = net
        .command(End::B, env!("CARGO_BIN_EXE_syncctl"))
        .arg("--config")
        .arg(pair.config())
        .args(["--node", "osm2"])
        .args(args)
        .output()
        .expect("syncctl runs");
    said(&out)
}

/// As [`ctl_b`], which must end well; how long it took, and what it said.
fn on_b(net: &NetPair, pair: &Pair, args: &[&str]) -> (Duration, String) {
    let began = Instant::now();
    let (code, text) = ctl_b(net, pair, args);
    assert_eq!(code, 0, "{args:?}: {text}");
    (began.elapsed(), text)
}

#[test]
fn a_peer_that_fell_silent_and_whose_host_is_gone_is_not_waited_for() {
    let mut options = options!();
    let Some(Ground { net, sshd, .. }) = &over_ssh(&mut options) else {
        return;
    };
    let mut pair = in_sync(options);
    std::fs::write(pair.root(Side::A, "data").join("f"), "replicated").expect("a file");
    flushed_equal(&pair, "data");
    net.set_link(false).expect("the link is cut");
    let gone = until(LONG, || {
        // Nothing runs there any more.
        ctl_b(net, &pair, &["status"]).0 == 3
    });
    assert!(gone, "{}", ctl_b(net, &pair, &["status"]).1);
    pair.kill(Side::A);
    let log = pair.daemon_log(Side::B);
    let activate = ["activate", "--log", log.as_str()];

    // Its host refuses, so it lives, and what it says counts.
    net.set_link(true).expect("the link is mended");
    let answers = until(LONG, || {
        let connect = format!("exec 3<>/dev/tcp/{}/{}", net.address(End::A), sshd.port);
        let out = net.command(End::B, "bash").args(["-c", &connect]).output();
        String::from_utf8_lossy(&out.expect("bash runs").stderr).contains("refused")
    });
    assert!(answers, "the link does not come back");
    let (_, text) = on_b(net, &pair, &activate);
    assert!(text.contains("refused"), "{text}");
    on_b(net, &pair, &["deactivate"]);

    // It does not answer at all.
    net.set_link(false).expect("the link is cut");
    let (took, text) = on_b(net, &pair, &activate);
    assert!(text.contains("fell silent"), "{text}");
    assert!(took < Duration::from_secs(3), "{took:?}: {text}");
    println!("activation beside a dead peer: {took:?}");
    on_b(net, &pair, &["deactivate"]);
}

#[test]
fn a_peer_that_has_just_died_is_waited_for_until_its_silence_is_certain() {
    let mut options = options!();
    let Some(Ground { net, .. }) = &over_ssh(&mut options) else {
        return;
    };
    let mut pair = in_sync(options);
    std::fs::write(pair.root(Side::A, "data").join("f"), "replicated").expect("a file");
    flushed_equal(&pair, "data");
    net.set_link(false).expect("the link is cut");
    pair.kill(Side::A);
    // Not yet two signs of life were missed, and the receiver still runs, when the cluster manager has made up its mind.
    std::thread::sleep(Duration::from_millis(1700));
    assert_eq!(ctl_b(net, &pair, &["status"]).0, 0);
    let log = pair.daemon_log(Side::B);
    let (took, text) = on_b(net, &pair, &["activate", "--log", log.as_str()]);
    assert!(text.contains("fell silent"), "{text}");
    assert!(took < Duration::from_secs(3), "{took:?}: {text}");
    println!("activation beside a peer that has just died: {took:?}");
    on_b(net, &pair, &["deactivate"]);
}

#[test]
fn a_peer_that_was_met_since_has_not_fallen_silent() {
    let mut pair = in_sync(options!());
    std::fs::write(pair.root(Side::A, "data").join("f"), "replicated").expect("a file");
    flushed_equal(&pair, "data");
    pair.stop(Side::A);
    wait_serve_gone(&pair, Side::B);
    let number = |set: &str| -> i64 {
        let index = rusqlite::Connection::open(state(&pair, Side::B).join("index.db"));
        let index = index.expect("the index");
        index.execute_batch(set).expect("written");
        let query = "SELECT value FROM meta WHERE key='silent_since_ms'";
        index.query_row(query, [], |row| row.get(0)).expect("read")
    };
    // As an earlier crash of the peer left it.
    assert_eq!(
        number("INSERT OR REPLACE INTO meta VALUES ('silent_since_ms',1)"),
        1
    );
    activate(&pair, Side::B);
    deactivate(&pair, Side::B);
    assert_eq!(number(""), 0);
}

/// A's host lost its disk before a change of the epoch that it had announced arrived: nobody holds anything of it.
#[test]
fn an_epoch_of_which_nothing_came_makes_nobody_newer() {
    let pair = idle(options!());
    activate(&pair, Side::A);
    fs::write(pair.root(Side::A, "data").join("f"), "one").expect("a file");
    flushed_equal(&pair, "data");
    deactivate(&pair, Side::A);
    wait_serve_gone(&pair, Side::B);
    let file = state(&pair, Side::B).join("epochs.json");
    let text = fs::read_to_string(&file).expect("the history");
    let doc: Value = serde_json::from_str(&text).expect("JSON");
    let first = doc["history"]["head"].as_u64().expect("a number") + 1;
    let announced = format!(",{{\"number\":99,\"id\":7,\"node\":\"osm1\",\"first\":{first}}}");
    let mut text = text;
    text.insert_str(text.rfind(']').expect("a list"), &announced);
    fs::write(&file, text).expect("the history");
    activate(&pair, Side::A);
    fs::write(pair.root(Side::A, "data").join("f"), "two").expect("written");
    flushed_equal(&pair, "data");
}
