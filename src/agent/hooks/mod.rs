//! Programs that are run when something happened: changes were applied, the node became active or ceased to be, there is a
//! new problem.
//!
//! A program never holds up replication and never refuses a change: whoever has something to tell notes it and goes on, each
//! hook has a thread of its own, and what comes while its program runs is gathered into one following run. A program that
//! fails is a problem in the status, and what it was to be told is told again with the next change. Each change is told at
//! least once, also where the process is killed: see `mark`. A process that ends gives the node free first and then lets its
//! programs end; another process waits with a hook that still runs there for as long as one run may take.

mod bench;
mod mark;
mod runner;
mod work;

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::bench::{Bench, Notice};
use self::mark::Mark;
pub use self::mark::leave;
pub use self::runner::Runner;
use super::board::{Board, lock};
use crate::config::{Config, Hook, HookEvent};
use crate::decide::hooks::{Due, Rules, Touched};
use crate::model::path::{RootId, TreePath};
use crate::wire::control::Failure;

/// How long whoever ends an active node's work waits for programs that are due: a cluster manager takes a stop that takes
/// long for one that fails, and reboots the node.
pub const SETTLE: Duration = Duration::from_secs(10);
/// What ending a program that took too long may take beyond its time.
const ENDING: Duration = Duration::from_secs(5);

/// What one hook has before it.
#[derive(Debug, Default)]
struct Waiting {
    changes: Due,
    /// What a run was about that failed.
    failed: Due,
    notices: VecDeque<Notice>,
    /// What its program is running for.
    running: Option<HookEvent>,
}

impl Waiting {
    fn is_idle(&self) -> bool {
        self.running.is_none() && self.changes.is_empty() && self.notices.is_empty()
    }

    /// Whether there are changes that it was not told of to a good end.
    fn is_owed(&self) -> bool {
        self.running == Some(HookEvent::Applied)
            || !self.changes.is_empty()
            || !self.failed.is_empty()
    }
}

/// What all hooks have before them.
#[derive(Debug, Default)]
struct State {
    hooks: Vec<Waiting>,
    /// Says to a successor that something is owed.
    mark: Option<Mark>,
    /// Another process that has the node no longer may leave something owed.
    awaited: bool,
    closing: bool,
}

/// What all threads share.
struct Shared {
    bench: Bench,
    rules: Rules,
    state_dir: PathBuf,
    board: Arc<Board>,
    state: Mutex<State>,
    wake: Condvar,
}

/// The hooks of a node, in the process that owns it.
pub struct Hooks {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Some hook runs when changes were applied.
    follows: bool,
}

/// Whether some hook of a configuration is to be told of changes.
#[must_use]
pub fn follow(config: &Config) -> bool {
    let applied = |h: &Hook| h.on.contains(&HookEvent::Applied);
    config.hooks.iter().any(applied)
}

/// The directory that paths below a root are relative to: the root, or what holds it where it is one file.
fn base(path: &Path, here: &Path) -> PathBuf {
    let single = std::fs::metadata(here).is_ok_and(|m| m.is_file());
    let parent = path.parent().filter(|_| single);
    parent.unwrap_or(path).to_owned()
}

impl Hooks {
    /// Starts the hooks of a node; `None` where there are none. Their failures go to the board. What an earlier process of
    /// this node owed them is run for at once. Programs are run by `runner`, where there is one, else by this process.
    ///
    /// # Errors
    /// A failure where no thread can be made.
    pub fn start(
        config: &Config,
        node: usize,
        board: &Arc<Board>,
        runner: Option<Runner>,
    ) -> Result<Option<Arc<Self>>, Failure> {
        if config.hooks.is_empty() {
            return Ok(None);
        }
        let bench = Bench::new(config, node);
        let named = config.roots.iter().zip(&bench.roots);
        let bases: Vec<PathBuf> = named.map(|(r, here)| base(&r.path, here)).collect();
        let rules = Rules::new(&config.hooks, &bases).map_err(|(i, why)| Failure {
            code: 2,
            message: format!("hook {}: {why}", i + 1),
            hint: "correct its paths".into(),
        })?;
        let state = State {
            hooks: config.hooks.iter().map(|_| Waiting::default()).collect(),
            ..State::default()
        };
        let this = Self {
            shared: Arc::new(Shared {
                bench,
                rules,
                state_dir: config.state_dir(node),
                board: board.clone(),
                state: Mutex::new(state),
                wake: Condvar::new(),
            }),
            threads: Mutex::new(Vec::new()),
            follows: follow(config),
        };
        this.inherit();
        let mut streams = runner.map(|r| r.streams.into_iter());
        for hook in 0..config.hooks.len() {
            this.thread(hook, streams.as_mut().and_then(Iterator::next))?;
        }
        Ok(Some(Arc::new(this)))
    }

    fn thread(&self, hook: usize, stream: Option<UnixStream>) -> Result<(), Failure> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("hook {}", hook + 1))
            .spawn(move || shared.work(hook, stream))
            .map_err(|e| Failure {
                code: 1,
                message: format!("cannot start a thread: {e}"),
                hint: "see ulimit -u".into(),
            })?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Takes over what earlier processes owed: it is not known what that was, so it may have been anything. One that ends
    /// just now gave the node free before, and may leave something yet: see [`Self::look_again`].
    fn inherit(&self) {
        let shared = &self.shared;
        let mut state = lock(&shared.state);
        match Mark::inherit(&shared.state_dir, &mut state.mark) {
            Ok(found) => {
                state.awaited = found.held;
                if found.left {
                    for hook in shared.rules.on(HookEvent::Applied) {
                        if let Some(waiting) = state.hooks.get_mut(hook) {
                            (0u16..)
                                .take(shared.bench.roots.len())
                                .for_each(|r| waiting.changes.add_root(RootId(r)));
                        }
                    }
                }
            }
            Err(e) => tracing::warn!("cannot see whether hooks were left due: {e}"),
        }
        drop(state);
        shared.wake.notify_all();
    }

    /// Takes over what a process owed that was still running its programs when this one last looked.
    pub fn look_again(&self) {
        let awaited = lock(&self.shared.state).awaited;
        if awaited {
            self.inherit();
        }
    }

    /// Notes a change that is about to be made with each hook that it is for; where there is none this costs nothing.
    pub fn note(&self, touched: &Touched, noted: &mut Noted) {
        for hook in self.shared.rules.on(HookEvent::Applied) {
            if self.shared.rules.is_about(hook, touched) {
                noted
                    .0
                    .resize_with(self.shared.bench.hooks.len(), Due::default);
                noted.0[hook].add(touched.path());
            }
        }
    }

    /// Whether anybody wants to know what was applied.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.follows
    }

    /// What was noted was applied. Never waits for a program.
    pub fn applied(&self, noted: &Noted) {
        if noted.0.iter().all(Due::is_empty) {
            return;
        }
        let mut state = lock(&self.shared.state);
        for (waiting, due) in state.hooks.iter_mut().zip(&noted.0) {
            waiting.changes.merge(due);
        }
        drop(state);
        self.shared.wake.notify_all();
    }

    /// Before the redo journal forgets what was applied: has a mark on disk where a hook is still to be told of it.
    pub fn keep(&self) {
        self.shared.keep(&mut lock(&self.shared.state));
    }

    /// This happened; `text` says more of a problem. Never waits for a program.
    pub fn announce(&self, event: HookEvent, text: &str) {
        let mut state = lock(&self.shared.state);
        for hook in self.shared.rules.on(event) {
            let Some(waiting) = state.hooks.get_mut(hook) else {
                continue;
            };
            // One run tells of it, however often it happened since the last one.
            waiting.notices.retain(|n| n.event != event);
            waiting.notices.push_back(Notice {
                event,
                text: text.to_owned(),
            });
        }
        drop(state);
        self.shared.wake.notify_all();
    }

    /// Waits until every program that is due has run, for at most [`SETTLE`]; whether they have.
    #[must_use]
    pub fn settle(&self) -> bool {
        let state = lock(&self.shared.state);
        let busy = |s: &mut State| !s.hooks.iter().all(Waiting::is_idle);
        let waited = self.shared.wake.wait_timeout_while(state, SETTLE, busy);
        let (_state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    /// Runs what is due, takes nothing more, and returns once that is done.
    pub fn finish(&self) {
        let mut state = lock(&self.shared.state);
        for waiting in &mut state.hooks {
            // The status that a problem could be seen in ends with this process.
            waiting.notices.retain(|n| n.event != HookEvent::Problem);
        }
        state.closing = true;
        drop(state);
        self.shared.wake.notify_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("the thread of a hook ended by a defect");
            }
        }
        let mut state = lock(&self.shared.state);
        self.shared.keep(&mut state);
        if let Some(mark) = state.mark.take() {
            mark.leave();
        }
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn keep(&self, state: &mut State) {
        if state.mark.is_some() || !state.hooks.iter().any(Waiting::is_owed) {
            return;
        }
        match Mark::set(&self.state_dir) {
            Ok(mark) => state.mark = Some(mark),
            Err(e) => tracing::warn!("cannot note that hooks are due: {e}"),
        }
    }
}

/// What of a batch each hook is to be told; empty where no hook is about any of it.
#[derive(Debug, Default)]
pub struct Noted(Vec<Due>);

impl Noted {
    /// Whether no hook is to be told anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// This path was not changed after all.
    pub fn remove(&mut self, path: &TreePath) {
        self.0.iter_mut().for_each(|d| d.remove(path));
    }
}
