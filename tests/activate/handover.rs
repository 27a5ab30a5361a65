//! A node becomes active while the other one is active, gone, ahead, or does not answer.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::kinds::noise;
use crate::common::node::{Pair, Side};
use crate::common::steps::{
    Immutable, LONG, activate, ctl, deactivate, edit_config, flushed_equal, has_problem, idle,
    is_root, json, preserved, signal, until, wait_equal, wait_serve_gone, well,
};
use crate::options;

fn write(pair: &Pair, side: Side, name: &str, text: &str) {
    fs::write(pair.root(side, "data").join(name), text).expect("a file");
}

fn read(pair: &Pair, side: Side, name: &str) -> Option<String> {
    fs::read_to_string(pair.root(side, "data").join(name)).ok()
}

fn role(pair: &Pair, side: Side) -> String {
    let status = pair.status_of(side).expect("a status");
    status["role"].as_str().expect("a role").to_owned()
}

/// A active, with a file that B has.
fn a_active() -> Pair {
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    write(&pair, Side::A, "first", "of osm1");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    pair
}

#[test]
fn a_planned_move_takes_everything_there_and_back() {
    let pair = a_active();
    for (n, (from, to)) in [(Side::A, Side::B), (Side::B, Side::A), (Side::A, Side::B)]
        .into_iter()
        .enumerate()
    {
        for i in 0..50 {
            write(&pair, from, &format!("{n} {i}"), "the last moment");
        }
        let left = deactivate(&pair, from);
        assert_eq!(left["paths"], 0, "{left}");
        assert_eq!(role(&pair, from), "stopped");
        let begun = Instant::now();
        activate(&pair, to);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(
            read(&pair, to, &format!("{n} 49")).as_deref(),
            Some("the last moment")
        );
        write(&pair, to, "who", to.name());
        let there = until(LONG, || {
            read(&pair, from, "who").as_deref() == Some(to.name())
        });
        assert!(there, "{}", pair.log(to));
    }
    assert!(
        preserved(&pair, Side::A, "data").is_empty()
            && preserved(&pair, Side::B, "data").is_empty()
    );
}

#[test]
fn an_active_peer_hands_over_with_all_it_has() {
    let pair = a_active();
    let a = pair.root(Side::A, "data");
    for i in 0..300 {
        fs::write(a.join(format!("f{i}")), vec![b'x'; 20_000]).expect("a file");
    }
    activate(&pair, Side::B);
    assert_eq!(role(&pair, Side::B), "active");
    assert!(until(LONG, || role(&pair, Side::A) != "active"));
    for i in 0..300 {
        assert!(
            pair.root(Side::B, "data").join(format!("f{i}")).exists(),
            "f{i}"
        );
    }
    write(&pair, Side::B, "after", "of osm2");
    wait_equal(&pair, "data");
    assert!(preserved(&pair, Side::A, "data").is_empty());
}

#[test]
fn an_active_peer_hands_over_again_and_again() {
    let pair = a_active();
    for n in 0..6 {
        let (from, to) = if n % 2 == 0 {
            (Side::A, Side::B)
        } else {
            (Side::B, Side::A)
        };
        write(&pair, from, &format!("of {n}"), "written just before");
        activate(&pair, to);
        assert_eq!(
            read(&pair, to, &format!("of {n}")).as_deref(),
            Some("written just before")
        );
        assert_ne!(role(&pair, from), "active");
    }
}

#[test]
fn the_configuration_may_refuse_an_active_peer() {
    let mut options = options!();
    options.tables = "[activation]\non_peer_active = \"refuse\"\n".into();
    let mut pair = idle(options);
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let (code, text) = ctl(&pair, Side::B, &["activate", "--log", "/dev/null"]);
    assert_eq!(code, 6, "{text}");
    assert!(
        text.contains("osm1 is active") && text.contains("deactivate osm1"),
        "{text}"
    );
    assert_eq!(role(&pair, Side::A), "active");
    write(&pair, Side::A, "still", "replicated");
    wait_equal(&pair, "data");
}

#[test]
fn a_dead_peer_costs_next_to_nothing_and_the_age_of_the_data_is_told() {
    let pair = a_active();
    pair.kill_daemon(Side::A);
    wait_serve_gone(&pair, Side::B);
    pair.cut().expect("A is down");
    let begun = Instant::now();
    activate(&pair, Side::B);
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    let status = pair.status_of(Side::B).expect("a status");
    let how = status["activation"].as_str().expect("a sentence");
    assert!(
        how.contains("with local data") && how.contains("last in step with the peer"),
        "{how}"
    );
    assert_eq!(read(&pair, Side::B, "first").as_deref(), Some("of osm1"));
    assert_eq!(status["pending"]["paths"], 0, "{status}");
}

#[test]
fn a_peer_that_hangs_costs_no_more_than_the_time_it_is_given() {
    let pair = a_active();
    edit_config(&pair, |t| t + "\n[activation]\nactivate_timeout = \"1s\"\n");
    let pid = pair.daemon(Side::A).expect("it runs");
    signal(i32::try_from(pid).expect("a pid"), "STOP");
    pair.kill_serve(Side::B);
    let begun = Instant::now();
    activate(&pair, Side::B);
    let took = begun.elapsed();
    signal(i32::try_from(pid).expect("a pid"), "CONT");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(role(&pair, Side::B), "active");
    // Two are active for a moment; then the one that was asked hands over after all, or both say that it is so.
    let settled = until(LONG, || {
        let status = pair.status_of(Side::B).expect("a status");
        role(&pair, Side::A) != "active" || status["peer"]["state"] == "halted"
    });
    assert!(settled, "{}", pair.log(Side::B));
}

#[test]
fn a_node_that_is_behind_takes_what_it_lacks_before_it_is_active() {
    let pair = a_active();
    deactivate(&pair, Side::A);
    // A moves on while B hears nothing.
    pair.cut().expect("cut");
    activate(&pair, Side::A);
    for i in 0..20 {
        write(&pair, Side::A, &format!("missed {i}"), "newer");
    }
    let left = deactivate(&pair, Side::A);
    assert!(left["paths"].as_u64() >= Some(20), "{left}");
    pair.restore().expect("mended");
    activate(&pair, Side::B);
    for i in 0..20 {
        assert_eq!(
            read(&pair, Side::B, &format!("missed {i}")).as_deref(),
            Some("newer")
        );
    }
    let status = json(&pair, Side::B, &["status"]);
    let how = status["activation"].as_str().expect("a sentence");
    assert!(how.contains("with the newest data"), "{how}");
}

#[test]
fn on_stale_serve_asks_nobody() {
    let pair = a_active();
    deactivate(&pair, Side::A);
    pair.cut().expect("cut");
    activate(&pair, Side::A);
    write(&pair, Side::A, "missed", "newer");
    deactivate(&pair, Side::A);
    pair.restore().expect("mended");
    edit_config(&pair, |t| t + "\n[activation]\non_stale = \"serve\"\n");
    activate(&pair, Side::B);
    assert_eq!(read(&pair, Side::B, "missed"), None);
    let halted = until(LONG, || {
        let status = pair.status_of(Side::B).expect("a status");
        status["peer"]["state"] == "halted"
            && status["peer"]["reason"]
                .as_str()
                .is_some_and(|r| r.contains("newer data") || r.contains("older data"))
    });
    assert!(halted, "{}", pair.log(Side::B));
    well(&pair, Side::B, &["deactivate"]);
}

/// Whoever paused replication did not mean that the other node goes on without the last changes.
#[test]
fn an_active_peer_that_is_paused_hands_over_as_well() {
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    well(&pair, Side::A, &["pause"]);
    write(&pair, Side::A, "f", "not sent yet");
    pair.wait_status(LONG, "the change", |s| {
        s["pending"]["paths"].as_u64() > Some(0)
    })
    .expect("noticed");
    activate(&pair, Side::B);
    assert_eq!(read(&pair, Side::B, "f").as_deref(), Some("not sent yet"));
    let status = pair.status_of(Side::B).expect("a status");
    let how = status["activation"].as_str().unwrap_or_default();
    assert!(how.contains("with the newest data"), "{how}");
    let other = pair.status_of(Side::A);
    assert!(
        !other.is_ok_and(|s| s["role"] == "active"),
        "two active nodes"
    );
}

#[test]
fn who_took_over_without_some_changes_does_not_claim_the_newest_data() {
    let mut options = options!();
    options.sync_lines = "bandwidth_limit = \"64KiB/s\"".into();
    options.tables = "[activation]\nflush_timeout = \"1s\"\n".into();
    let mut pair = idle(options);
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    fs::write(pair.root(Side::A, "data").join("large"), noise(1 << 20, 7)).expect("a file");
    pair.wait_status(LONG, "the change", |s| {
        s["pending"]["paths"].as_u64() > Some(0)
    })
    .expect("noticed");
    activate(&pair, Side::B);
    let status = pair.status_of(Side::B).expect("a status");
    let how = status["activation"].as_str().unwrap_or_default();
    assert!(how.contains("handed over without"), "{how}");
    assert!(!how.contains("newest data"), "{how}");
}

/// The newest version of a file is on the old active node alone, where the new one could not take it.
#[test]
fn what_the_new_active_node_could_not_take_is_preserved_before_it_is_replaced() {
    if !is_root("what could not be taken") {
        return;
    }
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    fs::create_dir(pair.root(Side::A, "data").join("d")).expect("a directory");
    write(&pair, Side::A, "d/f", "first");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    let Some(refuses) = Immutable::new(&pair.root(Side::B, "data").join("d")) else {
        return;
    };
    write(&pair, Side::A, "d/f", "the newest");
    let refused = until(LONG, || {
        pair.status().is_ok_and(|s| has_problem(&s, "data:d/f"))
    });
    activate(&pair, Side::B);
    let told = json(&pair, Side::B, &["status", "--json"]);
    drop(refuses);
    assert!(refused, "{told}");
    assert!(
        told["activation"]
            .to_string()
            .contains("could not be taken"),
        "{told}"
    );
    assert_eq!(read(&pair, Side::B, "d/f").as_deref(), Some("first"));
    // What is written on the node that now counts goes over the old one's.
    write(&pair, Side::B, "d/f", "written after that");
    wait_equal(&pair, "data");
    assert_eq!(
        read(&pair, Side::A, "d/f").as_deref(),
        Some("written after that")
    );
    let kept = preserved(&pair, Side::A, "data");
    assert_eq!(kept, [("d/f".to_owned(), b"the newest".to_vec())]);
}
