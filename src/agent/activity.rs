//! The time in which a node is active: one engine, and another one each time the node's own state failed.
//!
//! Index or history cannot be used where the disk of `state_dir` is full or fails, which says nothing of the directories: they
//! are written to all the while, and outgoing traffic needs its rules. A process that ended instead would take the rules away,
//! and under a cluster manager that does not watch it nobody would start it again. So the node stays active and says so.
//! Nothing is noted and nothing is sent meanwhile; the scan with which the next engine begins finds what changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::apply::Receiving;
use super::attend::Attendant;
use super::board::{Board, NOT_YET};
use super::commands::failure;
use super::engine::{Ended, Engine, Event, Fallen, Parts, note_pause};
use super::hints::Hints;
use super::owner::{Site, failed};
use super::scrub::Scrub;
use super::setup;
use crate::sys::service::Watchdog;
use crate::wire::control::{Failure, Left, Request};
use crate::wire::message::Role;

/// Shortest and longest time between two attempts to use the state again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A failure this long after the last one has nothing to do with it.
const LASTING: Duration = Duration::from_secs(60);
/// What to do about it.
const REMEDY: &str =
    "free space on the file system of state_dir, or mend it; replication goes on by itself then";

/// What to do before something can be approved.
const APPROVE: &str = "stop the agent on this node first: move the service to the other node, or \"syncctl deactivate\"; then run the command again";

/// From here on this node's tree is what counts, and its changes are what the peer is brought to.
///
/// # Errors
/// A failure where index or history fail.
pub fn open(mut side: Receiving) -> Result<Receiving, Failure> {
    let failed = |e: &dyn std::fmt::Display| failed(e, "see syncctl check");
    side.staging.drop_parts();
    let node = &mut side.node;
    let last = node.epochs.history().last();
    let peer_was_last = last.is_some_and(|e| e.node != node.name);
    if peer_was_last && node.index_lost() {
        // The other node's changes were the last ones, and nobody knows which of them are here, or what was done to them.
        let noted = node.epochs.set_uncompared(true);
        noted.map_err(|e| failed(&e))?;
    }
    // Directories of which it does not know everything are noted beside it.
    node.index_is_complete().map_err(|e| failed(&e))?;
    if peer_was_last && !node.epochs.catching_up() {
        // It made the newest changes itself, so it has them.
        let head = node.epochs.history().head();
        let acked = node.store.number("acked").map_err(|e| failed(&e))?;
        let noted = node.store.set_number("acked", acked.max(head));
        noted.map_err(|e| failed(&e))?;
    }
    side.activate().map_err(|e| failed(&e))?;
    Ok(side)
}

/// What the engines of an active node have in common.
pub struct Activity<'a> {
    /// The node.
    pub site: &'a Site,
    /// The runtime.
    pub rt: &'a tokio::runtime::Handle,
    /// The status.
    pub board: &'a Arc<Board>,
    /// The dirty set.
    pub hints: &'a Arc<Hints>,
    /// Who runs the hooks.
    pub attendant: &'a Attendant,
    /// Where events go.
    pub sender: &'a mpsc::Sender<Event>,
    /// Rung when a session ended.
    pub down: &'a mpsc::UnboundedSender<()>,
}

/// How a node ceased to be active.
pub struct Over {
    /// Its state; `None` where that cannot be used, and changes exist that nobody noted.
    pub side: Option<Receiving>,
    /// How it ended where it was asked to.
    pub ended: Option<Ended>,
}

impl Activity<'_> {
    /// Runs engines until this node is not to be active any more.
    ///
    /// # Errors
    /// A failure where the first one cannot be made.
    pub fn run(
        &self,
        side: Receiving,
        events: &mut mpsc::Receiver<Event>,
    ) -> Result<Over, Failure> {
        let scrub = Scrub::new(self.site.config.sync.scrub);
        let mut parts = self.parts(side, scrub)?;
        let mut patience = Patience::default();
        loop {
            let fallen = match Engine::new(parts).run(events, self.rt) {
                Ok(ran) => {
                    return Ok(Over {
                        side: Some(ran.side),
                        ended: ran.ended,
                    });
                }
                Err(fallen) => fallen,
            };
            let next = match fallen.ended {
                Some(ended) => Err(Box::new(ended)),
                None => self.outlast(&mut patience, events, &fallen),
            };
            parts = match next {
                Ok(parts) => parts,
                Err(ended) => {
                    return Ok(Over {
                        side: None,
                        ended: Some(*ended),
                    });
                }
            };
        }
    }

    fn parts(&self, side: Receiving, scrub: Scrub) -> Result<Parts, Failure> {
        let config = &self.site.config;
        Ok(Parts {
            side,
            hints: self.hints.clone(),
            board: self.board.clone(),
            party: self.site.party(Role::Active),
            bulk: setup::spawn_bulk(self.sender.clone())?,
            scrub,
            down: self.down.clone(),
            flush_timeout: config.activation.flush_timeout,
            scans: true,
        })
    }

    /// Waits until the state can be used again; an end where the process is to end before that.
    fn outlast(
        &self,
        patience: &mut Patience,
        events: &mut mpsc::Receiver<Event>,
        fallen: &Fallen,
    ) -> Result<Parts, Box<Ended>> {
        let object = self.object();
        let mut pause = patience.begin(Instant::now());
        let mut why = fallen.error.to_string();
        tracing::error!("{why}; {REMEDY}");
        loop {
            self.tell(&object, &why);
            self.wait(pause, events, &why)?;
            match self.reopen(&fallen.scrub) {
                Ok(parts) => {
                    tracing::info!("{object} can be used again");
                    patience.mended(Instant::now());
                    self.board.solved(&object);
                    self.board.update(|s| {
                        "unreachable".clone_into(&mut s.peer.state);
                        NOT_YET.clone_into(&mut s.peer.reason);
                    });
                    let _ = self.down.send(());
                    return Ok(parts);
                }
                Err(f) => {
                    pause = patience.again();
                    if f.message != why {
                        tracing::error!("{}; {REMEDY}", f.message);
                        why = f.message;
                    }
                }
            }
        }
    }

    fn reopen(&self, scrub: &Scrub) -> Result<Parts, Failure> {
        let mut side = self.site.open()?;
        let claimed = side.node.claim_reserved();
        claimed.map_err(|e| failed(e, "see syncctl check"))?;
        side.attach(self.attendant.hooks());
        self.parts(open(side)?, scrub.clone())
    }

    /// What a problem of the state is listed under.
    fn object(&self) -> String {
        let dir = self.site.config.state_dir(self.site.node);
        dir.display().to_string()
    }

    fn tell(&self, object: &str, why: &str) {
        let cause = format!("{why}; {REMEDY}");
        let operation = "keep account of what changes";
        self.board.problem(object, operation, &cause);
        self.board.update(|s| {
            "halted".clone_into(&mut s.peer.state);
            s.peer.reason = cause;
            // Only a scan will tell what changes from now on.
            s.pending.scanning = true;
        });
    }

    /// Lets time pass, and answers what cannot be done meanwhile.
    fn wait(
        &self,
        pause: Duration,
        events: &mut mpsc::Receiver<Event>,
        why: &str,
    ) -> Result<(), Box<Ended>> {
        let mut watchdog = Watchdog::as_asked();
        let until = Instant::now() + pause;
        while let Some(rest) = until.checked_duration_since(Instant::now()) {
            watchdog.beat();
            let time = rest.min(watchdog.due_in());
            let next = async { tokio::time::timeout(time, events.recv()).await };
            let waiting = match self.rt.block_on(next) {
                Ok(Some(Event::Stop)) => Vec::new(),
                Ok(Some(Event::Command(Request::Deactivate { .. }, replies))) => vec![replies],
                Ok(Some(Event::Command(request @ (Request::Pause | Request::Resume), replies))) => {
                    let why = format!("{why}; {REMEDY}");
                    note_pause(self.board, request == Request::Pause, Some(&why), &replies);
                    continue;
                }
                Ok(Some(Event::Command(Request::Approve { .. }, replies))) => {
                    replies.send(failure(6, why, APPROVE));
                    continue;
                }
                Ok(Some(Event::Command(_, replies))) => {
                    replies.send(failure(6, why, REMEDY));
                    continue;
                }
                Ok(Some(Event::LinkUp(peer) | Event::Dialled(peer))) => {
                    peer.close();
                    continue;
                }
                _ => continue,
            };
            return Err(Box::new(Ended {
                left: Left::of(&self.board.snapshot().pending, why.to_owned()),
                noted: false,
                peer: None,
                waiting,
            }));
        }
        Ok(())
    }
}

/// How long is waited before the state is tried again.
#[derive(Debug)]
struct Patience {
    pause: Duration,
    mended: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            pause: PAUSE.0,
            mended: None,
        }
    }
}

impl Patience {
    /// State that fails at `now` is tried again after this: where it failed a moment ago, too, it is left alone longer.
    fn begin(&mut self, now: Instant) -> Duration {
        let soon = |t: Instant| now.saturating_duration_since(t) < LASTING;
        if !self.mended.is_some_and(soon) {
            self.pause = PAUSE.0;
        }
        self.pause
    }

    /// It could not be used: the next attempt comes after this.
    fn again(&mut self) -> Duration {
        self.pause = (self.pause * 2).min(PAUSE.1);
        self.pause
    }

    /// It can be used since `now`.
    fn mended(&mut self, now: Instant) {
        self.mended = Some(now);
        self.again();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_left_alone_longer() {
        let mut patience = Patience::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(patience.begin(now).as_secs());
            patience.mended(now);
            now += Duration::from_secs(5);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(patience.begin(now + LASTING), PAUSE.0);
    }
}
