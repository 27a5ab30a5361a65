//! What is done while something fails.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::common::kinds::noise;
use crate::common::node::Side;
use crate::common::steps::{LONG, activate, deactivate, must, noted, signal, until, well};

use super::points::{try_one, try_points, try_some};
use super::stage::Stage;

/// The process whose calls fail.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// `syncd serve` of B.
    Serve,
    /// `syncd` of A.
    Daemon,
    /// `syncctl` of a node with these arguments, and what it starts.
    Command(Side, &'static [&'static str]),
}

/// One of them.
pub(crate) struct Scenario {
    /// As in the command that replays a point, and (with `_`) the name of the test.
    pub(crate) name: &'static str,
    /// Whose calls fail.
    pub(crate) target: Target,
    /// Everything that comes before.
    pub(crate) prepare: fn(&mut Stage),
    /// What changes on the node that has the newer data, while nothing is sent.
    pub(crate) change: fn(&Stage),
    /// The nodes meet for the first time.
    pub(crate) first: bool,
    /// Whose tree changes.
    pub(crate) receiver: Side,
    /// Who is active in the end.
    pub(crate) active: Side,
    /// Contents that must be preserved, with where they stood.
    pub(crate) keeps: &'static [(Side, &'static str, &'static str)],
}

impl Scenario {
    /// Whether a node is active when it is over.
    pub(crate) fn active_after(&self) -> bool {
        !matches!(self.target, Target::Command(_, ["deactivate"]))
    }
}

/// A large file that is changed in a few places: beyond what travels inside a batch.
const LARGE: usize = 3 << 20;

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(root.join(name), content).expect("a file");
}

/// A tree with something of every kind.
fn fill(root: &Path) {
    for dir in ["d", "many", "e"] {
        fs::create_dir(root.join(dir)).expect("a directory");
    }
    for i in 0..12 {
        write(root, &format!("many/f{i}"), format!("first {i}"));
    }
    for name in ["both", "gone", "mode", "swap1", "swap2", "d/deep"] {
        write(root, name, format!("first {name}"));
    }
    write(root, "large", noise(LARGE, 7));
    write(root, "middle", noise(200_000, 8));
    fs::hard_link(root.join("both"), root.join("other name")).expect("a name");
    symlink("both", root.join("link")).expect("a link");
    let file = File::open(root.join("mode")).expect("a file");
    rustix::fs::fsetxattr(&file, "user.k", b"v", rustix::fs::XattrFlags::empty())
        .expect("an attribute");
}

/// Both in sync, A active; nothing is sent from now on.
fn in_sync(stage: &mut Stage, planned: bool) {
    fill(&stage.pair.root(Side::A, "data"));
    stage.start(Side::A, planned);
    stage.settle(Side::A, false).expect("in sync");
    well(&stage.pair, Side::A, &["pause"]);
}

fn serve_in_sync(stage: &mut Stage) {
    stage.plan_serve(Side::B);
    in_sync(stage, false);
}

fn daemon_in_sync(stage: &mut Stage) {
    in_sync(stage, true);
}

fn serve_first(stage: &mut Stage) {
    stage.plan_serve(Side::B);
    daemon_first(stage);
}

fn daemon_first(stage: &mut Stage) {
    fill(&stage.pair.root(Side::A, "data"));
    write(&stage.pair.root(Side::B, "data"), "both", "a stranger");
}

fn nothing(_: &Stage) {}

/// Every kind of operation in one batch.
fn mixed(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    write(&root, "both", "second both");
    write(&root, "new", "second new");
    write(&root, "middle", noise(220_000, 9));
    fs::create_dir_all(root.join("made/deep")).expect("a directory");
    write(&root, "made/deep/file", "second deep");
    fs::remove_file(root.join("gone")).expect("removed");
    fs::rename(root.join("many/f1"), root.join("made/moved")).expect("renamed");
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o640)).expect("the mode");
    let file = File::open(root.join("mode")).expect("a file");
    rustix::fs::fsetxattr(&file, "user.k", b"w", rustix::fs::XattrFlags::empty())
        .expect("an attribute");
    fs::remove_file(root.join("link")).expect("removed");
    symlink("new", root.join("link")).expect("a link");
    must("mkfifo", &[&root.join("fifo").display().to_string()]);
    fs::hard_link(root.join("new"), root.join("new too")).expect("a name");
    fs::remove_dir(root.join("e")).expect("removed");
    write(&root, "e", "a file now");
}

/// Some pages of a large file, and some more at its end.
fn delta(stage: &Stage) {
    let path = stage.pair.root(Side::A, "data").join("large");
    let mut file = File::options().write(true).open(path).expect("a file");
    for at in [10_000, 900_000, 2_500_000, LARGE as u64] {
        file.seek(SeekFrom::Start(at)).expect("a place");
        file.write_all(&noise(5000, at)).expect("written");
    }
}

/// A directory, and two files that change places.
fn renames(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    fs::rename(root.join("many"), root.join("d/all")).expect("renamed");
    for (from, to) in [("swap1", "x"), ("swap2", "swap1"), ("x", "swap2")] {
        fs::rename(root.join(from), root.join(to)).expect("renamed");
    }
}

fn mass_delete(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    for name in ["many", "d", "e"] {
        fs::remove_dir_all(root.join(name)).expect("removed");
    }
    for name in ["large", "middle", "gone", "swap1", "other name"] {
        fs::remove_file(root.join(name)).expect("removed");
    }
}

/// B lacks what A wrote last; A is down, and can be asked.
fn before_activation(stage: &mut Stage) {
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
fn before_deactivation(stage: &mut Stage) {
    fill(&stage.pair.root(Side::A, "data"));
    activate(&stage.pair, Side::A);
    stage.settle(Side::A, false).expect("in sync");
}

/// A went down with a tail that nobody has, B is active and wrote.
fn before_resync(stage: &mut Stage) {
    fill(&stage.pair.root(Side::A, "data"));
    activate(&stage.pair, Side::A);
    stage.settle(Side::A, false).expect("in sync");
    let sequence = stage.status(Side::A).expect("status")["sequence"].as_u64();
    let serve = fs::read_to_string(stage.pair.dir().join("serve-b.pid")).expect("a pid");
    signal(serve.trim().parse().expect("a pid"), "STOP");
    // In one piece: of more batches than may be on their way at a time, the last would get no number.
    let syncd = stage.pair.daemon(Side::A).expect("A is active");
    signal(syncd.cast_signed(), "STOP");
    write_tail(stage);
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
    activate(&stage.pair, Side::B);
    write_on_b(stage);
    stage.pair.restore().expect("mended");
}

fn write_tail(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    write(&root, "d/deep", "apart osm1");
    write(&root, "of A", "made on A alone");
}

/// What B changes while it is active alone; it is in its index afterwards.
fn write_on_b(stage: &Stage) {
    let root = stage.pair.root(Side::B, "data");
    write(&root, "d/deep", "apart osm2");
    write(&root, "of B", "made on B alone");
    write(&root, "middle", noise(210_000, 11));
    fs::rename(root.join("many"), root.join("moved")).expect("renamed");
    let noted = until(
        LONG,
        noted(&stage.pair, Side::B, |s| s["epoch"].as_u64() >= Some(2)),
    );
    assert!(noted, "{:?}", stage.status(Side::B));
}

/// Both wrote alone; B is active.
fn before_resolve(stage: &mut Stage) {
    fill(&stage.pair.root(Side::A, "data"));
    activate(&stage.pair, Side::A);
    stage.settle(Side::A, false).expect("in sync");
    stage.pair.cut().expect("cut");
    let alone = until(LONG, || {
        let status = stage.status(Side::A).unwrap_or_default();
        status["peer"]["state"] == "unreachable"
    });
    assert!(alone, "the cut is noticed");
    write_tail(stage);
    let seen = until(
        LONG,
        noted(&stage.pair, Side::A, |s| s["epoch"].as_u64() >= Some(2)),
    );
    assert!(seen, "{:?}", stage.status(Side::A));
    activate(&stage.pair, Side::B);
    write_on_b(stage);
    deactivate(&stage.pair, Side::A);
    stage.pair.restore().expect("mended");
    let told = until(LONG, || {
        let status = stage.status(Side::B).unwrap_or_default();
        status["peer"]["state"] == "diverged"
    });
    assert!(told, "{:?}", stage.status(Side::B));
}

const PLAIN: Scenario = Scenario {
    name: "",
    target: Target::Serve,
    prepare: serve_in_sync,
    change: nothing,
    first: false,
    receiver: Side::B,
    active: Side::A,
    keeps: &[],
};

const STRANGER: &[(Side, &str, &str)] = &[(Side::B, "both", "a stranger")];
const TAIL: &[(Side, &str, &str)] = &[
    (Side::A, "of A", "made on A alone"),
    (Side::A, "d/deep", "apart osm1"),
];

const ACTIVATION: Scenario = Scenario {
    name: "activation",
    target: Target::Command(Side::B, &["activate"]),
    prepare: before_activation,
    active: Side::B,
    ..PLAIN
};

const RESYNC: Scenario = Scenario {
    name: "resync",
    target: Target::Command(Side::A, &["resync"]),
    prepare: before_resync,
    receiver: Side::A,
    active: Side::B,
    keeps: TAIL,
    ..PLAIN
};

/// Both nodes stand at the same number after the session, so nobody would ever have sent it again.
#[test]
fn what_failed_in_an_activation_is_taken_once_more() {
    try_one(&ACTIVATION, "EIO:1:openat file data/mode");
    try_one(
        &ACTIVATION,
        "EIO:5:utimensat file data/.osm-failover/staging/s#",
    );
}

/// Nobody was told, and nobody looked again.
#[test]
fn a_directory_that_cannot_be_opened_gets_its_time_later() {
    let scenario = Scenario {
        name: "batch-on-standby",
        change: mixed,
        ..PLAIN
    };
    let points = (3..5).map(|time| format!("EIO:{time}:openat2 file data/many"));
    try_some(&scenario, &points.collect::<Vec<_>>());
}

/// What is left stands in no index but the receiver's, so nobody would ever have deleted it.
#[test]
fn what_could_not_be_deleted_goes_with_the_next_resync() {
    let points = (16..23).map(|time| format!("ENOSPC:{time}:openat2 file data/many"));
    try_some(&RESYNC, &points.collect::<Vec<_>>());
}

/// Its attributes were set and its mode was not, which passed for an edit when it was tried again.
#[test]
fn metadata_that_were_set_in_part_are_no_edit() {
    let scenario = Scenario {
        name: "batch-on-standby",
        change: mixed,
        ..PLAIN
    };
    try_one(&scenario, "EIO:1:fchmodat file data/mode");
}

/// A file changed under one of its names; whether the other one stands could not be told, which was taken for no.
#[test]
fn a_name_that_cannot_be_looked_at_is_not_passed_over() {
    let scenario = Scenario {
        name: "batch-on-active",
        target: Target::Daemon,
        prepare: daemon_in_sync,
        change: mixed,
        ..PLAIN
    };
    let points = (1..5).map(|time| format!("EIO:{time}:openat file data"));
    try_some(&scenario, &points.collect::<Vec<_>>());
}

#[test]
fn first_on_standby() {
    try_points(&Scenario {
        name: "first-on-standby",
        first: true,
        keeps: STRANGER,
        prepare: serve_first,
        ..PLAIN
    });
}

#[test]
fn first_on_active() {
    try_points(&Scenario {
        name: "first-on-active",
        first: true,
        keeps: STRANGER,
        target: Target::Daemon,
        prepare: daemon_first,
        ..PLAIN
    });
}

#[test]
fn batch_on_standby() {
    try_points(&Scenario {
        name: "batch-on-standby",
        change: mixed,
        ..PLAIN
    });
}

#[test]
fn batch_on_active() {
    try_points(&Scenario {
        name: "batch-on-active",
        target: Target::Daemon,
        prepare: daemon_in_sync,
        change: mixed,
        ..PLAIN
    });
}

#[test]
fn delta_on_standby() {
    try_points(&Scenario {
        name: "delta-on-standby",
        change: delta,
        ..PLAIN
    });
}

#[test]
fn delta_on_active() {
    try_points(&Scenario {
        name: "delta-on-active",
        target: Target::Daemon,
        prepare: daemon_in_sync,
        change: delta,
        ..PLAIN
    });
}

#[test]
fn rename_on_standby() {
    try_points(&Scenario {
        name: "rename-on-standby",
        change: renames,
        ..PLAIN
    });
}

#[test]
fn rename_on_active() {
    try_points(&Scenario {
        name: "rename-on-active",
        target: Target::Daemon,
        prepare: daemon_in_sync,
        change: renames,
        ..PLAIN
    });
}

#[test]
fn delete_on_standby() {
    try_points(&Scenario {
        name: "delete-on-standby",
        change: mass_delete,
        ..PLAIN
    });
}

#[test]
fn delete_on_active() {
    try_points(&Scenario {
        name: "delete-on-active",
        target: Target::Daemon,
        prepare: daemon_in_sync,
        change: mass_delete,
        ..PLAIN
    });
}

#[test]
fn activation() {
    try_points(&ACTIVATION);
}

#[test]
fn deactivation() {
    try_points(&Scenario {
        name: "deactivation",
        target: Target::Command(Side::A, &["deactivate"]),
        prepare: before_deactivation,
        change: mixed,
        ..PLAIN
    });
}

#[test]
fn resync() {
    try_points(&RESYNC);
}

#[test]
fn resolve() {
    try_points(&Scenario {
        name: "resolve",
        target: Target::Command(Side::A, &["resolve", "--keep", "peer"]),
        prepare: before_resolve,
        receiver: Side::A,
        active: Side::B,
        keeps: TAIL,
        ..PLAIN
    });
}
