//! Answers to what the peer wants in a round, until the round can end.
//!
//! An answer follows from the index and from the file as it is now; where the two disagree the peer lacks the path, and
//! that is remembered until it was sent.

use std::collections::BTreeSet;

use super::acks::MAX_RETRIES;
use super::{Engine, EngineError};
use crate::agent::content::{INLINE_MAX, LastDir, Small, read_steady};
use crate::agent::links::other_names;
use crate::agent::meeting::some_of;
use crate::agent::node::Node;
use crate::agent::round::Want;
use crate::agent::session::{MAX_BATCH_BYTES, PIECE, Phase, Session};
use crate::agent::survey;
use crate::decide::dirty::Touch;
use crate::index::store::{Row, StoreError};
use crate::model::batch::{Content, Op};
use crate::model::entry::{Entry, Kind};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::tree::is_absent;
use crate::wire::message::{Have, Message, Role};

/// Bytes of content after which a piece ends. With one more small file it still is one batch: a small rest behind a large
/// batch would hold everything up until both were acknowledged.
const PIECE_BYTES: u64 = MAX_BATCH_BYTES as u64 * 3 / 4;

/// Debts taken up at a time; the rest follows at the next meeting.
const MAX_DEBTS: usize = 65_536;
/// Paths named in a message.
const TOLD: usize = 5;

/// What answering a want comes to.
enum Reply {
    /// These operations.
    Ops(Vec<(Seq, Op)>),
    /// It is a further name of a file, and becomes one on the peer by this operation once the file itself is there.
    Further((Seq, Op)),
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
        self.bring_trees();
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
            for message in round.step(&mut self.side.node)? {
                session.peer.send(message);
            }
        }
        self.answer_wants()?;
        self.answer_links()?;
        self.settle_round();
        Ok(())
    }

    /// Answers the next wants, as many as make a piece.
    fn answer_wants(&mut self) -> Result<(), EngineError> {
        let wanted = |s: &Session| matches!(&s.phase, Phase::Round(r) if s.may_answer(r));
        if !self.session.as_ref().is_some_and(wanted) {
            return Ok(());
        }
        // What is learned of each file is kept at once for all of them.
        self.side.node.store.begin()?;
        let ops = match self.gather() {
            Ok(ops) => ops,
            Err(e) => {
                self.side.node.store.rollback();
                return Err(e);
            }
        };
        self.side.node.store.commit()?;
        let since = self.hints.now();
        if let Some(session) = &mut self.session {
            session.push(ops, since);
        }
        Ok(())
    }

    /// The operations that answer the next wants.
    fn gather(&mut self) -> Result<Vec<(Seq, Op)>, EngineError> {
        let (mut ops, mut bytes) = (Vec::new(), 0);
        let mut answers = Answers::default();
        for _ in 0..PIECE {
            let Some(session) = &mut self.session else {
                return Ok(ops);
            };
            if !session.may_transfer() || bytes > PIECE_BYTES {
                break;
            }
            let Phase::Round(round) = &mut session.phase else {
                return Ok(ops);
            };
            if session.dry_run {
                // A listing begins with the root itself, unasked; whoever only counts gets nothing.
                round.wants.clear();
            }
            let Some(want) = round.next_want(&mut self.side.node)? else {
                break;
            };
            let alone = session.retried.contains_key(&want.path);
            let reply = answers.reply(&mut self.side.node, &want, alone)?;
            round.links.append(&mut answers.further);
            match reply {
                Reply::Ops(new) => {
                    if want.have == Have::Nothing && new.iter().any(|(_, op)| op.is_dir()) {
                        round.send_whole(want.path);
                    }
                    bytes += new
                        .iter()
                        .map(|(_, op)| op.inline_len() as u64)
                        .sum::<u64>();
                    ops.extend(new);
                }
                Reply::Further(_) => {
                    round.links.insert(want.path);
                }
                Reply::Bulk => self.read_wanted(want),
                Reply::Later => self.changed_meanwhile(want)?,
                Reply::Problem(cause) => self.cannot_read(want.path, &cause)?,
            }
        }
        Ok(ops)
    }

    /// Sends the further names of files, once the files themselves are there.
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
        let (mut ops, mut answers) = (Vec::new(), Answers::default());
        for path in std::mem::take(&mut round.links) {
            let want = Want {
                path,
                have: Have::Nothing,
            };
            match answers.reply(&mut self.side.node, &want, false)? {
                Reply::Ops(new) => ops.extend(new),
                Reply::Further(link) => ops.push(link),
                // No further name of anything any more.
                Reply::Bulk | Reply::Later => self.changed_meanwhile(want)?,
                Reply::Problem(cause) => self.cannot_read(want.path, &cause)?,
            }
        }
        let since = self.hints.now();
        if let Some(session) = &mut self.session {
            session.push(ops, since);
        }
        Ok(())
    }

    /// Ends the round once everything of it was acknowledged.
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
        if !round.not_sent.is_empty() {
            let not_sent = std::mem::take(&mut round.not_sent);
            return self.end_unsettled(&not_sent);
        }
        round.settling = Some(number);
        let unread = std::mem::take(&mut round.unread);
        let history = self.side.node.epochs.history().truncated(round.head);
        session.known_epoch = history.last().map(|e| e.id);
        session.peer.send(Message::Settle {
            number,
            history,
            unread: unread.into_iter().collect(),
        });
    }

    /// A path that is no longer what the index says. On the active node it is looked at again, and sent even if its
    /// row turns out to be right: the round's head will cover the row's number. A passive node has nobody who looks: a file
    /// is sent as it stands there now, and what cannot be sent leaves the round unsettled.
    pub(super) fn changed_meanwhile(&mut self, want: Want) -> Result<(), EngineError> {
        if self.party.role == Role::Active {
            self.peer_lacks(&want.path, 0)?;
            self.carried
                .touch(&self.hints, want.path, Touch::Changed, 0);
            return Ok(());
        }
        if self.gives() {
            return self.cannot_give(&want.path, "it was changed while nobody watched");
        }
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let Phase::Round(round) = &mut session.phase else {
            return Ok(());
        };
        let tries = round.read_again.entry(want.path.clone()).or_insert(0);
        *tries += 1;
        if *tries <= MAX_RETRIES && survey::take_as_it_is(&mut self.side.node, &want.path)? {
            round.wants.push_back(want);
        } else {
            round.not_sent.insert(want.path);
        }
        Ok(())
    }

    /// Ends a session whose round cannot be settled, since this node cannot send some paths that the peer lacks: the peer
    /// must not count as being where this node is.
    fn end_unsettled(&mut self, paths: &BTreeSet<TreePath>) {
        let shown: Vec<_> = paths
            .iter()
            .take(TOLD)
            .map(|p| self.side.node.show(p))
            .collect();
        let shown = some_of(&shown, paths.len() as u64);
        let text = format!(
            "{} cannot send {shown}: removed, replaced or unreadable there while it was not active. Everything else was sent. Put back what is missing, or activate {0}, and what its directories hold is what counts",
            self.party.node,
        );
        if let Some(session) = &self.session {
            session.peer.send(Message::Bye { text: text.clone() });
        }
        self.board.failed(text.clone());
        self.link_down(&text);
    }

    /// A path the peer asked for and this node cannot read: a problem until it can.
    pub(super) fn cannot_read(&mut self, path: TreePath, cause: &str) -> Result<(), EngineError> {
        if self.gives() {
            return self.cannot_give(&path, cause);
        }
        self.board
            .problem(&self.side.node.show(&path), "read", cause);
        if self.party.role != Role::Active
            && let Some(session) = &mut self.session
        {
            session.not_sent([path]);
            return Ok(());
        }
        self.peer_lacks(&path, 0)?;
        // It is to know that it does, should this node be gone when the file can be read.
        if let Some(Phase::Round(round)) = self.session.as_mut().map(|s| &mut s.phase) {
            round.cannot_read(&path);
        }
        self.again.add(path, self.hints.now());
        Ok(())
    }

    /// Has what the peer is owed looked at and sent. Where nobody is there to send it to it gets numbers of its own, so
    /// that it counts as what would be lost now.
    pub(super) fn take_up_debts(&mut self) -> Result<(), StoreError> {
        for path in self.side.node.store.owed(MAX_DEBTS)? {
            self.force.insert(path.clone(), 0);
            self.carried.touch(&self.hints, path, Touch::Changed, 0);
        }
        Ok(())
    }

    /// Notes, across sessions and restarts, that the peer does not have a path whatever its number says: the next look
    /// at it sends it, as what was changed at `since`.
    pub(super) fn peer_lacks(&mut self, path: &TreePath, since: u64) -> Result<(), EngineError> {
        self.side.node.store.owe(path)?;
        self.send_whole(path.clone(), since);
        Ok(())
    }
}

/// What answering wants one after the other needs.
#[derive(Default)]
struct Answers {
    last: LastDir,
    /// Further names of files of which the first one was asked for: the peer may have them as names of the file that goes.
    further: BTreeSet<TreePath>,
}

impl Answers {
    /// What the peer is to be sent for a path it wants.
    fn reply(&mut self, node: &mut Node, want: &Want, alone: bool) -> Result<Reply, EngineError> {
        let path = &want.path;
        let head = node.epochs.history().head();
        let Some(row) = node.store.lookup(path)? else {
            return Ok(Reply::Ops(vec![(head, Op::Delete { path: path.clone() })]));
        };
        let keep = |entry| Reply::Ops(vec![put(&row, path, entry, Content::Keep)]);
        let is_file = row.entry.kind.is_file();
        if is_file && row.entry.kind.size() <= INLINE_MAX {
            return self.small(node, want, &row, alone);
        }
        if let Some(first) = self.first_name(node, path, &row, alone)? {
            let known = node.store.lookup(&first)?.map(|r| r.entry);
            let entry = known.unwrap_or_else(|| row.entry.clone());
            return Ok(Reply::Further(put(&row, path, entry, Content::Link(first))));
        }
        let has_it = want.have == Have::Content && row.entry.kind.hash().is_some();
        Ok(if is_file && !has_it {
            Reply::Bulk
        } else {
            keep(row.entry.clone())
        })
    }

    /// What the peer is to be sent for a small file: its content, unless it has that already.
    fn small(
        &mut self,
        node: &mut Node,
        want: &Want,
        row: &Row,
        alone: bool,
    ) -> Result<Reply, EngineError> {
        let path = &want.path;
        let Small { hash, content } = match read_steady(node, path, &row.stamp, &mut self.last) {
            Ok(Some(small)) => small,
            Ok(None) => return Ok(Reply::Later),
            Err(e) if is_absent(&e) => return Ok(Reply::Later),
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
            node.store.refine(row.id, &entry, &row.stamp)?;
        }
        if let Some(first) = self.first_name(node, path, row, alone)? {
            return Ok(Reply::Further(put(row, path, entry, Content::Link(first))));
        }
        let content = match &want.have {
            Have::Content => Content::Keep,
            Have::Version { hash: theirs, .. } if *theirs == hash => Content::Keep,
            _ => content,
        };
        Ok(Reply::Ops(vec![put(row, path, entry, content)]))
    }

    /// The first name of the file that this row is a further name of. Where it is the first one itself, the further ones are
    /// to follow it: what the peer has under them is the file that it gives up.
    fn first_name(
        &mut self,
        node: &Node,
        path: &TreePath,
        row: &Row,
        alone: bool,
    ) -> Result<Option<TreePath>, EngineError> {
        if alone || row.stamp.nlink < 2 || row.entry.kind.is_dir() {
            return Ok(None);
        }
        let others = other_names(node, path, &row.stamp)?;
        let others: BTreeSet<_> = others.into_iter().map(|(at, _)| at).collect();
        if others.first().is_some_and(|first| first < path) {
            return Ok(others.into_iter().next());
        }
        self.further.extend(others);
        Ok(None)
    }
}

fn put(row: &Row, path: &TreePath, entry: Entry, content: Content) -> (Seq, Op) {
    let path = path.clone();
    let op = Op::Put {
        path,
        entry,
        content,
    };
    (row.seq, op)
}
