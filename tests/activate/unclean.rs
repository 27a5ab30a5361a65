//! A process that ended without order: what it had not noted is looked for before another node takes over.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, flushed_equal, idle, json, preserved, signal, state, until, wait_equal,
    wait_serve_gone,
};
use crate::options;

/// A pair of which A was active until its process was killed, with these files on both nodes.
fn a_killed(sync_lines: &str, files: &[&str]) -> Pair {
    let mut options = options!();
    options.sync_lines = sync_lines.to_owned();
    let mut pair = idle(options);
    activate(&pair, Side::A);
    for name in files {
        let at = pair.root(Side::A, "data").join(name);
        fs::write(at, "on both").expect("a file");
    }
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    let pid = pair.daemon(Side::A).expect("it runs");
    signal(i32::try_from(pid).expect("a pid"), "KILL");
    let gone = Path::new("/proc").join(pid.to_string());
    assert!(until(LONG, || !gone.exists() || pair.daemon(Side::A).is_none()));
    wait_serve_gone(&pair, Side::B);
    pair
}

fn was_active(pair: &Pair, side: Side) -> bool {
    let text = fs::read_to_string(state(pair, side).join("epochs.json")).expect("the history");
    let history: Value = serde_json::from_str(&text).expect("JSON");
    history["active"].as_bool().expect("a flag")
}

fn how(pair: &Pair, side: Side) -> String {
    let status = json(pair, side, &["status"]);
    status["activation"]
        .as_str()
        .expect("a sentence")
        .to_owned()
}

/// The daemon died, its host lives, and the service went on writing for a while.
#[test]
fn what_a_killed_daemon_had_not_noted_is_taken_by_the_next_active_node() {
    let pair = a_killed("", &["stays", "changes", "goes"]);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("changes"), "the newest").expect("written");
    fs::write(a.join("comes"), "the newest, too").expect("a file");
    fs::remove_file(a.join("goes")).expect("removed");
    assert!(was_active(&pair, Side::A));
    activate(&pair, Side::B);
    assert_eq!(fs::read(b.join("changes")).expect("a file"), b"the newest");
    assert_eq!(
        fs::read(b.join("comes")).expect("a file"),
        b"the newest, too"
    );
    assert!(b.join("stays").exists() && !b.join("goes").exists());
    let how = how(&pair, Side::B);
    assert!(
        how.contains("with the newest data") && how.contains("paths taken"),
        "{how}"
    );
    assert!(
        !was_active(&pair, Side::A),
        "it is looked over at each meeting"
    );
    flushed(&pair);
    assert!(preserved(&pair, Side::A, "data").is_empty());
}

/// Too much is gone there: that is no newest state to be followed without asking, and the service is to run.
#[test]
fn a_killed_daemons_mass_deletion_is_not_followed() {
    let names: Vec<_> = (0..120).map(|n| format!("f{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let pair = a_killed("max_delete = { percent = 50, window = \"1s\" }\n", &names);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    // Files younger than the window come and go without anybody being asked.
    let newest = fs::metadata(a.join("f119")).expect("a file");
    let age = || newest.modified().ok().and_then(|t| t.elapsed().ok());
    assert!(until(LONG, || age() > Some(Duration::from_millis(1200))));
    for name in &names[1..] {
        fs::remove_file(a.join(name)).expect("removed");
    }
    activate(&pair, Side::B);
    let how = how(&pair, Side::B);
    assert!(
        how.contains("with local data") && how.contains("max_delete"),
        "{how}"
    );
    assert!(names.iter().all(|name| b.join(name).exists()));
    // From its first change on B's data are what counts.
    fs::write(b.join("after"), "what counts").expect("a file");
    flushed(&pair);
}

fn flushed(pair: &Pair) {
    wait_equal(pair, "data");
    let settled = until(LONG, || {
        let status = pair.status_of(Side::B).expect("a status");
        status["peer"]["state"] == "in-sync"
    });
    assert!(settled, "{}", pair.log(Side::B));
}

/// The side that is given up had renamed, moved or deleted directories, noted or not: what stood in them is there again.
#[test]
fn directories_that_went_on_the_side_that_is_given_up_come_back_whole() {
    for noted in [true, false] {
        let mut pair = idle(options!());
        let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
        activate(&pair, Side::A);
        for dir in ["renamed", "moved", "deleted", "emptied", "stays"] {
            fs::create_dir_all(a.join(dir).join("below")).expect("directories");
            for file in ["f", "below/g"] {
                fs::write(a.join(dir).join(file), "on both").expect("a file");
            }
        }
        pair.wait_in_sync(LONG).expect("in sync");
        flushed_equal(&pair, "data");
        pair.cut().expect("cut");
        activate(&pair, Side::B);
        fs::write(b.join("own"), "written on osm2").expect("a file");
        let notes = |more: u64| {
            let status = pair.status_of(Side::B).expect("a status");
            status["epoch"] == 2 && status["sequence"].as_u64() >= Some(more)
        };
        assert!(until(LONG, || notes(1)), "{}", pair.log(Side::B));
        if !noted {
            // It lives no more when the next changes come.
            pair.kill_daemon(Side::B);
        }
        fs::rename(b.join("renamed"), b.join("another")).expect("renamed");
        fs::rename(b.join("moved"), b.join("stays/moved")).expect("renamed");
        fs::remove_dir_all(b.join("deleted")).expect("removed");
        fs::remove_dir_all(b.join("emptied/below")).expect("removed");
        if noted {
            let there = ["--timeout", "1s"];
            let left = json(&pair, Side::B, &["deactivate", there[0], there[1]]);
            assert!(left["left"]["paths"].as_u64() > Some(3), "{left}");
        }
        fs::write(a.join("own"), "written on osm1").expect("a file");
        let opened = || pair.status_of(Side::A).expect("a status")["epoch"] == 2;
        assert!(until(LONG, opened), "{}", pair.log(Side::A));
        pair.restore().expect("mended");
        let told = || pair.status_of(Side::A).expect("a status")["peer"]["state"] == "diverged";
        assert!(until(LONG, told), "{}", pair.log(Side::A));
        json(&pair, Side::A, &["resolve", "--keep", "local"]);
        wait_equal(&pair, "data");
        assert!(b.join("renamed/below/g").exists(), "noted: {noted}");
    }
}
