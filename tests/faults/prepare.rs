//! What comes before a scenario: who is active, what stands where, whose programs run under the plan.

use std::fs;

use crate::common::kinds::noise;
use crate::common::node::Side;
use crate::common::steps::{
    LONG, activate, deactivate, edit_config, lose_index, noted, signal, until, well,
};

use super::stage::Stage;
use super::trees::{attribute, fill, mixed, write, write_tail};

/// Both in sync, A active; nothing is sent from now on.
fn in_sync(stage: &mut Stage, planned: bool) {
    fill(&stage.pair.root(Side::A, "data"));
    stage.start(Side::A, planned);
    stage.settle(Side::A, false).expect("in sync");
    well(&stage.pair, Side::A, &["pause"]);
}

pub(super) fn serve_in_sync(stage: &mut Stage) {
    stage.plan_serve(Side::B);
    in_sync(stage, false);
}

pub(super) fn daemon_in_sync(stage: &mut Stage) {
    in_sync(stage, true);
}

pub(super) fn serve_first(stage: &mut Stage) {
    stage.plan_serve(Side::B);
    daemon_first(stage);
}

pub(super) fn daemon_first(stage: &mut Stage) {
    fill(&stage.pair.root(Side::A, "data"));
    let there = stage.pair.root(Side::B, "data");
    write(&there, "both", "a stranger");
    write(&there, "stray", "on B alone");
}

/// Both hold the same, but for what somebody did on B, which has lost its index: an attribute of a file, and files of its own.
pub(super) fn serve_without_index(stage: &mut Stage) {
    serve_in_sync(stage);
    stage.pair.cut().expect("cut");
    stage.wait_gone(Side::B).expect("B is free");
    let root = stage.pair.root(Side::B, "data");
    attribute(&root.join("d/deep"));
    fs::create_dir(root.join("own")).expect("a directory");
    write(&root, "own/stray", "made on B");
    write(&root, "many/stray", "made on B, too");
    lose_index(&stage.pair, Side::B);
}

/// B lacks what A wrote last; A is down, and can be asked.
pub(super) fn before_activation(stage: &mut Stage) {
    fill(&stage.pair.root(Side::A, "data"));
    activate(&stage.pair, Side::A);
    stage.settle(Side::A, false).expect("in sync");
    stage.pair.cut().expect("cut");
    mixed(stage);
    let seen = until(
        LONG,
        noted(&stage.pair, Side::A, |s| s["pending"]["paths"] != 0),
    );
    assert!(seen, "{:?}", stage.status(Side::A));
    stage.pair.kill_daemon(Side::A);
    stage.pair.restore().expect("mended");
}

/// A is active, and has something to send.
pub(super) fn before_deactivation(stage: &mut Stage) {
    fill(&stage.pair.root(Side::A, "data"));
    activate(&stage.pair, Side::A);
    stage.settle(Side::A, false).expect("in sync");
}

/// A went down with a tail that nobody has.
fn tail_on_a(stage: &mut Stage, change: fn(&Stage)) {
    fill(&stage.pair.root(Side::A, "data"));
    activate(&stage.pair, Side::A);
    stage.settle(Side::A, false).expect("in sync");
    let sequence = stage.status(Side::A).expect("status")["sequence"].as_u64();
    let serve = fs::read_to_string(stage.pair.dir().join("serve-b.pid")).expect("a pid");
    signal(serve.trim().parse().expect("a pid"), "STOP");
    // In one piece: of more batches than may be on their way at a time, the last would get no number.
    let syncd = stage.pair.daemon(Side::A).expect("A is active");
    signal(syncd.cast_signed(), "STOP");
    change(stage);
    signal(syncd.cast_signed(), "CONT");
    let numbered = until(LONG, || {
        let status = stage.status(Side::A).unwrap_or_default();
        status["sequence"].as_u64() >= sequence.map(|n| n + 2)
    });
    assert!(numbered, "the tail has numbers");
    stage.pair.kill_daemon(Side::A);
    stage.pair.kill_serve(Side::B);
    stage.pair.cut().expect("cut");
    stage.wait_gone(Side::B).expect("B is free");
}

/// B lacks what A wrote last; A is down, and its answers fail.
pub(super) fn answer_activation(stage: &mut Stage) {
    stage.plan_serve(Side::A);
    tail_on_a(stage, mixed);
    stage.pair.restore().expect("mended");
}

/// A went down with a tail that nobody has, B is active and wrote.
pub(super) fn before_resync(stage: &mut Stage) {
    tail_on_a(stage, write_tail);
    activate(&stage.pair, Side::B);
    write_on_b(stage);
    stage.pair.restore().expect("mended");
}

pub(super) fn answer_resync(stage: &mut Stage) {
    tail_on_a(stage, write_tail);
    activate_planned(stage, Side::B);
    write_on_b(stage);
    stage.pair.restore().expect("mended");
}

/// Has the daemon of a node run under the plan, in the background.
fn activate_planned(stage: &Stage, side: Side) {
    let log = stage.pair.daemon_log(side);
    let (ended, text) = stage
        .run(side, &["activate", "--log", &log], true)
        .expect("it ends");
    assert!(ended.success(), "{text}");
}

/// What B changes while it is active alone; it is in its index afterwards.
fn write_on_b(stage: &Stage) {
    let root = stage.pair.root(Side::B, "data");
    write(&root, "d/deep", "apart osm2");
    write(&root, "of B", "made on B alone");
    write(&root, "middle", noise(210_000, 11));
    fs::rename(root.join("many"), root.join("moved")).expect("renamed");
    has_epoch(stage, Side::B);
}

/// Both wrote alone; B is active.
pub(super) fn before_resolve(stage: &mut Stage) {
    apart(stage, write_tail, |stage| activate(&stage.pair, Side::B));
    write_on_b(stage);
    diverge(stage);
}

pub(super) fn answer_resolve(stage: &mut Stage) {
    apart(stage, write_tail, |stage| activate_planned(stage, Side::B));
    write_on_b(stage);
    diverge(stage);
}

/// Both wrote alone, and to no path both; B is active, and the link is cut.
pub(super) fn before_merge(stage: &mut Stage) {
    merging(stage);
    stage.plan_serve(Side::A);
    apart(stage, mixed, |stage| activate(&stage.pair, Side::B));
    write_beside(stage);
}

pub(super) fn answer_merge(stage: &mut Stage) {
    merging(stage);
    apart(stage, mixed, |stage| activate_planned(stage, Side::B));
    write_beside(stage);
}

fn merging(stage: &Stage) {
    let table = "\n[activation]\nsplit_brain = \"merge-disjoint\"\n";
    edit_config(&stage.pair, |text| text + table);
}

/// What B changes while it is active alone, of which A changes nothing.
fn write_beside(stage: &Stage) {
    let root = stage.pair.root(Side::B, "data");
    write(&root, "d/deep", "changed on B");
    write(&root, "d/of B", "made on B alone");
    fs::rename(root.join("swap1"), root.join("d/swapped")).expect("renamed");
    fs::remove_file(root.join("many/f2")).expect("removed");
    has_epoch(stage, Side::B);
}

/// What a node changed alone is in its index.
fn has_epoch(stage: &Stage, side: Side) {
    let noted = until(
        LONG,
        noted(&stage.pair, side, |s| s["epoch"].as_u64() >= Some(2)),
    );
    assert!(noted, "{:?}", stage.status(side));
}

/// A wrote while the link was cut; then B became active, and A stopped.
fn apart(stage: &mut Stage, change: fn(&Stage), takes_over: fn(&Stage)) {
    fill(&stage.pair.root(Side::A, "data"));
    activate(&stage.pair, Side::A);
    stage.settle(Side::A, false).expect("in sync");
    stage.pair.cut().expect("cut");
    let alone = until(LONG, || {
        let status = stage.status(Side::A).unwrap_or_default();
        status["peer"]["state"] == "unreachable"
    });
    assert!(alone, "the cut is noticed");
    change(stage);
    has_epoch(stage, Side::A);
    takes_over(stage);
    deactivate(&stage.pair, Side::A);
}

/// Both meet, and know it.
fn diverge(stage: &mut Stage) {
    stage.pair.restore().expect("mended");
    let told = until(LONG, || {
        let status = stage.status(Side::B).unwrap_or_default();
        status["peer"]["state"] == "diverged"
    });
    assert!(told, "{:?}", stage.status(Side::B));
}
