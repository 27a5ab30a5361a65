//! What is moved aside: where it came from, and how long it is kept.
//!
//! Pure. What [`expired`] names is lost for good, so its rules are few and each has a law below: old enough, or the oldest
//! where all of it takes too much space; never what is younger than a day, never what bears the time of a clock that was
//! not set.

use serde::{Deserialize, Serialize};

use crate::model::epoch::Seq;

/// Nothing younger than this (in milliseconds) goes for the sake of space: somebody must have had the time to look.
pub const GRACE: u64 = 24 * 3600 * 1000;
/// Milliseconds since 1970 of the start of 2020: what bears an earlier time was kept while the clock was not set.
pub const CLOCK_SET: u64 = 1_577_836_800_000;
const DAY: u64 = 24 * 3600 * 1000;

/// How something came to stand in the way of replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// This node was the active one, and the other node took over without this change.
    Tail,
    /// Somebody changed it on the standby.
    Edit,
    /// It stood here before this node's data were compared with the active node's.
    Found,
    /// This node's data lost a split brain.
    SplitBrain,
    /// A socket stood where replication puts something else.
    Socket,
    /// The other node lost power while it was active, and came back with another version.
    Outage,
    /// A restored version took its place.
    Replaced,
    /// Not recorded.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Origin {
    /// As it is written in notes and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tail => "tail",
            Self::Edit => "edit",
            Self::Found => "found",
            Self::SplitBrain => "split-brain",
            Self::Socket => "socket",
            Self::Outage => "outage",
            Self::Replaced => "replaced",
            Self::Unknown => "unknown",
        }
    }

    /// In words, for people.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::Tail => "changed here while this node was active, and not replicated",
            Self::Edit => "changed here while the other node was active",
            Self::Found => "stood here before the nodes were compared for the first time",
            Self::SplitBrain => "this node's side of a split brain",
            Self::Socket => "a socket stood in the way",
            Self::Outage => {
                "received here before the active node lost power, and it came back with another version"
            }
            Self::Replaced => "a restored version took its place",
            Self::Unknown => "not recorded",
        }
    }
}

/// What is known of this node when something has to make way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// It was active when it ended, however that was, and took no other node's data since.
    pub was_active: bool,
    /// Its index holds changes of its own that the other node goes on without.
    pub has_tail: bool,
    /// Its data are those that a split brain was decided against.
    pub lost_split_brain: bool,
    /// The other node's disk may be behind what that node had sent before it lost power.
    pub peer_outage: bool,
}

/// Where something came from that replication did not put here; `row` is the sequence number in its row, if it has one.
#[must_use]
pub fn origin(standing: Standing, row: Option<Seq>) -> Origin {
    match row {
        _ if standing.lost_split_brain => Origin::SplitBrain,
        _ if standing.was_active => Origin::Tail,
        Some(0) if standing.peer_outage => Origin::Outage,
        // The rows of a tail are set back to 0 when the other node's state is asked for in their place.
        Some(0) if standing.has_tail => Origin::Tail,
        Some(0) => Origin::Found,
        _ => Origin::Edit,
    }
}

/// What counts for how long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// When it was moved aside, in milliseconds since 1970.
    pub time: u64,
    /// Bytes it takes.
    pub bytes: u64,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Days; 0 for ever.
    pub days: u32,
    /// Bytes all of them may take; `None` for no limit.
    pub bytes: Option<u64>,
}

/// The positions of those that are to go at `now` (milliseconds since 1970), oldest first.
#[must_use]
pub fn expired(all: &[Kept], now: u64, limits: Limits) -> Vec<usize> {
    let mut order: Vec<usize> = (0..all.len())
        .filter(|i| all[*i].time >= CLOCK_SET)
        .collect();
    order.sort_by_key(|i| all[*i].time);
    let mut total = all.iter().fold(0u64, |sum, k| sum.saturating_add(k.bytes));
    let mut gone = Vec::new();
    for i in order {
        let age = now.saturating_sub(all[i].time);
        let old = limits.days > 0 && age >= u64::from(limits.days) * DAY;
        let too_much = limits.bytes.is_some_and(|most| total > most) && age >= GRACE;
        if old || too_much {
            total = total.saturating_sub(all[i].bytes);
            gone.push(i);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = CLOCK_SET + 1000 * DAY;

    fn kept(days: u64, bytes: u64) -> Kept {
        let time = NOW - days * DAY;
        Kept { time, bytes }
    }

    fn limits(days: u32, bytes: Option<u64>) -> Limits {
        Limits { days, bytes }
    }

    #[test]
    fn where_it_came_from() {
        let active = Standing {
            was_active: true,
            ..Standing::default()
        };
        let tail = Standing {
            has_tail: true,
            ..Standing::default()
        };
        let lost = Standing {
            lost_split_brain: true,
            ..active
        };
        let outage = Standing {
            peer_outage: true,
            ..tail
        };
        for (standing, row, wanted) in [
            (outage, Some(0), Origin::Outage),
            (outage, Some(7), Origin::Edit),
            (Standing::default(), Some(7), Origin::Edit),
            (Standing::default(), None, Origin::Edit),
            (Standing::default(), Some(0), Origin::Found),
            (active, Some(7), Origin::Tail),
            (active, Some(0), Origin::Tail),
            (active, None, Origin::Tail),
            (tail, Some(0), Origin::Tail),
            (tail, Some(7), Origin::Edit),
            (tail, None, Origin::Edit),
            (lost, None, Origin::SplitBrain),
        ] {
            assert_eq!(origin(standing, row), wanted, "{standing:?} {row:?}");
        }
    }

    #[test]
    fn words_are_those_of_the_notes() {
        for o in [
            Origin::Tail,
            Origin::Edit,
            Origin::Found,
            Origin::SplitBrain,
            Origin::Socket,
            Origin::Outage,
            Origin::Replaced,
            Origin::Unknown,
        ] {
            let json = format!("\"{}\"", o.word());
            assert_eq!(serde_json::to_string(&o).ok(), Some(json.clone()));
            assert_eq!(serde_json::from_str::<Origin>(&json).ok(), Some(o));
        }
        assert_eq!(
            serde_json::from_str::<Origin>("\"of a later version\"").ok(),
            Some(Origin::Unknown)
        );
    }

    #[test]
    fn what_goes() {
        let all = [kept(3, 10), kept(40, 1), kept(0, 100), kept(30, 5)];
        for (limits, gone) in [
            (limits(30, None), &[1, 3][..]),
            (limits(0, None), &[]),
            (limits(1000, Some(105)), &[1, 3, 0]),
            (limits(1000, Some(110)), &[1, 3]),
            // What is of today stays, even if it alone takes too much.
            (limits(1000, Some(0)), &[1, 3, 0]),
        ] {
            assert_eq!(expired(&all, NOW, limits), gone, "{limits:?}");
        }
    }

    proptest! {
        #[test]
        fn laws(
            times in prop::collection::vec((0..NOW + 5 * DAY, 0..1000u64), 0..40),
            days in 0..60u32,
            most in prop::option::of(0..20_000u64),
        ) {
            let all: Vec<Kept> = times.iter().map(|(time, bytes)| Kept { time: *time, bytes: *bytes }).collect();
            let gone = expired(&all, NOW, limits(days, most));
            for i in &gone {
                prop_assert!(all[*i].time >= CLOCK_SET, "a clock that was not set");
                let age = NOW.saturating_sub(all[*i].time);
                let old = days > 0 && age >= u64::from(days) * DAY;
                prop_assert!(old || age >= GRACE, "younger than a day");
                let older = (0..all.len()).filter(|j| (CLOCK_SET..all[*i].time).contains(&all[*j].time));
                prop_assert!(older.into_iter().all(|j| gone.contains(&j)), "oldest first");
            }
            let left: Vec<&Kept> = (0..all.len()).filter(|i| !gone.contains(i)).map(|i| &all[i]).collect();
            let removable = left.iter().any(|k| k.time >= CLOCK_SET && NOW.saturating_sub(k.time) >= GRACE);
            let bytes: u64 = left.iter().map(|k| k.bytes).sum();
            prop_assert!(!removable || most.is_none_or(|m| bytes <= m), "too much is kept");
            if days == 0 && most.is_none() {
                prop_assert!(gone.is_empty());
            }
        }
    }
}
