//! Hooks of events: becoming active, no longer being it, a new problem.

use std::fs;
use std::time::Instant;

use crate::common::node::Side;
use crate::common::steps::{
    LONG, activate, deactivate, flushed_equal, has_problem, idle, state, until, wait_problem,
};
use crate::options;
use crate::{Desk, hook, release};

#[test]
fn becoming_active_and_ceasing_to_be() {
    let desk = Desk::new();
    let program = desk.program(
        "record",
        r#"sleep 0.2; echo "$OSM_NODE $OSM_EVENT ${OSM_PATHS_FILE-none}" >> "$DESK/events""#,
    );
    let failing = desk.program("failing", "echo not today; exit 1");
    let mut options = options!();
    options.tables = hook("on = ['activated', 'deactivated']", &[&program])
        + &hook("on = 'activated'", &[&failing]);
    let pair = idle(options);
    activate(&pair, Side::A);
    assert_eq!(desk.wait_lines("events", 1), ["osm1 activated none"]);
    // A program that fails makes nobody less active.
    let told = until(LONG, || {
        let status = pair.status_of(Side::A).expect("status");
        status["role"] == "active" && status["problems"].to_string().contains("not today")
    });
    assert!(told, "{:?}", pair.status_of(Side::A));
    let log = pair.log(Side::A);
    assert!(log.contains("): not today"), "what it wrote: {log}");
    // Taking over runs the one here and the other there.
    activate(&pair, Side::B);
    let lines = desk.wait_lines("events", 3);
    assert!(
        lines.contains(&"osm1 deactivated none".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"osm2 activated none".to_owned()),
        "{lines:?}"
    );
    // Whoever deactivates a node can rely on its programs having run.
    deactivate(&pair, Side::B);
    let lines = desk.lines("events");
    assert_eq!(
        lines.last().map(String::as_str),
        Some("osm2 deactivated none")
    );
    assert_eq!(lines.len(), 4, "{lines:?}");
}

/// A cluster manager takes a stop that takes long for one that failed, and reboots the node.
#[test]
fn a_program_that_hangs_does_not_keep_a_node_from_stopping() {
    let desk = Desk::new();
    let pipe = desk.pipe("pipe");
    let program = desk.program(
        "hang",
        r#"echo "$OSM_NODE $OSM_EVENT" >> "$DESK/began"; read word < "$DESK/pipe"; echo >> "$DESK/ended""#,
    );
    let mut options = options!();
    options.tables = hook("on = 'deactivated'\ntimeout = '2m'", &[&program]);
    let pair = idle(options);
    activate(&pair, Side::A);
    let begun = Instant::now();
    deactivate(&pair, Side::A);
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    assert_eq!(desk.wait_lines("began", 1), ["osm1 deactivated"]);
    // The node is free: it can be active again while the program still runs.
    activate(&pair, Side::A);
    assert!(desk.lines("ended").is_empty(), "nobody ended it");
    release(&pipe);
    desk.wait_lines("ended", 1);
    std::thread::scope(|s| {
        let stop = s.spawn(|| deactivate(&pair, Side::A));
        desk.wait_lines("began", 2);
        release(&pipe);
        stop.join().expect("it ends");
    });
    assert_eq!(desk.lines("ended").len(), 2, "it was waited for");
}

#[test]
fn what_is_still_to_be_told_stays_a_problem() {
    let desk = Desk::new();
    let program = desk.program(
        "moody",
        r#"echo "$OSM_NODE $OSM_EVENT" >> "$DESK/runs"; [ "$OSM_EVENT" != applied ]"#,
    );
    let mut options = options!();
    options.tables = hook("on = ['applied', 'activated']", &[&program]);
    let pair = idle(options);
    activate(&pair, Side::A);
    fs::write(pair.root(Side::A, "data").join("f"), "x").expect("a file");
    assert!(until(LONG, || desk
        .lines("runs")
        .contains(&"osm2 applied".to_owned())));
    activate(&pair, Side::B);
    let well = until(LONG, || pair.log(Side::B).contains("ran for activated in"));
    assert!(well, "{}", pair.log(Side::B));
    let name = format!("hook 1 ({program})");
    let told = || {
        let status = pair.status_of(Side::B).expect("status");
        has_problem(&status, &name)
    };
    assert!(until(LONG, told), "{:?}", pair.status_of(Side::B));
}

#[test]
fn a_new_problem_is_told_once() {
    let desk = Desk::new();
    let program = desk.program(
        "record",
        r#"printf '%s\n' "$OSM_NODE $OSM_EVENT $OSM_PROBLEM" >> "$DESK/problems""#,
    );
    let mut options = options!();
    options.tables = hook("on = 'problem'", &[&program]);
    let mut pair = idle(options);
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for name in ["one\n", "two"] {
        fs::write(a.join(name), "as replicated").expect("a file");
    }
    flushed_equal(&pair, "data");
    // What stands in the way cannot be moved aside.
    let notes = state(&pair, Side::B).join("preserved.jsonl");
    fs::create_dir(&notes).expect("in the way");
    for (name, shown, lines) in [("one\n", "one\\n", 2), ("two", "two", 4)] {
        fs::write(b.join(name), "edited on the standby").expect("an edit");
        fs::write(a.join(name), "changed on the active node").expect("written");
        wait_problem(&mut pair, &format!("data:{shown}"), true);
        // One on each node.
        let told = desk.wait_lines("problems", lines);
        for node in ["osm1", "osm2"] {
            let start = format!("{node} problem data:{shown}: ");
            let found = told.iter().filter(|l| l.starts_with(&start)).count();
            assert_eq!(found, 1, "{node} {name}: {told:?}");
        }
    }
    fs::remove_dir(&notes).expect("mended");
    wait_problem(&mut pair, "data:two", false);
    flushed_equal(&pair, "data");
    assert_eq!(desk.lines("problems").len(), 4);
}
