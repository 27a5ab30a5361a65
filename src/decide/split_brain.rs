//! Both nodes changed data on their own: which side is kept, if anybody said so.
//!
//! What a person orders counts before what the configuration says, and nothing is decided where two orders contradict
//! each other. Both nodes reach the same answer, since both are given the same facts.

use std::cmp::Ordering;

use crate::model::epoch::Keep;

/// What the configuration says ahead of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// A person decides.
    #[default]
    Manual,
    /// The side whose newest epoch has the higher number is kept; a tie is for a person.
    NewestEpoch,
    /// The data of the node with this name are kept.
    Node(String),
    /// Both sides' changes are kept, where no path was changed on both.
    MergeDisjoint,
}

/// One of the two sides.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Its name.
    pub node: &'a str,
    /// Number of its newest epoch.
    pub epoch: u64,
    /// What was ordered there.
    pub keep: Keep,
    /// Whether it is active.
    pub active: bool,
}

/// The side that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// This one; what the other one changed is preserved there.
    Ours,
    /// The other one.
    Theirs,
    /// Both: this node takes the other one's changes into its own data, and the other one then takes these.
    BothHere,
    /// Both: the other node takes this one's changes.
    BothThere,
}

/// Which side is kept; `None` where that is for a person to say.
#[must_use]
pub fn settle(policy: &Policy, ours: Side<'_>, theirs: Side<'_>) -> Option<Kept> {
    match (ours.keep, theirs.keep) {
        (Keep::Undecided, Keep::Undecided) => by_policy(policy, ours, theirs),
        (Keep::Mine, Keep::Undecided | Keep::Yours) | (Keep::Undecided, Keep::Yours) => {
            Some(Kept::Ours)
        }
        (Keep::Yours, Keep::Undecided | Keep::Mine) | (Keep::Undecided, Keep::Mine) => {
            Some(Kept::Theirs)
        }
        (Keep::Mine, Keep::Mine) | (Keep::Yours, Keep::Yours) => None,
    }
}

fn by_policy(policy: &Policy, ours: Side<'_>, theirs: Side<'_>) -> Option<Kept> {
    match policy {
        Policy::Manual => None,
        Policy::NewestEpoch => match ours.epoch.cmp(&theirs.epoch) {
            Ordering::Greater => Some(Kept::Ours),
            Ordering::Less => Some(Kept::Theirs),
            Ordering::Equal => None,
        },
        Policy::Node(name) if name == ours.node => Some(Kept::Ours),
        Policy::Node(name) if name == theirs.node => Some(Kept::Theirs),
        Policy::Node(_) => None,
        Policy::MergeDisjoint => Some(if is_home(ours, theirs) {
            Kept::BothHere
        } else {
            Kept::BothThere
        }),
    }
}

/// Whether both sides' changes come together on our side: the active one, since it never receives as a standby does; else
/// that with the newer epoch. Of two equal ones nothing depends on the choice but that both make the same.
fn is_home(ours: Side<'_>, theirs: Side<'_>) -> bool {
    let rank = |s: Side<'_>| (s.active, s.epoch);
    match rank(ours).cmp(&rank(theirs)) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => ours.node < theirs.node,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPS: [Keep; 3] = [Keep::Undecided, Keep::Mine, Keep::Yours];

    fn side(node: &str, epoch: u64, keep: Keep) -> Side<'_> {
        Side {
            node,
            epoch,
            keep,
            active: false,
        }
    }

    fn policies() -> [Policy; 5] {
        [
            Policy::Manual,
            Policy::NewestEpoch,
            Policy::Node("a".into()),
            Policy::Node("elsewhere".into()),
            Policy::MergeDisjoint,
        ]
    }

    #[test]
    fn both_sides_reach_the_same_answer() {
        for policy in policies() {
            for (ours, theirs) in [(1, 2), (2, 2), (3, 2)] {
                for (k1, k2) in KEEPS.iter().flat_map(|a| KEEPS.map(|b| (*a, b))) {
                    let (a, b) = (side("a", ours, k1), side("b", theirs, k2));
                    let mirrored = settle(&policy, b, a).map(|kept| match kept {
                        Kept::Ours => Kept::Theirs,
                        Kept::Theirs => Kept::Ours,
                        Kept::BothHere => Kept::BothThere,
                        Kept::BothThere => Kept::BothHere,
                    });
                    assert_eq!(settle(&policy, a, b), mirrored, "{policy:?} {a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn an_order_counts_before_the_policy_and_contradictions_decide_nothing() {
        for policy in policies() {
            let b = side("b", 9, Keep::Undecided);
            let ordered = |keep| settle(&policy, side("a", 1, keep), b);
            assert_eq!(ordered(Keep::Mine), Some(Kept::Ours), "{policy:?}");
            assert_eq!(ordered(Keep::Yours), Some(Kept::Theirs), "{policy:?}");
            let against = settle(&policy, side("a", 1, Keep::Mine), side("b", 9, Keep::Mine));
            assert_eq!(against, None, "{policy:?}");
        }
    }

    #[test]
    fn the_policies() {
        let of = |policy: &Policy, ours, theirs| {
            let (a, b) = (
                side("a", ours, Keep::Undecided),
                side("b", theirs, Keep::Undecided),
            );
            settle(policy, a, b)
        };
        assert_eq!(of(&Policy::Manual, 3, 2), None);
        assert_eq!(of(&Policy::NewestEpoch, 3, 2), Some(Kept::Ours));
        assert_eq!(of(&Policy::NewestEpoch, 2, 3), Some(Kept::Theirs));
        assert_eq!(of(&Policy::NewestEpoch, 3, 3), None);
        assert_eq!(of(&Policy::Node("b".into()), 3, 2), Some(Kept::Theirs));
        assert_eq!(of(&Policy::Node("c".into()), 3, 2), None);
        assert_eq!(of(&Policy::MergeDisjoint, 3, 2), Some(Kept::BothHere));
        assert_eq!(of(&Policy::MergeDisjoint, 2, 3), Some(Kept::BothThere));
        assert_eq!(of(&Policy::MergeDisjoint, 3, 3), Some(Kept::BothHere));
    }

    #[test]
    fn both_come_together_on_the_active_side() {
        let active = Side {
            active: true,
            ..side("b", 1, Keep::Undecided)
        };
        let newer = side("a", 9, Keep::Undecided);
        let settled = settle(&Policy::MergeDisjoint, active, newer);
        assert_eq!(settled, Some(Kept::BothHere));
    }
}
