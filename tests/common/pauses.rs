//! The pauses of whoever asks again and again.

use std::time::{Duration, Instant};

/// Shortest and longest pause.
const BOUNDS: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(200));

/// Pauses between two questions, which grow: to ask is mostly to start a process, which takes the processor from those that
/// are waited for.
pub struct Pauses(Duration);

impl Pauses {
    /// Nothing was asked yet.
    pub fn new() -> Self {
        Self(BOUNDS.0)
    }

    /// Lets time pass until the next question.
    pub fn wait(&mut self) {
        std::thread::sleep(self.0);
        self.0 = (self.0 * 3 / 2).min(BOUNDS.1);
    }
}

/// Asks again and again until `is` holds; `false` when `limit` is over.
pub fn until(limit: Duration, mut is: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    let mut pauses = Pauses::new();
    while Instant::now() < end {
        if is() {
            return true;
        }
        pauses.wait();
    }
    is()
}
