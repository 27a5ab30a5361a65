//! Large files: what the bulk thread is given to read, and what becomes of it once it has been read and sent.
//!
//! The tree changes while such a file is read, so every result is held against the index and the session as they are then.

use super::{Engine, EngineError};
use crate::agent::bulk;
use crate::agent::resolve::settle_large;
use crate::agent::round::Want;
use crate::agent::session::{Phase, Session};
use crate::decide::blocks::Blocks;
use crate::decide::dirty::Touch;
use crate::index::store::Row;
use crate::model::batch::{Content, Op};
use crate::model::path::TreePath;
use crate::wire::message::{Have, Message};

/// A file that the bulk thread has to read.
pub(super) struct Reading {
    /// When the change was noticed for which it is read.
    pub since: u64,
    /// When it was noticed that it changed meanwhile: it is looked at again once it was read.
    pub changed: Option<u64>,
}

impl Engine {
    /// Hands a large file to the bulk thread; `trust` where of a file that is known to only grow the end alone is read, until it
    /// is read whole.
    pub(super) fn read_large(&mut self, path: TreePath, trust: bool, since: u64) {
        let Some(root) = self.side.node.root(path.root).map(|r| r.root.clone()) else {
            return;
        };
        let forced = self.force.contains_key(&path);
        let row = self.side.node.store.lookup(&path).ok().flatten();
        let known = row.as_ref().and_then(|r| r.entry.kind.hash());
        let blocks = row.as_ref().and_then(|r| {
            let data = self.side.node.store.blocks(r.id).ok().flatten()?;
            Blocks::decode(&data)
                .ok()
                .filter(|b| Some(b.root()) == known)
        });
        let grows = |r: &Row| self.growth.only_grows(&path, &r.stamp);
        let only_grows = trust && row.as_ref().is_some_and(grows);
        let basis = match (blocks, known) {
            _ if forced => bulk::Basis::None,
            (Some(b), _) => bulk::Basis::Blocks(b),
            (None, Some(hash)) => {
                bulk::Basis::Version(hash, row.as_ref().map_or(0, |r| r.entry.kind.size()))
            }
            (None, None) => bulk::Basis::None,
        };
        let known = row.map(|r| r.stamp);
        let to = self
            .session
            .as_mut()
            .filter(|s| matches!(s.phase, Phase::Live))
            .map(Session::next_transfer);
        self.note_reading(path.clone(), since);
        let job = bulk::Job {
            path,
            root,
            to,
            basis,
            known,
            only_grows,
            since,
            handed: self.hints.now(),
        };
        self.read_by_bulk(job);
    }

    fn note_reading(&mut self, path: TreePath, since: u64) {
        let changed = self.jobs.get(&path).and_then(|r| r.changed);
        self.jobs.insert(path, Reading { since, changed });
    }

    /// Gives the bulk thread a file to read.
    fn read_by_bulk(&self, job: bulk::Job) {
        if self.bulk.jobs.send(job).is_err() {
            self.board
                .failed("the thread that reads large files has ended; restart syncd".into());
        }
    }

    /// The bulk thread is done with a file.
    pub(super) fn bulk_done(
        &mut self,
        job: bulk::Job,
        result: Result<bulk::Read, bulk::Failed>,
    ) -> Result<(), EngineError> {
        if let Some(since) = self.jobs.remove(&job.path).and_then(|r| r.changed) {
            self.carried
                .touch(&self.hints, job.path.clone(), Touch::Writing, since);
        }
        let current = |s: &Session| {
            job.to
                .as_ref()
                .is_some_and(|(p, _)| p.session == s.peer.session)
        };
        let mine = self.session.as_ref().is_some_and(current);
        if mine
            && let Some(session) = &mut self.session
            && session.round_transfer_done(&job)
        {
            return self.round_file(&job, result);
        }
        match result {
            Ok(read) if mine => {
                self.note_growth(&job, &read);
                self.side.node.store.begin()?;
                let ops = match settle_large(&mut self.side.node, &job.path, &read) {
                    Ok(ops) => ops,
                    Err(e) => {
                        self.side.node.store.rollback();
                        return Err(e.into());
                    }
                };
                self.side.node.store.commit()?;
                if ops.is_empty() {
                    // Its directory is gone.
                    self.abandon(read.sent);
                }
                let shown = self.side.node.show(&job.path);
                self.board.solved(&shown);
                if self.force.remove(&job.path).is_some() {
                    self.side.node.store.settle_debt(&job.path)?;
                }
                if let Some(session) = &mut self.session {
                    session.announce(self.side.node.epochs.history());
                    session.push(ops, job.since);
                }
                // What changed while it was on its way is the next version.
                self.carried
                    .touch(&self.hints, job.path, Touch::Writing, job.handed);
            }
            Ok(_) | Err(bulk::Failed::Gone | bulk::Failed::Vanished) => {
                self.carried
                    .touch(&self.hints, job.path, Touch::Changed, job.since);
            }
            Err(bulk::Failed::Unsteady) => {
                let cause = "it changes all the time while it is read; replicate a snapshot or dump of it instead";
                self.board.problem(
                    &self.side.node.show(&job.path),
                    "read a steady version",
                    cause,
                );
                self.again.add(job.path, self.hints.now());
            }
            Err(bulk::Failed::Io(e)) => {
                self.board
                    .problem(&self.side.node.show(&job.path), "read", &e.to_string());
                self.again.add(job.path, self.hints.now());
            }
        }
        Ok(())
    }

    /// What a reading tells of a file's ways.
    fn note_growth(&mut self, job: &bulk::Job, read: &bulk::Read) {
        let (path, stamp) = (&job.path, &read.stamp);
        if !job.is_of(stamp) {
            // Nothing is known of the ways of a file that took another one's name.
            return;
        }
        match (read.sent, &job.basis) {
            (bulk::Sent::Append { whole: true, .. }, _) => self.growth.grew(path, stamp),
            (bulk::Sent::Append { whole: false, .. }, _) => {
                self.growth.doubt(path.clone(), job.since);
            }
            // One that became shorter begins anew.
            (bulk::Sent::Staged(_), bulk::Basis::Blocks(old)) if stamp.size >= old.size() => {
                self.growth.changed_inside(path, stamp);
            }
            _ => {}
        }
    }

    /// Hands a large file that the peer wants in a round to the bulk thread; what the peer has of it is the basis.
    pub(super) fn read_wanted(&mut self, want: Want) {
        let Some(root) = self.side.node.root(want.path.root).map(|r| r.root.clone()) else {
            return;
        };
        let Some(session) = &mut self.session else {
            return;
        };
        if session.round_jobs.contains(&want.path) {
            // It was asked for twice, as what the peer changed and as what it lacks: one answer is enough, and a second
            // one might come when the round is over.
            return;
        }
        let basis = match want.have {
            Have::Version { hash, size } => bulk::Basis::Version(hash, size),
            _ => bulk::Basis::None,
        };
        let to = Some(session.next_transfer());
        session.round_jobs.insert(want.path.clone());
        let since = self.hints.now();
        self.note_reading(want.path.clone(), since);
        let job = bulk::Job {
            path: want.path,
            root,
            to,
            basis,
            known: None,
            only_grows: false,
            since,
            handed: since,
        };
        self.read_by_bulk(job);
    }

    /// Content that arrived at the peer and that no operation will name: its slot there is free.
    fn abandon(&self, sent: bulk::Sent) {
        if let (bulk::Sent::Staged(id) | bulk::Sent::Append { id, .. }, Some(s)) =
            (sent, &self.session)
        {
            s.peer.send(Message::Abandon { id });
        }
    }

    /// A large file of the round was read and sent.
    fn round_file(
        &mut self,
        job: &bulk::Job,
        result: Result<bulk::Read, bulk::Failed>,
    ) -> Result<(), EngineError> {
        let wanted = || Want {
            path: job.path.clone(),
            have: Have::Nothing,
        };
        let read = match result {
            Ok(read) => read,
            Err(bulk::Failed::Io(e)) => {
                return self.cannot_read(job.path.clone(), &e.to_string());
            }
            Err(_) => return self.changed_meanwhile(wanted()),
        };
        let Some(mut row) = self.side.node.store.lookup(&job.path)? else {
            // It was removed meanwhile, and its tombstone is on its way.
            self.abandon(read.sent);
            return Ok(());
        };
        if !row.stamp.is_of(&read.stamp) {
            // The row is older than what was read; the change is on its way through the dirty set.
            self.changed_meanwhile(wanted())?;
            self.abandon(read.sent);
            return Ok(());
        }
        row.entry = read.entry;
        self.side
            .node
            .store
            .update(row.id, &row.entry, &row.stamp, row.seq)?;
        self.side
            .node
            .store
            .set_blocks(row.id, &read.blocks.encode())?;
        let content = match read.sent {
            bulk::Sent::Not => Content::Keep,
            bulk::Sent::Staged(id) => Content::Staged(id),
            bulk::Sent::Append { id, .. } => Content::Append(id),
        };
        let op = Op::Put {
            path: job.path.clone(),
            entry: row.entry,
            content,
        };
        if let Some(session) = &mut self.session {
            session.push(vec![(row.seq, op)], job.since);
        }
        Ok(())
    }
}
