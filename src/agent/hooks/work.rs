//! The thread of one hook: waits until its program is due, runs it, tells how it went.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Instant;

use super::{Notice, Shared, Waiting, longest_run, mark, short};
use crate::agent::board::lock;
use crate::config::{Hook, HookEvent};
use crate::decide::hooks::{Due, Told};
use crate::sys::run::{self, Order};

/// What a run is about.
enum Task {
    Changes(Due),
    Notice(Notice),
}

impl Task {
    fn event(&self) -> HookEvent {
        match self {
            Self::Changes(_) => HookEvent::Applied,
            Self::Notice(notice) => notice.event,
        }
    }
}

impl Shared {
    /// Runs the program of a hook whenever it is due, until nothing more can be.
    pub(super) fn work(&self, hook: usize) {
        let apart = run::apart();
        let (title, Some(what)) = (self.title(hook), self.hooks.get(hook)) else {
            return;
        };
        while let Some(task) = self.next(hook) {
            let event = task.event().word();
            let alone = mark::alone(&self.run_dir, hook, longest_run(what));
            let ready = apart.as_ref().map_err(ToString::to_string);
            let ready = ready.and_then(|()| alone.map_err(|e| e.to_string()));
            let begun = Instant::now();
            let done = ready
                .map_err(|e| format!("it cannot be run: {e}"))
                .and_then(|_alone| self.run(hook, what, &task));
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

    /// Runs a hook: what has to succeed first, then its program.
    fn run(&self, hook: usize, what: &Hook, task: &Task) -> Result<(), String> {
        let mut env = self.env.clone();
        env.push(("OSM_EVENT", task.event().word().into()));
        let mut file = None;
        let told = match task {
            Task::Changes(due) => {
                let told = due.told(&self.bases, &self.roots);
                let list = self.list(hook, &told)?;
                let how = if told.exact { "exact" } else { "roots" };
                env.push(("OSM_PATHS", how.into()));
                env.push(("OSM_PATHS_FILE", list.0.clone().into()));
                file = Some(list);
                told
            }
            Task::Notice(notice) => {
                if notice.event == HookEvent::Problem {
                    // No variable can hold a NUL.
                    let text = notice.text.replace('\0', " ");
                    env.push(("OSM_PROBLEM", text.into()));
                }
                Told::default()
            }
        };
        let title = self.title(hook);
        let order = |words: &[String]| Order {
            words: told.words(words),
            env: env.clone(),
            timeout: what.timeout,
        };
        if !what.validate.is_empty() {
            report(&title, &order(&what.validate)).map_err(|why| {
                let program = short(&what.validate.join(" "));
                format!("not run, since \"{program}\" did not succeed: {why}")
            })?;
        }
        let done = report(&title, &order(&what.run));
        drop(file);
        done
    }

    /// The file in which programs find the paths.
    fn list(&self, hook: usize, told: &Told) -> Result<List, String> {
        let name = format!("hook-{}-{}.paths", hook + 1, std::process::id());
        let list = List(self.run_dir.join(name));
        let written = write(&list.0, told);
        written.map_err(|e| format!("it cannot be run: cannot write {}: {e}", list.0.display()))?;
        Ok(list)
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

/// Runs a program; what it wrote goes to the log.
fn report(title: &str, order: &Order) -> Result<(), String> {
    let report = run::run(order);
    for line in report.output.lines() {
        tracing::info!("{title}: {line}");
    }
    if report.is_well() {
        return Ok(());
    }
    Err(report.why(order))
}

/// A list of paths; the file goes with it.
struct List(PathBuf);

impl Drop for List {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::debug!("{} stays: {e}", self.0.display());
        }
    }
}

fn write(file: &Path, told: &Told) -> io::Result<()> {
    let mut out = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(&told.list())
}
