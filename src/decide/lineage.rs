//! Two histories meet: who is ahead, and since when.
//!
//! The method is that of leader epochs: the newest epoch both share tells
//! where their pasts part, and the side that opened an epoch after that point is
//! ahead. Only epochs and sequence numbers count; clocks never do. A node
//! without a history is behind every node that has one, so it never becomes a source.

use crate::model::epoch::{History, Seq};

/// How this node stands to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Neither holds replicated data yet.
    Blank,
    /// Both hold the same.
    Equal,
    /// The peer lacks what came after `since`; `tail` says that it holds changes of its own after it.
    PeerBehind {
        /// Last sequence number both share.
        since: Seq,
        /// Whether the peer has an unreplicated tail.
        tail: bool,
    },
    /// This node lacks what came after `since`; `tail` says that it holds changes of its own after it.
    Behind {
        /// Last sequence number both share.
        since: Seq,
        /// Whether this node has an unreplicated tail.
        tail: bool,
    },
    /// Both opened epochs of their own after `since`.
    Diverged {
        /// Last sequence number both share, 0 if they share nothing.
        since: Seq,
    },
}

impl Verdict {
    /// The same meeting as the peer sees it.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::PeerBehind { since, tail } => Self::Behind { since, tail },
            Self::Behind { since, tail } => Self::PeerBehind { since, tail },
            other => other,
        }
    }
}

/// Compares this node's history with its peer's.
#[must_use]
pub fn verdict(local: &History, peer: &History) -> Verdict {
    match (local.is_empty(), peer.is_empty()) {
        (true, true) => return Verdict::Blank,
        (true, false) => {
            return Verdict::Behind {
                since: 0,
                tail: false,
            };
        }
        (false, true) => {
            return Verdict::PeerBehind {
                since: 0,
                tail: false,
            };
        }
        (false, false) => {}
    }
    let Some((l, p)) = newest_common(local, peer) else {
        return Verdict::Diverged { since: 0 };
    };
    let (local_end, peer_end) = (local.end_of(l), peer.end_of(p));
    let since = local_end.min(peer_end);
    let local_more = l + 1 < local.epochs().len();
    let peer_more = p + 1 < peer.epochs().len();
    match (local_more, peer_more) {
        (true, true) => Verdict::Diverged { since },
        (true, false) => Verdict::PeerBehind {
            since,
            tail: peer_end > since,
        },
        (false, true) => Verdict::Behind {
            since,
            tail: local_end > since,
        },
        (false, false) => match local_end.cmp(&peer_end) {
            std::cmp::Ordering::Equal => Verdict::Equal,
            std::cmp::Ordering::Greater => Verdict::PeerBehind { since, tail: false },
            std::cmp::Ordering::Less => Verdict::Behind { since, tail: false },
        },
    }
}

/// Positions of the newest epoch that stands in both histories.
fn newest_common(local: &History, peer: &History) -> Option<(usize, usize)> {
    for (l, epoch) in local.epochs().iter().enumerate().rev() {
        let same = |e: &crate::model::epoch::Epoch| e.id == epoch.id && e.first == epoch.first;
        if let Some(p) = peer.epochs().iter().rposition(same) {
            return Some((l, p));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::epoch::Epoch;
    use proptest::prelude::*;

    /// Epochs as (id, first), then the head.
    fn history(epochs: &[(u128, Seq)], head: Seq) -> History {
        let epochs = epochs
            .iter()
            .enumerate()
            .map(|(i, (id, first))| Epoch {
                number: i as u64 + 1,
                id: *id,
                node: "n".into(),
                first: *first,
            })
            .collect();
        History::new(epochs, head).expect("in order")
    }

    #[test]
    fn the_table() {
        let cases = [
            (
                "both blank",
                history(&[], 0),
                history(&[], 0),
                Verdict::Blank,
            ),
            (
                "fresh disk here",
                history(&[], 0),
                history(&[(1, 1)], 9),
                Verdict::Behind {
                    since: 0,
                    tail: false,
                },
            ),
            (
                "equal",
                history(&[(1, 1)], 9),
                history(&[(1, 1)], 9),
                Verdict::Equal,
            ),
            (
                "peer missed the last changes",
                history(&[(1, 1)], 9),
                history(&[(1, 1)], 5),
                Verdict::PeerBehind {
                    since: 5,
                    tail: false,
                },
            ),
            (
                "peer took over from the end",
                history(&[(1, 1)], 9),
                history(&[(1, 1), (2, 10)], 12),
                Verdict::Behind {
                    since: 9,
                    tail: false,
                },
            ),
            (
                "peer took over, we had a tail",
                history(&[(1, 1)], 9),
                history(&[(1, 1), (2, 6)], 12),
                Verdict::Behind {
                    since: 5,
                    tail: true,
                },
            ),
            (
                "both went on alone",
                history(&[(1, 1), (3, 8)], 9),
                history(&[(1, 1), (2, 6)], 12),
                Verdict::Diverged { since: 5 },
            ),
            (
                "strangers",
                history(&[(1, 1)], 9),
                history(&[(2, 1)], 9),
                Verdict::Diverged { since: 0 },
            ),
            (
                "power loss took our newest index rows",
                history(&[(1, 1)], 7),
                history(&[(1, 1)], 9),
                Verdict::Behind {
                    since: 7,
                    tail: false,
                },
            ),
            (
                "two epochs missed",
                history(&[(1, 1)], 4),
                history(&[(1, 1), (2, 5), (3, 7)], 8),
                Verdict::Behind {
                    since: 4,
                    tail: false,
                },
            ),
        ];
        for (name, local, peer, want) in cases {
            assert_eq!(verdict(&local, &peer), want, "{name}");
            assert_eq!(
                verdict(&peer, &local),
                want.mirrored(),
                "{name}, seen from the peer"
            );
        }
    }

    /// What may happen to two nodes: index of the acting node and what it does.
    #[derive(Debug, Clone)]
    enum Step {
        /// The node changes something as the active one.
        Change(usize),
        /// The node is activated anew: its next change opens an epoch.
        Activate(usize),
        /// They meet; the one behind takes what it lacks.
        Meet,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..2usize).prop_map(Step::Change),
            (0..2usize).prop_map(Step::Activate),
            Just(Step::Meet),
        ]
    }

    proptest! {
        /// A node that holds changes made since the last meeting is never told to take the other's
        /// data without a tail to preserve, unless it made none.
        #[test]
        fn no_sequence_of_events_makes_a_stale_node_the_source(steps in prop::collection::vec(step(), 1..60)) {
            let mut nodes = [History::default(), History::default()];
            let mut fresh = [true, true];
            let mut made = [0u32, 0u32];
            let mut next_id = 1u128;
            for s in steps {
                match s {
                    Step::Activate(n) => fresh[n] = true,
                    Step::Change(n) => {
                        if fresh[n] {
                            nodes[n].open("n", next_id);
                            next_id += 1;
                            fresh[n] = false;
                        }
                        let head = nodes[n].head() + 1;
                        nodes[n].advance(head);
                        made[n] += 1;
                    }
                    Step::Meet => {
                        let v = verdict(&nodes[0], &nodes[1]);
                        prop_assert_eq!(verdict(&nodes[1], &nodes[0]), v.mirrored());
                        match v {
                            Verdict::PeerBehind { tail, .. } => {
                                prop_assert!(made[1] == 0 || tail, "node 1's changes would be lost");
                                nodes[1] = nodes[0].clone();
                                made = [0, 0];
                                // Losing touch makes the next change of either side an epoch of its own.
                                fresh = [true, true];
                            }
                            Verdict::Behind { tail, .. } => {
                                prop_assert!(made[0] == 0 || tail, "node 0's changes would be lost");
                                nodes[0] = nodes[1].clone();
                                made = [0, 0];
                                fresh = [true, true];
                            }
                            Verdict::Equal => prop_assert_eq!(made, [0, 0]),
                            Verdict::Blank | Verdict::Diverged { .. } => {}
                        }
                    }
                }
            }
        }
    }
}
