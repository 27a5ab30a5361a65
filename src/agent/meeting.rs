//! Two nodes meet: what this one says, and what follows from what the other says.
//!
//! A mismatch is refused with a sentence that names the side to change; who sends
//! follows from the histories alone.

pub mod terms;

use terms::Terms;

use super::node::Node;
use crate::config::canonical;
use crate::decide::guard::Limit;
use crate::decide::lineage::{Verdict, verdict};
use crate::decide::split_brain::{Kept, Policy, Side, settle};
use crate::model::epoch::{Keep, Seq};
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
    /// It is about to become active and asks an active peer to hand over.
    pub takes_over: bool,
    /// Which side a person ordered here to be kept.
    pub keep: Keep,
    /// What the configuration says about data that both nodes changed.
    pub split_brain: Policy,
    /// How much may be deleted at once, as the configuration says.
    pub max_delete: Option<Limit>,
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
    /// Both did, and both sides' changes are kept: this node takes the peer's, then sends.
    TakeIn {
        /// Last sequence number both share.
        since: Seq,
        /// Compare every path when it sends.
        full: bool,
    },
    /// Both did, and the peer takes this node's changes, then sends.
    Give {
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
        let empty = node.store.is_empty(r.root.id).unwrap_or(false);
        RootHello {
            name: r.root.name.clone(),
            exclude: canonical(&r.exclude),
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
        history: node.epochs.history().without_announced(&party.node),
        index_fresh: node.index_fresh || node.epochs.catching_up() || node.epochs.uncompared(),
        full: party.full,
        tombs_forgotten: node
            .store
            .number("tombs_forgotten")
            .unwrap_or(u64::MAX >> 1),
        dry_run: party.dry_run,
        takes_over: party.takes_over,
        keep: party.keep,
        unclean: party.role == Role::Standby && node.is_unclean(),
        outage: node.epochs.outage(),
        index_lost: node.index_lost(),
        lacks: node
            .store
            .lacked()
            .map_or_else(|_| Vec::new(), |l| l.to_vec()),
    }
}

/// Exit code, and code of a refusal, where the two sides' configurations do not go together.
pub const MISMATCH: u8 = 2;

/// Exit code, and code of a refusal, where both nodes changed data.
pub const DIVERGED: u8 = 5;

/// Exit code, and code of a refusal, where the nodes' roles do not go together.
pub const REFUSED: u8 = 6;

/// In words, that both nodes changed data after what they share, and what to do.
#[must_use]
pub fn diverged(party: &Party, since: Seq) -> String {
    format!(
        "{} and {} both changed data after sequence {since}; nothing was changed. See what each side changed with \"syncctl resolve --keep local --dry-run\", then run \"syncctl resolve --keep local\" or \"--keep peer\": what the other side changed is preserved first",
        party.node, party.peer
    )
}

/// These paths in a row, and how many more there are of `all`.
#[must_use]
pub fn some_of(paths: &[String], all: u64) -> String {
    match all.saturating_sub(paths.len() as u64) {
        0 => paths.join(", "),
        more => format!("{} and {more} more", paths.join(", ")),
    }
}

/// In words, that these paths were changed on both nodes; `all` is how many there are.
#[must_use]
pub fn collided(party: &Party, since: Seq, paths: &[String], all: u64) -> String {
    let shown = some_of(paths, all);
    format!(
        "{} and {} both changed data after sequence {since}, and these paths on both, so nothing is merged: {shown}. See what each side changed with \"syncctl resolve --keep local --dry-run\", then run \"syncctl resolve --keep local\" or \"--keep peer\": what the other side changed is preserved first",
        party.node, party.peer
    )
}

/// What follows from both hellos.
#[must_use]
pub fn judge(ours: &Hello, theirs: &Hello, party: &Party) -> Course {
    if let Some(text) = Terms::from(ours).mismatch(&theirs.into(), &party.peer) {
        return Course::Refused(MISMATCH, text);
    }
    if ours.role == Role::Active && theirs.role == Role::Active {
        let text = format!(
            "{} and {} are both active; deactivate the one that is not to be active",
            ours.node, theirs.node
        );
        return Course::Refused(REFUSED, text);
    }
    let all = |since: Seq, ahead: &Hello, behind: &Hello| {
        let unknown = behind.index_fresh || ahead.index_lost;
        unknown || ours.full || theirs.full || since < ahead.tombs_forgotten
    };
    match verdict(&ours.history, &theirs.history) {
        Verdict::Blank if ours.role == Role::Active => Course::Send {
            since: 0,
            full: true,
        },
        Verdict::Blank if theirs.role == Role::Active => Course::Receive { since: 0 },
        Verdict::Blank => Course::Blank,
        Verdict::Diverged { since } => match settled(ours, theirs, (party, since)) {
            None => Course::Diverged { since },
            Some(Kept::BothHere | Kept::BothThere) if !may_merge(ours, theirs, since) => {
                Course::Diverged { since }
            }
            Some(Kept::BothHere) => Course::TakeIn {
                since,
                full: ours.full || theirs.full,
            },
            Some(Kept::BothThere) => Course::Give { since },
            Some(Kept::Ours) if theirs.role == Role::Active => {
                Course::Refused(6, given_up_while_active(&theirs.node, &ours.node))
            }
            Some(Kept::Theirs) if ours.role == Role::Active => {
                Course::Refused(6, given_up_while_active(&ours.node, &theirs.node))
            }
            // Without anything in common sequence numbers mean nothing.
            Some(Kept::Ours) => Course::Send {
                since,
                full: since == 0 || all(since, ours, theirs),
            },
            Some(Kept::Theirs) => Course::Receive { since },
        },
        Verdict::PeerBehind { since, .. } if forgot_numbers(theirs, ours) => {
            Course::Receive { since }
        }
        Verdict::Behind { since, .. } if forgot_numbers(ours, theirs) => Course::Send {
            since,
            full: all(since, ours, theirs),
        },
        Verdict::PeerBehind { .. } if theirs.role == Role::Active => Course::Refused(
            6,
            format!(
                "{} is active with older data than {} holds; deactivate {0}, then run \"syncctl resync\" there",
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
            } else if theirs.role == Role::Active {
                Course::Receive { since }
            } else if may_hold_more(ours) != may_hold_more(theirs) {
                if may_hold_more(ours) {
                    Course::Send {
                        since,
                        full: all(since, ours, theirs),
                    }
                } else {
                    Course::Receive { since }
                }
            } else if let Some(receives) = lacks_something(ours, theirs) {
                if receives {
                    Course::Receive { since }
                } else {
                    Course::Send {
                        since,
                        full: all(since, ours, theirs),
                    }
                }
            } else if ours.full {
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

/// Whether the side that receives gives up data of its own: both changed some, and the other side's are kept.
#[must_use]
pub fn gave_up(ours: &Hello, theirs: &Hello) -> bool {
    matches!(
        verdict(&ours.history, &theirs.history),
        Verdict::Diverged { .. }
    )
}

/// Whether a side whose numbers say nothing newer may hold newer data after all, and looks: it ended without order while it
/// was active, or its own changes were the last ones and it lost their numbers with its index.
fn may_hold_more(side: &Hello) -> bool {
    let made_the_last = || side.history.last().is_some_and(|e| e.node == side.node);
    side.unclean || side.index_lost && made_the_last()
}

/// Whether a side that stands behind made all that the other side is ahead of it: with the power of its host, or with its
/// index, it lost the last numbers, while its disk may hold newer data than it ever sent.
fn forgot_numbers(behind: &Hello, ahead: &Hello) -> bool {
    let own = behind.history.last();
    (behind.outage || behind.index_lost)
        && ahead.role != Role::Active
        && own == ahead.history.last()
        && own.is_some_and(|e| e.node == behind.node)
}

/// Of two sides that stand at the same number, neither active: whether ours is the one that receives, where one could not
/// do what came with that number. Where both could not, one gets what it lacks, and preserves what the other one lacks.
fn lacks_something(ours: &Hello, theirs: &Hello) -> Option<bool> {
    match (ours.lacks.is_empty(), theirs.lacks.is_empty()) {
        (true, true) => None,
        (false, true) => Some(true),
        (true, false) => Some(false),
        (false, false) => Some(ours.node < theirs.node),
    }
}

/// Whether both sides know what they changed and deleted after `since`, and this is the time to bring it together.
fn may_merge(ours: &Hello, theirs: &Hello, since: Seq) -> bool {
    let knows = |h: &Hello| !h.index_fresh && h.lacks.is_empty() && h.tombs_forgotten <= since;
    let waits = |h: &Hello| h.dry_run || h.takes_over;
    since > 0 && knows(ours) && knows(theirs) && !waits(ours) && !waits(theirs)
}

/// Which side is kept of two that diverged after what they share, if that is settled.
fn settled(ours: &Hello, theirs: &Hello, (party, since): (&Party, Seq)) -> Option<Kept> {
    fn side(h: &Hello) -> Side<'_> {
        Side {
            node: &h.node,
            epoch: h.history.last().map_or(0, |e| e.number),
            keep: h.keep,
            active: h.role == Role::Active,
        }
    }
    // Two that share nothing are no split brain that somebody foresaw: one of them has a new disk, or an old one.
    let policy = match since {
        0 => &Policy::Manual,
        _ => &party.split_brain,
    };
    settle(policy, side(ours), side(theirs))
}

fn given_up_while_active(active: &str, kept: &str) -> String {
    format!(
        "the data of {kept} are to be kept, but {active} is active with the other version; deactivate {active} first (move the service to {kept}, or \"syncctl deactivate\")"
    )
}

#[cfg(test)]
mod tests;
