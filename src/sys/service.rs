//! The service manager (systemd) where one started this process: readiness, and signs of life.
//!
//! Without one every call does nothing. A sign of life must come from the thread whose work matters, at the rate of
//! that work: from anywhere else it would only prove that some other thread lives.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Signs given within one period of the watchdog, so that a slow moment is no death.
const SIGNS: u32 = 4;

/// Tells the service manager that the start is done.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Tells the service manager that the end has begun.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    let what = format!("{state:?}");
    if let Err(e) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell the service manager {what}: {e}");
    }
}

/// Signs of life for the service manager's watchdog.
#[derive(Debug)]
pub struct Watchdog {
    every: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// One that gives no sign.
    #[must_use]
    pub fn none() -> Self {
        Self {
            every: None,
            next: Instant::now(),
        }
    }

    /// As the service manager asked for when it started this process.
    #[must_use]
    pub fn as_asked() -> Self {
        Self {
            every: sd_notify::watchdog_enabled().map(|period| period / SIGNS),
            ..Self::none()
        }
    }

    /// Time until the next sign is due; a very long one where none is wanted.
    #[must_use]
    pub fn due_in(&self) -> Duration {
        match self.every {
            Some(_) => self.next.saturating_duration_since(Instant::now()),
            None => Duration::from_secs(3600),
        }
    }

    /// Gives a sign if one is due.
    pub fn beat(&mut self) {
        let now = Instant::now();
        if let Some(every) = self.every
            && now >= self.next
        {
            self.next = now + every;
            tell(NotifyState::Watchdog);
        }
    }
}
