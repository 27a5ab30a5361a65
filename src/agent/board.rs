//! What the owner process tells about itself: kept up to date by the engine, read by the control socket.
//!
//! Answering a question never waits for the engine, so `status` is quick however busy it is.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::bell::Bell;
use super::hints::Hints;
use crate::sys::clock;
use crate::wire::control::{Problem, Status};

/// Why no session is up before the peer was dialled for the first time.
pub const NOT_YET: &str = "not connected yet";
/// Most problems kept one by one.
const MAX_PROBLEMS: usize = 1000;
/// Most problems shown in one status.
const SHOWN_PROBLEMS: usize = 100;

/// A lock whose holder panicked still guards data that is replaced whole; use it.
pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a problem of a path is, which tells who can know that it is solved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// On this node, at the path.
    Here,
    /// On this node, in the directory at the path.
    Within,
    /// On the peer.
    There,
}

#[derive(Default)]
struct Inner {
    status: Status,
    problems: BTreeMap<(String, Place), Problem>,
    /// Roots that are held, by name.
    held_roots: BTreeMap<String, Problem>,
    /// Paths, bytes and time (ms since start) of the oldest of what the engine holds beyond the dirty set.
    held: (u64, u64, Option<u64>),
}

impl Inner {
    /// Something was solved: once there is room, what is still wrong and was not kept comes back with its next retry.
    fn make_room(&mut self) {
        if self.problems.len() < MAX_PROBLEMS / 2 {
            self.status.problems_more = 0;
        }
    }
}

/// The state of the process as others may see it.
pub struct Board {
    inner: Mutex<Inner>,
    started: Instant,
    hints: Option<Arc<Hints>>,
    /// Whether what halts replication may pass by itself.
    passes: AtomicBool,
    /// How often it was rung, and what wakes those who wait for it.
    bell: Bell,
}

/// What of a status whoever waits for news wants to know at once.
fn gist(s: &Status) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&s.role, &s.peer.state, s.paused, &s.snat.state).hash(&mut hasher);
    hasher.finish()
}

impl Board {
    /// A board that begins with `status`; `hints` is the active node's dirty set.
    #[must_use]
    pub fn new(mut status: Status, hints: Option<Arc<Hints>>) -> Self {
        status.version = 1;
        status.pid = std::process::id();
        let inner = Inner {
            status,
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
            started: Instant::now(),
            hints,
            passes: AtomicBool::new(false),
            bell: Bell::default(),
        }
    }

    /// Says whether what halts replication may pass by itself, as where two nodes are active for a while.
    pub fn expect_a_change(&self, passes: bool) {
        self.passes.store(passes, Ordering::Relaxed);
    }

    /// Whether replication is halted by something that only a person can change.
    #[must_use]
    pub fn waits_for_a_person(&self) -> bool {
        let state = self.snapshot().peer.state;
        (state == "diverged" || state == "halted") && !self.passes.load(Ordering::Relaxed)
    }

    /// Changes the status; a change of role or of the peer's state rings.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut inner = lock(&self.inner);
        let before = gist(&inner.status);
        change(&mut inner.status);
        let news = gist(&inner.status) != before;
        drop(inner);
        if news {
            self.bell.ring();
        }
    }

    /// What those hear who wait for news.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Says what the engine holds beyond the dirty set: paths, bytes, time of the oldest.
    pub fn hold(&self, paths: u64, bytes: u64, oldest: Option<u64>) {
        lock(&self.inner).held = (paths, bytes, oldest);
    }

    /// Notes a path that this node cannot replicate at present.
    pub fn problem(&self, path: &str, operation: &str, cause: &str) {
        self.note(path, operation, cause, Place::Here);
    }

    /// Notes a path that the peer cannot take at present.
    pub fn problem_there(&self, path: &str, operation: &str, cause: &str) {
        self.note(path, operation, cause, Place::There);
    }

    /// Notes a directory of which this node cannot read all names at present.
    pub fn problem_within(&self, path: &str, operation: &str, cause: &str) {
        self.note(path, operation, cause, Place::Within);
    }

    fn note(&self, path: &str, operation: &str, cause: &str, place: Place) {
        let mut inner = lock(&self.inner);
        inner.status.last_error = format!("{path}: cannot {operation}: {cause}");
        let room = inner.problems.len() < MAX_PROBLEMS;
        if let Some(known) = inner.problems.get_mut(&(path.to_owned(), place)) {
            operation.clone_into(&mut known.operation);
            cause.clone_into(&mut known.cause);
        } else if room {
            let problem = Problem {
                path: path.into(),
                operation: operation.into(),
                cause: cause.into(),
                since: clock::unix_ms(),
            };
            inner.problems.insert((path.to_owned(), place), problem);
            drop(inner);
            self.bell.ring();
        } else {
            // How many there are beyond those that are kept is not known: each comes again with every retry.
            inner.status.problems_more = 1;
        }
    }

    /// Notes that a root is held, which is told apart from what is wrong with its directory.
    pub fn root_held(&self, name: &str, why: &str) {
        let problem = Problem {
            path: format!("{name}:."),
            operation: "replicate the root".into(),
            cause: why.into(),
            since: clock::unix_ms(),
        };
        let mut inner = lock(&self.inner);
        inner.status.last_error = format!("root \"{name}\": {why}");
        inner.held_roots.insert(name.to_owned(), problem);
        drop(inner);
        self.bell.ring();
    }

    /// A root is well again.
    pub fn root_well(&self, name: &str) {
        lock(&self.inner).held_roots.remove(name);
        self.bell.ring();
    }

    /// A path is well on this node; what the peer says of it stands.
    pub fn solved(&self, path: &str) {
        self.solved_at(path, Place::Here);
    }

    /// All names of a directory were read, or it is gone.
    pub fn solved_within(&self, path: &str) {
        self.solved_at(path, Place::Within);
    }

    /// The peer took a path.
    pub fn solved_there(&self, path: &str) {
        self.solved_at(path, Place::There);
    }

    fn solved_at(&self, path: &str, place: Place) {
        let mut inner = lock(&self.inner);
        if inner.problems.remove(&(path.to_owned(), place)).is_some() {
            inner.make_room();
        }
    }

    /// The peer begins anew, and tells what is still wrong there.
    pub fn forget_there(&self) {
        let mut inner = lock(&self.inner);
        inner
            .problems
            .retain(|(_, place), _| *place != Place::There);
        inner.make_room();
    }

    /// Every path of a root is looked at anew: what is still wrong is told again.
    pub fn solved_below(&self, root: &str) {
        let mut inner = lock(&self.inner);
        let of_root = |path: &str| path.strip_prefix(root).is_some_and(|p| p.starts_with(':'));
        inner.problems.retain(|(path, _), _| !of_root(path));
        inner.make_room();
    }

    /// Whether any path has a problem.
    pub fn has_problems(&self) -> bool {
        !lock(&self.inner).problems.is_empty()
    }

    /// Notes the last thing that went wrong.
    pub fn failed(&self, text: String) {
        lock(&self.inner).status.last_error = text;
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Status {
        let inner = lock(&self.inner);
        let mut status = inner.status.clone();
        status.uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        status.problems = inner
            .held_roots
            .values()
            .chain(inner.problems.values())
            .take(SHOWN_PROBLEMS)
            .cloned()
            .collect();
        status.halted_roots = inner.held_roots.keys().cloned().collect();
        let all = inner.held_roots.len() + inner.problems.len();
        let hidden = all.saturating_sub(SHOWN_PROBLEMS) as u64;
        status.problems_more += hidden;
        let (paths, bytes, held) = inner.held;
        status.pending.paths = paths;
        status.pending.bytes = bytes;
        let mut oldest = held;
        if let Some(hints) = &self.hints {
            let (more, first) = hints.pending();
            status.pending.paths += more;
            oldest = [oldest, first].into_iter().flatten().min();
            status.pending.oldest_ms = oldest.map_or(0, |t| hints.now().saturating_sub(t).max(1));
        }
        status
    }
}
