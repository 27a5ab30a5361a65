//! What the process that owns a node does beside its work, on threads of their own: it keeps count of what is preserved and
//! lets go of what was kept for long enough, it has hooks run, it writes figures for Prometheus, and it gives freed memory back
//! to the system.
//!
//! Nothing here holds up replication: the threads read the board and write figures to it, no more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::board::Board;
use super::hooks::{Hooks, Runner};
use super::metrics::Metrics;
use super::owner::{Site, failed};
use super::preserved::{Keeper, Tally};
use crate::config::HookEvent;
use crate::sys::memory;
use crate::wire::control::{Failure, PreservedStatus, Status};

/// Time between two rounds, unless the board rings.
const ROUND: Duration = Duration::from_secs(5);
/// Time between two returns of freed memory to the system.
const TRIM: Duration = Duration::from_secs(60);

/// The threads; they end when this is dropped, once every hook that is due has run.
pub struct Attendant {
    board: Arc<Board>,
    hooks: Option<Arc<Hooks>>,
    metrics: Option<Metrics>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    /// Starts them for the process that this is the board of; `runner` runs its hooks, where this process cannot.
    ///
    /// # Errors
    /// A failure where no thread can be made.
    pub fn start(site: &Site, board: &Arc<Board>, runner: Option<Runner>) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let hooks = Hooks::start(&site.config, site.node, board, runner)?;
        let metrics = Metrics::start(site, board)?;
        let mut rounds = Rounds {
            board: board.clone(),
            hooks: hooks.clone(),
            keeper: Keeper::new(&site.config, site.node),
            known: BTreeSet::new(),
            trimmed: Instant::now(),
        };
        let (b, s) = (board.clone(), stop.clone());
        let work = move || {
            let mut heard = 0;
            while !s.load(Ordering::Acquire) {
                rounds.round(&s);
                b.bell()
                    .wait(&mut heard, ROUND, || s.load(Ordering::Acquire));
            }
        };
        let thread = std::thread::Builder::new()
            .name("attend".into())
            .spawn(work)
            .map_err(|e| failed(format!("cannot start a thread: {e}"), "see ulimit -u"))?;
        Ok(Self {
            board: board.clone(),
            hooks,
            metrics,
            stop,
            thread: Some(thread),
        })
    }

    /// The hooks, where there are any.
    #[must_use]
    pub fn hooks(&self) -> Option<Arc<Hooks>> {
        self.hooks.clone()
    }

    /// Has the hooks of an event run.
    pub fn announce(&self, event: HookEvent) {
        if let Some(hooks) = &self.hooks {
            hooks.announce(event, "");
        }
    }

    /// Has the figures say that this node is stopped; to be called before another process may own it and write them.
    pub fn say_stopped(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.finish();
        }
    }

    /// Waits until every hook that is due has run, but not for long.
    pub fn settle(&self) {
        if self.hooks.as_ref().is_some_and(|h| !h.settle()) {
            tracing::warn!("hooks still run, and are not waited for any longer");
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.say_stopped();
        self.stop.store(true, Ordering::Release);
        self.board.bell().ring();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the thread that counts what is preserved ended by a defect");
        }
        if let Some(hooks) = &self.hooks {
            hooks.finish();
        }
    }
}

/// What is done again and again.
struct Rounds {
    board: Arc<Board>,
    hooks: Option<Arc<Hooks>>,
    keeper: Keeper,
    /// Problems that were told already.
    known: BTreeSet<String>,
    /// When freed memory went back to the system.
    trimmed: Instant,
}

impl Rounds {
    fn round(&mut self, stop: &AtomicBool) {
        let tally = self.keeper.tick(&mut || !stop.load(Ordering::Acquire));
        self.board.update(|s| s.preserved = tally.into());
        if let Some(hooks) = &self.hooks {
            hooks.look_again();
            let now = problems(&self.board.snapshot());
            let new = now.iter().find(|(what, _)| !self.known.contains(what));
            if let Some((_, text)) = new {
                hooks.announce(HookEvent::Problem, text);
            }
            self.known = now.into_iter().map(|(what, _)| what).collect();
        }
        if self.trimmed.elapsed() >= TRIM {
            memory::give_back();
            self.trimmed = Instant::now();
        }
    }
}

/// What is wrong now: what tells it from others, and how it is told.
fn problems(status: &Status) -> Vec<(String, String)> {
    let paths = status.problems.iter().map(|p| {
        let text = format!("{}: {}: {}", p.path, p.operation, p.cause);
        (p.path.clone(), text)
    });
    let peer = &status.peer;
    let halted = matches!(peer.state.as_str(), "diverged" | "halted");
    let text = || format!("{}: {}: {}", peer.name, peer.state, peer.reason);
    let halt = halted.then(|| (format!("\n{}", peer.state), text()));
    paths.chain(halt).collect()
}

impl From<Tally> for PreservedStatus {
    fn from(t: Tally) -> Self {
        Self {
            items: t.items,
            bytes: t.bytes,
            oldest: t.oldest,
        }
    }
}
