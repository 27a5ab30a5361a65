//! The receiving side's tree: batches staged, made durable, done, and noted in the index.
//!
//! The order is what makes a crash harmless: contents are in slots and on disk,
//! then the redo record is on disk, then the tree is changed, then the index, then the sender is told.
//! A record is dropped only after tree and index were synced, so power loss at any instant leaves a
//! tree that can be brought to the end of a batch.

mod open;
mod prepare;
mod tell;

use std::io;
use std::sync::Arc;

use self::prepare::Prepared;
use super::aging::Aging;
use super::hooks::Hooks;
use super::incoming::Incoming;
use super::node::{Node, NodeError, NodeRoot};
use super::perform::{Fault, Outcome, Performer, Replay};
use super::redo::{Record, Step};
use super::staging::{Slots, Staging};
use crate::index::epochs::EpochsError;
use crate::index::journal::JournalError;
use crate::index::store::StoreError;
use crate::model::batch::{Batch, Lacked, Op};
use crate::model::epoch::{History, Seq};
use crate::model::path::TreePath;
use crate::sys::clock;
use crate::sys::tree::Look;
use crate::wire::message::PathProblem;

/// Bytes of records after which tree and index are synced and the journal is emptied.
const CHECKPOINT: u64 = 32 * 1024 * 1024;

/// Why a batch could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Nothing of it was applied; the sender may try again later.
    #[error("cannot stage a batch: {0}")]
    Stage(#[source] io::Error),
    /// Trees or index could not be synced.
    #[error("cannot bring the trees to disk: {0}")]
    Sync(#[source] io::Error),
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal failed; nothing of the batch was applied.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The epoch history failed.
    #[error(transparent)]
    Epochs(#[from] EpochsError),
    /// The node's state cannot be opened.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// The receiving side of a node.
pub struct Receiving {
    /// The node's state.
    pub node: Node,
    /// Its staging areas.
    pub staging: Staging,
    /// Transfers that arrive.
    pub incoming: Incoming,
    /// Acknowledged means on disk.
    sync: bool,
    /// This node holds nothing of worth before the round ends: syncing may wait for that.
    first: bool,
    lsn: u64,
    /// Whether something was done since trees and index were synced.
    unsynced: bool,
    /// Programs that are told of what is applied.
    hooks: Option<Arc<Hooks>>,
    aging: Aging,
}

impl Receiving {
    /// Applies a batch: when this returns, it is done as far as `durability` promises.
    ///
    /// # Errors
    /// [`ApplyError`]; after `Stage` and `Journal` nothing of it was applied.
    pub fn apply(&mut self, batch: Batch) -> Result<Outcome, ApplyError> {
        // The journal knows what it put into a directory by the directory's former name: it must not be needed for that.
        let moves = |(_, op): &(Seq, Op)| matches!(op, Op::Move { .. });
        if self.is_durable() && batch.ops.iter().any(moves) {
            self.checkpoint()?;
        }
        let again = self.lsn >= self.node.epochs.passed();
        let mut prepared = Prepared::new(&batch, self.is_durable(), again);
        for (seq, op) in batch.ops {
            let path = op.path().clone();
            match self.prepare(op, &mut prepared) {
                Ok(step) => prepared.steps.push((seq, step)),
                Err(fault) => {
                    let step = self.leave_out(path, fault, &mut prepared)?;
                    prepared.steps.push((seq, step));
                }
            }
        }
        self.fill(&mut prepared)?;
        let Prepared {
            steps,
            slots,
            mut outcome,
            ..
        } = prepared;
        let noted = match self.note(&steps) {
            Ok(noted) => noted,
            Err(e) => {
                self.discard(&steps);
                return Err(e.into());
            }
        };
        let record = Record {
            lsn: self.lsn + 1,
            head: batch.head,
            history: None,
            steps,
        };
        if let Err(e) = self.commit(&record, &slots) {
            self.discard(&record.steps);
            return Err(e);
        }
        let done = self.perform(&record, None)?;
        // What could not be prepared may have come by a later operation of the batch.
        outcome.problems.retain(|p| {
            let last = record.steps.iter().rfind(|(_, s)| *s.path() == p.path);
            matches!(last, Some((_, Step::Lack { .. })))
        });
        outcome.add(done);
        self.tell(noted, &outcome);
        if self.node.journal.len() > CHECKPOINT {
            self.checkpoint()?;
        }
        Ok(outcome)
    }

    /// The step of an operation that cannot be prepared; a full disk ends the batch, since the rest would fail as well.
    fn leave_out(
        &self,
        path: TreePath,
        fault: Fault,
        prepared: &mut Prepared,
    ) -> Result<Step, ApplyError> {
        let wanted = matches!(fault, Fault::Want);
        match fault {
            Fault::Want => {}
            Fault::Index(e) => return Err(e.into()),
            Fault::Problem { operation, cause }
                if cause.contains("os error 28") || cause.contains("os error 122") =>
            {
                self.discard(&prepared.steps);
                let text = format!("cannot {operation}: {cause}");
                return Err(ApplyError::Stage(io::Error::other(text)));
            }
            Fault::Problem { operation, cause } => prepared.outcome.problems.push(PathProblem {
                path: path.clone(),
                operation,
                cause,
            }),
        }
        Ok(Step::Lack { path, wanted })
    }

    /// Deletes, at the end of a round that began at `since`, a part of what the sender at `head` has no more: there is more than
    /// one record is to hold. A crash before the round is settled has it begin anew, which finds the rest.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn delete(
        &mut self,
        gone: &[TreePath],
        since: Seq,
        head: Seq,
    ) -> Result<Outcome, ApplyError> {
        self.all_is_here()?;
        let delete = |path: &TreePath| (head, Op::Delete { path: path.clone() });
        self.apply(Batch {
            number: 0,
            head: since,
            ops: gone.iter().map(delete).collect(),
        })
    }

    /// Everything new is in place, and is on the disk before anything goes.
    fn all_is_here(&mut self) -> Result<(), ApplyError> {
        if self.first {
            self.checkpoint()?;
            self.first = false;
        }
        Ok(())
    }

    /// Ends a round of comparing: removes `gone`, then this node's data is `history`'s but for `unread`, which the sender
    /// could not read.
    ///
    /// # Errors
    /// [`ApplyError`]; the round is then to be done again.
    pub fn settle(
        &mut self,
        gone: &[TreePath],
        unread: &[TreePath],
        history: History,
    ) -> Result<Outcome, ApplyError> {
        self.all_is_here()?;
        let head = history.head();
        let gone = gone.iter().cloned().map(|path| Step::Delete { path });
        let lacked = unread.iter().cloned().map(|path| Step::Lack {
            path,
            wanted: false,
        });
        let steps: Vec<_> = gone.chain(lacked).map(|step| (head, step)).collect();
        let noted = self.note(&steps)?;
        // Behind in its own past: the head moves back to what both share before it moves on.
        let record = Record {
            lsn: self.lsn + 1,
            head,
            history: Some(history),
            steps,
        };
        self.commit(&record, &Slots::default())?;
        let outcome = self.perform(&record, None)?;
        self.tell(noted, &outcome);
        Ok(outcome)
    }

    /// Lets go of what this node, which stands where the active one stood lately, need not remember any longer.
    ///
    /// # Errors
    /// [`ApplyError`] where the index fails.
    pub fn age(&mut self) -> Result<(), ApplyError> {
        Ok(self.aging.age(&self.node, clock::uptime())?)
    }

    /// A round was settled: what was lacked as a whole directory came with it, where the directory stands.
    ///
    /// # Errors
    /// [`ApplyError`] where the index fails.
    pub fn came_whole(&mut self) -> Result<(), ApplyError> {
        for path in self.lacked_trees()? {
            self.node.store.lack_no_more(&path)?;
        }
        Ok(())
    }

    /// Directories that were lacked with everything in them, and of which a batch has brought the directory alone.
    ///
    /// # Errors
    /// [`ApplyError`] where the index fails.
    pub fn lacked_trees(&mut self) -> Result<Vec<TreePath>, ApplyError> {
        let node = &mut self.node;
        let mut paths = Vec::new();
        for Lacked { path, tree } in node.store.lacked()?.iter().cloned() {
            let is_dir = |r: &NodeRoot| {
                let look = r.root.look(&path.path);
                matches!(look, Ok(Look::There(seen)) if seen.entry.kind.is_dir())
            };
            if tree
                && node.root(path.root).is_some_and(is_dir)
                && node.store.dir_id(&path)?.is_some()
            {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// Brings trees and index to disk and empties the journal.
    ///
    /// # Errors
    /// [`ApplyError::Sync`] and what index and journal say.
    pub fn checkpoint(&mut self) -> Result<(), ApplyError> {
        if !self.unsynced && self.node.journal.is_empty() {
            return Ok(());
        }
        self.staging.sync_trees().map_err(ApplyError::Sync)?;
        self.node.store.sync()?;
        if let Some(hooks) = &self.hooks {
            hooks.keep();
        }
        self.node.journal.reset()?;
        self.unsynced = false;
        Ok(())
    }

    /// From here on this node's tree is what counts: no record of the journal is done again, whether or not all that the
    /// records brought is on the disk yet.
    ///
    /// # Errors
    /// [`ApplyError::Epochs`] where that cannot be noted.
    pub fn activate(&mut self) -> Result<(), ApplyError> {
        Ok(self.node.epochs.activate(self.lsn)?)
    }

    /// Applies what the other node changed on its own to this one's tree, which lacks nothing before. It is on the disk when
    /// this returns. On an active node it is never done again, wherever it fails or the process ends, since its service may
    /// have written there by then. What cannot be put is not lacked: as long as the other node's changes are not settled, they
    /// are given again.
    ///
    /// # Errors
    /// As [`Self::apply`] and [`Self::checkpoint`].
    pub fn take_in(&mut self, batch: Batch) -> Result<Outcome, ApplyError> {
        if self.node.epochs.was_active() {
            self.node.epochs.activate(self.lsn + 1)?;
        }
        let was_whole = !self.node.epochs.catching_up();
        let taken = self.apply(batch);
        // The number that was noted is not given to a later record.
        self.lsn = self.lsn.max(self.node.epochs.passed());
        let outcome = taken?;
        self.node.store.lack_nothing()?;
        if was_whole {
            self.node.epochs.set_catching_up(false)?;
        }
        self.checkpoint()?;
        Ok(outcome)
    }

    /// Whether acknowledged means on disk.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.sync
    }

    /// Whether what is applied now is brought to disk before it is acknowledged.
    fn is_durable(&self) -> bool {
        self.sync && !self.first
    }

    /// The round that begins brings everything to a node that has no data yet. It counts for nothing before its end, and a
    /// crash before that has the tree looked over and everything compared, so its batches are not synced one by one.
    pub fn begin_first(&mut self) {
        self.first = self.node.index_fresh && self.node.epochs.history().is_empty();
    }

    /// Drops what a session left unfinished.
    pub fn end_session(&mut self) {
        self.incoming.clear(&self.staging);
        self.first = false;
    }

    fn commit(&mut self, record: &Record, slots: &Slots) -> Result<(), ApplyError> {
        if self.is_durable() && !slots.is_empty() {
            self.staging.sync(slots).map_err(ApplyError::Stage)?;
        }
        let body =
            postcard::to_allocvec(record).map_err(|e| ApplyError::Stage(io::Error::other(e)))?;
        let sync = self.is_durable();
        self.node.journal.append(&body, sync)?;
        Ok(())
    }

    fn perform(
        &mut self,
        record: &Record,
        replay: Option<Replay<'_>>,
    ) -> Result<Outcome, ApplyError> {
        self.unsynced = true;
        let sync = self.is_durable();
        self.node.store.begin()?;
        let run =
            Performer::new(&mut self.node, &mut self.staging, replay, sync).run(&record.steps);
        let noted = run.map_err(ApplyError::from).and_then(|outcome| {
            self.node.store.set_number("head", record.head)?;
            self.node.store.set_number("lsn", record.lsn)?;
            // Before the index calls the record done: a crash in between does it again. The other way round the
            // index would stand at a head whose epoch this node does not know, and what is equal would count as its tail.
            if let Some(history) = &record.history {
                self.node.epochs.adopt(history.clone())?;
            }
            if outcome.lacks_more {
                self.node.epochs.set_catching_up(true)?;
            }
            self.node.store.commit()?;
            Ok(outcome)
        });
        let outcome = match noted {
            Ok(outcome) => outcome,
            Err(e) => {
                self.node.store.rollback();
                return Err(e);
            }
        };
        self.lsn = record.lsn;
        if record.history.is_none() {
            self.node.epochs.set_head(record.head);
        }
        Ok(outcome)
    }

    /// Removes the slots of steps that will not be done.
    fn discard(&self, steps: &[(Seq, Step)]) {
        for (path, name) in steps.iter().filter_map(|(_, step)| step.slot()) {
            self.staging.discard(path.root, name);
        }
    }
}

#[cfg(test)]
#[path = "apply/tests.rs"]
pub(super) mod tests;
