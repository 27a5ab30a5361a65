//! Waking: whoever was rung for does not sleep on.
//!
//! What is rung for lies elsewhere, under locks of its own, and is there before the ring. `make loom` tries every order in
//! which two threads can take these steps (`loom/`); its mutex and atomics stand in for the system's there.

use std::time::{Duration, Instant};

#[cfg(loom_model)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(loom_model)]
use loom::sync::{Condvar, Mutex};
#[cfg(not(loom_model))]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom_model))]
use std::sync::{Condvar, Mutex};

use std::sync::PoisonError;

/// Rings that any number of threads may wait for, none of which takes one away from another.
#[derive(Debug, Default)]
pub struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// Wakes everybody who waits.
    pub fn ring(&self) {
        *self.rings.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.rung.notify_all();
    }

    /// Waits until somebody rings who did not when `heard` was told last, until the time is over, or until `over` holds; who
    /// makes that hold rings.
    pub fn wait(&self, heard: &mut u64, time: Duration, over: impl Fn() -> bool) {
        let known = *heard;
        *heard = self.sleep(time, |rings| rings == known && !over());
    }

    /// Waits until the time is over, or until `over` holds; who makes that hold rings.
    pub fn rest(&self, time: Duration, over: impl Fn() -> bool) {
        self.sleep(time, |_| !over());
    }

    fn sleep(&self, time: Duration, quiet: impl Fn(u64) -> bool) -> u64 {
        let until = Instant::now() + time;
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        while quiet(*rings) {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                break;
            };
            let waited = self.rung.wait_timeout(rings, left);
            rings = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *rings
    }
}

/// One wake-up for everything that is noted until somebody looks.
#[derive(Debug, Default)]
pub struct Rung(AtomicBool);

impl Rung {
    /// Something was noted: wakes the one who looks, unless he has been woken and has not looked since.
    pub fn ring(&self, wake: impl FnOnce()) {
        if !self.0.swap(true, Ordering::SeqCst) {
            wake();
        }
    }

    /// The one who looks is about to: what is noted from now on wakes him again.
    pub fn hear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
