//! A session in which this node sends: what the peer was sent and has not acknowledged, and how far a round is.

mod batches;

use std::collections::{BTreeMap, BTreeSet};

pub use self::batches::MAX_BATCH_BYTES;
use self::batches::Piece;
use super::bulk;
use super::merge::Merge;
use super::node::Node;
use super::peer::Peer;
use super::round::{Round, Want};
use crate::model::batch::{Batch, Op};
use crate::model::epoch::Seq;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::wire::control::ResyncReport;
use crate::wire::message::{Hello, Message, Wanted};

/// Batches of any size that may wait for their acknowledgement.
const FEW_FLIGHT: usize = 2;
/// Operations from which on a batch counts as a large one.
const FULL_OPS: usize = 512;
/// Weight in bytes from which on a batch counts as a large one.
const FULL_BYTES: u64 = 512 * 1024;
/// Large batches that may wait for their acknowledgement.
const MAX_FLIGHT: usize = 16;
/// Weight in bytes of what may wait for its acknowledgement.
const MAX_FLIGHT_BYTES: u64 = 8 * 1024 * 1024;
/// Wants answered at a time.
pub const PIECE: usize = 512;
/// Wants from which on they are answered although the peer has not asked for everything yet.
const FEW_WANTS: usize = 64;
/// Wanted paths held before the listing waits.
const MAX_WANTS: usize = 20_000;
/// Wanted paths with which the session ends: besides what was listed only what changed on the receiver alone is wanted.
const MOST_WANTS: usize = 2_000_000;
/// Transfers of a round under way at a time.
const MAX_ROUND_TRANSFERS: usize = 8;

/// What the session is doing.
pub enum Phase {
    /// Waiting for the peer's hello.
    Meeting,
    /// Bringing the peer to where this node stands.
    Round(Box<Round>),
    /// Taking in what the peer changed on its own, before it is brought to where this node stands.
    TakingIn(Box<Merge>),
    /// Pushing changes as they happen.
    Live,
    /// Nothing, until a person helped.
    Halted,
}

/// A batch the peer has not acknowledged.
pub struct Flight {
    /// The paths in it.
    pub paths: Vec<TreePath>,
    /// Bytes of content that it brings, however little of it has to travel.
    pub bytes: u64,
    /// Bytes it takes on its way, about.
    pub weight: u64,
    /// When its oldest change was noticed (ms of the engine's clock).
    pub since: u64,
    /// Where the peer stands once it is acknowledged.
    pub head: Seq,
}

/// What a peer that was behind lacked, and was sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Brought {
    /// Paths put; one that the peer asked for twice counts twice.
    pub puts: u64,
    /// Paths deleted.
    pub deletes: u64,
    /// Bytes of content in what was put, however little of it had to travel.
    pub bytes: u64,
}

impl Brought {
    /// The report with these figures.
    #[must_use]
    pub fn report(self, report: ResyncReport) -> ResyncReport {
        ResyncReport {
            puts: self.puts,
            deletes: self.deletes,
            bytes: self.bytes,
            ..report
        }
    }

    fn count(&mut self, op: &Op) {
        match op {
            Op::Delete { .. } => self.deletes = self.deletes.saturating_add(1),
            Op::Move { .. } => self.puts += 1,
            Op::Put { .. } => {
                self.puts += 1;
                self.bytes += op.content_size();
            }
        }
    }
}

/// A path that the peer asked for whole.
#[derive(Debug, Default)]
pub struct Retried {
    /// How often it did.
    times: u32,
    /// Number of the first batch that may hold it whole: what the peer says of earlier ones is no further request.
    from: u64,
}

/// A session in which this node sends.
pub struct Session {
    /// The way to the peer.
    pub peer: Peer,
    /// The peer dialled, so whoever dials here does not know of its end.
    pub handed: bool,
    /// What this side said of itself.
    pub ours: Hello,
    /// What the session is doing.
    pub phase: Phase,
    /// Batches that wait for their acknowledgement.
    pub flights: BTreeMap<u64, Flight>,
    /// Sequence number up to which the peer has everything.
    pub peer_head: Seq,
    /// The peer takes in what this node changed on its own.
    pub gives: bool,
    /// The round only counts.
    pub dry_run: bool,
    /// Paths the peer asked for whole.
    pub retried: BTreeMap<TreePath, Retried>,
    /// The peer lacks whole directories, and gets them by a round as soon as nothing else is on its way.
    pub trees: bool,
    /// Nothing more is sent until that round begins.
    pub draining: bool,
    /// Further names of files that the peer got as files of their own in this round.
    pub parted: BTreeSet<TreePath>,
    /// Transfers of a round under way.
    pub round_jobs: BTreeSet<TreePath>,
    /// What rounds brought to the peer.
    pub brought: Brought,
    /// Id of the newest epoch the peer knows of.
    pub known_epoch: Option<u128>,
    number: u64,
    transfer: u64,
}

impl Session {
    /// A session that waits for the peer's hello.
    #[must_use]
    pub fn new(peer: Peer, ours: Hello) -> Self {
        Self {
            peer,
            handed: false,
            ours,
            phase: Phase::Meeting,
            flights: BTreeMap::new(),
            peer_head: 0,
            gives: false,
            dry_run: false,
            retried: BTreeMap::new(),
            trees: false,
            draining: false,
            parted: BTreeSet::new(),
            round_jobs: BTreeSet::new(),
            brought: Brought::default(),
            known_epoch: None,
            number: 0,
            transfer: 0,
        }
    }

    /// Whether the peer has not been met yet.
    #[must_use]
    pub fn is_meeting(&self) -> bool {
        matches!(self.phase, Phase::Meeting)
    }

    /// Whether more may be sent before acknowledgements arrive. Small batches wait for the one on its way, so that a busy
    /// stretch gathers into few large ones, each of which costs the receiver one write to disk.
    #[must_use]
    pub fn has_room(&self) -> bool {
        if self.draining {
            return false;
        }
        if self.flights.len() < FEW_FLIGHT {
            return true;
        }
        let full = |f: &Flight| f.paths.len() >= FULL_OPS || f.weight >= FULL_BYTES;
        let newest_full = self.flights.values().next_back().is_some_and(full);
        newest_full && self.flights.len() < MAX_FLIGHT && self.flight_weight() < MAX_FLIGHT_BYTES
    }

    /// The weight in bytes of what waits for its acknowledgement.
    #[must_use]
    pub fn flight_weight(&self) -> u64 {
        self.flights.values().map(|f| f.weight).sum()
    }

    /// Whether the round can go on now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let Phase::Round(round) = &self.phase else {
            return false;
        };
        if !self.has_room() || round.settling.is_some() {
            return false;
        }
        let listing = !round.is_listed() && round.wants.len() < MAX_WANTS;
        let sending = self.may_answer(round);
        listing || sending || self.can_link(round) || self.can_settle(round)
    }

    /// Everything but further links was sent and acknowledged.
    #[must_use]
    pub fn can_link(&self, round: &Round) -> bool {
        round.asked
            && round.is_sent()
            && !round.links.is_empty()
            && self.round_jobs.is_empty()
            && self.flights.is_empty()
    }

    /// Everything of the round was sent and acknowledged.
    #[must_use]
    pub fn can_settle(&self, round: &Round) -> bool {
        round.asked
            && !self.dry_run
            && round.settling.is_none()
            && round.is_sent()
            && round.links.is_empty()
            && self.round_jobs.is_empty()
            && self.flights.is_empty()
    }

    /// Whether the listing may go on.
    #[must_use]
    pub fn may_list(round: &Round) -> bool {
        !round.is_listed() && round.wants.len() < MAX_WANTS
    }

    /// Whether the next wants are to be answered. As long as the peer is still asking they gather: it writes to disk once
    /// for each batch, and a small batch makes the next one wait.
    #[must_use]
    pub fn may_answer(&self, round: &Round) -> bool {
        let enough = match (round.asked, self.flights.is_empty()) {
            (true, _) => 1,
            (false, true) => FEW_WANTS,
            (false, false) => PIECE,
        };
        round.has_wants(enough) && self.may_transfer()
    }

    /// Whether another transfer of the round may begin.
    #[must_use]
    pub fn may_transfer(&self) -> bool {
        self.round_jobs.len() < MAX_ROUND_TRANSFERS
    }

    /// Begins a round.
    pub fn begin(&mut self, node: &Node, since: Seq, full: bool, dry_run: bool, empty: &[RootId]) {
        self.dry_run = dry_run;
        self.peer_head = since;
        self.peer.send(Message::Begin {
            full,
            since,
            dry_run,
        });
        let empty = if dry_run { &[] } else { empty };
        let round = Round::new(node, since, full, empty).with_tombs();
        self.phase = Phase::Round(Box::new(round));
    }

    /// Paths that the round cannot bring: it is not settled then.
    pub fn not_sent(&mut self, paths: impl IntoIterator<Item = TreePath>) {
        if let Phase::Round(round) = &mut self.phase {
            round.not_sent.extend(paths);
        }
    }

    /// The peer needs these; `false` where it asks for more than is held.
    #[must_use]
    pub fn want(&mut self, dir: &TreePath, names: Vec<Wanted>) -> bool {
        let Phase::Round(round) = &mut self.phase else {
            return true;
        };
        for Wanted { name, have } in names {
            if let Some(path) = wanted_path(dir, &name) {
                round.wants.push_back(Want { path, have });
            }
        }
        round.wants.len() <= MOST_WANTS
    }

    /// The peer asked for everything it needs of the round.
    pub fn asked(&mut self) {
        if let Phase::Round(round) = &mut self.phase {
            round.asked = true;
        }
    }

    /// Notes that the peer, in its answer to this batch, asks for a path whole; how often it did, or `None` where the batch
    /// was sent before the path goes whole anyway.
    pub fn ask_again(&mut self, path: &TreePath, batch: u64) -> Option<u32> {
        let next = self.number + 1;
        let retried = self.retried.entry(path.clone()).or_default();
        if batch < retried.from {
            return None;
        }
        retried.from = next;
        retried.times += 1;
        Some(retried.times)
    }

    /// The next batch number.
    pub fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The way to the peer and the number of a new transfer.
    pub fn next_transfer(&mut self) -> (Peer, u64) {
        self.transfer += 1;
        (self.peer.clone(), self.transfer)
    }

    /// Sends operations in as many batches as they need; moves stay with what follows them.
    pub fn push(&mut self, ops: Vec<(Seq, Op)>, since: u64) {
        let live = matches!(self.phase, Phase::Live);
        for piece in batches::split(ops) {
            if !live {
                piece.ops.iter().for_each(|(_, op)| self.brought.count(op));
            }
            self.send_batch(piece, since, live);
        }
    }

    /// Tells the peer of an epoch that was opened since it was last told, before any change of that epoch.
    pub fn announce(&mut self, history: &crate::model::epoch::History) {
        let Some(last) = history.last() else { return };
        if !matches!(self.phase, Phase::Live) || self.known_epoch == Some(last.id) {
            return;
        }
        // Everything before the epoch was pushed, so that is where the peer stands once it is told.
        let head = self.sent_head().max(last.first - 1);
        let Ok(history) = crate::model::epoch::History::new(history.epochs().to_vec(), head) else {
            return;
        };
        self.known_epoch = Some(last.id);
        let number = self.next_number();
        self.flights.insert(
            number,
            Flight {
                paths: Vec::new(),
                bytes: 0,
                weight: 0,
                since: u64::MAX,
                head,
            },
        );
        self.peer.send(Message::Settle {
            number,
            history,
            unread: Vec::new(),
        });
    }

    fn send_batch(&mut self, piece: Piece, since: u64, live: bool) {
        let number = self.next_number();
        // In a round the peer's head moves only at its end.
        let head = if live {
            piece.head.max(self.sent_head())
        } else {
            self.peer_head
        };
        let Piece { ops, weight, .. } = piece;
        let paths = ops.iter().map(|(_, op)| op.path().clone()).collect();
        let bytes = ops.iter().map(|(_, op)| op.content_size()).sum();
        self.flights.insert(
            number,
            Flight {
                paths,
                bytes,
                weight,
                since,
                head,
            },
        );
        self.peer.send(Message::Batch(Batch { number, head, ops }));
    }

    /// Head of the newest batch that was sent.
    fn sent_head(&self) -> Seq {
        self.flights
            .values()
            .next_back()
            .map_or(self.peer_head, |f| f.head.max(self.peer_head))
    }

    /// Whether a finished file belongs to the round (and not to the live stream).
    pub fn round_transfer_done(&mut self, job: &bulk::Job) -> bool {
        self.round_jobs.remove(&job.path)
    }
}

/// The path of a wanted name; the empty name is the directory itself.
fn wanted_path(dir: &TreePath, name: &[u8]) -> Option<TreePath> {
    let path: RelPath = if name.is_empty() {
        dir.path.clone()
    } else {
        dir.path.join(name).ok()?
    };
    Some(TreePath::new(dir.root, path))
}
