//! Both nodes changed data on their own, and both sides' changes are kept: this node takes the other's in, or gives its own.
//!
//! The other node lists its changes twice. The first listing is only judged, so that nothing has happened where a path was
//! changed on both; the second one is answered as in any round. Then the node that took in has everything, the other one is
//! behind, and an ordinary round follows on the same stream.

use std::collections::BTreeSet;

use super::{Engine, EngineError};
use crate::agent::apply::ApplyError;
use crate::agent::divergence::Changed;
use crate::agent::incoming::Broken;
use crate::agent::meeting::{DIVERGED, collided};
use crate::agent::merge::Merge;
use crate::agent::resolve::guard::exceeding;
use crate::agent::session::Phase;
use crate::decide::guard::Exceeded;
use crate::model::batch::Batch;
use crate::model::epoch::Seq;
use crate::model::path::{RootId, TreePath};
use crate::wire::message::{Message, Named, Range};

impl Engine {
    /// This node begins to take in what the peer changed after `since`.
    pub(super) fn take_in(&mut self, since: Seq, full: bool) {
        if let Some(session) = &mut self.session {
            session.phase = Phase::TakingIn(Box::new(Merge::new(since, full)));
        }
        self.apart = Some((since, Changed::default()));
        let text = format!(
            "both nodes changed data after sequence {since}; what {} changed is taken in",
            self.party.peer
        );
        tracing::warn!("{text}");
        self.board.update(|s| {
            s.peer.state = "catching-up".into();
            s.peer.acked_sequence = since;
            s.peer.reason = text;
        });
    }

    /// This node begins to give what it changed after `since`, for the peer to judge.
    pub(super) fn give(&mut self, since: Seq) {
        if let Some(session) = &mut self.session {
            session.gives = true;
            session.begin(&self.side.node, since, false, true, &[]);
        }
    }

    /// The peer has judged what this node lists, or asked for all it needs of it.
    pub(super) fn asked_of_gift(&mut self) {
        if let Some(session) = &mut self.session {
            if session.dry_run {
                let since = session.peer_head;
                session.begin(&self.side.node, since, false, false, &[]);
            } else {
                session.asked();
            }
        }
    }

    /// Whether this node gives the peer what it changed.
    pub(super) fn gives(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.gives)
    }

    /// A path that the peer is to have is not what the index says, so not everything can be given.
    pub(super) fn cannot_give(&mut self, path: &TreePath, cause: &str) -> Result<(), EngineError> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let here = Changed::here(&self.side.node, session.peer_head)?;
        session.peer.send(here.message());
        let text = format!(
            "{} and {} both changed data, and {} of {0} cannot be merged: {cause}; nothing more is changed. Decide with \"syncctl resolve --keep local\" or \"--keep peer\"",
            self.party.node,
            self.party.peer,
            self.side.node.show(path)
        );
        self.refuse(DIVERGED, &text);
        Ok(())
    }

    /// The peer found that both changed a path, and waits for the list of what was changed here.
    pub(super) fn gift_refused(&mut self, code: u8, text: &str) -> Result<(), EngineError> {
        let Some(session) = self.session.as_ref().filter(|s| s.gives) else {
            return Ok(());
        };
        if code == DIVERGED {
            let here = Changed::here(&self.side.node, session.peer_head)?;
            session.peer.send(here.message());
            let text = text.to_owned();
            session.peer.send(Message::Refuse { code, text });
        }
        Ok(())
    }

    /// Handles a message of a peer that gives; what is none of these comes back.
    pub(super) fn gift(&mut self, message: Message) -> Result<Option<Message>, EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(None);
        };
        let Phase::TakingIn(merge) = &mut session.phase else {
            return Ok(Some(message));
        };
        match message {
            Message::Begin { dry_run, .. } => merge.begin(dry_run),
            Message::Listing {
                dir,
                exact,
                entries,
            } => self.gift_listing(&dir, exact.as_ref(), entries)?,
            Message::Gone { paths } => merge.gone(&mut self.side.node, paths)?,
            Message::Listed => self.gift_listed()?,
            Message::Transfer {
                id,
                path,
                form,
                size,
                sparse,
            } => {
                let (node, staging) = (&mut self.side.node, &mut self.side.staging);
                let begun =
                    (self.side.incoming).begin(node, staging, id, &path, &form, (size, sparse));
                self.arrives(begun);
            }
            Message::Chunk { id, offset, data } => {
                let staging = &self.side.staging;
                let taken = self.side.incoming.chunk(staging, id, offset, &data);
                self.arrives(taken);
            }
            Message::TransferEnd { id, hash } => {
                let ended = self.side.incoming.end(&mut self.side.staging, id, hash);
                self.arrives(ended);
            }
            Message::Abandon { id } => self.side.incoming.give_up(&self.side.staging, id),
            // Nothing that was cut off is kept here.
            Message::AskPart { path } | Message::AskSignature { path } => {
                session.peer.send(Message::no_signature(path));
            }
            Message::Batch(batch) => self.gift_batch(batch)?,
            Message::Settle { number, .. } => self.gift_settled(number)?,
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    /// A broken transfer is asked for again when its put arrives; a full disk ends the session.
    fn arrives(&mut self, taken: Result<(), Broken>) {
        if let Err(Broken::Stage(e)) = taken {
            self.link_down(&format!("cannot stage a file: {e}"));
        }
    }

    fn gift_listing(
        &mut self,
        dir: &TreePath,
        exact: Option<&Range>,
        entries: Vec<Named>,
    ) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::TakingIn(merge) = &mut session.phase else {
            return Ok(());
        };
        // What is learned of this node's own files is kept at once for all of them.
        self.side.node.store.begin()?;
        let judged = merge.listing(&mut self.side.node, dir, exact, entries);
        match judged {
            Ok(names) => {
                self.side.node.store.commit()?;
                if !names.is_empty() {
                    let dir = dir.clone();
                    session.peer.send(Message::Want { dir, names });
                }
                Ok(())
            }
            Err(e) => {
                self.side.node.store.rollback();
                Err(e.into())
            }
        }
    }

    fn gift_listed(&mut self) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::TakingIn(merge) = &mut session.phase else {
            return Ok(());
        };
        if merge.collisions.0 > 0 {
            return self.collided();
        }
        if merge.is_too_much() {
            self.link_down("too many deletions to be taken in at once");
            return Ok(());
        }
        if let Some((roots, text)) = self.gift_exceeds()? {
            self.withhold(roots, text);
            return Ok(());
        }
        if let Some(session) = &self.session
            && let Phase::TakingIn(merge) = &session.phase
        {
            session.peer.send(Message::Asked {
                puts: 0,
                deletes: merge.gone.len() as u64,
                bytes: 0,
                strays: Vec::new(),
            });
        }
        Ok(())
    }

    /// Why what the peer deleted is more than may be deleted here, if it is.
    fn gift_exceeds(&mut self) -> Result<Option<(BTreeSet<RootId>, String)>, EngineError> {
        let Some(session) = &self.session else {
            return Ok(None);
        };
        let Phase::TakingIn(merge) = &session.phase else {
            return Ok(None);
        };
        let now = self.hints.now();
        let allowed = |p: &&TreePath| !self.withheld.is_allowed(p.root);
        let gone: Vec<_> = merge.gone.iter().filter(allowed).cloned().collect();
        let found = exceeding(&mut self.side.node, &mut self.guard, now, &gone, false)?;
        let roots: BTreeSet<RootId> = found.iter().map(|(p, _)| p.root).collect();
        let Some((first, Exceeded { deleted, total })) = found.into_iter().next() else {
            return Ok(None);
        };
        let root = self.side.node.root(first.root);
        let name = root.map_or("?", |r| r.root.name.as_str());
        let text = format!(
            "{} deleted {deleted} of {total} paths of root \"{name}\" while the nodes were apart, more than max_delete allows; nothing is merged. Run \"syncctl approve {name}\" on {} if that is meant to be, or \"syncctl resolve --keep local\"",
            self.party.peer, self.party.node
        );
        Ok(Some((roots, text)))
    }

    fn gift_batch(&mut self, batch: Batch) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::TakingIn(merge) = &mut session.phase else {
            return Ok(());
        };
        let number = batch.number;
        match merge.batch(&mut self.side, batch) {
            Ok(Some(outcome)) => {
                if outcome.preserved > 0 {
                    self.board.bell().ring();
                }
                session.peer.send(Message::Ack {
                    number,
                    wants: outcome.wants,
                    problems: outcome.problems,
                });
                Ok(())
            }
            Ok(None) => self.collided(),
            Err(e) => self.gift_failed(e),
        }
    }

    /// The peer gave everything: what it deleted is deleted, and from now on it is behind.
    fn gift_settled(&mut self, number: u64) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::TakingIn(merge) = &mut session.phase else {
            return Ok(());
        };
        match merge.finish(&mut self.side) {
            Ok(true) => {}
            Ok(false) => return self.collided(),
            Err(e) => return self.gift_failed(e),
        }
        let (since, full, (puts, deletes)) = (merge.since, merge.full, merge.taken);
        if let Some(why) = merge.failed.first() {
            let text = format!(
                "{} and {} both changed data, and not everything could be merged: {why}; remove the cause, or decide with \"syncctl resolve --keep local\"",
                self.party.node, self.party.peer
            );
            self.refuse(DIVERGED, &text);
            return Ok(());
        }
        let (peer, name) = (session.peer.clone(), &self.party.peer);
        tracing::warn!("took in what {name} changed: {puts} paths put, {deletes} deleted");
        let node = &self.side.node;
        let shared = node.epochs.history().truncated(since);
        session.known_epoch = shared.last().map(|e| e.id);
        peer.send(Message::Ack {
            number,
            wants: Vec::new(),
            problems: Vec::new(),
        });
        session.begin(node, since, full, false, &[]);
        self.acked = since;
        Ok(())
    }

    /// A path was changed on both nodes: nothing more happens before a person decides.
    fn collided(&mut self) -> Result<(), EngineError> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let Phase::TakingIn(merge) = &session.phase else {
            return Ok(());
        };
        let (since, (all, paths)) = (merge.since, &merge.collisions);
        let shown: Vec<_> = paths.iter().map(|p| self.side.node.show(p)).collect();
        let text = collided(&self.party, since, &shown, *all);
        let here = Changed::here(&self.side.node, since)?;
        session.peer.send(here.message());
        self.refuse(DIVERGED, &text);
        Ok(())
    }

    /// What could not be brought to this node's disk is tried again at the next meeting; a failing index ends the process.
    fn gift_failed(&mut self, e: ApplyError) -> Result<(), EngineError> {
        match e {
            ApplyError::Stage(_) | ApplyError::Sync(_) | ApplyError::Journal(_) => {
                self.board.failed(e.to_string());
                self.link_down(&e.to_string());
                Ok(())
            }
            other => Err(other.into()),
        }
    }
}
