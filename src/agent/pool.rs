//! A bounded pool: the files of one batch are worked on side by side.
//!
//! As many threads as there are processors, a few at most, for as long as one call takes: nothing runs and nothing is
//! held between calls. The thread that asks works as well, so with one processor, or little to do, there is no other.
//! The pool decides nothing and keeps the order of what it is given; whatever must happen in order stays with the caller.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Most threads, the caller's included: more than the disk serves well is of no use.
const MOST: usize = 4;
/// Items for each thread below which it is not worth its start.
const FEW: usize = 8;

/// The pool.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool for this host.
    #[must_use]
    pub fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            threads: processors.min(MOST),
        }
    }

    /// Does `work` for every item; what comes of it stands in the order of the items.
    pub fn map<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
        let threads = self.threads.min(items.len() / FEW);
        if threads < 2 {
            return items.iter().map(work).collect();
        }
        let next = AtomicUsize::new(0);
        let take = || {
            let mut done = Vec::with_capacity(items.len() / threads + 1);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else {
                    return done;
                };
                done.push((at, work(item)));
            }
        };
        let mut all = thread::scope(|scope| {
            let helper = |_| {
                let named = thread::Builder::new().name("pool".into());
                // Where no thread can be had, the others do its share.
                named.spawn_scoped(scope, take).ok()
            };
            let helpers: Vec<_> = (1..threads).filter_map(helper).collect();
            let mut all = take();
            for helper in helpers {
                match helper.join() {
                    Ok(done) => all.extend(done),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            all
        });
        all.sort_unstable_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, result)| result).collect()
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::{Barrier, Mutex};

    use super::*;

    #[test]
    fn results_keep_the_order_of_the_work() {
        for threads in 1..=5 {
            for count in [0, 1, FEW, 2 * FEW, 1000] {
                let items: Vec<usize> = (0..count).collect();
                let doubled = Pool { threads }.map(&items, |i| i * 2);
                assert!(doubled.iter().copied().eq((0..count).map(|i| i * 2)));
            }
        }
    }

    #[test]
    fn as_many_threads_work_as_the_pool_has_and_no_more() {
        let items: Vec<usize> = (0..10 * FEW).collect();
        let seen = Mutex::new(HashSet::new());
        // Nobody gets past the first item of his before three threads stand there.
        let (barrier, first) = (Barrier::new(3), Mutex::new(HashSet::new()));
        Pool { threads: 3 }.map(&items, |_| {
            let me = thread::current().id();
            if first.lock().expect("no panic").insert(me) {
                barrier.wait();
            }
            seen.lock().expect("no panic").insert(me);
        });
        assert_eq!(seen.lock().expect("no panic").len(), 3);
    }

    #[test]
    fn little_work_needs_no_thread() {
        let here = thread::current().id();
        let ids = Pool { threads: 4 }.map(&[(); 2 * FEW - 1], |()| thread::current().id());
        assert!(ids.iter().all(|id| *id == here));
    }
}
