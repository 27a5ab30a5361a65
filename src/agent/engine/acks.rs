//! What the peer said of the batches it was sent: done, to be sent whole, not possible.
//!
//! The number up to which the peer is known to have everything follows from these answers, so they stand together.

use std::collections::HashSet;

use super::{Engine, EngineError};
use crate::agent::node::NodeError;
use crate::agent::round::Want;
use crate::agent::session::Phase;
use crate::decide::dirty::Touch;
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::wire::message::{Have, PathProblem};

/// Times a path is sent whole on request before it counts as a problem.
pub(super) const MAX_RETRIES: u32 = 4;

/// Drops what is said of paths that were not in the batch; a directory above them may be missing, and the one they stand in
/// was touched as well.
fn keep_to(sent: &[TreePath], wants: &mut Vec<TreePath>, problems: &mut Vec<PathProblem>) {
    if wants.is_empty() && problems.is_empty() {
        return;
    }
    let paths: HashSet<&TreePath> = sent.iter().collect();
    let mut dirs: HashSet<TreePath> = HashSet::new();
    for path in sent {
        let mut dir = path.path.parent();
        while let Some(at) = dir.filter(|d| !d.is_root()) {
            dir = at.parent();
            if !dirs.insert(TreePath::new(path.root, at)) {
                break;
            }
        }
    }
    let of_it = |p: &TreePath| paths.contains(p) || dirs.contains(p);
    wants.retain(of_it);
    problems.retain(|p| of_it(&p.path) || p.path.path.is_root());
}

impl Engine {
    /// The peer has done a batch, or ended a round, except for these paths.
    pub(super) fn acked(
        &mut self,
        number: u64,
        mut wants: Vec<TreePath>,
        mut problems: Vec<PathProblem>,
    ) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let settled = matches!(&session.phase, Phase::Round(r) if r.settling == Some(number));
        let mut since = 0;
        if let Some(flight) = session.flights.remove(&number) {
            keep_to(&flight.paths, &mut wants, &mut problems);
            since = flight.since;
            session.peer_head = session.peer_head.max(flight.head);
            let paths = flight.paths.len() as u64;
            let (sent, received) = session.peer.bytes();
            let acked = session.peer_head;
            self.board.update(|s| {
                s.totals.batches += 1;
                s.totals.operations += paths;
                s.totals.content_bytes += flight.bytes;
                s.totals.sent_bytes = sent;
                s.totals.received_bytes = received;
                s.peer.acked_sequence = acked;
            });
            if self.board.has_problems() {
                let failed = problems.iter().map(|p| &p.path).chain(&wants);
                let failed: HashSet<&TreePath> = failed.collect();
                for path in flight.paths.iter().filter(|p| !failed.contains(p)) {
                    let shown = self.side.node.show(path);
                    self.board.solved_there(&shown);
                    self.again.solved(path);
                }
            }
        } else if !settled {
            return Ok(());
        }
        for path in wants {
            self.wanted_whole(path, number, since)?;
        }
        for p in problems {
            let shown = self.side.node.show(&p.path);
            let operation = format!("{} on {}", p.operation, self.party.peer);
            self.board.problem_there(&shown, &operation, &p.cause);
            self.peer_lacks(&p.path, since)?;
            self.again.add(p.path, self.hints.now());
        }
        if settled {
            self.round_settled()?;
        } else if matches!(self.session.as_ref().map(|s| &s.phase), Some(Phase::Live)) {
            let head = self.session.as_ref().map_or(0, |s| s.peer_head);
            if self.session.as_ref().is_some_and(|s| s.flights.is_empty()) {
                self.side.node.store.forget_tombs(head)?;
            }
        }
        Ok(())
    }

    /// The peer cannot build a path, which was in this batch and changed at `since`, from what it has: it gets the content
    /// whole.
    fn wanted_whole(&mut self, path: TreePath, batch: u64, since: u64) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let is_dir = (self.side.node.store.lookup(&path)?).is_some_and(|r| r.entry.kind.is_dir());
        if is_dir && session.trees {
            // The round that brings it is still to begin.
            return Ok(());
        }
        let Some(tries) = session.ask_again(&path, batch) else {
            return Ok(());
        };
        tracing::debug!("{}: the peer needs it whole", self.side.node.show(&path));
        if tries > MAX_RETRIES {
            let cause = "the peer refused the content repeatedly; run syncctl verify";
            self.board
                .problem_there(&self.side.node.show(&path), "send", cause);
            if is_dir && matches!(session.phase, Phase::Round(_)) {
                // What of it the peer lacks is known there alone, and is asked for in the next session.
                self.link_down(cause);
                return Ok(());
            }
            self.peer_lacks(&path, since)?;
            self.again.add(path, self.hints.now());
            return Ok(());
        }
        match &mut session.phase {
            Phase::Round(round) => {
                round.wants.push_back(Want {
                    path: path.clone(),
                    have: Have::Nothing,
                });
                let row = self.side.node.store.lookup(&path)?;
                if row.is_some_and(|r| r.stamp.nlink > 1 && !r.entry.kind.is_dir()) {
                    // Sent whole it is a file of its own there; its other names join it once the round is over.
                    self.side.node.store.owe(&path)?;
                    session.parted.insert(path);
                }
            }
            // It asks for everything below a directory, once a round begins.
            _ if is_dir => session.trees = true,
            _ => {
                self.peer_lacks(&path, since)?;
                self.carried.touch(&self.hints, path, Touch::Changed, since);
            }
        }
        Ok(())
    }

    /// Begins a round in which the peer asks for the directories it lacks, once nothing else is on its way.
    pub(super) fn bring_trees(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        // A comparison takes long, and nothing else is to wait for its end.
        let live = matches!(session.phase, Phase::Live) && !self.commands.is_comparing();
        session.draining = session.trees && live;
        if !session.draining || !session.flights.is_empty() {
            return;
        }
        (session.trees, session.draining) = (false, false);
        session.begin(&self.side.node, session.peer_head, false, false, &[]);
    }

    /// The peer stands where this node stood when the round began: another round brings what changed since.
    fn round_settled(&mut self) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::Round(round) = &session.phase else {
            return Ok(());
        };
        // What this node lacked of the peer's changes the peer has given up, too.
        self.side.node.store.lack_nothing()?;
        if session.gives {
            // From here on this node is the one that is behind, and receives on this stream.
            self.given = true;
            return Ok(());
        }
        if round.everything {
            // However this node's tree came to be what it is, both have it now.
            let noted = self.side.node.epochs.set_catching_up(false);
            noted.map_err(NodeError::from)?;
        }
        let stood = round.head;
        session.peer_head = stood;
        self.acked = stood;
        let head = self.side.node.epochs.history().head();
        self.board.update(|s| s.peer.acked_sequence = stood);
        if head > stood {
            session.begin(&self.side.node, stood, false, false, &[]);
            return Ok(());
        }
        self.live()
    }

    /// Remembers how far the peer has everything, for the status of the time without it.
    pub(super) fn note_acked(&mut self, head: Seq) {
        self.acked = self.acked.max(head);
        if let Err(e) = self.side.node.store.set_number("acked", self.acked) {
            tracing::warn!("{e}");
        }
    }

    /// The peer could not take a batch at all.
    pub(super) fn failed(&mut self, number: u64, cause: &str) {
        let text = format!("{} could not take batch {number}: {cause}", self.party.peer);
        self.board.failed(text.clone());
        // Nothing of it was applied; the next session begins where the peer stands.
        self.link_down(&text);
    }
}
