//! The thread of one hook: waits until its program is due, has it run, tells how it went.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::PoisonError;
use std::time::Instant;

use super::bench::{Bench, Task};
use super::{Shared, Waiting, runner};
use crate::agent::board::lock;
use crate::sys::run;

/// Who runs programs.
enum Hands {
    /// This thread, where it could be made to.
    Own(io::Result<()>),
    /// The process that this stream leads to.
    Other(UnixStream),
}

impl Hands {
    fn run(&mut self, bench: &Bench, hook: usize, task: &Task) -> Result<(), String> {
        match self {
            Self::Own(Ok(())) => bench.run(hook, task),
            Self::Own(Err(e)) => Err(format!("it cannot be run: {e}")),
            Self::Other(stream) => runner::ask(stream, task),
        }
    }
}

impl Shared {
    /// Has the program of a hook run whenever it is due, until nothing more can be: by the process that this stream leads
    /// to, or by this one.
    pub(super) fn work(&self, hook: usize, stream: Option<UnixStream>) {
        let title = self.bench.title(hook);
        let mut hands = stream.map_or_else(|| Hands::Own(run::apart()), Hands::Other);
        while let Some(task) = self.next(hook) {
            let event = task.event().word();
            let begun = Instant::now();
            let done = hands.run(&self.bench, hook, &task);
            match &done {
                Ok(()) => {
                    // What failed for changes that are still to be told is not solved by another event.
                    if !self.is_behind(hook) {
                        self.board.solved(&title);
                    }
                    tracing::info!("{title}: ran for {event} in {:?}", begun.elapsed());
                }
                Err(why) => {
                    tracing::warn!("{title}: {why}");
                    self.board
                        .problem(&title, &format!("run it for {event}"), why);
                }
            }
            self.ended(hook, &task, done.is_ok());
        }
    }

    /// Waits for the next task; `None` once nothing more can come.
    fn next(&self, hook: usize) -> Option<Task> {
        let mut state = lock(&self.state);
        loop {
            let waiting = state.hooks.get_mut(hook)?;
            if let Some(task) = take(waiting) {
                waiting.running = Some(task.event());
                return Some(task);
            }
            if state.closing {
                return None;
            }
            let woken = self.wake.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether there are changes of which its program could not be told.
    fn is_behind(&self, hook: usize) -> bool {
        let state = lock(&self.state);
        state.hooks.get(hook).is_some_and(|w| !w.failed.is_empty())
    }

    /// Notes that a run has ended.
    fn ended(&self, hook: usize, task: &Task, well: bool) {
        let mut state = lock(&self.state);
        if let Some(waiting) = state.hooks.get_mut(hook) {
            waiting.running = None;
            if let (Task::Changes(due), false) = (task, well) {
                waiting.failed.merge(due);
            }
        }
        if !state.hooks.iter().any(Waiting::is_owed) {
            state.mark = None;
        }
        drop(state);
        self.wake.notify_all();
    }
}

fn take(waiting: &mut Waiting) -> Option<Task> {
    if let Some(notice) = waiting.notices.pop_front() {
        return Some(Task::Notice(notice));
    }
    if waiting.changes.is_empty() {
        return None;
    }
    let mut due = std::mem::take(&mut waiting.failed);
    due.merge(&std::mem::take(&mut waiting.changes));
    Some(Task::Changes(due))
}
