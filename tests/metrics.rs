//! Figures for Prometheus, written by a real pair.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::netns::over_ssh;
use crate::common::node::{Options, Pair, Side, tail};
use crate::common::steps::{
    LONG, deactivate, edit_config, flushed_equal, has_problem, idle, other_config_for_b, start,
    until, wait_problem,
};

/// The value of a figure in a file; the labels may be given in part.
fn figure(file: &Path, name: &str, label: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|l| {
        let rest = l.strip_prefix("osm_failover_")?.strip_prefix(name)?;
        let (labels, value) = rest.strip_prefix('{')?.rsplit_once("} ")?;
        let fits = labels.contains(label);
        fits.then(|| value.parse().expect("a number"))
    })
}

/// Whether a file says that its node is in this state, and the peer in that one.
fn says(file: &Path, role: &str, peer: &str) -> bool {
    let is =
        |name: &str, state: &str| figure(file, name, &format!("state=\"{state}\"")) == Some(1.0);
    is("role", role) && (peer.is_empty() || is("peer_state", peer))
}

/// Waits until it does.
fn wait(pair: &Pair, file: &Path, role: &str, peer: &str) {
    let said = until(LONG, || says(file, role, peer));
    let text = fs::read_to_string(file).unwrap_or_default();
    assert!(said, "{role}, {peer}: {text}\n{}", tail(&pair.log(Side::A)));
}

/// A pair of which nothing runs yet, whose nodes have files of their own in a directory, which is not made.
fn pair(options: Options) -> (Pair, [PathBuf; 2]) {
    let pair = idle(options);
    let dir = pair.dir().join("prom");
    let files = ["a.prom", "b.prom"].map(|f| dir.join(f));
    let table = |f: &Path| format!("\n[metrics]\ntextfile = '{}'\n", f.display());
    edit_config(&pair, |text| text + &table(&files[0]));
    other_config_for_b(&pair, |text| text.replace("a.prom", "b.prom"));
    (pair, files)
}

#[test]
fn both_nodes_keep_their_files_true() {
    let (mut pair, [a, b]) = pair(options!());
    fs::create_dir(a.parent().expect("a directory")).expect("made");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    wait(&pair, &a, "active", "in-sync");
    wait(&pair, &b, "standby", "in-sync");
    let mode = fs::metadata(&a).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);

    fs::write(pair.root(Side::A, "data").join("f"), vec![7; 100_000]).expect("a file");
    flushed_equal(&pair, "data");
    let sequence = pair.status().expect("status")["sequence"].as_f64();
    for (file, label) in [(&a, "osm1"), (&b, "osm2")] {
        let label = format!("node=\"{label}\"");
        let seen = until(LONG, || {
            figure(file, "sequence", &label) == sequence
                && figure(file, "content_bytes_total", &label) >= Some(100_000.0)
        });
        assert!(seen, "{}", fs::read_to_string(file).unwrap_or_default());
        assert!(figure(file, "last_in_step_timestamp_seconds", &label) > Some(1e9));
    }
    assert_eq!(figure(&a, "peer_acked_sequence", ""), sequence);
    assert_eq!(figure(&a, "root_halted", "root=\"data\""), Some(0.0));

    // The peer goes, and comes back.
    pair.cut().expect("cut");
    wait(&pair, &a, "active", "unreachable");
    fs::write(pair.root(Side::A, "data").join("g"), "x").expect("a file");
    let seen = until(LONG, || figure(&a, "pending_paths", "") >= Some(1.0));
    assert!(seen, "what would be lost is told");
    assert!(
        says(&b, "standby", ""),
        "it was killed, and could not say so"
    );
    let was = figure(&a, "last_in_step_timestamp_seconds", "");
    pair.restore().expect("mended");
    wait(&pair, &a, "active", "in-sync");
    let later = until(LONG, || {
        figure(&a, "last_in_step_timestamp_seconds", "") > was
    });
    assert!(later, "{was:?}");

    // A clean end.
    assert_eq!(deactivate(&pair, Side::A)["paths"], 0);
    assert!(says(&a, "stopped", ""), "said before the command ended");
    assert!(figure(&a, "last_in_step_timestamp_seconds", "") > was);
    assert_eq!(figure(&a, "pending_paths", ""), None);
    let left = fs::read_dir(a.parent().expect("a directory")).expect("listed");
    assert_eq!(left.count(), 2, "nothing but the two files");
}

#[test]
fn the_end_of_a_session_is_told_on_the_standby() {
    let mut options = options!();
    let Some(_ground) = over_ssh(&mut options) else {
        return;
    };
    let (mut pair, [_, b]) = pair(options);
    fs::create_dir(b.parent().expect("a directory")).expect("made");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    wait(&pair, &b, "standby", "in-sync");
    deactivate(&pair, Side::A);
    wait(&pair, &b, "stopped", "");
    assert!(figure(&b, "last_in_step_timestamp_seconds", "") > Some(1e9));
}

#[test]
fn a_killed_node_is_corrected_by_the_stop() {
    let (mut pair, [a, _]) = pair(options!());
    fs::create_dir(a.parent().expect("a directory")).expect("made");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    wait(&pair, &a, "active", "in-sync");
    let was = figure(&a, "last_in_step_timestamp_seconds", "");
    pair.kill(Side::A);
    assert!(says(&a, "active", ""), "nobody could say otherwise");
    deactivate(&pair, Side::A);
    assert!(says(&a, "stopped", ""));
    assert_eq!(figure(&a, "last_in_step_timestamp_seconds", ""), was);
    // What is stopped is left as it is.
    let before = fs::read(&a).expect("read");
    deactivate(&pair, Side::A);
    assert_eq!(fs::read(&a).expect("read"), before);
    // The next process carries on.
    start(&mut pair, Side::A);
    wait(&pair, &a, "active", "in-sync");
    assert!(figure(&a, "last_in_step_timestamp_seconds", "") >= was);
}

#[test]
fn a_file_that_cannot_be_written_is_a_problem_and_stops_nothing() {
    let (mut pair, [a, _]) = pair(options!());
    let name = a.display().to_string();
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    wait_problem(&mut pair, &name, true);
    let status = pair.status().expect("status");
    let told = status["problems"].to_string();
    assert!(
        told.contains("No such file") && told.contains("[metrics]"),
        "{told}"
    );
    fs::write(pair.root(Side::A, "data").join("f"), "x").expect("a file");
    flushed_equal(&pair, "data");
    fs::create_dir(a.parent().expect("a directory")).expect("made");
    wait(&pair, &a, "active", "in-sync");
    wait_problem(&mut pair, &name, false);
    assert!(!has_problem(&pair.status().expect("status"), &name));
    // Gone once more, and the end does not wait for it.
    let dir = a.parent().expect("a directory");
    fs::rename(dir, pair.dir().join("elsewhere")).expect("moved away");
    assert_eq!(deactivate(&pair, Side::A)["paths"], 0);
}
