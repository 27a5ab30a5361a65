//! `src/agent/bell.rs` under loom: a wake-up that is lost in any order of steps is a deadlock here, and fails.

#[path = "../../src/agent/bell.rs"]
pub mod bell;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::sync::mpsc::channel;
    use loom::sync::{Arc, Mutex};
    use loom::thread::spawn;

    use super::bell::{Bell, Rung};

    /// Long enough that only a ring ends it; loom's time does not pass.
    const LONG: Duration = Duration::from_secs(1 << 30);

    #[test]
    fn who_rests_is_woken_by_the_end() {
        loom::model(|| {
            let shared = Arc::new((Bell::default(), AtomicBool::new(false)));
            let other = shared.clone();
            let ends = spawn(move || {
                other.1.store(true, Ordering::Release);
                other.0.ring();
            });
            shared.0.rest(LONG, || shared.1.load(Ordering::Acquire));
            ends.join().expect("ended");
        });
    }

    #[test]
    fn two_who_wait_both_hear_what_was_rung_for() {
        loom::model(|| {
            let shared = Arc::new((Bell::default(), Mutex::new(0)));
            let waiter = |shared: Arc<(Bell, Mutex<u32>)>| {
                move || {
                    let mut heard = 0;
                    shared.0.wait(&mut heard, LONG, || false);
                    *shared.1.lock().expect("no panic")
                }
            };
            let first = spawn(waiter(shared.clone()));
            let second = spawn(waiter(shared.clone()));
            *shared.1.lock().expect("no panic") = 1;
            shared.0.ring();
            assert_eq!(first.join().expect("woken"), 1);
            assert_eq!(second.join().expect("woken"), 1);
        });
    }

    /// Two watchers note something each; the engine sleeps until it is woken, and ends with both.
    #[test]
    fn nothing_that_was_noted_stays_unseen() {
        loom::model(|| {
            let shared = Arc::new((Rung::default(), Mutex::new(0)));
            let (wake, woken) = channel();
            let note = || {
                let (shared, wake) = (shared.clone(), wake.clone());
                move || {
                    *shared.1.lock().expect("no panic") += 1;
                    shared.0.ring(|| wake.send(()).expect("the engine lives"));
                }
            };
            let watchers = [spawn(note()), spawn(note())];
            let mut seen = 0;
            while seen < 2 {
                woken.recv().expect("the watchers live");
                shared.0.hear();
                seen += std::mem::take(&mut *shared.1.lock().expect("no panic"));
            }
            for watcher in watchers {
                watcher.join().expect("ended");
            }
        });
    }
}
