//! When paths with a problem are tried again: soon at first, then less and less often.
//!
//! Nothing tells that a cause is gone (a full disk, a directory that nobody may write to), so each path comes again by itself.
//! What is sent anew each time may be gigabytes. Times are milliseconds of one monotonic clock.

use std::collections::BTreeMap;

use crate::model::path::TreePath;

/// Time until the first try.
pub const FIRST: u64 = 2_000;
/// Longest time between two tries.
pub const MOST: u64 = 30_000;
/// Time after a failure before which nothing is tried again, whatever happens to the path: looking at it may be what happens.
const LEAST: u64 = 500;
/// A path of which nothing was heard for so long after a try begins anew. Sending it may take long.
const FORGOTTEN: u64 = 3_600_000;

#[derive(Debug, Clone, Copy)]
struct Held {
    /// When it failed first, and was not said to be well since.
    since: u64,
    /// Time from the last failure to the next try.
    pause: u64,
    next: Next,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    /// To be tried at this time.
    Due(u64),
    /// Was tried at this time.
    Tried(u64),
}

/// Paths to be tried again.
#[derive(Debug, Default)]
pub struct Retries {
    held: BTreeMap<TreePath, Held>,
    waiting: usize,
}

impl Retries {
    /// A path failed: it is tried again after twice the time that was waited before.
    pub fn add(&mut self, path: TreePath, now: u64) {
        let first = Held {
            since: now,
            pause: FIRST / 2,
            next: Next::Tried(now),
        };
        let held = self.held.entry(path).or_insert(first);
        if matches!(held.next, Next::Tried(_)) {
            held.pause = (held.pause * 2).min(MOST);
            held.next = Next::Due(now.saturating_add(held.pause));
            self.waiting += 1;
        }
    }

    /// How many paths wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// When a path that is held failed first.
    #[must_use]
    pub fn since(&self, path: &TreePath) -> Option<u64> {
        self.held.get(path).map(|held| held.since)
    }

    /// A path that was tried is well: should it fail again, that is another failure. One that waits goes on waiting: what
    /// turned out well may be older than what failed.
    pub fn solved(&mut self, path: &TreePath) {
        let tried = |held: &&Held| matches!(held.next, Next::Tried(_));
        if self.held.get(path).filter(tried).is_some() {
            self.held.remove(path);
        }
    }

    /// Takes one path that waits, before its time: something happened to it.
    pub fn take_one(&mut self, path: &TreePath, now: u64) -> bool {
        if self.waiting == 0 {
            return false;
        }
        let failed = |held: &Held, due: u64| due.saturating_sub(held.pause);
        let waits = |held: &&mut Held| matches!(held.next, Next::Due(at) if now >= failed(held, at).saturating_add(LEAST));
        let held = self.held.get_mut(path).filter(waits);
        let taken = held.map(|held| held.next = Next::Tried(now)).is_some();
        self.waiting -= usize::from(taken);
        taken
    }

    /// Takes the paths that failed once, before their time.
    pub fn take_new(&mut self, now: u64) -> Vec<TreePath> {
        let mut taken = Vec::new();
        for (path, held) in &mut self.held {
            if held.pause == FIRST && matches!(held.next, Next::Due(_)) {
                held.next = Next::Tried(now);
                taken.push(path.clone());
            }
        }
        self.waiting -= taken.len();
        taken
    }

    /// The paths that wait.
    pub fn paths(&self) -> impl Iterator<Item = &TreePath> {
        let waits = |(path, held): (_, &Held)| matches!(held.next, Next::Due(_)).then_some(path);
        self.held.iter().filter_map(waits)
    }

    /// Takes the paths whose time has come; all of them where somebody waits (`hurried`).
    pub fn take(&mut self, now: u64, hurried: bool) -> Vec<TreePath> {
        let mut taken = Vec::new();
        self.held.retain(|path, held| match held.next {
            Next::Due(at) if hurried || at <= now => {
                held.next = Next::Tried(now);
                taken.push(path.clone());
                true
            }
            Next::Due(_) => true,
            Next::Tried(at) => now.saturating_sub(at) < FORGOTTEN,
        });
        self.waiting -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId};

    fn path(name: &str) -> TreePath {
        TreePath::new(RootId(0), RelPath::parse(name.as_bytes()).expect("a path"))
    }

    #[test]
    fn what_failed_once_can_be_taken_before_its_time_once() {
        let mut retries = Retries::default();
        retries.add(path("a"), 0);
        retries.add(path("b"), 0);
        assert_eq!(retries.take_new(0), [path("a"), path("b")]);
        assert_eq!(retries.waiting(), 0);
        retries.solved(&path("a"));
        retries.add(path("b"), 0);
        assert!(retries.take_new(0).is_empty());
        assert_eq!(retries.paths().collect::<Vec<_>>(), [&path("b")]);
    }

    #[test]
    fn a_path_that_fails_again_and_again_is_tried_less_often() {
        let mut retries = Retries::default();
        let (mut now, mut waited) = (1000, Vec::new());
        for _ in 0..7 {
            retries.add(path("f"), now);
            let failed = now;
            while retries.take(now, false).is_empty() {
                now += 100;
            }
            waited.push(now - failed);
        }
        assert_eq!(waited, [2000, 4000, 8000, 16_000, MOST, MOST, MOST]);
        retries.solved(&path("f"));
        retries.add(path("f"), now);
        retries.solved(&path("f"));
        assert_eq!(
            retries.waiting(),
            1,
            "what is well is older than what failed"
        );
        assert_eq!(retries.take(now + FIRST, false), [path("f")]);
    }

    #[test]
    fn one_failure_is_told_more_than_once() {
        let mut retries = Retries::default();
        for _ in 0..5 {
            retries.add(path("f"), 0);
        }
        assert_eq!(retries.waiting(), 1);
        assert_eq!(retries.take(FIRST, false), [path("f")]);
        assert_eq!(retries.waiting(), 0);
        assert_eq!(retries.take(u64::MAX, false), []);
    }

    #[test]
    fn who_waits_has_everything_tried_at_once() {
        let mut retries = Retries::default();
        for name in ["a", "b", "c"] {
            retries.add(path(name), 0);
        }
        assert!(
            !retries.take_one(&path("b"), LEAST - 1),
            "it has just failed"
        );
        assert!(retries.take_one(&path("b"), LEAST));
        retries.solved(&path("b"));
        assert_eq!(retries.waiting(), 2);
        assert!(retries.take_one(&path("c"), LEAST));
        assert!(!retries.take_one(&path("c"), LEAST));
        assert!(!retries.take_one(&path("b"), LEAST));
        retries.add(path("c"), 0);
        assert_eq!(retries.waiting(), 2);
        assert_eq!(
            retries.paths().collect::<Vec<_>>(),
            [&path("a"), &path("c")]
        );
        assert_eq!(retries.take(0, true), [path("a"), path("c")]);
    }

    #[test]
    fn what_stood_well_for_long_is_forgotten() {
        let mut retries = Retries::default();
        for n in 0..3 {
            retries.add(path("f"), n * 10_000);
            retries.take(n * 10_000, true);
        }
        retries.take(20_000 + FORGOTTEN, false);
        assert!(retries.held.is_empty());
    }
}
