//! A peer that cannot be reached, or that is configured in another way.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::node::Side;
use crate::common::steps::{
    ctl, edit_config, flushed_equal, idle, in_sync, other_config_for_b, start, wait_equal,
    wait_peer,
};
use crate::options;

#[test]
fn without_a_peer_a_node_works_and_says_so() {
    let mut pair = idle(options!());
    pair.cut().expect("the link is cut");
    start(&mut pair, Side::A);
    wait_peer(&mut pair, "unreachable", "the link is cut");
    fs::write(pair.root(Side::A, "data").join("f"), "alone").expect("a file");
    let began = Instant::now();
    let (code, said) = ctl(&pair, Side::A, &["flush", "--timeout", "1s"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("the link is cut"), "{said}");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let status = pair.status().expect("status");
    assert_eq!(status["role"], "active");
    pair.restore().expect("the link is mended");
    pair.wait_in_sync(Duration::from_secs(40)).expect("in sync");
    flushed_equal(&pair, "data");
}

#[test]
fn a_link_program_that_does_not_exist_is_named() {
    let mut pair = idle(options!());
    let wrapper = pair.dir().join("serve-b.sh").display().to_string();
    edit_config(&pair, |text| {
        text.replace(
            &format!("[\"/bin/sh\", \"{wrapper}\"]"),
            "[\"/no/such/program\"]",
        )
    });
    start(&mut pair, Side::A);
    wait_peer(&mut pair, "unreachable", "/no/such/program");
    let (code, said) = ctl(&pair, Side::A, &["flush", "--timeout", "1s"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("/no/such/program"), "{said}");
}

#[test]
fn a_peer_without_syncd_is_unreachable() {
    let mut pair = idle(options!());
    let script = "#!/bin/sh\nexec /no/such/syncd serve\n";
    fs::write(pair.dir().join("serve-b.sh"), script).expect("the wrapper");
    start(&mut pair, Side::A);
    wait_peer(&mut pair, "unreachable", "/no/such/syncd");
}

/// Starts against a peer whose configuration is edited; the reason must contain all of `parts`.
fn halted(edit: impl FnOnce(String) -> String, parts: &[&str]) {
    let mut pair = idle(options!());
    edit_config(&pair, |t| {
        t.replace(
            "path = \"/data\"",
            "path = \"/data\"\nexclude = [\"*.tmp\"]",
        )
    });
    other_config_for_b(&pair, edit);
    let file = pair.root(Side::A, "data").join("f");
    fs::write(&file, "kept at home").expect("a file");
    let (code, said) = ctl(&pair, Side::A, &["check"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("FAIL  peer"), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    start(&mut pair, Side::A);
    let status = wait_peer(&mut pair, "halted", parts[0]);
    let reason = status["peer"]["reason"].as_str().expect("a reason");
    for part in parts {
        assert!(reason.contains(part), "{part} is not in {reason}");
    }
    assert!(!pair.root(Side::B, "data").join("f").exists());
    let (code, said) = ctl(&pair, Side::A, &["flush", "--timeout", "1s"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains(parts[0]), "{said}");
    let sessions = pair.status().expect("status")["totals"]["sessions"].as_u64();
    assert!(sessions < Some(4), "it dials again and again: {sessions:?}");
}

#[test]
fn another_cluster_halts() {
    halted(
        |t| t.replace("name = \"pair\"", "name = \"other\""),
        &["cluster \"other\"", "osm2"],
    );
}

#[test]
fn other_roots_halt() {
    halted(
        |t| t.replace("name = \"data\"", "name = \"elsewhere\""),
        &["elsewhere", "osm2"],
    );
}

#[test]
fn other_excludes_halt() {
    halted(
        |t| t.replace("*.tmp", "*.bak"),
        &["exclude patterns of root \"data\"", "osm2"],
    );
}

#[test]
fn a_peer_with_another_name_halts() {
    let mut pair = idle(options!());
    let wrapper = pair.dir().join("serve-b.sh");
    let script = fs::read_to_string(&wrapper).expect("the wrapper");
    fs::write(&wrapper, script.replace("--node osm2", "--node osm1")).expect("the wrapper");
    // The other side's lock is free only if its run-time directory is its own.
    other_config_for_b(&pair, |t| t.replace("/a/", "/b/"));
    start(&mut pair, Side::A);
    wait_peer(&mut pair, "halted", "\"osm1\"");
}

#[test]
fn an_agreed_configuration_ends_the_halt() {
    let mut pair = idle(options!());
    other_config_for_b(&pair, |t| t.replace("name = \"pair\"", "name = \"other\""));
    fs::write(pair.root(Side::A, "data").join("f"), "later").expect("a file");
    start(&mut pair, Side::A);
    wait_peer(&mut pair, "halted", "cluster");
    fs::copy(pair.config(), pair.dir().join("other.toml")).expect("the same on both nodes");
    // A resync is an order to try again at once.
    let (_, said) = ctl(&pair, Side::A, &["resume"]);
    wait_equal(&pair, "data");
    pair.wait_in_sync(Duration::from_secs(40)).expect(&said);
}

#[test]
fn pause_holds_and_resume_sends() {
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let (code, said) = ctl(&pair, Side::A, &["pause"]);
    assert_eq!(code, 0, "{said}");
    fs::write(a.join("held"), "held back").expect("a file");
    pair.wait_status(Duration::from_secs(40), "paused", |s| s["paused"] == true)
        .expect("paused");
    let (code, said) = ctl(&pair, Side::A, &["flush", "--timeout", "1s"]);
    assert_ne!(code, 0, "{said}");
    assert!(!b.join("held").exists());
    for command in ["resync", "verify", "diff"] {
        let (code, said) = ctl(&pair, Side::A, &[command]);
        let told = said.contains("replication is paused") && said.contains("syncctl resume");
        assert!(code == 6 && told, "{command}: {code} {said}");
    }
    let (code, said) = ctl(&pair, Side::A, &["resume"]);
    assert_eq!(code, 0, "{said}");
    pair.wait_in_sync(Duration::from_secs(40)).expect("in sync");
    flushed_equal(&pair, "data");
    assert!(b.join("held").exists());
    assert_eq!(pair.status().expect("status")["paused"], false);
}
