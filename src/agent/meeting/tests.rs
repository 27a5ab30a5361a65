//! What follows from two hellos, case by case.

use super::*;
use crate::model::epoch::{Epoch, History};

fn side(node: &str, role: Role, head: Seq) -> Hello {
    let epochs = if head == 0 {
        vec![]
    } else {
        vec![Epoch {
            number: 1,
            id: 1,
            node: "a".into(),
            first: 1,
        }]
    };
    Hello {
        protocol: PROTOCOL,
        version: "0".into(),
        cluster: "c".into(),
        node: node.into(),
        role,
        roots: vec![RootHello {
            name: "r".into(),
            exclude: vec![],
            single: false,
            empty: false,
        }],
        history: History::new(epochs, head).expect("in order"),
        index_fresh: false,
        full: false,
        tombs_forgotten: 0,
        dry_run: false,
        takes_over: false,
        keep: Keep::Undecided,
        unclean: false,
        outage: false,
        index_lost: false,
        lacks: Vec::new(),
    }
}

fn party() -> Party {
    Party {
        cluster: "c".into(),
        node: "a".into(),
        peer: "b".into(),
        role: Role::Active,
        full: false,
        dry_run: false,
        takes_over: false,
        keep: Keep::Undecided,
        split_brain: Policy::Manual,
        max_delete: None,
    }
}

#[test]
fn who_sends() {
    let (act, sb) = (Role::Active, Role::Standby);
    let cases = [
        (
            side("a", act, 5),
            side("b", sb, 5),
            Course::Send {
                since: 5,
                full: false,
            },
        ),
        (
            side("a", act, 5),
            side("b", sb, 3),
            Course::Send {
                since: 3,
                full: false,
            },
        ),
        (
            side("a", act, 0),
            side("b", sb, 0),
            Course::Send {
                since: 0,
                full: true,
            },
        ),
        (
            side("a", sb, 3),
            side("b", sb, 5),
            Course::Receive { since: 3 },
        ),
        (side("a", sb, 5), side("b", sb, 5), Course::Idle),
        (side("a", sb, 0), side("b", sb, 0), Course::Blank),
        (side("a", act, 3), side("b", sb, 5), Course::Stale),
    ];
    for (ours, theirs, want) in cases {
        assert_eq!(judge(&ours, &theirs, &party()), want);
    }
    assert!(matches!(
        judge(&side("a", act, 5), &side("b", act, 5), &party()),
        Course::Refused(6, _)
    ));
}

#[test]
fn who_ended_without_order_is_taken_to_be_ahead() {
    let course = |ours: (Role, bool, Seq), theirs: (Role, bool, Seq)| {
        let hello = |name, (role, unclean, head)| Hello {
            unclean,
            ..side(name, role, head)
        };
        judge(&hello("a", ours), &hello("b", theirs), &party())
    };
    let (act, sb) = (Role::Active, Role::Standby);
    let send = |since| Course::Send { since, full: false };
    assert_eq!(course((sb, true, 5), (sb, false, 5)), send(5));
    assert_eq!(
        course((sb, false, 5), (sb, true, 5)),
        Course::Receive { since: 5 }
    );
    assert_eq!(course((sb, true, 5), (sb, true, 5)), Course::Idle);
    // An active node's tree is the truth, and so is what was noted.
    assert_eq!(course((act, false, 5), (sb, true, 5)), send(5));
    assert_eq!(
        course((sb, true, 5), (act, false, 5)),
        Course::Receive { since: 5 }
    );
    assert_eq!(
        course((sb, true, 3), (sb, false, 5)),
        Course::Receive { since: 3 }
    );
}

#[test]
fn a_node_that_lost_power_made_what_the_other_one_is_ahead() {
    let (act, sb) = (Role::Active, Role::Standby);
    let outage = |name, role, head| Hello {
        outage: true,
        ..side(name, role, head)
    };
    let send = Course::Send {
        since: 3,
        full: false,
    };
    let mut there = party();
    (there.node, there.peer) = ("b".into(), "a".into());
    for role in [act, sb] {
        let (ours, theirs) = (outage("a", role, 3), side("b", sb, 5));
        assert_eq!(judge(&ours, &theirs, &party()), send);
        let got = judge(&theirs, &ours, &there);
        assert_eq!(got, Course::Receive { since: 3 });
    }
    // The other one is active, or made the epoch, or opened one since.
    let behind = Course::Receive { since: 3 };
    let active = side("b", act, 5);
    assert_eq!(judge(&outage("a", sb, 3), &active, &party()), behind);
    let author = side("a", sb, 5);
    assert_eq!(judge(&outage("b", sb, 3), &author, &there), behind);
    let mut on = side("b", sb, 5);
    let mut epochs = on.history.epochs().to_vec();
    epochs.push(Epoch {
        number: 2,
        id: 2,
        node: "b".into(),
        first: 5,
    });
    on.history = History::new(epochs, 5).expect("in order");
    assert_eq!(judge(&outage("a", sb, 3), &on, &party()), behind);
}

/// Numbers that went with an index say nothing: whoever may have newer data is asked, and nobody who stands behind such a
/// node gets only what has a number.
#[test]
fn a_node_without_its_index_is_compared_whoever_sends() {
    let (act, sb) = (Role::Active, Role::Standby);
    let lost = |name, role, head| Hello {
        index_lost: true,
        index_fresh: true,
        ..side(name, role, head)
    };
    let mut there = party();
    (there.node, there.peer) = ("b".into(), "a".into());
    // "a" made the epoch of both.
    for (role, ours, theirs) in [(sb, 3, 5), (sb, 5, 5), (sb, 5, 3), (act, 5, 5), (act, 5, 3)] {
        let since = theirs.min(ours);
        let (a, b) = (lost("a", role, ours), side("b", sb, theirs));
        assert_eq!(judge(&a, &b, &party()), Course::Send { since, full: true });
        assert_eq!(judge(&b, &a, &there), Course::Receive { since });
    }
    // The other node made the last changes, or is active.
    let receive = Course::Receive { since: 3 };
    assert_eq!(judge(&lost("b", sb, 3), &side("a", sb, 5), &there), receive);
    assert_eq!(
        judge(&lost("a", sb, 3), &side("b", act, 5), &party()),
        receive
    );
    assert_eq!(
        judge(&lost("b", sb, 5), &side("a", sb, 5), &there),
        Course::Idle
    );
    assert_eq!(
        judge(&lost("a", sb, 5), &lost("b", sb, 5), &party()),
        Course::Send {
            since: 5,
            full: true
        }
    );
}

#[test]
fn lost_tombstones_and_lost_indexes_make_everything_be_compared() {
    let mut ours = side("a", Role::Active, 5);
    ours.tombs_forgotten = 4;
    assert_eq!(
        judge(&ours, &side("b", Role::Standby, 3), &party()),
        Course::Send {
            since: 3,
            full: true
        }
    );
    assert_eq!(
        judge(&ours, &side("b", Role::Standby, 4), &party()),
        Course::Send {
            since: 4,
            full: false
        }
    );
    let mut theirs = side("b", Role::Standby, 5);
    theirs.index_fresh = true;
    assert_eq!(
        judge(&ours, &theirs, &party()),
        Course::Send {
            since: 5,
            full: true
        }
    );
}

#[test]
fn a_settled_split_brain_has_a_sender_and_never_an_active_receiver() {
    let (act, sb) = (Role::Active, Role::Standby);
    let own = |node: &str, role, id| {
        let mut h = side(node, role, 5);
        let mut epochs = h.history.epochs().to_vec();
        epochs.push(Epoch {
            number: 2,
            id,
            node: node.into(),
            first: 6,
        });
        h.history = History::new(epochs, 9).expect("in order");
        h
    };
    let course = |r1, k1, r2, k2| {
        let (mut ours, mut theirs) = (own("a", r1, 7), own("b", r2, 8));
        (ours.keep, theirs.keep) = (k1, k2);
        judge(&ours, &theirs, &party())
    };
    use Keep::{Mine, Undecided, Yours};
    let send = Course::Send {
        since: 5,
        full: false,
    };
    let receive = Course::Receive { since: 5 };
    let halted = Course::Diverged { since: 5 };
    for (r1, k1, r2, k2, want) in [
        (sb, Undecided, sb, Undecided, &halted),
        (act, Undecided, sb, Undecided, &halted),
        (sb, Mine, sb, Undecided, &send),
        (act, Mine, sb, Undecided, &send),
        (act, Undecided, sb, Yours, &send),
        (sb, Yours, act, Undecided, &receive),
        (sb, Undecided, act, Mine, &receive),
        (sb, Mine, sb, Mine, &halted),
    ] {
        assert_eq!(course(r1, k1, r2, k2), *want, "{r1:?} {k1:?} {r2:?} {k2:?}");
    }
    for (r1, k1, r2, k2) in [(act, Yours, sb, Undecided), (sb, Mine, act, Undecided)] {
        assert!(matches!(course(r1, k1, r2, k2), Course::Refused(6, _)));
    }
}

/// Two sides that diverged, either of them active or not, and what both are to do.
#[test]
fn both_sides_are_brought_together_only_where_both_know_what_they_did() {
    let (act, sb) = (Role::Active, Role::Standby);
    let merging = Party {
        split_brain: Policy::MergeDisjoint,
        ..party()
    };
    let own = |node: &str, role, id, first: Seq| {
        let mut h = side(node, role, 5);
        let mut epochs = h.history.epochs().to_vec();
        let (number, node) = (2, node.into());
        epochs.push(Epoch {
            number,
            id,
            node,
            first,
        });
        h.history = History::new(epochs, 9).expect("in order");
        h
    };
    let (take, give) = (
        Course::TakeIn {
            since: 5,
            full: false,
        },
        Course::Give { since: 5 },
    );
    let mirrored = Party {
        node: "b".into(),
        peer: "a".into(),
        ..merging.clone()
    };
    for (r1, r2, ours, theirs) in [
        (act, sb, &take, &give),
        (sb, act, &give, &take),
        // Of two equal ones the name decides.
        (sb, sb, &take, &give),
    ] {
        let (a, b) = (own("a", r1, 7, 6), own("b", r2, 8, 6));
        assert_eq!(judge(&a, &b, &merging), *ours, "{r1:?} {r2:?}");
        assert_eq!(judge(&b, &a, &mirrored), *theirs, "{r1:?} {r2:?}");
    }
    type Spoil = fn(&mut Hello);
    let spoils: [(&str, Spoil); 4] = [
        ("a new index", |h| h.index_fresh = true),
        ("forgotten tombstones", |h| h.tombs_forgotten = 6),
        ("a dry run", |h| h.dry_run = true),
        ("a node that takes over", |h| h.takes_over = true),
    ];
    for (what, spoil) in spoils {
        for spoilt in [0, 1] {
            let mut sides = [own("a", sb, 7, 6), own("b", sb, 8, 6)];
            spoil(&mut sides[spoilt]);
            let course = judge(&sides[0], &sides[1], &merging);
            assert_eq!(course, Course::Diverged { since: 5 }, "{what} {spoilt}");
        }
    }
    let (mut a, b) = (own("a", sb, 7, 6), own("b", sb, 8, 6));
    a.keep = Keep::Yours;
    assert_eq!(
        judge(&a, &b, &merging),
        Course::Receive { since: 5 },
        "an order counts first"
    );
    let stranger = |node: &str, id| {
        let mut h = side(node, sb, 5);
        let (number, node, first) = (1, node.into(), 1);
        h.history = History::new(
            vec![Epoch {
                number,
                id,
                node,
                first,
            }],
            5,
        )
        .expect("in order");
        h
    };
    for policy in [
        Policy::MergeDisjoint,
        Policy::NewestEpoch,
        Policy::Node("a".into()),
        Policy::Node("b".into()),
    ] {
        let mut party = merging.clone();
        party.split_brain = policy;
        let strangers = judge(&stranger("a", 7), &stranger("b", 8), &party);
        assert_eq!(strangers, Course::Diverged { since: 0 });
    }
}

#[test]
fn a_mismatch_names_the_side_to_change() {
    let ours = side("a", Role::Active, 1);
    let mut old = side("b", Role::Standby, 1);
    old.protocol = 0;
    let mut root = side("b", Role::Standby, 1);
    root.roots[0].exclude = vec!["x".into()];
    let mut cluster = side("b", Role::Standby, 1);
    cluster.cluster = "d".into();
    for (theirs, part) in [
        (old, "install the newer version on b"),
        (root, "exclude patterns of root \"r\" differ"),
        (cluster, "b to cluster \"d\""),
        (side("x", Role::Standby, 1), "says it is node \"x\""),
    ] {
        match judge(&ours, &theirs, &party()) {
            Course::Refused(2, text) => assert!(text.contains(part), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
