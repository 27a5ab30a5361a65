//! Both nodes wrote while they were apart: nothing is changed before somebody decides, and nothing is lost by deciding.

use std::fs;
use std::time::Duration;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, ctl, deactivate, edit_config, idle, json, preserved, until, wait_equal, well,
};
use crate::options;

fn write(pair: &Pair, side: Side, name: &str, text: &str) {
    fs::write(pair.root(side, "data").join(name), text).expect("a file");
}

fn read(pair: &Pair, side: Side, name: &str) -> Option<String> {
    fs::read_to_string(pair.root(side, "data").join(name)).ok()
}

fn state(pair: &Pair, side: Side) -> String {
    let status = pair.status_of(side).expect("a status");
    status["peer"]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Both active for a while without a link, each with files of its own; B is active at the end.
fn apart() -> Pair {
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    write(&pair, Side::A, "both", "before");
    write(&pair, Side::A, "shared", "before");
    pair.wait_in_sync(LONG).expect("in sync");
    pair.flush().expect("flushed");
    pair.cut().expect("cut");
    activate(&pair, Side::B);
    for side in [Side::A, Side::B] {
        write(&pair, side, "both", side.name());
        write(&pair, side, side.name(), "made here alone");
    }
    deactivate(&pair, Side::A);
    let noted = until(LONG, || {
        pair.status_of(Side::B).expect("a status")["epoch"].as_u64() >= Some(2)
    });
    assert!(noted, "{}", pair.log(Side::B));
    pair.restore().expect("mended");
    let told = until(LONG, || state(&pair, Side::B) == "diverged");
    assert!(told, "{}", pair.log(Side::B));
    pair
}

#[test]
fn nothing_changes_until_somebody_decides() {
    let pair = apart();
    let (code, text) = ctl(&pair, Side::B, &["status"]);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("syncctl resolve"), "{text}");
    let (code, text) = ctl(&pair, Side::A, &["resync"]);
    assert_eq!(code, 5, "{text}");
    for side in [Side::A, Side::B] {
        assert_eq!(read(&pair, side, "both").as_deref(), Some(side.name()));
        assert!(preserved(&pair, side, "data").is_empty());
    }
}

#[test]
fn the_active_side_is_kept() {
    let pair = apart();
    let done = json(&pair, Side::B, &["resolve", "--keep", "local"]);
    let report = &done["resync"];
    // "both", "osm2" and the directory; "osm1" goes.
    assert!(report["puts"].as_u64() >= Some(3), "{report}");
    assert!(report["bytes"].as_u64() >= Some(8), "{report}");
    assert_eq!(report["deletes"], 1, "{report}");
    wait_equal(&pair, "data");
    assert_eq!(read(&pair, Side::A, "both").as_deref(), Some("osm2"));
    assert_eq!(read(&pair, Side::A, "osm1"), None);
    let kept = preserved(&pair, Side::A, "data");
    assert!(kept.iter().any(|k| k.0.contains("both")), "{kept:?}");
    assert!(kept.iter().any(|k| k.0.contains("osm1")), "{kept:?}");
    assert_eq!(kept.len(), 2, "{kept:?}");
    let listed = json(&pair, Side::A, &["preserved", "list"]);
    for item in listed["items"].as_array().expect("items") {
        assert_eq!(item["origin"], "split-brain", "{item}");
    }
    write(&pair, Side::B, "later", "and on it goes");
    wait_equal(&pair, "data");
}

#[test]
fn the_side_that_is_given_up_may_say_so() {
    let pair = apart();
    well(&pair, Side::A, &["resolve", "--keep", "peer"]);
    wait_equal(&pair, "data");
    assert_eq!(read(&pair, Side::A, "both").as_deref(), Some("osm2"));
    assert_eq!(preserved(&pair, Side::A, "data").len(), 2);
}

#[test]
fn an_active_node_is_never_the_one_that_gives_up() {
    let pair = apart();
    for (side, keep) in [(Side::B, "peer"), (Side::A, "local")] {
        let (code, text) = ctl(&pair, side, &["resolve", "--keep", keep]);
        assert_eq!(code, 6, "{text}");
        assert!(text.contains("deactivate osm2"), "{text}");
    }
    assert_eq!(read(&pair, Side::B, "both").as_deref(), Some("osm2"));
}

#[test]
fn the_inactive_side_is_kept_once_nobody_is_active() {
    let pair = apart();
    deactivate(&pair, Side::B);
    let done = json(&pair, Side::A, &["resolve", "--keep", "local"]);
    let report = &done["resync"];
    assert!(report["puts"].as_u64() >= Some(3), "{report}");
    assert_eq!(report["deletes"], 1, "{report}");
    assert_eq!(read(&pair, Side::B, "both").as_deref(), Some("osm1"));
    assert_eq!(read(&pair, Side::B, "osm2"), None);
    assert_eq!(preserved(&pair, Side::B, "data").len(), 2);
    activate(&pair, Side::A);
    write(&pair, Side::A, "later", "and on it goes");
    wait_equal(&pair, "data");
}

#[test]
fn the_configuration_may_have_decided() {
    let pair = apart();
    deactivate(&pair, Side::B);
    edit_config(&pair, |t| {
        t + "\n[activation]\nsplit_brain = \"keep-node:osm1\"\n"
    });
    activate(&pair, Side::B);
    assert_eq!(read(&pair, Side::B, "both").as_deref(), Some("osm1"));
    assert_eq!(preserved(&pair, Side::B, "data").len(), 2);
    wait_equal(&pair, "data");
}

#[test]
fn a_dry_run_lists_what_each_side_changed() {
    let pair = apart();
    for (side, keep) in [(Side::B, "local"), (Side::A, "peer")] {
        let text = well(&pair, side, &["resolve", "--keep", keep, "--dry-run"]);
        for part in ["data:both", "data:osm1", "data:osm2"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("data:shared"), "{text}");
    }
    for side in [Side::A, Side::B] {
        assert_eq!(read(&pair, side, "both").as_deref(), Some(side.name()));
    }
}

#[test]
fn two_active_nodes_soon_find_that_one_is_left() {
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    write(&pair, Side::A, "shared", "before");
    pair.wait_in_sync(LONG).expect("in sync");
    pair.cut().expect("cut");
    activate(&pair, Side::B);
    pair.restore().expect("mended");
    let both = until(LONG, || state(&pair, Side::A) == "halted");
    assert!(both, "{}", pair.log(Side::A));
    deactivate(&pair, Side::B);
    // The cluster manager decides within seconds, and nobody tells this node that it has.
    let one = until(Duration::from_secs(10), || {
        state(&pair, Side::A) == "in-sync"
    });
    assert!(one, "{}", pair.log(Side::A));
}

/// A is active and followed; B, should it become active as well, serves beside it.
fn beside_each_other() -> Pair {
    let mut options = options!();
    options.tables = "[activation]\non_peer_active = \"serve\"\n".into();
    let mut pair = idle(options);
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    pair
}

/// It takes nothing then, whatever the other one has.
#[test]
fn who_serves_beside_an_active_peer_does_not_claim_the_newest_data() {
    let pair = beside_each_other();
    activate(&pair, Side::B);
    let status = pair.status_of(Side::B).expect("a status");
    let how = status["activation"].as_str().unwrap_or_default();
    let local = how.contains("with local data") && how.contains("\"serve\"");
    assert!(local, "{how}");
}

#[test]
fn nothing_can_be_decided_while_both_are_active_or_apart() {
    let pair = beside_each_other();
    let (code, text) = ctl(&pair, Side::A, &["resolve", "--keep", "local"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("nothing to decide"), "{text}");
    pair.cut().expect("cut");
    activate(&pair, Side::B);
    for keep in ["local", "peer"] {
        let (code, text) = ctl(&pair, Side::B, &["resolve", "--keep", keep]);
        assert_eq!(code, 4, "{text}");
    }
    pair.restore().expect("mended");
    let both = until(LONG, || state(&pair, Side::A) == "halted");
    assert!(both, "{}", pair.log(Side::A));
    for keep in ["local", "peer"] {
        // Both dial, and one of two streams that cross is closed: then it is said that the command is to be run again.
        let (mut code, mut text) = (4, String::new());
        until(LONG, || {
            (code, text) = ctl(&pair, Side::A, &["resolve", "--keep", keep]);
            code != 4
        });
        assert_eq!(code, 6, "{text}");
        assert!(text.contains("both active"), "{text}");
        assert!(text.contains("syncctl deactivate"), "{text}");
    }
}
