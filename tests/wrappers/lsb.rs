//! The init scripts: the table of an LSB checker, and the words that Heartbeat looks for.

use std::fs;
use std::process::Command;

use crate::common::node::{Pair, Side};
use crate::common::steps::{edit_config, is_root, said};
use crate::{bare, file, pair, role};

/// Runs the init script with dash; its exit code and what it printed on standard output.
fn script(pair: &Pair, name: &str, verb: &str) -> (i32, String) {
    let out = bare("dash", pair)
        .arg(file(name))
        .args(verb.split_whitespace())
        .output();
    let out = out.expect("dash runs");
    let (code, _) = said(&out);
    (code, String::from_utf8_lossy(&out.stdout).into_owned())
}

fn lsb(pair: &Pair, verb: &str) -> i32 {
    script(pair, "init.d/osm-failover", verb).0
}

/// What Heartbeat makes of an answer, by the patterns of its ResourceManager.
fn heartbeat_sees_it_on(text: &str) -> bool {
    let lower = text.to_lowercase();
    !lower.contains("not running") && (lower.contains("running") || text.contains("OK"))
}

#[test]
fn the_table_of_an_lsb_checker() {
    if !is_root("init scripts") {
        return;
    }
    let pair = pair();
    for (step, (verb, code, role_after)) in [
        ("status", 3, "stopped"),
        ("stop", 0, "stopped"),
        ("try-restart", 0, "stopped"),
        ("force-reload", 0, "stopped"),
        ("start", 0, "active"),
        ("status", 0, "active"),
        ("start", 0, "active"),
        ("restart", 0, "active"),
        ("try-restart", 0, "active"),
        ("force-reload", 0, "active"),
        ("reload", 3, "active"),
        ("fly", 2, "active"),
        ("", 2, "active"),
        ("stop", 0, "stopped"),
        ("status", 3, "stopped"),
        ("stop", 0, "stopped"),
        ("restart", 0, "active"),
        ("stop", 0, "stopped"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            lsb(&pair, verb),
            code,
            "step {step}: {verb}; {}",
            pair.log(Side::A)
        );
        assert_eq!(role(&pair), role_after, "step {step}: {verb}");
    }
}

#[test]
fn heartbeat_reads_the_status() {
    if !is_root("init scripts") {
        return;
    }
    let pair = pair();
    let status = || script(&pair, "init.d/osm-failover", "status").1;
    assert_eq!(status(), "osm-failover is stopped\n");
    assert!(!heartbeat_sees_it_on(&status()));
    assert_eq!(lsb(&pair, "start"), 0);
    assert_eq!(status(), "osm-failover is running\n");
    assert!(heartbeat_sees_it_on(&status()));
    // A node that follows the active one is off for Heartbeat.
    let other = bare("dash", &pair)
        .arg(file("init.d/osm-failover"))
        .arg("status")
        .env("OSM_NODE", "osm2")
        .output()
        .expect("dash runs");
    assert!(!heartbeat_sees_it_on(&String::from_utf8_lossy(
        &other.stdout
    )));
    assert_eq!(other.status.code(), Some(3));
    assert_eq!(lsb(&pair, "stop"), 0);
}

#[test]
fn what_is_wrong_gets_the_code_for_it() {
    if !is_root("init scripts") {
        return;
    }
    let pair = pair();
    let good = fs::read_to_string(pair.config()).expect("a configuration");
    assert_eq!(lsb(&pair, "start"), 0);
    edit_config(&pair, |c| format!("{c}\nunknown = 1\n"));
    for verb in ["restart", "start"] {
        assert_eq!(
            lsb(&pair, verb),
            6,
            "{verb} with a configuration that is refused"
        );
    }
    edit_config(&pair, |_| good.clone());
    assert_eq!(
        role(&pair),
        "active",
        "a refused configuration must not end a node that serves"
    );
    assert_eq!(lsb(&pair, "stop"), 0);
    fs::remove_file(pair.config()).expect("it is ours");
    assert_eq!(lsb(&pair, "start"), 6, "without a configuration");
    assert_eq!(lsb(&pair, "status"), 3, "without a configuration");
    fs::write(pair.config(), good).expect("it is ours");
    let without = |verb: &str| {
        let out = bare("dash", &pair)
            .env("PATH", "/usr/bin:/bin")
            .arg(file("init.d/osm-failover"))
            .arg(verb)
            .output();
        out.expect("dash runs").status.code()
    };
    // The script looks into these itself, where a user may have it.
    if !std::path::Path::new("/usr/local/bin/syncctl").exists() {
        for (verb, code) in [("start", 5), ("stop", 0), ("status", 3)] {
            assert_eq!(without(verb), Some(code), "{verb} without syncctl");
        }
    }
    let mut nobody = Command::new("setpriv");
    nobody
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "dash"])
        .env("PATH", "/usr/bin:/bin");
    let text = fs::read_to_string(file("init.d/osm-failover")).expect("a script");
    let out = nobody
        .args(["-c", &text, "osm-failover", "start"])
        .output()
        .expect("setpriv runs");
    assert_eq!(out.status.code(), Some(4), "{out:?}");
}

#[test]
fn a_stop_ends_what_a_crash_left() {
    if !is_root("init scripts") {
        return;
    }
    let pair = pair();
    assert_eq!(lsb(&pair, "start"), 0);
    let pid = pair.daemon(Side::A).expect("it runs");
    crate::common::steps::signal(i32::try_from(pid).expect("a process id"), "KILL");
    assert!(
        crate::common::steps::until(crate::common::steps::LONG, || role(&pair) == "stopped"),
        "it was killed"
    );
    assert_eq!(lsb(&pair, "status"), 3);
    assert_eq!(lsb(&pair, "stop"), 0);
    assert_eq!(lsb(&pair, "start"), 0);
    assert_eq!(lsb(&pair, "stop"), 0);
}

#[test]
fn the_boot_is_not_held_up() {
    if !is_root("init scripts") {
        return;
    }
    let pair = pair();
    let resync = |verb: &str| script(&pair, "init.d/osm-failover-resync", verb).0;
    assert_eq!(resync("start"), 0, "both nodes are there");
    pair.cut().expect("the link can be cut");
    assert_eq!(resync("start"), 0, "the other node is down");
    for (verb, code) in [
        ("stop", 0),
        ("try-restart", 0),
        ("status", 3),
        ("reload", 3),
        ("fly", 2),
    ] {
        assert_eq!(resync(verb), code, "{verb}");
    }
    pair.restore().expect("the link can be mended");
    // A peer that takes the connection and says nothing.
    edit_config(&pair, |c| {
        c.replace(
            "command = [\"/bin/sh\", ",
            "command = [\"/bin/sh\", \"-c\", \"exec sleep 60\", ",
        )
    });
    let began = std::time::Instant::now();
    let out = bare("dash", &pair)
        .arg(file("init.d/osm-failover-resync"))
        .arg("start")
        .env("OSM_RESYNC_LIMIT", "1")
        .output()
        .expect("dash runs");
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}
