//! What the process that owns a node does beside its work, on a thread of its own: it keeps count of what is preserved and
//! lets go of what was kept for long enough.
//!
//! Nothing here holds up replication: the thread reads the board and writes figures to it, no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::board::Board;
use super::owner::{Site, failed};
use super::preserved::{Keeper, Tally};
use crate::wire::control::{Failure, PreservedStatus};

/// Time between two rounds, unless the board rings.
const ROUND: Duration = Duration::from_secs(5);

/// The thread; it ends when this is dropped.
pub struct Attendant {
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    /// Starts it for the process that this is the board of.
    ///
    /// # Errors
    /// A failure where no thread can be made.
    pub fn start(site: &Site, board: &Arc<Board>) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut keeper = Keeper::new(&site.config, site.node);
        let (b, s) = (board.clone(), stop.clone());
        let work = move || {
            while !s.load(Ordering::Acquire) {
                let tally = keeper.tick(&mut || !s.load(Ordering::Acquire));
                b.update(|status| status.preserved = tally.into());
                b.wait(ROUND);
            }
        };
        let thread = std::thread::Builder::new()
            .name("attend".into())
            .spawn(work)
            .map_err(|e| failed(format!("cannot start a thread: {e}"), "see ulimit -u"))?;
        Ok(Self {
            board: board.clone(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.board.ring();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the thread that counts what is preserved ended by a defect");
        }
    }
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
