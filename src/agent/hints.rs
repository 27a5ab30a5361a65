//! Between the watcher's thread and the engine: the dirty set, and a wake-up.
//!
//! The watcher's thread only merges its events here and rings once; it never waits for the engine,
//! the disk or the network.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::mpsc::Sender;

use super::bell::Rung;
use super::board::lock;
use super::engine::Event;
use crate::decide::dirty::{DirtySet, MAX_DIRTY_PATHS, Touch};
use crate::model::path::TreePath;
use crate::sys::watch::{self, Sink};

/// The dirty set, shared.
pub struct Hints {
    dirty: Mutex<DirtySet>,
    /// What the watcher said that is no path: cookies, roots that went and came.
    said: Mutex<Vec<watch::Event>>,
    start: Instant,
    engine: Sender<Event>,
    rung: Rung,
}

impl Hints {
    /// An empty set whose paths settle within `settle_ms`; `engine` is rung when something is noted.
    #[must_use]
    pub fn new(settle_ms: u64, engine: Sender<Event>) -> Self {
        Self {
            dirty: Mutex::new(DirtySet::new(MAX_DIRTY_PATHS, settle_ms)),
            said: Mutex::new(Vec::new()),
            start: Instant::now(),
            engine,
            rung: Rung::default(),
        }
    }

    /// Milliseconds since this set was made; the clock of everything pending.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Paths held (a subtree counts as one) and the time of the oldest.
    #[must_use]
    pub fn pending(&self) -> (u64, Option<u64>) {
        let dirty = lock(&self.dirty);
        ((dirty.len() + dirty.subtrees()) as u64, dirty.oldest())
    }

    /// Uses the dirty set.
    pub fn with<T>(&self, f: impl FnOnce(&mut DirtySet) -> T) -> T {
        f(&mut lock(&self.dirty))
    }

    /// Notes a path.
    pub fn touch(&self, path: TreePath, touch: Touch) {
        let now = self.now();
        self.with(|d| d.touch(path, touch, now));
    }

    /// Notes a subtree.
    pub fn subtree(&self, path: TreePath) {
        let now = self.now();
        self.with(|d| d.subtree(path, now));
    }

    /// Takes what was said besides paths; from now on the next note rings again.
    pub fn hear(&self) -> Vec<watch::Event> {
        self.rung.hear();
        std::mem::take(&mut *lock(&self.said))
    }

    fn ring(&self) {
        // A full queue means that the engine is awake and will look here anyway.
        self.rung.ring(|| drop(self.engine.try_send(Event::Wake)));
    }
}

/// Times of changes that the engine could not settle at its first look: it looks again, and a flush waits for that as
/// for the first look.
#[derive(Debug, Default)]
pub struct Carried(BTreeMap<TreePath, u64>);

impl Carried {
    /// Notes a path again, for a change noticed at `since`; 0 stands for before every flush.
    pub fn touch(&mut self, hints: &Hints, path: TreePath, touch: Touch, since: u64) {
        let first = self.0.entry(path.clone()).or_insert(since);
        *first = since.min(*first);
        hints.touch(path, touch);
    }

    /// Time of the oldest change in `paths`, which are looked at now and were noticed at `since` or earlier.
    #[must_use]
    pub fn taken(&mut self, paths: &[TreePath], since: u64) -> u64 {
        if self.0.is_empty() {
            return since;
        }
        let carried = paths.iter().filter_map(|p| self.0.remove(p)).min();
        carried.map_or(since, |c| c.min(since))
    }

    /// As [`Self::taken`], for everything in a subtree.
    #[must_use]
    pub fn taken_below(&mut self, top: &TreePath, since: u64) -> u64 {
        let mut first = since;
        self.0.retain(|path, at| {
            let below = path.root == top.root && path.path.is_within(&top.path);
            if below {
                first = first.min(*at);
            }
            !below
        });
        first
    }

    /// Time of the oldest change that waits for its next look.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.0.values().copied().min()
    }
}

impl Sink for Hints {
    fn note(&self, events: &mut Vec<watch::Event>) {
        let now = self.now();
        {
            let mut dirty = lock(&self.dirty);
            for event in events.drain(..) {
                match event {
                    watch::Event::Touched(path, touch) => dirty.touch(path, touch, now),
                    watch::Event::Subtree(path) => dirty.subtree(path, now),
                    other => lock(&self.said).push(other),
                }
            }
        }
        self.ring();
    }
}
