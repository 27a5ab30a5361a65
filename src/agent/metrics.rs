//! Figures for Prometheus: the board, written to a file every few seconds and when the state changes.
//!
//! A thread of its own writes, so a directory that does not answer holds up nobody: not even the end of the process waits
//! for it for long. The file says `stopped` before the node is given free, so the next process never finds its own figures
//! overwritten. One that was killed cannot say so: its file grows old, and the next process, or `syncctl deactivate`,
//! writes it anew.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::board::{Board, lock};
use super::daemon::position;
use super::owner::{Site, failed};
use crate::sys::clock;
use crate::sys::lock::Owner;
use crate::sys::replace::{former, replace};
use crate::wire::control::{Failure, Status};
use crate::wire::metrics::{Figures, in_step, in_step_of, render, says_running};

/// Longest time between two files.
const EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two files, however often the state changes.
const REST: Duration = Duration::from_secs(1);
/// Longest that the last file is waited for.
const LAST: Duration = Duration::from_millis(500);

/// What is told when the file cannot be written.
const REMEDY: &str = "make its directory, or correct textfile in [metrics]";

/// The writer of a process.
pub struct Metrics {
    board: Arc<Board>,
    end: Arc<AtomicBool>,
    /// Closed once the last file is written.
    done: Mutex<Receiver<()>>,
}

impl Metrics {
    /// Starts it, where the configuration names a file.
    ///
    /// # Errors
    /// A failure where no thread can be made.
    pub fn start(site: &Site, board: &Arc<Board>) -> Result<Option<Self>, Failure> {
        let Some(mut pen) = Pen::of(site) else {
            return Ok(None);
        };
        let end = Arc::new(AtomicBool::new(false));
        let (writing, done) = channel();
        let (b, e) = (board.clone(), end.clone());
        let work = move || {
            pen.keep(&b, &e);
            drop(writing);
        };
        std::thread::Builder::new()
            .name("metrics".into())
            .spawn(work)
            .map_err(|e| failed(format!("cannot start a thread: {e}"), "see ulimit -u"))?;
        Ok(Some(Self {
            board: board.clone(),
            end,
            done: Mutex::new(done),
        }))
    }

    /// Has the file say that the node is stopped; nothing is written after that.
    pub fn finish(&self) {
        self.end.store(true, Ordering::Release);
        self.board.bell().ring();
        let waited = lock(&self.done).recv_timeout(LAST);
        if waited == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "the figures for Prometheus cannot be written in time; they say that this node runs"
            );
        }
    }
}

/// What writes the file.
struct Pen {
    file: PathBuf,
    roots: Vec<String>,
    started: u64,
    in_step: u64,
    /// Why it could not be written the last time.
    trouble: Option<String>,
}

impl Pen {
    fn of(site: &Site) -> Option<Self> {
        Some(Self {
            file: site.config.metrics.textfile.clone()?,
            roots: site.config.roots.iter().map(|r| r.name.clone()).collect(),
            started: clock::unix_ms(),
            in_step: 0,
            trouble: None,
        })
    }

    fn keep(&mut self, board: &Board, end: &AtomicBool) {
        self.in_step = in_step_of(&former(&self.file));
        let mut heard = 0;
        while !end.load(Ordering::Acquire) {
            let status = board.snapshot();
            let written = self.write(&status);
            self.tell(written, board);
            let over = || end.load(Ordering::Acquire);
            board.bell().rest(REST, over);
            board
                .bell()
                .wait(&mut heard, EVERY.saturating_sub(REST), over);
        }
        let mut status = board.snapshot();
        self.in_step = in_step(&status, clock::unix_ms(), self.in_step);
        "stopped".clone_into(&mut status.role);
        let written = self.write(&status);
        self.tell(written, board);
    }

    fn write(&mut self, status: &Status) -> io::Result<()> {
        let now = clock::unix_ms();
        self.in_step = in_step(status, now, self.in_step);
        let text = render(&Figures {
            status,
            roots: &self.roots,
            written: now,
            started: self.started,
            in_step: self.in_step,
        });
        replace(&self.file, text.as_bytes())
    }

    /// That it cannot be written is a problem for people, and for nothing else.
    fn tell(&mut self, written: io::Result<()>, board: &Board) {
        let name = self.file.display().to_string();
        let trouble = written.err().map(|e| format!("{e}; {REMEDY}"));
        match &trouble {
            Some(why) if self.trouble.as_ref() != Some(why) => {
                tracing::warn!("{name}: cannot write the figures for Prometheus: {why}");
                board.problem(&name, "write the figures for Prometheus", why);
            }
            None if self.trouble.is_some() => {
                tracing::info!("{name}: figures for Prometheus are written again");
                board.solved(&name);
            }
            _ => {}
        }
        self.trouble = trouble;
    }
}

/// Where the file of this node says that a process runs and none does, as after a crash, has it say that it is stopped. A
/// directory that does not answer is not waited for.
///
/// # Errors
/// What the system says.
pub fn say_stopped(site: &Site) -> io::Result<()> {
    let Some(pen) = Pen::of(site) else {
        return Ok(());
    };
    let site = Site::new(site.config.clone(), site.node);
    let (said, saying) = channel();
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || said.send(correct(pen, &site)))?;
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    saying.recv_timeout(LAST).unwrap_or_else(late)
}

fn correct(mut pen: Pen, site: &Site) -> io::Result<()> {
    let text = former(&pen.file);
    if !says_running(&text) {
        return Ok(());
    }
    // Held meanwhile, so that no process writes its own at the same time; one that owns the node tells of itself.
    let Ok(_owner) = Owner::acquire(&site.run_dir()) else {
        return Ok(());
    };
    let mut status = site.status("stopped");
    position(&mut status, &site.config.state_dir(site.node));
    pen.in_step = in_step_of(&text);
    pen.write(&status)
}
