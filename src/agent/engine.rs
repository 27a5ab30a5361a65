//! The engine: one thread that owns a node's state while it sends.
//!
//! It takes events (hints, messages, results of the bulk thread, commands), does one small piece of work at a
//! time and looks for events again, so nothing ever waits long. What it sends is bounded by what the
//! peer has not acknowledged. On the active node it follows the watcher; on a node that is not active it only answers a
//! peer that is behind. Here are its state and its loop; what it does with events and messages is in the modules below.

mod acks;
mod answer;
mod comparison;
mod departure;
mod disk;
mod heard;
mod large;
mod look;
mod meet;
mod merge;
mod messages;
mod parts;
mod pending;
mod requests;
mod withheld;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use self::departure::Departure;
pub use self::departure::Ended;
pub use self::parts::{EngineError, Fallen, Parts, Ran};
pub use self::requests::note_pause;
use self::withheld::Withheld;
use super::apply::Receiving;
use super::board::{Board, NOT_YET};
use super::bulk;
use super::commands::Commands;
use super::divergence::Changed;
use super::hints::{Carried, Hints};
use super::links::Departed;
use super::meeting::Party;
use super::node::NodeError;
use super::peer::Peer;
use super::replies::Replies;
use super::roots::Roots;
use super::scan::Scanner;
use super::scrub::Scrub;
use super::session::{Brought, Session};
use crate::decide::{dirty::DirtySet, growth::Growth, guard::Guard, retries::Retries};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::service::Watchdog;
use crate::wire::control::Request;
use crate::wire::message::{Hello, Message, Role};

/// Hints resolved at a time.
const PIECE: usize = 1024;
/// Time after which paths with problems, unsteady files and doubtful ones are looked at again.
const RETRY: Duration = Duration::from_secs(2);

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
        /// Its share of what a session may hold, until it is done with.
        room: Option<OwnedSemaphorePermit>,
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

/// The engine.
pub struct Engine {
    side: Receiving,
    hints: Arc<Hints>,
    board: Arc<Board>,
    party: Party,
    session: Option<Session>,
    scanner: Scanner,
    bulk: bulk::Handle,
    /// Files the bulk thread has to read.
    jobs: BTreeMap<TreePath, large::Reading>,
    /// Paths the peer lacks whatever the index says.
    force: BTreeMap<TreePath, u64>,
    departed: Departed,
    carried: Carried,
    commands: Commands,
    roots: Roots,
    guard: Guard,
    /// Deletions that wait for an approval, in what the peer is to give or to lose.
    withheld: Withheld,
    /// Paths with problems, to be looked at again.
    again: Retries,
    /// Directories that could not be listed.
    unlisted: Retries,
    /// Files that only grow, and those that are to be read whole once they are quiet.
    growth: Growth,
    /// When the oldest change was noticed that the scans under way may find.
    scan_since: Option<u64>,
    /// Nothing is sent until a person says so.
    paused: bool,
    retry_at: Instant,
    /// When the journal may be tried to be emptied.
    disk_at: Instant,
    watchdog: Watchdog,
    scrub: Scrub,
    /// Sessions ended since, for the one who dials.
    down: mpsc::UnboundedSender<()>,
    /// Why no session is up, for whoever asks.
    unreachable: String,
    /// The peer had everything at some time, or said what it lacks where only that was asked.
    caught_up: bool,
    /// What the peer was brought in its last session, or lacks where only that was asked.
    brought: Brought,
    /// The first scan is done, so the index is complete.
    scanned: bool,
    /// The peer's hello, if it came before that.
    met_early: Option<Box<Hello>>,
    /// Sequence number the peer acknowledged last, in this session or an earlier one.
    acked: u64,
    /// Bytes of changed files noted while no session was live, and since when.
    unsent: (u64, Option<u64>),
    /// What the peer changed after the given number, where both changed data on their own.
    apart: Option<(Seq, Changed)>,
    /// The peer has taken in what this node changed on its own.
    given: bool,
    /// With which exit code and sentence replication was halted.
    refused: Option<(u8, String)>,
    /// This engine is to end, and what it waits for.
    departure: Option<Departure>,
    flush_timeout: Duration,
}

impl Engine {
    /// An engine in which a look over the whole tree waits where `parts.scans` says so; nothing is read or sent before
    /// [`Self::run`].
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            side,
            hints,
            board,
            party,
            bulk,
            scrub,
            down,
            flush_timeout,
            scans,
        } = parts;
        let roots = Roots::new(&side.node);
        let limit = party.max_delete.filter(|_| scans);
        let paused = board.snapshot().paused;
        let mut engine = Self {
            side,
            hints,
            board,
            party,
            session: None,
            scanner: Scanner::default(),
            bulk,
            jobs: BTreeMap::new(),
            force: BTreeMap::new(),
            departed: Departed::default(),
            carried: Carried::default(),
            commands: Commands::default(),
            roots,
            guard: Guard::new(limit),
            withheld: Withheld::default(),
            again: Retries::default(),
            unlisted: Retries::default(),
            growth: Growth::default(),
            scan_since: None,
            paused,
            retry_at: Instant::now() + RETRY,
            disk_at: Instant::now(),
            watchdog: Watchdog::none(),
            scrub,
            down,
            unreachable: NOT_YET.into(),
            caught_up: false,
            brought: Brought::default(),
            scanned: true,
            met_early: None,
            acked: 0,
            unsent: (0, None),
            apart: None,
            given: false,
            refused: None,
            departure: None,
            flush_timeout,
        };
        engine.acked = engine.side.node.store.number("acked").unwrap_or(0);
        if engine.party.role == Role::Active {
            engine.watchdog = Watchdog::as_asked();
            if let Err(e) = engine.take_up_debts() {
                // Whatever fails so early fails again at once, where it can be told.
                tracing::warn!("what the peer is owed is not known: {e}");
            }
        }
        if scans {
            engine.scanned = false;
            engine.scan_all();
        }
        engine
    }

    /// Works until told to stop; a passive engine also stops when its session ends.
    ///
    /// # Errors
    /// [`Fallen`] where the node's own state fails.
    pub fn run(
        mut self,
        events: &mut mpsc::Receiver<Event>,
        rt: &tokio::runtime::Handle,
    ) -> Result<Ran, Box<Fallen>> {
        let departed = match self.until_departed(events, rt) {
            Ok(departed) => departed,
            Err(error) => return Err(Box::new(self.fall(error))),
        };
        // A peer that asked for the end is told by whoever does the rest of it.
        let asked = |s: &Session| {
            let peer = departed.as_ref().and_then(|d| d.peer.as_ref());
            peer.is_some_and(|p| p.session == s.peer.session)
        };
        if let Some(s) = self.session.take().filter(|s| !asked(s) && !self.given) {
            s.peer.send(Message::Bye {
                text: format!("{} stops", self.party.node),
            });
            s.peer.close();
        }
        if let Err(e) = self.side.node.store.sync() {
            return Err(Box::new(Fallen {
                error: e.into(),
                scrub: self.scrub,
                ended: departed,
            }));
        }
        Ok(Ran {
            side: self.side,
            caught_up: self.caught_up,
            why: self.unreachable,
            brought: self.brought,
            given: self.given,
            refused: self.refused,
            waiting: self.commands.take_resyncs(),
            ended: departed,
        })
    }

    fn until_departed(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        rt: &tokio::runtime::Handle,
    ) -> Result<Option<Ended>, EngineError> {
        loop {
            self.watchdog.beat();
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
                // Whoever asks a second time does not want to wait.
                let at_once = self.departure.is_some() || self.party.role == Role::Standby;
                if (stop && at_once) || (over && self.party.role == Role::Standby) {
                    return Ok(None);
                }
                if stop {
                    self.depart(self.flush_timeout, None);
                }
            }
            self.listen();
            self.work()?;
            self.after_work();
            if let Some(departed) = self.departed() {
                return Ok(Some(departed));
            }
            // A passive engine has one session, whatever ended it.
            if self.party.role == Role::Standby && self.session.is_none() {
                return Ok(None);
            }
        }
    }

    /// The node's own state failed: whoever waits for something is told.
    fn fall(mut self, error: EngineError) -> Fallen {
        let why = error.to_string();
        let ended = self.depart_fallen(&why);
        self.commands.fail(&why);
        if let Some(s) = self.session.take() {
            s.peer.close();
        }
        Fallen {
            error,
            scrub: self.scrub,
            ended,
        }
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
            || self.commands.has_work(self.may_list())
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
        let retry = if self.in_doubt() > 0 || self.roots.any_held() {
            self.retry_at.saturating_duration_since(Instant::now())
        } else {
            Duration::from_secs(3600)
        };
        settle
            .min(retry)
            .min(self.disk_due_in())
            .min(self.commands.deadline_in(self.may_list()))
            .min(self.watchdog.due_in())
            .max(Duration::from_millis(1))
    }

    /// Handles one event; `true` tells that the session ended.
    fn handle(&mut self, event: Event) -> Result<bool, EngineError> {
        match event {
            Event::Wake | Event::Stop => {}
            // A node that is not active and dialled has met its peer here already; what was on its way then is not wanted.
            Event::LinkUp(peer) if self.has_dialled() => peer.close(),
            Event::LinkUp(peer) => {
                self.link_up(peer);
                if let Some(session) = &mut self.session {
                    session.handed = true;
                }
            }
            // Who came to us waits for an answer; what we dialled meanwhile only gets in its way.
            Event::Dialled(peer) if self.session.is_some() => peer.close(),
            Event::Dialled(peer) => self.link_up(peer),
            Event::Peer {
                session,
                message,
                room: _room,
            } => {
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
                    self.commands.unreachable(&why);
                    self.hopeless();
                }
            }
            Event::Bulk(done) => self.bulk_done(done.0, done.1)?,
            Event::Command(request, replies) => self.command(request, replies),
        }
        Ok(false)
    }

    /// Whether this node, which is not active, dialled the stream of its session.
    fn has_dialled(&self) -> bool {
        self.party.role == Role::Standby && self.session.as_ref().is_some_and(|s| !s.handed)
    }

    /// Does one piece of work.
    fn work(&mut self) -> Result<(), EngineError> {
        let room = self.session.as_ref().is_none_or(Session::has_room);
        if room && (self.party.role == Role::Active || !self.scanned) {
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
            while let Some(subtree) = self.hints.with(DirtySet::take_subtree) {
                let since = self.carried.taken_below(&subtree, since);
                self.scan_later(subtree, since);
            }
            if !self.scanner.is_idle() && !self.roots.all_held() {
                self.scan()?;
            }
        }
        if !self.scanned && self.party.role == Role::Standby && self.roots.any_held() {
            self.cannot_tell();
        }
        if !self.scanned && self.scanner.is_idle() && !self.looks_once_more() {
            self.scanned = true;
            // A root is held where a mount in it is away: that one stays noted.
            if !self.roots.any_held() {
                self.side.node.forget_mounts().map_err(NodeError::from)?;
            }
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
            self.scrub_peer(false);
        }
        if now >= self.retry_at {
            self.retry_at = Instant::now() + RETRY;
            self.retry();
            self.look_for_strays();
        }
        self.bring_to_disk(now);
        Ok(())
    }
}
