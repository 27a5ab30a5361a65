//! How often rules that somebody removes are put back: at once the first time, then ever more slowly while it goes on.
//!
//! A firewall that was reloaded is over after one round. A program that removes our rules each time it sees them must
//! neither win nor keep the machine busy, so the pause doubles up to a minute and starts anew after a quiet time.

use std::time::Duration;

/// The second pause; each further one is twice as long.
pub const FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(60);
/// Without a loss for this long, the next one is the first again.
pub const QUIET: Duration = Duration::from_secs(180);

/// The losses so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Insist {
    last: Option<Duration>,
    times: u32,
}

impl Insist {
    /// The rules were found missing `now` (time since some beginning): how long to wait before they are put back.
    pub fn lost(&mut self, now: Duration) -> Duration {
        let quiet = self.last.is_none_or(|l| now.saturating_sub(l) >= QUIET);
        self.times = if quiet {
            1
        } else {
            self.times.saturating_add(1)
        };
        self.last = Some(now);
        match self.times {
            1 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 2).min(16)).min(LONGEST),
        }
    }

    /// How often they were lost without a quiet time between.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_at_once_then_ever_more_slowly() {
        let mut insist = Insist::default();
        let mut now = Duration::from_secs(7);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let pause = insist.lost(now);
            pauses.push(pause);
            now += pause + Duration::from_millis(20);
        }
        assert_eq!(pauses[..3], [Duration::ZERO, FIRST, FIRST * 2]);
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses[39], LONGEST, "bounded, and never given up");
        assert_eq!(insist.times(), 40);
    }

    #[test]
    fn a_quiet_time_is_forgiven_and_not_a_moment_less() {
        let mut insist = Insist::default();
        insist.lost(Duration::ZERO);
        let mut early = insist;
        assert_eq!(early.lost(QUIET - Duration::from_millis(1)), FIRST);
        assert_eq!(insist.lost(QUIET), Duration::ZERO);
        assert_eq!(insist.times(), 1);
    }
}
