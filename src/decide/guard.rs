//! The guard against mass deletion: how much may go from a root before a person is asked.
//!
//! What counts is what went within a window of time, since a removed tree arrives in many pieces. A percentage says nothing
//! about a handful of files, so it counts from [`FEW`] deletions on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::path::RootId;

/// Deletions up to which a percentage does not count.
pub const FEW: u64 = 100;

/// More than this must not go at once. Where both are given, both must be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Paths.
    pub count: Option<u64>,
    /// Percent of the root's paths, 1 to 100.
    pub percent: Option<u8>,
    /// Deletions further apart than this many milliseconds are not counted together.
    pub window: u64,
}

/// What would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Paths deleted within the window, with those that were stopped.
    pub deleted: u64,
    /// Paths of the root before that.
    pub total: u64,
}

/// The deletions of each root within the window.
#[derive(Debug, Default)]
pub struct Guard {
    limit: Option<Limit>,
    recent: BTreeMap<RootId, VecDeque<(u64, u64)>>,
    approved: BTreeSet<RootId>,
}

impl Guard {
    /// A guard; without a limit everything may go.
    #[must_use]
    pub fn new(limit: Option<Limit>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Whether deletions of this root need not be counted at all.
    #[must_use]
    pub fn is_open(&self, root: RootId) -> bool {
        self.limit.is_none() || self.approved.contains(&root)
    }

    /// Deletions further apart than this many milliseconds are not counted together.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.limit.map_or(0, |l| l.window)
    }

    /// Whether a person said that what is gone from this root is meant to be.
    #[must_use]
    pub fn is_approved(&self, root: RootId) -> bool {
        self.approved.contains(&root)
    }

    /// Whether `more` deletions at `now` (ms) would exceed the limit; `left` tells how many paths the root still has,
    /// these included, and is asked only where that matters.
    ///
    /// # Errors
    /// What `left` fails with.
    pub fn judge<E>(
        &mut self,
        root: RootId,
        now: u64,
        more: u64,
        left: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Option<Exceeded>, E> {
        let Some(limit) = self.limit.filter(|_| !self.approved.contains(&root)) else {
            return Ok(None);
        };
        let gone = self.gone(root, now);
        let deleted = gone + more;
        if limit.count.is_some_and(|most| deleted <= most)
            || (limit.percent.is_some() && deleted <= FEW)
        {
            return Ok(None);
        }
        let total = left()? + gone;
        let within = |percent: u8| deleted * 100 <= u64::from(percent) * total;
        if limit.percent.is_some_and(within) {
            return Ok(None);
        }
        Ok(Some(Exceeded { deleted, total }))
    }

    /// Notes that `count` paths went at `now`.
    pub fn note(&mut self, root: RootId, now: u64, count: u64) {
        if !self.is_open(root) && count > 0 {
            let recent = self.recent.entry(root).or_default();
            match recent.back_mut() {
                // One entry for a second keeps the list short.
                Some((at, n)) if now.saturating_sub(*at) < 1000 => *n += count,
                _ => recent.push_back((now, count)),
            }
        }
    }

    /// A person said that what is gone from this root is meant to be.
    pub fn approve(&mut self, root: RootId) {
        self.recent.remove(&root);
        self.approved.insert(root);
    }

    /// What was approved is done: the limit counts again.
    pub fn close(&mut self) {
        self.approved.clear();
    }

    fn gone(&mut self, root: RootId, now: u64) -> u64 {
        let window = self.window();
        let Some(recent) = self.recent.get_mut(&root) else {
            return 0;
        };
        while recent
            .front()
            .is_some_and(|(at, _)| now.saturating_sub(*at) > window)
        {
            recent.pop_front();
        }
        recent.iter().map(|(_, n)| n).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: RootId = RootId(0);

    fn judge(guard: &mut Guard, now: u64, more: u64, left: u64) -> Option<Exceeded> {
        guard
            .judge(ROOT, now, more, || Ok::<_, ()>(left))
            .expect("counted")
    }

    fn limited(count: Option<u64>, percent: Option<u8>) -> Guard {
        Guard::new(Some(Limit {
            count,
            percent,
            window: 60_000,
        }))
    }

    #[test]
    fn the_table() {
        let cases = [
            (None, Some(50), 100, 100, false, "a handful says nothing"),
            (None, Some(50), 101, 150, true, "more than half"),
            (None, Some(50), 500, 1000, false, "just half"),
            (None, Some(50), 501, 1000, true, "more than half"),
            (Some(10), None, 10, 1000, false, "just the number"),
            (Some(10), None, 11, 1000, true, "more than the number"),
            (Some(0), None, 1, 1000, true, "nothing may go"),
            (Some(200), Some(50), 600, 10_000, false, "only one of both"),
            (Some(1000), Some(50), 600, 700, false, "only the other"),
            (Some(200), Some(50), 600, 700, true, "both"),
        ];
        for (count, percent, more, left, stopped, what) in cases {
            let found = judge(&mut limited(count, percent), 0, more, left);
            assert_eq!(found.is_some(), stopped, "{what}: {found:?}");
        }
        assert_eq!(judge(&mut Guard::new(None), 0, u64::MAX, 1), None);
    }

    #[test]
    fn pieces_of_one_removal_are_counted_together_and_later_ones_are_not() {
        let mut guard = limited(Some(100), None);
        let mut stopped = None;
        for i in 0..20 {
            stopped = judge(&mut guard, i * 500, 10, 1000 - i * 10);
            if stopped.is_some() {
                break;
            }
            guard.note(ROOT, i * 500, 10);
        }
        let exceeded = stopped.expect("the eleventh piece");
        assert_eq!((exceeded.deleted, exceeded.total), (110, 1000));
        assert_eq!(judge(&mut guard, 10_000_000, 100, 500), None);
    }

    #[test]
    fn an_approval_counts_until_it_was_used() {
        let mut guard = limited(Some(5), None);
        assert!(judge(&mut guard, 0, 6, 10).is_some());
        guard.approve(ROOT);
        assert_eq!(judge(&mut guard, 0, 6, 10), None);
        guard.close();
        assert!(judge(&mut guard, 0, 6, 10).is_some());
    }
}
