//! Whether the clock of a host can be believed when it says how old something is.
//!
//! Pure. A clock that was set wrong at a boot, or jumps, makes everything old at once. It is believed once it went as fast as
//! time does for a whole day in which somebody looked, and was not set meanwhile.

use serde::{Deserialize, Serialize};

/// Seconds for which a clock must have gone steadily: whoever set it wrong has the time to notice.
pub const TRIAL: u64 = 24 * 3600;
/// Seconds by which it may be set without being doubted.
const SLACK: u64 = 600;
/// Longest time in seconds that a host may take from one look to the next over a boot.
const BOOT: u64 = 24 * 3600;

/// What was seen of the clock last, and for how long it has gone steadily.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Steady {
    boot: String,
    /// Seconds since the boot.
    uptime: u64,
    /// Seconds since 1970, as the clock said.
    clock: u64,
    /// Seconds for which it has gone steadily.
    steady: u64,
}

impl Steady {
    /// The clock is looked at: which boot this is, seconds since it, and seconds since 1970.
    pub fn look(&mut self, boot: &str, uptime: u64, clock: u64) {
        let went = i128::from(clock) - i128::from(self.clock);
        self.steady = if self.boot == boot && uptime >= self.uptime {
            let passed = uptime - self.uptime;
            let off = (went - i128::from(passed)).unsigned_abs();
            if off <= u128::from(SLACK) {
                self.steady.saturating_add(passed)
            } else {
                0
            }
        } else if (0..=i128::from(BOOT)).contains(&went) {
            // How long it was off nobody knows: that time counts for nothing.
            self.steady
        } else {
            0
        };
        (self.uptime, self.clock) = (uptime, clock);
        boot.clone_into(&mut self.boot);
    }

    /// Whether ages can be told by it.
    #[must_use]
    pub fn is_believed(&self) -> bool {
        self.steady >= TRIAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    /// A clock that has been believed for long, looked at a moment ago.
    fn believed() -> Steady {
        let mut steady = Steady::default();
        steady.look("boot", 100, NOW);
        assert!(!steady.is_believed(), "the first look");
        for hour in 1..=24 {
            assert!(!steady.is_believed());
            steady.look("boot", 100 + hour * 3600, NOW + hour * 3600);
        }
        assert!(steady.is_believed());
        steady
    }

    #[test]
    fn a_clock_that_goes_as_time_does_is_believed() {
        let (at, now) = (100 + TRIAL, NOW + TRIAL);
        for (boot, uptime, clock, is) in [
            ("boot", at + 3600, now + 3600, true),
            ("boot", at + 3600, now + 3600 + SLACK, true),
            ("boot", at + 3600, now + 3600 - SLACK, true),
            // Nobody looked for a week, and it went on.
            ("boot", at + 7 * TRIAL, now + 7 * TRIAL, true),
            ("boot", at + 3600, now + 3601 + SLACK, false),
            ("boot", at + 3600, now + 3599 - SLACK, false),
            ("boot", at + 3600, now + 40 * TRIAL, false),
            ("boot", at + 3600, 0, false),
            ("another", 50, now + 600, true),
            ("another", 50, now + BOOT + 1, false),
            ("another", 50, now - 1, false),
            // As where the kernel does not tell which boot it is.
            ("boot", 50, now + 600, true),
            ("boot", 50, now + 40 * TRIAL, false),
        ] {
            let mut steady = believed();
            steady.look(boot, uptime, clock);
            assert_eq!(steady.is_believed(), is, "{boot} {uptime} {clock}");
        }
    }

    #[test]
    fn one_that_was_set_is_tried_anew() {
        let mut steady = believed();
        let (at, now) = (100 + TRIAL, NOW + 400 * TRIAL);
        steady.look("boot", at, now);
        for hour in 1..=24 {
            assert!(!steady.is_believed());
            steady.look("boot", at + hour * 3600, now + hour * 3600);
        }
        assert!(steady.is_believed());
    }
}
