//! What is done while something fails.

use crate::common::node::Side;

use super::points::{try_one, try_points, try_some};
use super::prepare::{
    answer_activation, answer_merge, answer_resolve, answer_resync, before_activation,
    before_deactivation, before_merge, before_resolve, before_resync, daemon_first, daemon_in_sync,
    serve_first, serve_in_sync, serve_without_index,
};
use super::stage::Stage;
use super::trees::{append, delta, mass_delete, mixed, nothing, renames};

/// The process whose calls fail.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// `syncd serve` of B.
    Serve,
    /// `syncd` of A.
    Daemon,
    /// `syncctl` of a node with these arguments, and what it starts.
    Command(Side, &'static [&'static str]),
    /// What runs on the other node while `syncctl` of this one does with these arguments.
    Answer(Side, &'static [&'static str]),
}

impl Target {
    /// The command that the scenario is about, and on which node it runs.
    pub(crate) fn command(self) -> Option<(Side, &'static [&'static str])> {
        match self {
            Self::Command(side, args) | Self::Answer(side, args) => Some((side, args)),
            Self::Serve | Self::Daemon => None,
        }
    }
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
    /// Files that both nodes have in the end, and what is in them.
    pub(crate) holds: &'static [(&'static str, &'static str)],
    /// What is merged halfway may have to be decided by a person; nothing is lost then.
    pub(crate) may_collide: bool,
    /// The link is cut until it begins.
    pub(crate) mends: bool,
    /// The node that becomes active may have to go on without what the other one wrote last, which is preserved then.
    pub(crate) may_keep: bool,
    /// A file that is extended in place.
    pub(crate) grows: Option<&'static str>,
}

impl Scenario {
    /// Whether a node is active when it is over.
    pub(crate) fn active_after(&self) -> bool {
        !matches!(self.target.command(), Some((_, ["deactivate"])))
    }
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
    holds: &[],
    may_collide: false,
    mends: false,
    may_keep: false,
    grows: None,
};

const STRANGER: &[(Side, &str, &str)] = &[
    (Side::B, "both", "a stranger"),
    (Side::B, "stray", "on B alone"),
];
const TAIL: &[(Side, &str, &str)] = &[
    (Side::A, "of A", "made on A alone"),
    (Side::A, "d/deep", "apart osm1"),
];

const FIRST_ON_ACTIVE: Scenario = Scenario {
    name: "first-on-active",
    first: true,
    keeps: STRANGER,
    target: Target::Daemon,
    prepare: daemon_first,
    ..PLAIN
};

const BATCH_ON_STANDBY: Scenario = Scenario {
    name: "batch-on-standby",
    change: mixed,
    ..PLAIN
};

const BATCH_ON_ACTIVE: Scenario = Scenario {
    name: "batch-on-active",
    target: Target::Daemon,
    prepare: daemon_in_sync,
    change: mixed,
    ..PLAIN
};

const INDEX_LOST: Scenario = Scenario {
    name: "index-lost",
    prepare: serve_without_index,
    keeps: &[
        (Side::B, "d/deep", "first d/deep"),
        (Side::B, "own/stray", "made on B"),
        (Side::B, "many/stray", "made on B, too"),
    ],
    mends: true,
    ..PLAIN
};

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

const RESOLVE: Scenario = Scenario {
    name: "resolve",
    target: Target::Command(Side::A, &["resolve", "--keep", "peer"]),
    prepare: before_resolve,
    ..RESYNC
};

const MERGE: Scenario = Scenario {
    name: "merge",
    target: Target::Answer(Side::A, &["resync"]),
    prepare: answer_merge,
    receiver: Side::B,
    active: Side::B,
    holds: &[
        ("both", "second both"),
        ("made/deep/file", "second deep"),
        ("made/moved", "first 1"),
        ("d/deep", "changed on B"),
        ("d/of B", "made on B alone"),
        ("d/swapped", "first swap1"),
    ],
    may_collide: true,
    mends: true,
    ..PLAIN
};

/// The disk failed while the newest data were taken: a power cut must not have them done again over what is written later.
#[test]
fn what_did_not_reach_the_disk_in_an_activation_is_brought_there_soon() {
    let points = [1, 2].map(|n| format!("EIO:{n}:syncfs file data/.osm-failover/staging"));
    try_some(&ACTIVATION, &points);
    let points = [2, 3].map(|n| format!("EIO:{n}:fsync file state/index.db-wal"));
    try_some(&ACTIVATION, &points);
}

/// What stood at a path is preserved, and the path is never without a file meanwhile.
#[test]
fn what_is_preserved_makes_way_for_what_takes_its_place() {
    for scenario in [&RESYNC, &RESOLVE] {
        let points = [
            "crash:1:fsync file data/.osm-failover/preserved",
            "crash:1:renameat2 file data/d/deep",
            "EIO:1:fsync file data/.osm-failover/preserved",
        ];
        points.iter().for_each(|point| try_one(scenario, point));
    }
}

/// Both nodes stand at the same number after the session, so nobody would ever have sent it again.
#[test]
fn what_failed_in_an_activation_is_taken_once_more() {
    try_one(&ACTIVATION, "EIO:1:openat file data/mode");
    try_one(
        &ACTIVATION,
        "EIO:5:utimensat file data/.osm-failover/staging/s#",
    );
}

const ACTIVATION_ANSWERED: Scenario = Scenario {
    name: "activation-answered",
    target: Target::Answer(Side::B, &["activate"]),
    prepare: answer_activation,
    may_keep: true,
    ..ACTIVATION
};

/// The node went on without what the other one could have told it a moment later.
#[test]
fn a_peer_that_is_lost_in_an_activation_is_asked_once_more() {
    let without = Scenario {
        may_keep: false,
        ..ACTIVATION_ANSWERED
    };
    try_one(&without, "ENOSPC:5:pwrite64 file state/index.db-wal");
}

/// The node that answered went on without a session, and its silence was waited for.
#[test]
fn a_batch_that_cannot_be_staged_in_an_activation_is_asked_for_once_more() {
    try_one(
        &ACTIVATION,
        "EIO:1:fsync file data/.osm-failover/staging/s#",
    );
}

/// A batch may bring a path twice: what failed at first and came then was told as a problem for good.
#[test]
fn what_comes_with_the_same_batch_is_no_problem() {
    try_one(&ACTIVATION, "EIO:1:renameat2 file data/both");
    try_one(
        &ACTIVATION,
        "EINTR:2:openat file data/.osm-failover/staging/s#",
    );
}

/// No process could be made for a moment: the node went on without its peer.
#[test]
fn a_peer_that_cannot_be_dialled_for_a_moment_is_dialled_once_more() {
    try_one(&ACTIVATION, "EAGAIN:2:clone3 file process");
    try_one(&ACTIVATION, "EACCES:2:execve file process");
}

/// A node that ended without order looks over its trees; nobody looked again at what it could not look at.
#[test]
fn what_cannot_be_looked_at_in_an_activation_is_looked_at_once_more() {
    try_one(&ACTIVATION_ANSWERED, "EIO:4:openat file data");
}

/// An index that knew nothing took a file whose attributes could not be read for one without any, and believed it from then on.
#[test]
fn attributes_that_cannot_be_read_at_first_are_read_once_more() {
    try_one(&FIRST_ON_ACTIVE, "EINTR:1:openat file data/mode");
    try_one(&INDEX_LOST, "EINTR:1:openat file data/d/deep");
}

/// A name that could not be looked at when the index was made, and could be a moment later, had its directory count as one of
/// which not everything is known for as long as the process lived: what only the peer had in it stayed there.
#[test]
fn what_the_peer_alone_has_goes_once_everything_can_be_looked_at() {
    let points = (1..5).map(|time| format!("EIO:{time}:statx file data/mode"));
    try_some(&FIRST_ON_ACTIVE, &points.collect::<Vec<_>>());
}

/// Nobody was told, and nobody looked again.
#[test]
fn a_directory_that_cannot_be_opened_gets_its_time_later() {
    let points = (3..5).map(|time| format!("EIO:{time}:openat2 file data/many"));
    try_some(&BATCH_ON_STANDBY, &points.collect::<Vec<_>>());
}

/// What is left stands in no index but the receiver's, so nobody would ever have deleted it.
#[test]
fn what_could_not_be_deleted_goes_with_the_next_resync() {
    let points = (16..23).map(|time| format!("ENOSPC:{time}:openat2 file data/many"));
    try_some(&RESYNC, &points.collect::<Vec<_>>());
}

/// A resync ends with its last batch: nobody sent the directory once more.
#[test]
fn the_time_of_a_directory_that_could_not_be_set_comes_with_the_next_resync() {
    try_some(
        &RESYNC,
        &[
            "EIO:1:openat file data/moved".to_owned(),
            "EIO:2:openat file data/d".to_owned(),
            "EIO:1:utimensat file data/d".to_owned(),
            "ENOSPC:4:openat2 file data/d".to_owned(),
        ],
    );
}

/// Its attributes were set and its mode was not, which passed for an edit when it was tried again.
#[test]
fn metadata_that_were_set_in_part_are_no_edit() {
    try_one(&BATCH_ON_STANDBY, "EIO:1:fchmodat file data/mode");
}

/// A file changed under one of its names; whether the other one stands could not be told, which was taken for no.
#[test]
fn a_name_that_cannot_be_looked_at_is_not_passed_over() {
    let points = (1..5).map(|time| format!("EIO:{time}:openat file data"));
    try_some(&BATCH_ON_ACTIVE, &points.collect::<Vec<_>>());
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
    try_points(&FIRST_ON_ACTIVE);
}

#[test]
fn index_lost() {
    try_points(&INDEX_LOST);
}

#[test]
fn batch_on_standby() {
    try_points(&BATCH_ON_STANDBY);
}

#[test]
fn batch_on_active() {
    try_points(&BATCH_ON_ACTIVE);
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
    try_points(&RESOLVE);
}

#[test]
fn append_on_standby() {
    try_points(&Scenario {
        name: "append-on-standby",
        change: append,
        grows: Some("large"),
        ..PLAIN
    });
}

#[test]
fn append_on_active() {
    try_points(&Scenario {
        name: "append-on-active",
        target: Target::Daemon,
        prepare: daemon_in_sync,
        change: append,
        grows: Some("large"),
        ..PLAIN
    });
}

#[test]
fn activation_answered() {
    try_points(&ACTIVATION_ANSWERED);
}

#[test]
fn resync_answered() {
    try_points(&Scenario {
        name: "resync-answered",
        target: Target::Answer(Side::A, &["resync"]),
        prepare: answer_resync,
        ..RESYNC
    });
}

#[test]
fn resolve_answered() {
    try_points(&Scenario {
        name: "resolve-answered",
        target: Target::Answer(Side::A, &["resolve", "--keep", "peer"]),
        prepare: answer_resolve,
        ..RESOLVE
    });
}

#[test]
fn merge() {
    try_points(&MERGE);
}

#[test]
fn merge_given() {
    try_points(&Scenario {
        name: "merge-given",
        target: Target::Command(Side::A, &["resync"]),
        prepare: before_merge,
        receiver: Side::A,
        ..MERGE
    });
}
