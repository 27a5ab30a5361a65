//! When both trees are compared in the background, and how often an unwatched part is scanned.
//!
//! Some changes make no event (writes through a mapping that nobody syncs, edits on the standby, a limit of watches reached).
//! The scrub finds them: a full scan here, then a comparison of contents with the peer; what differs is sent again.

use std::time::{Duration, Instant};

/// Time between scans while part of a root is not watched.
const DEGRADED: Duration = Duration::from_secs(30);

/// The schedule.
#[derive(Debug, Clone)]
pub struct Scrub {
    every: Option<Duration>,
    scrub_at: Option<Instant>,
    degraded: bool,
    scan_at: Option<Instant>,
}

impl Scrub {
    /// A schedule that compares `every` so often, counted from now; `None` for never.
    #[must_use]
    pub fn new(every: Option<Duration>) -> Self {
        Self {
            every,
            scrub_at: every.map(|e| Instant::now() + e),
            degraded: false,
            scan_at: None,
        }
    }

    /// Part of a root is not watched: it is scanned from time to time.
    pub fn degrade(&mut self) {
        self.degraded = true;
        self.scan_at
            .get_or_insert_with(|| Instant::now() + DEGRADED);
    }

    /// Everything is watched again.
    pub fn restore(&mut self) {
        self.degraded = false;
        self.scan_at = None;
    }

    /// Whether a scan is due at `now`; the next one is set.
    pub fn scan_due(&mut self, now: Instant) -> bool {
        let due = self.degraded && self.scan_at.is_some_and(|t| now >= t);
        if due {
            self.scan_at = Some(now + DEGRADED);
        }
        due
    }

    /// Whether a comparison with the peer is due at `now`; the next one is set.
    pub fn compare_due(&mut self, now: Instant) -> bool {
        let due = self.scrub_at.is_some_and(|t| now >= t);
        if due {
            self.scrub_at = self.every.map(|e| now + e);
        }
        due
    }

    /// How long until something is due.
    #[must_use]
    pub fn due_in(&self, now: Instant) -> Duration {
        let next = [self.scrub_at, self.scan_at].into_iter().flatten().min();
        next.map_or(Duration::from_secs(3600), |t| {
            t.saturating_duration_since(now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_come_as_often_as_told_and_scans_only_while_degraded() {
        let hour = Duration::from_secs(3600);
        let mut s = Scrub::new(Some(hour));
        let now = Instant::now();
        assert!(!s.compare_due(now) && !s.scan_due(now + hour));
        assert!(s.compare_due(now + hour + DEGRADED));
        assert!(
            !s.compare_due(now + hour + DEGRADED),
            "the next one is an hour later"
        );
        s.degrade();
        assert!(s.due_in(now) <= DEGRADED + Duration::from_secs(1));
        assert!(s.scan_due(now + DEGRADED + DEGRADED));
        assert!(!s.scan_due(now + DEGRADED + DEGRADED));
        s.restore();
        assert!(!s.scan_due(now + hour) && s.due_in(now) > DEGRADED * 2);
        assert!(!Scrub::new(None).compare_due(now + hour * 1000));
    }
}
