//! Streams that come and go, and what two nodes that meet make of each other.
//!
//! What a session may do is decided here once, by the hellos; the other modules only look at its phase.

use super::{Engine, EngineError};
use crate::agent::divergence::Changed;
use crate::agent::meeting::{Course, DIVERGED, MISMATCH, REFUSED, diverged, hello, judge};
use crate::agent::node::NodeError;
use crate::agent::peer::Peer;
use crate::agent::session::{Phase, Session};
use crate::decide::dirty::Touch;
use crate::model::epoch::Keep;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::wire::message::{Hello, Message, Role};

impl Engine {
    /// Begins a session on a stream that came up.
    pub(super) fn link_up(&mut self, peer: Peer) {
        if self.session.is_some() {
            self.link_down("the peer began another session");
        }
        let ours = hello(&self.side.node, &self.party);
        peer.send(Message::Hello(Box::new(ours.clone())));
        self.session = Some(Session::new(peer, ours));
        if self.paused {
            // Only who is to become active gets further than this hello.
            return;
        }
        self.board.update(|s| s.totals.sessions += 1);
        // What is still wrong there is told again.
        self.board.forget_there();
    }

    /// Goes on with a session whose hellos were exchanged already; `handed` where the peer dialled.
    ///
    /// # Errors
    /// [`EngineError`] where the node's own state fails.
    pub fn take_over(
        &mut self,
        peer: Peer,
        ours: Hello,
        theirs: &Hello,
        handed: bool,
    ) -> Result<(), EngineError> {
        let mut session = Session::new(peer, ours);
        session.handed = handed;
        self.session = Some(session);
        self.met(theirs)
    }

    /// Ends the session, if one is up.
    pub(super) fn link_down(&mut self, why: &str) {
        let Some(session) = self.session.take() else {
            return;
        };
        session.peer.close();
        self.met_early = None;
        if matches!(session.phase, Phase::TakingIn(_)) {
            self.side.end_session();
        }
        self.note_acked(session.peer_head);
        // What was not acknowledged goes on being found by its sequence number at the next meeting.
        // Where there is no room for it, whoever takes what fills it sees the end of the session by itself.
        let end = (TreePath::new(RootId(0), RelPath::root()), None);
        let _ = self.bulk.signatures.try_send(end);
        if !matches!(session.phase, Phase::Halted) {
            tracing::warn!("the session with {} ended: {why}", self.party.peer);
            why.clone_into(&mut self.unreachable);
            self.tell_unreachable();
        }
        // A peer that was never met in this session was not lost with it.
        if matches!(session.phase, Phase::Round(_) | Phase::Live) {
            self.side.node.epochs.open_with_next_change();
            if session.handed {
                // It waits long where replication was halted, and now it is not.
                let _ = self.down.send(());
            }
        }
        self.commands.session_ended(why);
        // One that ended before anybody said hello came to nobody.
        let unmet = matches!(session.phase, Phase::Meeting);
        if unmet {
            self.commands.unreachable(why);
        }
        if unmet || self.is_handing_over() {
            self.hopeless();
        }
    }

    /// Who dials while nothing is sent would wait for the end of the pause without a word.
    fn turn_away(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        session.peer.send(Message::Bye {
            text: format!(
                "replication is paused on {}; run \"syncctl resume\" there",
                self.party.node
            ),
        });
        session.peer.close();
    }

    /// Tells the board that no session is up; what halted replication stays to be seen there.
    pub(super) fn tell_unreachable(&self) {
        let why = self.unreachable.clone();
        self.board.update(|s| {
            if s.peer.state == "diverged" || s.peer.state == "halted" {
                return;
            }
            s.peer.state = "unreachable".into();
            s.peer.reason = why;
        });
    }

    /// Takes the course that follows from both hellos.
    pub(super) fn met(&mut self, theirs: &Hello) -> Result<(), EngineError> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        self.side.node.note_silence(None)?;
        let course = judge(&session.ours, theirs, &self.party);
        tracing::info!("met {}: {course:?}", theirs.node);
        // A peer of another cluster, or with another configuration, takes nothing over.
        let refused = matches!(course, Course::Refused(MISMATCH, _));
        if theirs.takes_over && self.party.role == Role::Active && !refused {
            self.hand_over();
        }
        if self.paused {
            self.turn_away();
            return Ok(());
        }
        if matches!(course, Course::Send { .. }) {
            // The peer stands at some number in our history; what it is owed it lacks all the same.
            self.take_up_debts()?;
        }
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        match course {
            Course::Send { .. } | Course::TakeIn { .. } if !self.scanned => {
                self.met_early = Some(Box::new(theirs.clone()));
            }
            Course::Send { full: true, .. } | Course::TakeIn { .. }
                if self.withheld.why().is_some() =>
            {
                let why = self.withheld.why().unwrap_or_default().to_owned();
                self.refuse_withheld(&why);
            }
            Course::Send { since, full } => {
                let empty: Vec<_> = (0u16..)
                    .zip(&theirs.roots)
                    .filter(|(_, r)| r.empty)
                    .map(|(i, _)| RootId(i))
                    .collect();
                session.known_epoch = theirs.history.last().map(|e| e.id);
                let dry_run = theirs.dry_run || self.party.dry_run;
                if !dry_run {
                    self.side.node.found()?;
                }
                session.begin(&self.side.node, since, full, dry_run, &empty);
                if self.party.role == Role::Standby {
                    session.not_sent(self.again.paths().chain(self.unlisted.paths()).cloned());
                }
                // It may stand further back than it once did, and what it lacks is what would be lost now.
                self.acked = since;
                let peer_index_fresh = theirs.index_fresh;
                self.board.update(|s| {
                    s.peer.state = "catching-up".into();
                    s.peer.acked_sequence = since;
                    s.peer.reason = if peer_index_fresh {
                        "its index is new, everything is compared".into()
                    } else {
                        String::new()
                    };
                });
            }
            Course::TakeIn { since, full } => self.take_in(since, full),
            Course::Give { since } => self.give(since),
            Course::Refused(code, text) => self.refuse(code, &text),
            Course::Diverged { since } => {
                let here = Changed::here(&self.side.node, since)?;
                session.peer.send(here.message());
                self.apart = Some((since, Changed::default()));
                let text = diverged(&self.party, since);
                self.refuse(DIVERGED, &text);
            }
            Course::Stale => {
                let text = format!(
                    "{} holds newer data than this active node; deactivate this node and run \"syncctl resync\"",
                    self.party.peer
                );
                self.refuse(REFUSED, &text);
            }
            Course::Idle | Course::Blank | Course::Receive { .. } => {
                session.peer.send(Message::Bye {
                    text: "nothing to send".into(),
                });
                session.peer.close();
            }
        }
        Ok(())
    }

    /// A root is held: this is no state of the tree that the peer could follow, and nobody is here to approve of it.
    pub(super) fn cannot_tell(&mut self) {
        self.scanned = true;
        self.met_early = None;
        if let Some(s) = &self.session {
            s.peer.send(Message::Bye {
                text: format!(
                    "{} ended without order, and what was changed there cannot be told, since {}",
                    self.party.node,
                    self.roots.first_held(&self.side.node).unwrap_or_default()
                ),
            });
            s.peer.close();
        }
    }

    /// There can be no session; a peer that takes over waits for another answer.
    pub(super) fn refuse(&mut self, code: u8, text: &str) {
        if let Some(s) = &self.session
            && !self.is_handing_over()
        {
            s.peer.send(Message::Refuse {
                code,
                text: text.to_owned(),
            });
        }
        self.halt(code, text, false);
    }

    /// Replication stands still until a person helped, or the cluster manager decided; the index stays current. A peer with which data diverged still
    /// tells what it changed before it has `refused`, too.
    pub(super) fn halt(&mut self, code: u8, text: &str, refused: bool) {
        let state = if code == DIVERGED {
            "diverged"
        } else {
            "halted"
        };
        // Asked every other second; each node also hears it from the other one.
        if code == REFUSED && self.board.snapshot().peer.state == state {
            tracing::debug!("still: {text}");
        } else {
            tracing::error!("{text}");
        }
        text.clone_into(&mut self.unreachable);
        self.hopeless();
        self.board.expect_a_change(code == REFUSED);
        self.board.update(|s| {
            s.peer.state = state.to_owned();
            text.clone_into(&mut s.peer.reason);
            text.clone_into(&mut s.last_error);
        });
        let stays = self.is_handing_over() || (state == "diverged" && !refused);
        if let Some(s) = &mut self.session {
            s.phase = Phase::Halted;
            if !stays {
                s.peer.close();
            }
        }
        self.refused = Some((code, text.to_owned()));
        let code = if code == DIVERGED { 5 } else { 6 };
        self.commands.halted(code, text);
    }

    /// The peer stands where this node stands: from now on changes are pushed as they happen.
    pub(super) fn live(&mut self) -> Result<(), EngineError> {
        let head = self.side.node.epochs.history().head();
        if let Some(s) = &mut self.session {
            s.phase = Phase::Live;
            self.caught_up = true;
            s.peer_head = head;
            self.brought = s.brought;
            for path in std::mem::take(&mut s.parted) {
                self.force.insert(path.clone(), 0);
                self.carried.touch(&self.hints, path, Touch::Changed, 0);
            }
        }
        self.party.full = false;
        self.party.keep = Keep::Undecided;
        self.apart = None;
        self.refused = None;
        self.withheld.close();
        self.side.node.store.forget_tombs(head)?;
        // The peer holds what this node's disk held after a power cut, or without its index.
        let epochs = &mut self.side.node.epochs;
        epochs.set_outage(false).map_err(NodeError::from)?;
        epochs.set_uncompared(false).map_err(NodeError::from)?;
        if self.party.role == Role::Standby
            && let Some(s) = &self.session
        {
            // Nobody watches this tree, so there is nothing more to push.
            s.peer.send(Message::Bye {
                text: "everything was sent".into(),
            });
            s.peer.close();
        }
        self.board.update(|s| {
            s.peer.state = "in-sync".into();
            s.peer.acked_sequence = head;
            s.peer.reason.clear();
        });
        self.commands.in_sync(self.brought);
        Ok(())
    }
}
