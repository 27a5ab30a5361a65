//! Two nodes meet: what this one says, and what follows from what the other says.
//!
//! A mismatch is refused with a sentence that names the side to change; who sends
//! follows from the histories alone.

use super::node::Node;
use crate::decide::lineage::{Verdict, verdict};
use crate::model::epoch::Seq;
use crate::wire::message::{Hello, PROTOCOL, Role, RootHello};

/// Names this side knows of the meeting.
#[derive(Debug, Clone)]
pub struct Party {
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub node: String,
    /// The other one.
    pub peer: String,
    /// What this node does.
    pub role: Role,
    /// It asks that every path be compared.
    pub full: bool,
    /// It only wants to know what would be done.
    pub dry_run: bool,
}

/// What follows from a meeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Course {
    /// This side sends what the peer lacks after `since`, or compares everything.
    Send {
        /// Last sequence number both share.
        since: Seq,
        /// Compare every path.
        full: bool,
    },
    /// The peer sends.
    Receive {
        /// Last sequence number both share.
        since: Seq,
    },
    /// Both hold the same and neither is active: nothing to do.
    Idle,
    /// Neither holds replicated data.
    Blank,
    /// Both changed data on their own.
    Diverged {
        /// Last sequence number both share.
        since: Seq,
    },
    /// The peer is ahead of this active node.
    Stale,
    /// The session cannot be: exit code and sentence.
    Refused(u8, String),
}

/// What this node says of itself.
#[must_use]
pub fn hello(node: &Node, party: &Party) -> Hello {
    let roots = node.roots.iter().map(|r| {
        let mut exclude = r.exclude.clone();
        // With a negated pattern their order matters, so it stays.
        if !exclude.iter().any(|p| p.starts_with('!')) {
            exclude.sort();
            exclude.dedup();
        }
        let empty = node.store.is_empty(r.root.id).unwrap_or(false);
        RootHello {
            name: r.root.name.clone(),
            exclude,
            single: r.root.only.is_some(),
            empty,
        }
    });
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: party.cluster.clone(),
        node: party.node.clone(),
        role: party.role,
        roots: roots.collect(),
        history: node.epochs.history().clone(),
        index_fresh: node.index_fresh || node.epochs.catching_up(),
        full: party.full,
        tombs_forgotten: node
            .store
            .number("tombs_forgotten")
            .unwrap_or(u64::MAX >> 1),
        dry_run: party.dry_run,
    }
}

/// Exit code, and code of a refusal, where both nodes changed data.
pub const DIVERGED: u8 = 5;

/// In words, that both nodes changed data after what they share, and what to do.
#[must_use]
pub fn diverged(party: &Party, since: Seq) -> String {
    format!(
        "{} and {} both changed data after sequence {since}; nothing was changed. Decide which side to keep, move the other side's state directory away and run \"syncctl resync\" there: its own changes are preserved first",
        party.node, party.peer
    )
}

/// What follows from both hellos.
#[must_use]
pub fn judge(ours: &Hello, theirs: &Hello, party: &Party) -> Course {
    if let Some(text) = mismatch(ours, theirs, party) {
        return Course::Refused(2, text);
    }
    if ours.role == Role::Active && theirs.role == Role::Active {
        let text = format!(
            "{} and {} are both active; stop syncd on the one that is not to be active",
            ours.node, theirs.node
        );
        return Course::Refused(6, text);
    }
    let all = |since: Seq, ahead: &Hello, behind: &Hello| {
        behind.index_fresh || ours.full || theirs.full || since < ahead.tombs_forgotten
    };
    match verdict(&ours.history, &theirs.history) {
        Verdict::Blank if ours.role == Role::Active => Course::Send {
            since: 0,
            full: true,
        },
        Verdict::Blank if theirs.role == Role::Active => Course::Receive { since: 0 },
        Verdict::Blank => Course::Blank,
        Verdict::Diverged { since } => Course::Diverged { since },
        Verdict::PeerBehind { .. } if theirs.role == Role::Active => Course::Refused(
            6,
            format!(
                "{} is active with older data than {} holds; stop syncd on {0}, run \"syncctl resync\" there, and start it again",
                theirs.node, ours.node
            ),
        ),
        Verdict::PeerBehind { since, .. } => Course::Send {
            since,
            full: all(since, ours, theirs),
        },
        Verdict::Behind { .. } if ours.role == Role::Active => Course::Stale,
        Verdict::Behind { since, .. } => Course::Receive { since },
        Verdict::Equal => {
            let since = ours.history.head();
            if ours.role == Role::Active {
                Course::Send {
                    since,
                    full: all(since, ours, theirs),
                }
            } else if theirs.role == Role::Active || ours.full {
                // With nobody active, who asks for a full comparison takes the other side's state.
                Course::Receive { since }
            } else if theirs.full {
                Course::Send { since, full: true }
            } else {
                Course::Idle
            }
        }
    }
}

/// The first thing on which the two sides must agree and do not.
fn mismatch(ours: &Hello, theirs: &Hello, party: &Party) -> Option<String> {
    if ours.protocol != theirs.protocol {
        let (old, new) = if ours.protocol < theirs.protocol {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        return Some(format!(
            "{} runs osm-failover {} (protocol {}), {} runs {} (protocol {}); install the newer version on {0}",
            old.node, old.version, old.protocol, new.node, new.version, new.protocol
        ));
    }
    if ours.cluster != theirs.cluster {
        return Some(format!(
            "{} belongs to cluster \"{}\", {} to cluster \"{}\"; the configuration file must be the same on both nodes",
            ours.node, ours.cluster, theirs.node, theirs.cluster
        ));
    }
    if theirs.node != party.peer {
        return Some(format!(
            "the other side says it is node \"{}\", expected was \"{}\"; check its host name, --node or OSM_NODE there, and the address of {1}",
            theirs.node, party.peer
        ));
    }
    let names = |h: &Hello| h.roots.iter().map(|r| r.name.clone()).collect::<Vec<_>>();
    if names(ours) != names(theirs) {
        return Some(format!(
            "{} has the roots {:?}, {} has {:?}; copy the configuration file from one node to the other",
            ours.node,
            names(ours),
            theirs.node,
            names(theirs)
        ));
    }
    let differs = ours
        .roots
        .iter()
        .zip(&theirs.roots)
        .find(|(a, b)| a.exclude != b.exclude)?;
    Some(format!(
        "the exclude patterns of root \"{}\" differ on {} and {}; copy the configuration file from one node to the other",
        differs.0.name, ours.node, theirs.node
    ))
}

#[cfg(test)]
mod tests {
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
}
