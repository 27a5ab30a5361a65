//! The engine: one thread that owns a node's state while it sends.
//!
//! It takes events (hints, messages, results of the bulk thread, commands), does one small piece of work at a
//! time and looks for events again, so nothing ever waits long. What it sends is bounded by what the
//! peer has not acknowledged. On the active node it follows the watcher; on a node that is not active it only answers a
//! peer that is behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::board::Board;
use super::bulk;
use super::commands::Commands;
use super::hints::{Carried, Hints};
use super::links::Departed;
use super::meeting::{Course, DIVERGED, Party, diverged, hello, judge};
use super::node::Node;
use super::peer::Peer;
use super::resolve::{ResolveError, Resolver, settle_large};
use super::roots::{Fitness, Roots};
use super::scan::Scanner;
use super::scrub::Scrub;
use super::session::{Phase, Session};
use crate::decide::blocks::Blocks;
use crate::decide::dirty::Touch;
use crate::index::store::StoreError;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::sys::watch;
use crate::wire::control::{Answer, Request};
use crate::wire::message::{Message, Role};

/// Hints resolved at a time.
const PIECE: usize = 1024;
/// Time after which paths with problems, unsteady files and doubtful ones are looked at again.
const RETRY: Duration = Duration::from_secs(2);

/// Where the answers to a command go.
pub type Replies = mpsc::UnboundedSender<Answer>;

/// What the engine is told.
pub enum Event {
    /// The watcher noted something.
    Wake,
    /// The peer's stream was handed to this process.
    LinkUp(Peer),
    /// A stream this process dialled is up.
    Dialled(Peer),
    /// A message of a session.
    Peer {
        /// The session.
        session: u64,
        /// The message.
        message: Message,
    },
    /// A session ended, and why.
    LinkDown {
        /// The session.
        session: u64,
        /// Why.
        why: String,
    },
    /// The bulk thread is done with a file.
    Bulk(Box<(bulk::Job, Result<bulk::Read, bulk::Failed>)>),
    /// A command, and where its answers go.
    Command(Request, Replies),
    /// The process is to end.
    Stop,
}

/// Why the engine stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Index or history failed while resolving.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// The engine.
pub struct Engine {
    /// The node's state.
    pub node: Node,
    pub(super) hints: Arc<Hints>,
    pub(super) board: Arc<Board>,
    pub(super) party: Party,
    pub(super) session: Option<Session>,
    pub(super) scanner: Scanner,
    pub(super) bulk: bulk::Handle,
    pub(super) jobs: BTreeMap<TreePath, u64>,
    pub(super) force: BTreeSet<TreePath>,
    departed: Departed,
    pub(super) carried: Carried,
    pub(super) commands: Commands,
    pub(super) roots: Roots,
    /// Paths to look at again at the next retry.
    pub(super) again: BTreeSet<TreePath>,
    /// Files of which only the end was read; verified once they are quiet.
    pub(super) doubtful: BTreeMap<TreePath, u64>,
    /// When the oldest change was noticed that the scans under way may find.
    scan_since: Option<u64>,
    pub(super) paused: bool,
    retry_at: Instant,
    scrub: Scrub,
    /// Sessions ended since, for the one who dials.
    pub(super) down: mpsc::UnboundedSender<()>,
    pub(super) unreachable: String,
    /// The first scan is done, so the index is complete.
    scanned: bool,
    /// The peer's hello, if it came before that.
    met_early: Option<Box<crate::wire::message::Hello>>,
    /// Sequence number the peer acknowledged last, in this session or an earlier one.
    pub(super) acked: u64,
    /// Bytes of changed files noted while no session was live, and since when.
    pub(super) unsent: (u64, Option<u64>),
}

/// What the engine works with.
pub struct Parts {
    /// The node's state.
    pub node: Node,
    /// The dirty set.
    pub hints: Arc<Hints>,
    /// The status.
    pub board: Arc<Board>,
    /// Names and role.
    pub party: Party,
    /// The bulk thread.
    pub bulk: bulk::Handle,
    /// When both trees are compared in the background.
    pub scrub: Scrub,
    /// Rung when a session ended.
    pub down: mpsc::UnboundedSender<()>,
}

impl Engine {
    /// An engine; an active one scans its trees first.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            node,
            hints,
            board,
            party,
            bulk,
            scrub,
            down,
        } = parts;
        let roots = Roots::new(&node);
        let mut engine = Self {
            node,
            hints,
            board,
            party,
            session: None,
            scanner: Scanner::default(),
            bulk,
            jobs: BTreeMap::new(),
            force: BTreeSet::new(),
            departed: Departed::default(),
            carried: Carried::default(),
            commands: Commands::default(),
            roots,
            again: BTreeSet::new(),
            doubtful: BTreeMap::new(),
            scan_since: None,
            paused: false,
            retry_at: Instant::now() + RETRY,
            scrub,
            down,
            unreachable: "not connected yet".into(),
            scanned: true,
            met_early: None,
            acked: 0,
            unsent: (0, None),
        };
        engine.acked = engine.node.store.number("acked").unwrap_or(0);
        if engine.party.role == Role::Active {
            engine.scanned = false;
            engine.scan_all();
        }
        engine
    }

    /// Asks for a scan of every root.
    pub fn scan_all(&mut self) {
        for i in 0..self.node.roots.len() {
            self.scanner
                .push(TreePath::new(self.node.roots[i].root.id, RelPath::root()));
        }
    }

    /// Works until told to stop; a passive engine also stops when its session ends.
    ///
    /// # Errors
    /// [`EngineError`] where the node's own state fails.
    pub fn run(
        mut self,
        events: &mut mpsc::Receiver<Event>,
        rt: &tokio::runtime::Handle,
    ) -> Result<Node, EngineError> {
        loop {
            let event = if self.is_busy() {
                events.try_recv().ok()
            } else {
                let wait = self.idle_for();
                rt.block_on(async { tokio::time::timeout(wait, events.recv()).await })
                    .ok()
                    .flatten()
            };
            if let Some(event) = event {
                let stop = matches!(event, Event::Stop);
                let over = self.handle(event)?;
                if stop || (over && self.party.role == Role::Standby) {
                    break;
                }
            }
            self.listen();
            self.work()?;
            self.after_work();
        }
        if let Some(s) = self.session.take() {
            s.peer.send(Message::Bye {
                text: format!("{} stops", self.party.node),
            });
            s.peer.close();
        }
        self.node.store.sync()?;
        Ok(self.node)
    }

    fn is_busy(&self) -> bool {
        let room = self.session.as_ref().is_none_or(Session::has_room);
        let hints = room
            && self
                .hints
                .with(|d| d.next_ready_in(self.clock()) == Some(0) || d.subtrees() > 0);
        let scan = room && !self.scanner.is_idle() && !self.roots.all_held();
        hints
            || scan
            || self.session.as_ref().is_some_and(Session::has_work)
            || self.commands.has_work()
    }

    /// The clock of the dirty set; while somebody waits for a flush, nothing settles any longer.
    fn clock(&self) -> u64 {
        if self.commands.is_flushing() {
            u64::MAX / 2
        } else {
            self.hints.now()
        }
    }

    fn idle_for(&self) -> Duration {
        let settle = self
            .hints
            .with(|d| d.next_ready_in(self.hints.now()))
            .map(Duration::from_millis);
        let room = self.session.as_ref().is_none_or(Session::has_room);
        let settle = settle
            .filter(|_| room)
            .unwrap_or(Duration::from_secs(3600))
            .max(Duration::from_millis(1));
        let waiting = !self.again.is_empty() || !self.doubtful.is_empty() || self.roots.any_held();
        let retry = if waiting {
            self.retry_at.saturating_duration_since(Instant::now())
        } else {
            Duration::from_secs(3600)
        };
        settle
            .min(retry)
            .min(self.commands.deadline_in())
            .max(Duration::from_millis(1))
    }

    /// Hears what the watcher said besides paths.
    fn listen(&mut self) {
        for said in self.hints.hear() {
            match said {
                watch::Event::Cookie(n) => {
                    self.commands.cookie(n, self.hints.now());
                    self.node
                        .roots
                        .iter()
                        .for_each(|r| super::commands::clear_cookie(&r.root, n));
                }
                watch::Event::Overflow => self.board.update(|s| s.watch.overflows += 1),
                watch::Event::Degraded(why) => {
                    tracing::warn!("{why}");
                    self.scrub.degrade();
                    self.board.update(|s| s.watch.degraded = why);
                }
                watch::Event::RootGone(id) => {
                    self.is_held(id);
                }
                watch::Event::RootBack(id) => {
                    self.is_held(id);
                    self.hints.subtree(TreePath::new(id, RelPath::root()));
                }
                watch::Event::Touched(..) | watch::Event::Subtree(_) => {}
            }
        }
    }

    /// Handles one event; `true` tells that the session ended.
    fn handle(&mut self, event: Event) -> Result<bool, EngineError> {
        match event {
            Event::Wake | Event::Stop => {}
            Event::LinkUp(peer) => self.link_up(peer),
            // Who came to us waits for an answer; what we dialled meanwhile only gets in its way.
            Event::Dialled(peer) if self.session.is_some() => peer.close(),
            Event::Dialled(peer) => self.link_up(peer),
            Event::Peer { session, message } => {
                if self
                    .session
                    .as_ref()
                    .is_some_and(|s| s.peer.session == session)
                {
                    return self.message(message);
                }
            }
            Event::LinkDown { session, why } => {
                if self
                    .session
                    .as_ref()
                    .is_some_and(|s| s.peer.session == session)
                {
                    self.link_down(&why);
                    return Ok(true);
                }
                // Session 0: none came about. The end of one that was given up earlier says nothing new.
                if self.session.is_none() && session == 0 {
                    self.unreachable.clone_from(&why);
                    self.tell_unreachable();
                }
            }
            Event::Bulk(done) => self.bulk_done(done.0, done.1)?,
            Event::Command(request, replies) => self.command(request, replies),
        }
        Ok(false)
    }

    /// Goes on with a session whose hellos were exchanged already.
    ///
    /// # Errors
    /// [`EngineError`] where the node's own state fails.
    pub fn take_over(
        &mut self,
        peer: Peer,
        ours: crate::wire::message::Hello,
        theirs: &crate::wire::message::Hello,
    ) -> Result<(), EngineError> {
        self.session = Some(Session::new(peer, ours));
        self.met(theirs)
    }

    fn link_up(&mut self, peer: Peer) {
        if self.paused {
            // Who dials while nothing is sent would wait for the end of the pause without a word.
            peer.send(Message::Bye {
                text: format!(
                    "replication is paused on {}; run \"syncctl resume\" there",
                    self.party.node
                ),
            });
            peer.close();
            return;
        }
        if self.session.is_some() {
            self.link_down("the peer began another session");
        }
        let ours = hello(&self.node, &self.party);
        peer.send(Message::Hello(Box::new(ours.clone())));
        self.session = Some(Session::new(peer, ours));
        self.board.update(|s| s.totals.sessions += 1);
    }

    pub(super) fn link_down(&mut self, why: &str) {
        let Some(session) = self.session.take() else {
            return;
        };
        session.peer.close();
        self.met_early = None;
        self.note_acked(session.peer_head);
        // What was not acknowledged goes on being found by its sequence number at the next meeting.
        let _ = self
            .bulk
            .signatures
            .send((TreePath::new(RootId(0), RelPath::root()), None));
        if !matches!(session.phase, Phase::Halted) {
            tracing::warn!("the session with {} ended: {why}", self.party.peer);
            why.clone_into(&mut self.unreachable);
            self.tell_unreachable();
        }
        // A peer that was never met in this session was not lost with it.
        if matches!(session.phase, Phase::Round(_) | Phase::Live) {
            self.node.epochs.open_with_next_change();
        }
        self.commands.session_ended(why);
    }

    fn tell_unreachable(&self) {
        let why = self.unreachable.clone();
        self.board.update(|s| {
            if s.peer.state == "diverged" || s.peer.state == "halted" {
                return;
            }
            s.peer.state = "unreachable".into();
            s.peer.reason = why;
        });
    }

    fn message(&mut self, message: Message) -> Result<bool, EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(false);
        };
        match message {
            Message::Hello(theirs) => self.met(&theirs)?,
            Message::Refuse { code, text } => {
                let state = if code == DIVERGED {
                    "diverged"
                } else {
                    "halted"
                };
                self.halt(state, &text);
            }
            Message::Bye { text } => {
                self.link_down(&text);
                return Ok(true);
            }
            Message::Want { dir, names } => session.want(&dir, names),
            Message::Asked {
                puts,
                deletes,
                bytes,
            } => {
                session.asked();
                self.commands.asked(puts, deletes, bytes);
            }
            Message::Ack {
                number,
                wants,
                problems,
            } => self.acked(number, wants, problems)?,
            Message::Failed { number, cause } => self.failed(number, &cause),
            Message::Signature {
                path,
                basis,
                size,
                data,
                last,
            } => {
                let _ = self
                    .bulk
                    .signatures
                    .send((path, Some((basis, size, data, last))));
            }
            Message::Differences { paths } => self.differences(paths),
            Message::Compared { paths } => self.commands.compared(paths),
            other => {
                let text = format!("{} sent a message that has no place here", self.party.peer);
                tracing::warn!("{text}: {other:?}");
                self.link_down(&text);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn met(&mut self, theirs: &crate::wire::message::Hello) -> Result<(), EngineError> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let course = judge(&session.ours, theirs, &self.party);
        tracing::info!("met {}: {course:?}", theirs.node);
        match course {
            Course::Send { .. } if !self.scanned => self.met_early = Some(Box::new(theirs.clone())),
            Course::Send { since, full } => {
                // Without paths the peer stands at `since` in our history; what it is owed it lacks all the same.
                for path in self.node.store.owed(PIECE * 64)? {
                    self.force.insert(path.clone());
                    self.carried.touch(&self.hints, path, Touch::Changed, 0);
                }
                let empty: Vec<_> = (0u16..)
                    .zip(&theirs.roots)
                    .filter(|(_, r)| r.empty)
                    .map(|(i, _)| RootId(i))
                    .collect();
                session.known_epoch = theirs.history.last().map(|e| e.id);
                session.begin(&self.node, since, full, theirs.dry_run, &empty);
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
            Course::Refused(code, text) => {
                session.peer.send(Message::Refuse {
                    code,
                    text: text.clone(),
                });
                self.halt("halted", &text);
            }
            Course::Diverged { since } => {
                let text = diverged(&self.party, since);
                session.peer.send(Message::Refuse {
                    code: DIVERGED,
                    text: text.clone(),
                });
                self.halt("diverged", &text);
            }
            Course::Stale => {
                let text = format!(
                    "{} holds newer data than this active node; stop syncd here and run \"syncctl resync\"",
                    self.party.peer
                );
                session.peer.send(Message::Refuse {
                    code: 6,
                    text: text.clone(),
                });
                self.halt("halted", &text);
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

    /// Replication stands still until a person helped; the index stays current.
    fn halt(&mut self, state: &str, text: &str) {
        tracing::error!("{text}");
        self.board.update(|s| {
            s.peer.state = state.to_owned();
            text.clone_into(&mut s.peer.reason);
            text.clone_into(&mut s.last_error);
        });
        text.clone_into(&mut self.unreachable);
        if let Some(s) = &mut self.session {
            s.phase = Phase::Halted;
            s.peer.close();
        }
        self.commands
            .halted(if state == "diverged" { 5 } else { 6 }, text);
    }

    /// The peer stands where this node stands: from now on changes are pushed as they happen.
    pub(super) fn live(&mut self) -> Result<(), EngineError> {
        let head = self.node.epochs.history().head();
        if let Some(s) = &mut self.session {
            s.phase = Phase::Live;
            s.peer_head = head;
            for path in std::mem::take(&mut s.parted) {
                self.force.insert(path.clone());
                self.carried.touch(&self.hints, path, Touch::Changed, 0);
            }
        }
        self.party.full = false;
        self.node.store.forget_tombs(head)?;
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
        self.commands.in_sync();
        Ok(())
    }

    /// Does one piece of work.
    fn work(&mut self) -> Result<(), EngineError> {
        let room = self.session.as_ref().is_none_or(Session::has_room);
        if room && self.party.role == Role::Active {
            let clock = self.clock();
            // What is sent carries the time of its oldest hint: a flush waits for everything noticed before it.
            let (since, ready) = self
                .hints
                .with(|d| (d.oldest(), d.take_ready(clock, PIECE)));
            let since = since.unwrap_or_else(|| self.hints.now());
            if !ready.is_empty() {
                let since = self.carried.taken(&ready, since);
                return self.resolve(ready, since);
            }
            while let Some(subtree) = self
                .hints
                .with(crate::decide::dirty::DirtySet::take_subtree)
            {
                let since = self.carried.taken_below(&subtree, since);
                self.scan_later(subtree, since);
            }
            if !self.scanner.is_idle() && !self.roots.all_held() {
                self.scan()?;
            }
        }
        if !self.scanned && self.scanner.is_idle() {
            self.scanned = true;
            if let Some(theirs) = self.met_early.take()
                && self.session.is_some()
            {
                self.met(&theirs)?;
            }
        }
        self.session_work()?;
        let now = Instant::now();
        if self.scrub.scan_due(now) {
            self.scan_all();
        }
        if self.scrub.compare_due(now) {
            self.scan_all();
            self.scrub_peer();
        }
        if now >= self.retry_at {
            self.retry_at = Instant::now() + RETRY;
            self.retry();
        }
        Ok(())
    }

    fn retry(&mut self) {
        for path in std::mem::take(&mut self.again) {
            self.hints.touch(path, Touch::Changed);
        }
        if self.roots.any_held() {
            self.look_at_roots();
        }
        // A file whose end alone was read is read whole once nothing about it is pending.
        for (path, since) in std::mem::take(&mut self.doubtful) {
            if self.jobs.contains_key(&path) || self.hints.pending().0 > 0 {
                self.doubtful.insert(path, since);
            } else {
                self.read_large(path, false, since);
            }
        }
    }

    /// Looks at every root; returns why the first of those that are held is held.
    pub(super) fn look_at_roots(&mut self) -> Option<String> {
        let ids: Vec<_> = self.node.roots.iter().map(|r| r.root.id).collect();
        for id in ids {
            self.is_held(id);
        }
        self.roots.first_held(&self.node)
    }

    /// Whether a root is held; looks at it first, and has it scanned where it was held until now.
    fn is_held(&mut self, id: RootId) -> bool {
        let fitness = self.roots.check(id, &mut self.node, &self.board);
        if fitness == Fitness::Back {
            self.hints.subtree(TreePath::new(id, RelPath::root()));
        }
        fitness == Fitness::Held
    }

    fn scan(&mut self) -> Result<(), EngineError> {
        let found = self.scanner.step(&mut self.node)?;
        for (path, cause) in found.unreadable {
            self.board.problem(&self.node.show(&path), "read", &cause);
            self.again.insert(path);
        }
        let since = self.scan_since.unwrap_or_else(|| self.hints.now());
        for piece in found.differ.chunks(PIECE) {
            self.resolve(piece.to_vec(), since)?;
        }
        if self.scanner.is_idle() {
            self.scan_since = None;
        }
        Ok(())
    }

    fn scan_later(&mut self, path: TreePath, since: u64) {
        self.scan_since = Some(self.scan_since.map_or(since, |s| s.min(since)));
        self.scanner.push(path);
    }

    fn resolve(&mut self, mut paths: Vec<TreePath>, since: u64) -> Result<(), EngineError> {
        let ids: BTreeSet<_> = paths.iter().map(|p| p.root).collect();
        let held: BTreeSet<_> = ids.into_iter().filter(|id| self.is_held(*id)).collect();
        paths.retain(|p| {
            let busy = self.jobs.contains_key(p);
            if busy {
                self.again.insert(p.clone());
            }
            !busy && !held.contains(&p.root)
        });
        if paths.is_empty() {
            return Ok(());
        }
        let live = self
            .session
            .as_ref()
            .is_some_and(|s| matches!(s.phase, Phase::Live))
            && !self.paused;
        self.node.store.begin()?;
        let resolved =
            Resolver::new(&mut self.node, live, &self.force, &mut self.departed).run(paths);
        let resolved = match resolved {
            Ok(r) => r,
            Err(e) => {
                self.node.store.rollback();
                return Err(e.into());
            }
        };
        self.node.store.commit()?;
        for path in &resolved.fine {
            if self.board.has_problems() {
                let shown = self.node.show(path);
                self.board.solved(&shown);
            }
            if !self.force.is_empty() && self.force.remove(path) {
                self.node.store.settle_debt(path)?;
            }
        }
        for (path, operation, cause) in resolved.problems {
            self.board
                .problem(&self.node.show(&path), operation, &cause);
            self.again.insert(path);
        }
        for path in resolved.look {
            self.carried.touch(&self.hints, path, Touch::Changed, since);
        }
        for path in resolved.unsteady {
            self.carried.touch(&self.hints, path, Touch::Writing, since);
        }
        for path in resolved.scan {
            self.scan_later(path, since);
        }
        for path in resolved.bulk {
            self.read_large(path, true, since);
        }
        if !live {
            self.unsent.0 += resolved.bytes;
        }
        if live && let Some(session) = &mut self.session {
            session.announce(self.node.epochs.history());
            session.push(resolved.ops, since, resolved.bytes);
        }
        Ok(())
    }

    /// Hands a large file to the bulk thread; `may_append` where a prefix known to the peer may be trusted for now.
    pub(super) fn read_large(&mut self, path: TreePath, may_append: bool, since: u64) {
        let Some(root) = self.node.root(path.root).map(|r| r.root.clone()) else {
            return;
        };
        let forced = self.force.contains(&path);
        let row = self.node.store.lookup(&path).ok().flatten();
        let known = row.as_ref().and_then(|r| r.entry.kind.hash());
        let blocks = row.as_ref().and_then(|r| {
            let data = self.node.store.blocks(r.id).ok().flatten()?;
            Blocks::decode(&data)
                .ok()
                .filter(|b| Some(b.root()) == known)
        });
        let basis = match (blocks, known) {
            _ if forced => bulk::Basis::None,
            (Some(b), _) => bulk::Basis::Blocks(b),
            (None, Some(hash)) => {
                bulk::Basis::Version(hash, row.map_or(0, |r| r.entry.kind.size()))
            }
            (None, None) => bulk::Basis::None,
        };
        let to = self
            .session
            .as_mut()
            .filter(|s| matches!(s.phase, Phase::Live))
            .map(Session::next_transfer);
        self.jobs.insert(path.clone(), since);
        let job = bulk::Job {
            path,
            root,
            to,
            basis,
            may_append,
            since,
        };
        if self.bulk.jobs.send(job).is_err() {
            self.board
                .failed("the thread that reads large files has ended; restart syncd".into());
        }
    }

    fn bulk_done(
        &mut self,
        job: bulk::Job,
        result: Result<bulk::Read, bulk::Failed>,
    ) -> Result<(), EngineError> {
        self.jobs.remove(&job.path);
        let current = |s: &Session| {
            job.to
                .as_ref()
                .is_some_and(|(p, _)| p.session == s.peer.session)
        };
        let mine = self.session.as_ref().is_some_and(current);
        if mine
            && let Some(session) = &mut self.session
            && session.round_transfer_done(&job, result.as_ref().ok())
        {
            return self.round_file(&job, result);
        }
        match result {
            Ok(read) if mine => {
                if matches!(read.sent, bulk::Sent::Append(_)) {
                    self.doubtful.insert(job.path.clone(), job.since);
                }
                self.node.store.begin()?;
                let ops = settle_large(&mut self.node, &job.path, &read);
                self.node.store.commit()?;
                let ops = ops?;
                let shown = self.node.show(&job.path);
                self.board.solved(&shown);
                if self.force.remove(&job.path) {
                    self.node.store.settle_debt(&job.path)?;
                }
                if let Some(session) = &mut self.session {
                    session.announce(self.node.epochs.history());
                    session.push(ops, job.since, read.blocks.size());
                }
                // What changed while it was on its way is the next version.
                self.carried
                    .touch(&self.hints, job.path, Touch::Writing, job.since);
            }
            Ok(_) | Err(bulk::Failed::Gone | bulk::Failed::Vanished) => {
                self.carried
                    .touch(&self.hints, job.path, Touch::Changed, job.since);
            }
            Err(bulk::Failed::Unsteady) => {
                let cause = "it changes all the time while it is read; replicate a snapshot or dump of it instead";
                self.board
                    .problem(&self.node.show(&job.path), "read a steady version", cause);
                self.again.insert(job.path);
            }
            Err(bulk::Failed::Io(e)) => {
                self.board
                    .problem(&self.node.show(&job.path), "read", &e.to_string());
                self.again.insert(job.path);
            }
        }
        Ok(())
    }
}
