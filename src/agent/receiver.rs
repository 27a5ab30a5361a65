//! A session in which this node receives.
//!
//! It answers listings with what it lacks, stages transfers, applies batches and acknowledges them. What this
//! node changed on its own after the common past (its unreplicated tail) is asked for again, so that the sender's state
//! replaces it; the local version is preserved when it is overwritten.

mod going;
mod listing;
mod order;
mod signature;
mod strays;
mod unseen;

use std::sync::Arc;
use std::time::Instant;

use self::going::Going;
use self::order::{Order, out_of_place};
use self::strays::Missing;
use super::apply::{ApplyError, Receiving};
use super::board::Board;
use super::compare::Comparison;
use super::incoming::Broken;
use super::peer::Peer;
use super::perform::Outcome;
use super::survey::note_whether_all_was_seen;
use super::unseen::SEEN;
use crate::model::batch::Lacked;
use crate::model::epoch::{History, Seq};
use crate::model::path::TreePath;
use crate::wire::control::ResyncReport;
use crate::wire::message::{Message, Named, Range};

/// Names in one want.
const PAGE: usize = 1024;
/// Most bytes of answers that the peer has not taken: more than the longest signature has.
const MAX_BACKLOG: u64 = 128 * 1024 * 1024;

/// What a message led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// More to come.
    Go,
    /// A round ended: this node stands where the sender stood when it began.
    CaughtUp,
    /// The session is over, and why.
    End(String),
    /// The sender refuses to go on: exit code and sentence.
    Refused(u8, String),
}

/// The receiving side of a session.
pub struct Receiver {
    /// The tree and its state.
    pub side: Receiving,
    peer: Peer,
    board: Arc<Board>,
    since: Seq,
    dry_run: bool,
    order: Order,
    going: Going,
    /// What the sender lacks of this node's changes, until a round begins.
    peer_lacks: Vec<Lacked>,
    /// A round was settled, and no other one begun.
    is_live: bool,
    /// What a full round finds to be missing.
    missing: Option<Missing>,
    comparison: Option<Comparison>,
    /// What was done so far.
    pub report: ResyncReport,
    started: Instant,
}

impl Receiver {
    /// Begins; `since` is the last sequence number both share.
    #[must_use]
    pub fn new(side: Receiving, peer: Peer, board: Arc<Board>, since: Seq) -> Self {
        let (comparison, report) = (None, ResyncReport::default());
        let going = Going::new(&side.node.state_dir);
        let order = Order::new(since);
        Self {
            side,
            peer,
            board,
            since,
            dry_run: false,
            order,
            going,
            missing: None,
            peer_lacks: Vec::new(),
            is_live: false,
            comparison,
            report,
            started: Instant::now(),
        }
    }

    /// The sender never could take these changes of this node's: they make way as what nobody else has.
    pub fn not_taken(&mut self, what: Vec<Lacked>) {
        self.peer_lacks = what;
    }

    /// Number of the session.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.peer.session
    }

    /// What a dry run found.
    #[must_use]
    pub fn dry_report(&self) -> ResyncReport {
        ResyncReport {
            deletes: self.going.count(),
            ..self.report.clone()
        }
    }

    /// Gives the tree back when the session is over.
    #[must_use]
    pub fn finish(mut self) -> Receiving {
        self.side.end_session();
        if let Err(e) = self.side.checkpoint() {
            // Its records stay; whoever holds the tree next tries again.
            tracing::warn!("{e}");
        }
        self.side
    }

    /// Handles one message.
    ///
    /// # Errors
    /// [`ApplyError`] where this node's state fails: the session must end.
    pub fn handle(&mut self, message: Message) -> Result<Next, ApplyError> {
        if let Err(why) = self.order.take(&message) {
            return Ok(Next::End(why));
        }
        if self.peer.backlog() > MAX_BACKLOG {
            return Ok(Next::End(
                "the peer takes nothing of what it asked for".into(),
            ));
        }
        let next = self.take(message)?;
        let store = &self.side.node.store;
        if self.going.is_too_much(|| store.count())? {
            return Ok(Next::End("too many deletions in one round".into()));
        }
        Ok(next)
    }

    fn take(&mut self, message: Message) -> Result<Next, ApplyError> {
        match message {
            Message::Begin {
                since,
                full,
                dry_run,
            } => self.begin(since, full, dry_run)?,
            Message::Listing {
                dir,
                exact,
                entries,
            } => self.listed_names(&dir, exact.as_ref(), entries)?,
            Message::Gone { paths } => self.gone(paths)?,
            Message::Listed => self.listed()?,
            Message::Settle {
                number,
                history,
                unread,
            } => {
                let count = self.going.count();
                let mut outcome = self.settle(&unread, history)?;
                outcome.problems.extend(self.unseen());
                self.show(&[], &outcome);
                let node = &mut self.side.node;
                if node.unseen.is_empty() {
                    node.index_is_complete()?;
                    node.unseen.looked_for_strays();
                    note_whether_all_was_seen(node)?;
                }
                self.side.came_whole()?;
                self.side.age()?;
                self.report.deletes += count;
                self.count(&outcome);
                self.peer.send(Message::Ack {
                    number,
                    wants: outcome.wants,
                    problems: outcome.problems,
                });
                self.tell();
                self.is_live = true;
                return Ok(Next::CaughtUp);
            }
            Message::Batch(batch) => return self.batch(batch),
            Message::Transfer {
                id,
                path,
                form,
                size,
                sparse,
            } => {
                let Receiving {
                    node,
                    staging,
                    incoming,
                    ..
                } = &mut self.side;
                let begun = incoming.begin(node, staging, id, &path, &form, (size, sparse));
                return Ok(self.transferred(begun));
            }
            Message::Chunk { id, offset, data } => {
                self.report.bytes += data.len() as u64;
                let Receiving {
                    incoming, staging, ..
                } = &mut self.side;
                let taken = incoming.chunk(staging, id, offset, &data);
                return Ok(self.transferred(taken));
            }
            Message::TransferEnd { id, hash } => {
                let ended = self.side.incoming.end(&mut self.side.staging, id, hash);
                return Ok(self.transferred(ended));
            }
            Message::Abandon { id } => self.side.incoming.give_up(&self.side.staging, id),
            Message::AskSignature { path } => self.signature(&path, Receiver::version),
            Message::AskPart { path } => self.signature(&path, Receiver::part),
            Message::Compare { quick } => self.comparison = Some(Comparison::new(quick)),
            Message::Bye { text } => return Ok(Next::End(text)),
            Message::Refuse { code, text } => return Ok(Next::Refused(code, text)),
            other => return Ok(Next::End(out_of_place(&other))),
        }
        Ok(Next::Go)
    }

    /// Ends a round: what is to go is deleted, then this node's data is `history`'s.
    fn settle(&mut self, unread: &[TreePath], history: History) -> Result<Outcome, ApplyError> {
        let mut going = self.going.take().map_err(ApplyError::Stage)?;
        let mut all = Outcome::default();
        while let Some(page) = going.next().map_err(ApplyError::Stage)? {
            let done = self.side.delete(&page, self.since, history.head())?;
            self.show(&page, &done);
            all.add(done);
        }
        let last = going.last();
        let done = self.side.settle(&last, unread, history)?;
        self.show(&last, &done);
        all.add(done);
        Ok(all)
    }

    fn count(&mut self, outcome: &Outcome) {
        self.report.preserved += outcome.preserved;
        self.report.problems += outcome.problems.len() as u64;
        if outcome.preserved > 0 {
            self.board.bell().ring();
        }
    }

    /// Takes in a part of a directory. What is learned of this node's own files is kept at once for all of them.
    fn listed_names(
        &mut self,
        dir: &TreePath,
        exact: Option<&Range>,
        entries: Vec<Named>,
    ) -> Result<(), ApplyError> {
        self.side.node.store.begin()?;
        let done = match &mut self.comparison {
            Some(c) => c
                .listing(&mut self.side.node, dir, exact, &entries)
                .map_err(ApplyError::from),
            None => self.listing(dir, exact, entries),
        };
        if let Err(e) = done {
            self.side.node.store.rollback();
            return Err(e);
        }
        self.side.node.store.commit()?;
        let found = self.comparison.as_mut().map(Comparison::take);
        for page in found.unwrap_or_default().chunks(PAGE) {
            self.peer.send(Message::Differences {
                paths: page.to_vec(),
            });
        }
        Ok(())
    }

    /// Shows what could not be done, and no longer what now was.
    fn show(&self, paths: &[TreePath], outcome: &Outcome) {
        let node = &self.side.node;
        if self.board.has_problems() {
            paths.iter().for_each(|p| self.board.solved(&node.show(p)));
        }
        for p in &outcome.problems {
            self.board
                .problem(&node.show(&p.path), &p.operation, &p.cause);
        }
    }

    fn tell(&mut self) {
        let (sent, received) = self.peer.bytes();
        let operations = self.report.puts + self.report.deletes;
        let content = self.report.bytes;
        self.board.update(|s| {
            self.side.node.show_position(s);
            s.totals.sent_bytes = sent;
            s.totals.received_bytes = received;
            s.totals.operations = operations;
            s.totals.content_bytes = content;
        });
        self.report.elapsed_ms =
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    }

    fn begin(&mut self, since: Seq, full: bool, dry_run: bool) -> Result<(), ApplyError> {
        self.since = since;
        self.is_live = false;
        self.dry_run = dry_run;
        self.going.clear();
        self.missing = full.then(Missing::default);
        self.comparison = None;
        self.board.update(|s| s.peer.state = "catching-up".into());
        if !dry_run && (full || since < self.side.node.epochs.history().head()) {
            self.side.node.epochs.set_catching_up(true)?;
        }
        if full && !dry_run {
            // Everything is compared, and what cannot be done is noted anew.
            self.side.node.store.lack_nothing()?;
            for r in &self.side.node.roots {
                self.board.solved_below(&r.root.name);
            }
            self.side.begin_first();
        }
        if dry_run {
            Ok(())
        } else {
            self.ask_for_tail(since)
        }
    }

    fn gone(&mut self, paths: Vec<TreePath>) -> Result<(), ApplyError> {
        for path in paths {
            if self.side.node.store.lookup(&path)?.is_some() && !path.path.is_root() {
                if let Some(missing) = &mut self.missing {
                    missing.told(&path);
                }
                self.going.add(path).map_err(ApplyError::Stage)?;
            }
        }
        Ok(())
    }

    fn listed(&mut self) -> Result<(), ApplyError> {
        if let Some(c) = self.comparison.take() {
            self.peer.send(Message::Compared { paths: c.paths() });
            return Ok(());
        }
        let deletes = self.going.count();
        self.peer.send(Message::Asked {
            puts: self.report.puts,
            deletes,
            bytes: self.report.bytes,
            strays: match &self.missing {
                Some(missing) => missing.strays(&mut self.side.node)?,
                None => Vec::new(),
            },
        });
        Ok(())
    }

    /// A broken transfer is asked for again when its put arrives; only a full disk ends the session.
    fn transferred(&self, result: Result<(), Broken>) -> Next {
        match result {
            Ok(()) | Err(Broken::Want) => Next::Go,
            Err(Broken::Stage(e)) => {
                // What they take may be what is lacking.
                self.side.staging.drop_parts();
                Next::End(format!("cannot stage a file: {e}"))
            }
        }
    }

    fn batch(&mut self, batch: crate::model::batch::Batch) -> Result<Next, ApplyError> {
        let number = batch.number;
        let paths = if self.board.has_problems() || !self.side.node.unseen.is_empty() {
            batch.ops.iter().map(|(_, op)| op.path().clone()).collect()
        } else {
            Vec::new()
        };
        let puts = batch.ops.len() as u64;
        let inline: u64 = batch.ops.iter().map(|(_, op)| op.inline_len() as u64).sum();
        match self.side.apply(batch) {
            Ok(mut outcome) => {
                if self.is_live {
                    outcome.wants.extend(self.side.lacked_trees()?);
                    self.side.age()?;
                }
                self.report.puts += puts;
                self.report.bytes += inline;
                let seen = self.look_again(&paths, &mut outcome)?;
                self.count(&outcome);
                self.show(&paths, &outcome);
                self.peer.send(Message::Ack {
                    number,
                    wants: outcome.wants,
                    problems: outcome.problems,
                });
                self.tell();
                Ok(if seen {
                    Next::End(SEEN.into())
                } else {
                    Next::Go
                })
            }
            Err(ApplyError::Stage(e)) => {
                tracing::error!("a batch could not be staged: {e}");
                self.board.failed(format!("cannot stage a batch: {e}"));
                self.peer.send(Message::Failed {
                    number,
                    cause: e.to_string(),
                });
                Ok(Next::Go)
            }
            Err(other) => Err(other),
        }
    }
}
