//! How an active engine ends: what is left is pushed, and whoever asked is told what is not on the peer.
//!
//! A person or the cluster manager asks (`syncctl deactivate`, a signal), or a peer that is about to become active. In
//! each case it is a flush, which ends early where waiting cannot help: nobody is there to push to, or replication is halted.

use std::time::Duration;

use super::Engine;
use crate::agent::peer::Peer;
use crate::agent::replies::{self, Answers, Replies};
use crate::agent::session::Phase;
use crate::wire::control::{Answer, Left, Progress, Request};

/// An engine that is to end.
pub(super) struct Departure {
    /// Where the flush tells how it went.
    flushed: Answers,
    /// The peer that asked for it.
    peer: Option<Peer>,
    /// Commands that wait for the end.
    waiting: Vec<Replies>,
    /// Why there is nothing to wait for.
    hopeless: Option<String>,
    /// Whether what was changed before is in the index.
    noted: bool,
}

/// How an engine that was asked to end has ended.
pub struct Ended {
    /// What is not on the peer.
    pub left: Left,
    /// Whether the index tells of all that was changed before; else the end is one as in a crash, after which the trees are
    /// looked over.
    pub noted: bool,
    /// The peer that asked for it, to be told.
    pub peer: Option<Peer>,
    /// Commands to be answered once the process did the rest.
    pub waiting: Vec<Replies>,
}

impl Engine {
    /// Begins to end: flushes for at most `timeout`. Where that is under way, whoever asks waits for its end.
    pub(super) fn depart(&mut self, timeout: Duration, replies: Option<Replies>) {
        if self.departure.is_none() {
            tracing::info!(
                "asked to end: what is left is pushed to {}",
                self.party.peer
            );
            self.board.update(|s| s.activation.clear());
            if self.paused {
                // Who paused replication did not mean to lose the changes of the last minutes.
                self.paused = false;
                self.board.update(|s| s.paused = false);
            }
            let (sender, flushed) = replies::replies();
            let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            self.command(Request::Flush { timeout_ms: ms }, sender);
            self.departure = Some(Departure {
                flushed,
                peer: None,
                waiting: Vec::new(),
                hopeless: None,
                noted: false,
            });
            match &self.session {
                None => {
                    let _ = self.down.send(());
                }
                Some(s) if matches!(s.phase, Phase::Halted) => self.hopeless(),
                Some(_) => {}
            }
        }
        if let (Some(departure), Some(replies)) = (&mut self.departure, replies) {
            replies.send(Answer::Progress(Progress {
                phase: "flushing".into(),
                ..Progress::default()
            }));
            departure.waiting.push(replies);
        }
    }

    /// The peer of the session is about to become active and asked for the end.
    pub(super) fn hand_over(&mut self) {
        let peer = self.session.as_ref().map(|s| s.peer.clone());
        let timeout = self.flush_timeout;
        self.depart(timeout, None);
        if let Some(departure) = &mut self.departure {
            departure.peer = peer;
        }
    }

    /// Whether a peer that is about to become active waits for the end.
    pub(super) fn is_handing_over(&self) -> bool {
        self.departure.as_ref().is_some_and(|d| d.peer.is_some())
    }

    /// Nothing more can be pushed: an engine that is to end waits no longer.
    pub(super) fn hopeless(&mut self) {
        if let Some(departure) = &mut self.departure {
            departure.hopeless = Some(self.unreachable.clone());
        }
    }

    /// Whether nobody is there to push to and nothing is left to be pushed, as far as an engine that is to end can tell.
    pub(super) fn leaves_nothing(&self, behind: u64) -> bool {
        self.departure.is_some() && self.session.is_none() && behind == 0
    }

    /// Keeps in mind whether what was changed before the end was asked for is in the index.
    pub(super) fn note_departure(&mut self) {
        if let Some(departure) = &mut self.departure {
            departure.noted |= self.commands.is_noted();
        }
    }

    /// Whether a flush that cannot come to its end may be given up: an engine that is to end notes first what was changed.
    pub(super) fn may_give_up(&self) -> bool {
        self.departure.as_ref().is_none_or(|d| d.noted)
    }

    /// How an engine that was asked to end has ended, once it has.
    pub(super) fn departed(&mut self) -> Option<Ended> {
        let departure = self.departure.as_mut()?;
        let why = match departure.flushed.try_recv() {
            Ok(Answer::Done(_)) => {
                departure.noted = true;
                String::new()
            }
            Ok(Answer::Error(f)) => f.message,
            // Before that nobody knows what is left, and the next process would not look for it.
            _ => departure.hopeless.clone().filter(|_| departure.noted)?,
        };
        let Departure {
            peer,
            waiting,
            noted,
            ..
        } = self.departure.take()?;
        let left = self.left(why);
        // The next process knows nothing of what could not be looked at.
        let hidden = self.again.waiting() + self.unlisted.waiting() > 0;
        Some(Ended {
            left,
            noted: noted && !hidden,
            peer,
            waiting,
        })
    }

    /// How an engine that was asked to end has ended, now that this node's own state failed.
    pub(super) fn depart_fallen(&mut self, why: &str) -> Option<Ended> {
        let Departure { waiting, .. } = self.departure.take()?;
        Some(Ended {
            left: self.left(why.to_owned()),
            noted: false,
            peer: None,
            waiting,
        })
    }

    /// What is not on the peer, and why; nothing where there is no reason.
    fn left(&self, why: String) -> Left {
        if why.is_empty() {
            tracing::info!("everything is on {}", self.party.peer);
            return Left::default();
        }
        let pending = self.board.snapshot().pending;
        tracing::warn!(
            "{} changed paths are not on {}: {why}",
            pending.paths,
            self.party.peer
        );
        Left::of(&pending, why)
    }
}
