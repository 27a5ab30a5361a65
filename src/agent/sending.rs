//! The engine's side of a session: answering wants, acknowledgements, ends of rounds, comparisons.

use super::bulk;
use super::compare::here;
use super::content::{INLINE_MAX, Small, read_steady};
use super::engine::{Engine, EngineError};
use super::links::first_name;
use super::node::Node;
use super::round::{Round, Want};
use super::session::{Phase, Session};
use crate::decide::dirty::Touch;
use crate::index::store::Row;
use crate::model::batch::{Content, Op};
use crate::model::entry::Kind;
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::wire::control::{Answer, Difference};
use crate::wire::message::{Differs, Have, Message, PathProblem};

/// Wants answered at a time.
const PIECE: usize = 256;
/// Bytes of content read for wants at a time.
const PIECE_BYTES: u64 = 1024 * 1024;
/// Times a path is sent whole on request before it counts as a problem.
const MAX_RETRIES: u32 = 4;

/// What answering a want comes to.
enum Reply {
    /// These operations.
    Ops(Vec<(Seq, Op)>),
    /// The bulk thread reads it.
    Bulk,
    /// It changed meanwhile: the next round or the live stream brings it.
    Later,
    /// It cannot be read.
    Problem(String),
}

impl Engine {
    /// Goes on with a round or a comparison.
    pub(super) fn session_work(&mut self) -> Result<(), EngineError> {
        self.compare_work()?;
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if !session.has_work() || self.paused {
            return Ok(());
        }
        let Phase::Round(round) = &mut session.phase else {
            return Ok(());
        };
        if Session::may_list(round) {
            for message in round.step(&mut self.node)? {
                session.peer.send(message);
            }
        }
        self.answer_wants()?;
        self.answer_links()?;
        self.settle_round();
        Ok(())
    }

    fn answer_wants(&mut self) -> Result<(), EngineError> {
        let mut ops = Vec::new();
        let mut bytes = 0;
        for _ in 0..PIECE {
            let Some(session) = &mut self.session else {
                return Ok(());
            };
            if !session.may_transfer() || bytes > PIECE_BYTES {
                break;
            }
            let Phase::Round(round) = &mut session.phase else {
                return Ok(());
            };
            if session.dry_run {
                // A listing begins with the root itself, unasked; whoever only counts gets nothing.
                round.wants.clear();
            }
            let Some(want) = round.wants.pop_front() else {
                break;
            };
            let alone = session.retried.contains_key(&want.path);
            match reply(&mut self.node, &want, alone)? {
                Reply::Ops(new) => {
                    if let Some((
                        _,
                        Op::Put {
                            content: Content::Link(_),
                            path,
                            ..
                        },
                    )) = new.first()
                    {
                        round.links.push_back(path.clone());
                        continue;
                    }
                    bytes += new
                        .iter()
                        .map(|(_, op)| op.inline_len() as u64)
                        .sum::<u64>();
                    ops.extend(new);
                }
                Reply::Bulk => self.read_wanted(want),
                Reply::Later => self.changed_meanwhile(want.path)?,
                Reply::Problem(cause) => self.cannot_read(want.path, &cause)?,
            }
        }
        let since = self.hints.now();
        if let Some(session) = &mut self.session {
            session.push(ops, since, bytes);
        }
        Ok(())
    }

    /// A path that is no longer what the index says. On the active node it is looked at again, and sent even if its
    /// row turns out to be right: the round's head will cover the row's number. A passive node has nobody who does.
    fn changed_meanwhile(&mut self, path: TreePath) -> Result<(), EngineError> {
        if self.party.role == crate::wire::message::Role::Active {
            self.peer_lacks(&path)?;
            self.carried.touch(&self.hints, path, Touch::Changed, 0);
        } else {
            let cause = "it was changed on this node, which is not active; nothing of it was sent";
            self.board.problem(&self.node.show(&path), "send", cause);
        }
        Ok(())
    }

    /// A path the peer asked for and this node cannot read: a problem until it can.
    fn cannot_read(&mut self, path: TreePath, cause: &str) -> Result<(), EngineError> {
        self.board.problem(&self.node.show(&path), "read", cause);
        self.peer_lacks(&path)?;
        self.again.insert(path);
        Ok(())
    }

    /// Notes, across sessions and restarts, that the peer does not have a path whatever its number says: the next look
    /// at it sends it.
    fn peer_lacks(&mut self, path: &TreePath) -> Result<(), EngineError> {
        self.node.store.owe(path)?;
        self.force.insert(path.clone());
        Ok(())
    }

    fn answer_links(&mut self) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let can = matches!(&session.phase, Phase::Round(round) if session.can_link(round));
        let Phase::Round(round) = &mut session.phase else {
            return Ok(());
        };
        if !can {
            return Ok(());
        }
        let mut ops = Vec::new();
        for path in round.links.drain(..).collect::<Vec<_>>() {
            let want = Want {
                path,
                have: Have::Nothing,
            };
            match reply(&mut self.node, &want, false)? {
                Reply::Ops(new) => ops.extend(new),
                // No further name of anything any more.
                Reply::Bulk | Reply::Later => self.changed_meanwhile(want.path)?,
                Reply::Problem(cause) => self.cannot_read(want.path, &cause)?,
            }
        }
        let since = self.hints.now();
        if let Some(session) = &mut self.session {
            session.push(ops, since, 0);
        }
        Ok(())
    }

    fn settle_round(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        if !matches!(&session.phase, Phase::Round(round) if session.can_settle(round)) {
            return;
        }
        let number = session.next_number();
        let Phase::Round(round) = &mut session.phase else {
            return;
        };
        round.settling = Some(number);
        let history = self.node.epochs.history().truncated(round.head);
        session.known_epoch = history.last().map(|e| e.id);
        session.peer.send(Message::Settle { number, history });
    }

    fn read_wanted(&mut self, want: Want) {
        let Some(root) = self.node.root(want.path.root).map(|r| r.root.clone()) else {
            return;
        };
        let Some(session) = &mut self.session else {
            return;
        };
        let basis = match want.have {
            Have::Version { hash, size } => bulk::Basis::Version(hash, size),
            _ => bulk::Basis::None,
        };
        let to = Some(session.next_transfer());
        session.round_jobs.insert(want.path.clone());
        let since = self.hints.now();
        self.jobs.insert(want.path.clone(), since);
        let job = bulk::Job {
            path: want.path,
            root,
            to,
            basis,
            may_append: false,
            since,
        };
        if self.bulk.jobs.send(job).is_err() {
            self.board
                .failed("the thread that reads large files has ended; restart syncd".into());
        }
    }

    /// A large file of the round was read and sent.
    pub(super) fn round_file(
        &mut self,
        job: &bulk::Job,
        result: Result<bulk::Read, bulk::Failed>,
    ) -> Result<(), EngineError> {
        let read = match result {
            Ok(read) => read,
            Err(bulk::Failed::Io(e)) => {
                return self.cannot_read(job.path.clone(), &e.to_string());
            }
            Err(_) => return self.changed_meanwhile(job.path.clone()),
        };
        let Some(mut row) = self.node.store.lookup(&job.path)? else {
            return Ok(());
        };
        if !row.stamp.is_of(&read.stamp) {
            // The row is older than what was read; the change is on its way through the dirty set.
            self.changed_meanwhile(job.path.clone())?;
            if let (bulk::Sent::Staged(id) | bulk::Sent::Append(id), Some(s)) =
                (read.sent, &self.session)
            {
                s.peer.send(Message::Abandon { id });
            }
            return Ok(());
        }
        row.entry = read.entry;
        self.node
            .store
            .update(row.id, &row.entry, &row.stamp, row.seq)?;
        self.node.store.set_blocks(row.id, &read.blocks.encode())?;
        let content = match read.sent {
            bulk::Sent::Not => Content::Keep,
            bulk::Sent::Staged(id) => Content::Staged(id),
            bulk::Sent::Append(id) => Content::Append(id),
        };
        let op = Op::Put {
            path: job.path.clone(),
            entry: row.entry,
            content,
        };
        if let Some(session) = &mut self.session {
            session.push(vec![(row.seq, op)], job.since, read.blocks.size());
        }
        Ok(())
    }

    pub(super) fn acked(
        &mut self,
        number: u64,
        wants: Vec<TreePath>,
        problems: Vec<PathProblem>,
    ) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let settled = matches!(&session.phase, Phase::Round(r) if r.settling == Some(number));
        let mut since = 0;
        if let Some(flight) = session.flights.remove(&number) {
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
                for path in flight
                    .paths
                    .iter()
                    .filter(|p| !problems.iter().any(|q| q.path == **p))
                {
                    let shown = self.node.show(path);
                    self.board.solved(&shown);
                }
            }
        } else if !settled {
            return Ok(());
        }
        for path in wants {
            self.wanted_whole(path, since)?;
        }
        for p in problems {
            let shown = self.node.show(&p.path);
            self.board.problem(
                &shown,
                &format!("{} on {}", p.operation, self.party.peer),
                &p.cause,
            );
            self.peer_lacks(&p.path)?;
            self.again.insert(p.path);
        }
        if settled {
            self.round_settled()?;
        } else if matches!(self.session.as_ref().map(|s| &s.phase), Some(Phase::Live)) {
            let head = self.session.as_ref().map_or(0, |s| s.peer_head);
            if self.session.as_ref().is_some_and(|s| s.flights.is_empty()) {
                self.node.store.forget_tombs(head)?;
            }
        }
        Ok(())
    }

    /// The peer cannot build a path, changed at `since`, from what it has: it gets the content whole.
    fn wanted_whole(&mut self, path: TreePath, since: u64) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let tries = session.retried.entry(path.clone()).or_insert(0);
        *tries += 1;
        tracing::debug!("{}: the peer needs it whole", self.node.show(&path));
        if *tries > MAX_RETRIES {
            let cause = "the peer refused the content repeatedly; run syncctl verify";
            self.board.problem(&self.node.show(&path), "send", cause);
            self.peer_lacks(&path)?;
            self.again.insert(path);
            return Ok(());
        }
        match &mut session.phase {
            Phase::Round(round) => {
                round.wants.push_back(Want {
                    path: path.clone(),
                    have: Have::Nothing,
                });
                let row = self.node.store.lookup(&path)?;
                if row.is_some_and(|r| r.stamp.nlink > 1 && !r.entry.kind.is_dir()) {
                    // Sent whole it is a file of its own there; its other names join it once the round is over.
                    self.node.store.owe(&path)?;
                    session.parted.insert(path);
                }
            }
            _ => {
                self.peer_lacks(&path)?;
                // A directory that could not be moved lacks everything below it.
                self.force_below(&path, since)?;
                self.carried.touch(&self.hints, path, Touch::Changed, since);
            }
        }
        Ok(())
    }

    /// Everything below a directory is sent whole.
    fn force_below(&mut self, path: &TreePath, since: u64) -> Result<(), EngineError> {
        let Some(id) = self.node.store.dir_id(path)? else {
            return Ok(());
        };
        let Some((row, _)) = self.node.store.by_id(id)? else {
            return Ok(());
        };
        if !row.entry.kind.is_dir() {
            return Ok(());
        }
        let mut stack = vec![(path.clone(), id)];
        while let Some((dir, id)) = stack.pop() {
            for (name, row) in self.node.store.children(id, None, usize::MAX >> 1)? {
                let Ok(rel) = dir.path.join(&name) else {
                    continue;
                };
                let at = TreePath::new(dir.root, rel);
                self.force.insert(at.clone());
                self.carried
                    .touch(&self.hints, at.clone(), Touch::Changed, since);
                if row.entry.kind.is_dir() {
                    stack.push((at, row.id));
                }
            }
        }
        Ok(())
    }

    fn round_settled(&mut self) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::Round(round) = &session.phase else {
            return Ok(());
        };
        let stood = round.head;
        session.peer_head = stood;
        self.acked = stood;
        let head = self.node.epochs.history().head();
        self.board.update(|s| s.peer.acked_sequence = stood);
        if head > stood {
            session.begin(&self.node, stood, false, false, &[]);
            return Ok(());
        }
        self.live()
    }

    pub(super) fn failed(&mut self, number: u64, cause: &str) {
        let text = format!("{} could not take batch {number}: {cause}", self.party.peer);
        self.board.failed(text.clone());
        // Nothing of it was applied; the next session begins where the peer stands.
        self.link_down(&text);
        let _ = self.down.send(());
    }

    /// What the index holds and the peer has not acknowledged counts as pending while no session is live.
    fn count_unsent(
        &mut self,
        paths: &mut u64,
        bytes: &mut u64,
        oldest: Option<u64>,
    ) -> Option<u64> {
        if self
            .session
            .as_ref()
            .is_some_and(|s| matches!(s.phase, Phase::Live))
        {
            self.unsent = (0, None);
            return oldest;
        }
        let behind = self.node.epochs.history().head().saturating_sub(self.acked);
        if behind == 0 {
            return oldest;
        }
        *paths += behind;
        *bytes += self.unsent.0;
        let since = *self.unsent.1.get_or_insert_with(|| self.hints.now());
        Some(oldest.map_or(since, |o| o.min(since)))
    }

    /// Remembers how far the peer has everything, for the status of the time without it.
    pub(super) fn note_acked(&mut self, head: Seq) {
        self.acked = self.acked.max(head);
        if let Err(e) = self.node.store.set_number("acked", self.acked) {
            tracing::warn!("{e}");
        }
    }

    /// Starts a comparison of both trees.
    pub(super) fn begin_compare(&mut self, quick: bool) -> Option<Round> {
        let session = self
            .session
            .as_mut()
            .filter(|s| matches!(s.phase, Phase::Live))?;
        session.peer.send(Message::Compare { quick });
        Some(Round::new(&self.node, 0, true, &[]))
    }

    fn compare_work(&mut self) -> Result<(), EngineError> {
        let room = self.session.as_ref().is_some_and(|s| s.peer.waiting() < 64);
        let Some((quick, mut round)) = self.commands.take_comparison(room) else {
            return Ok(());
        };
        let mut paths = 0;
        for mut message in round.step(&mut self.node)? {
            if let Message::Listing { dir, entries, .. } = &mut message {
                paths += entries.len() as u64;
                let mut fresh = Vec::with_capacity(entries.len());
                for mut named in entries.drain(..) {
                    let Ok(path) = dir.path.join(&named.name) else {
                        continue;
                    };
                    // The truth is what stands in the tree, not what the index believes.
                    if let Some((entry, _)) =
                        here(&mut self.node, &TreePath::new(dir.root, path), quick)?
                    {
                        named.entry = entry;
                        fresh.push(named);
                    }
                }
                *entries = fresh;
            }
            if let Some(session) = &self.session {
                session.peer.send(message);
            }
        }
        round.wants.clear();
        self.commands.put_comparison(quick, round, paths);
        Ok(())
    }

    pub(super) fn differences(&mut self, paths: Vec<Differs>) {
        for Differs { path, what } in paths {
            let root = self
                .node
                .root(path.root)
                .map_or(String::new(), |r| r.root.name.clone());
            self.commands.difference(Answer::Difference(Difference {
                root,
                path: path.path.to_string(),
                what,
            }));
            // Looking again at what differs mends it.
            self.force.insert(path.clone());
            self.again.insert(path);
        }
    }

    /// Tells the board what would be lost now, and whether somebody's flush is done.
    pub(super) fn after_work(&mut self) {
        let flights = self.session.iter().flat_map(|s| s.flights.values());
        let (mut paths, mut bytes, mut oldest) =
            (self.jobs.len() as u64, 0, self.jobs.values().min().copied());
        for f in flights {
            paths += f.paths.len() as u64;
            bytes += f.bytes;
            oldest = Some(oldest.map_or(f.since, |o: u64| o.min(f.since)));
        }
        paths += self.again.len() as u64 + self.doubtful.len() as u64;
        let scanning = !self.scanner.is_idle();
        oldest = self.count_unsent(&mut paths, &mut bytes, oldest);
        self.board.hold(paths, bytes, oldest);
        let (head, epoch) = {
            let h = self.node.epochs.history();
            (h.head(), h.last().map_or(0, |e| e.number))
        };
        let live = matches!(self.session.as_ref().map(|s| &s.phase), Some(Phase::Live));
        let behind = if live {
            0
        } else {
            head.saturating_sub(self.acked)
        };
        self.board.update(|s| {
            s.sequence = head;
            s.epoch = epoch;
            s.pending.scanning = scanning;
        });
        if self.commands.is_flushing() {
            for (path, since) in std::mem::take(&mut self.doubtful) {
                self.read_large(path, false, since);
            }
            // Nothing of a held root is sent, so no flush can promise anything about it.
            if let Some(why) = self.look_at_roots() {
                self.commands.refuse_flush(&why);
            }
            let first = [oldest, self.hints.pending().1, self.carried.oldest()];
            let first = first.into_iter().flatten().min();
            let quiet = live && !scanning && behind == 0 && self.force.is_empty();
            self.commands.check_flush(quiet, first, &self.unreachable);
        }
        self.commands.expire(&self.unreachable, live);
    }
}

/// What the peer is to be sent for a path it wants.
fn reply(node: &mut Node, want: &Want, alone: bool) -> Result<Reply, EngineError> {
    let path = &want.path;
    let head = node.epochs.history().head();
    let Some(row) = node.store.lookup(path)? else {
        return Ok(Reply::Ops(vec![(head, Op::Delete { path: path.clone() })]));
    };
    let put = |entry, content| {
        Reply::Ops(vec![(
            row.seq,
            Op::Put {
                path: path.clone(),
                entry,
                content,
            },
        )])
    };
    if !row.entry.kind.is_file() {
        if let Some(first) = linked(node, &row, alone)? {
            return Ok(put(row.entry.clone(), Content::Link(first)));
        }
        return Ok(put(row.entry.clone(), Content::Keep));
    }
    if row.entry.kind.size() > INLINE_MAX {
        if let Some(first) = linked(node, &row, alone)? {
            let known = node.store.lookup(&first)?.map(|r| r.entry);
            return Ok(put(
                known.unwrap_or(row.entry.clone()),
                Content::Link(first),
            ));
        }
        return Ok(
            if want.have == Have::Content && row.entry.kind.hash().is_some() {
                put(row.entry.clone(), Content::Keep)
            } else {
                Reply::Bulk
            },
        );
    }
    small(node, want, &row, alone)
}

fn small(node: &mut Node, want: &Want, row: &Row, alone: bool) -> Result<Reply, EngineError> {
    let path = &want.path;
    let Small { hash, content } = match read_steady(node, path, &row.stamp) {
        Ok(Some(small)) => small,
        Ok(None) => return Ok(Reply::Later),
        Err(e) if crate::sys::tree::is_absent(&e) => return Ok(Reply::Later),
        Err(e) => return Ok(Reply::Problem(e.to_string())),
    };
    if row.entry.kind.hash().is_some_and(|h| h != hash) {
        return Ok(Reply::Later);
    }
    let mut entry = row.entry.clone();
    entry.kind = Kind::File {
        size: row.stamp.size,
        hash: Some(hash),
    };
    if row.entry.kind.hash().is_none() {
        node.store.update(row.id, &entry, &row.stamp, row.seq)?;
    }
    let content = match (linked(node, row, alone)?, &want.have) {
        (Some(first), _) => Content::Link(first),
        (None, Have::Content) => Content::Keep,
        (None, Have::Version { hash: theirs, .. }) if *theirs == hash => Content::Keep,
        (None, _) => content,
    };
    Ok(Reply::Ops(vec![(
        row.seq,
        Op::Put {
            path: path.clone(),
            entry,
            content,
        },
    )]))
}

/// The first name of a file this row is a further name of.
fn linked(node: &Node, row: &Row, alone: bool) -> Result<Option<TreePath>, EngineError> {
    if alone || row.stamp.nlink < 2 {
        return Ok(None);
    }
    Ok(first_name(node, row)?)
}
