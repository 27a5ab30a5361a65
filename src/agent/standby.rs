//! The session of a node that is not active, in `syncd serve`, the one-shot resync, and the pull before an activation.
//!
//! All three run the same session; they differ in who dialled and when they end. A node in this role never sends
//! changes of its own: it receives, or it answers a peer that is behind from an index that was complete.

mod answers;
mod given;
mod greeting;
mod takeover;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub use self::greeting::AGAIN;
pub use self::takeover::Takeover;
use self::takeover::handed_over;
use super::apply::Receiving;
use super::board::Board;
use super::divergence::{Changed, differences};
use super::engine::{Engine, Event, Parts, Ran};
use super::hints::Hints;
use super::meeting::{Course, DIVERGED, Party, diverged, gave_up, hello, judge};
use super::node::Node;
use super::owner::{apply_failure, failed, refusal};
use super::peer::Peer;
use super::receiver::{Next, Receiver};
use super::replies::Replies;
use super::scrub::Scrub;
use super::setup::spawn_bulk;
use super::survey;
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::clock;
use crate::wire::control::{Difference, Failure, Progress, Request, ResyncReport};
use crate::wire::message::{Hello, Message, Role};

/// Quiet time after which trees and index are brought to disk.
const QUIET: Duration = Duration::from_secs(1);
/// Time a peer has to say hello.
pub(super) const HELLO: Duration = Duration::from_secs(20);

/// A peer that said nothing for so long may be gone already, in milliseconds.
const SILENCE_MS: u64 = 4000;

/// What ends a session by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Only the peer, or an order.
    Told,
    /// Both sides hold the same.
    CaughtUp,
}

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// In good order.
    Done(ResyncReport),
    /// In good order, but the peer keeps changes that it could not send.
    Short(ResyncReport),
    /// Neither side has data, or the peer is not ahead.
    Nothing(String),
    /// Nothing is taken from the peer, whatever it has, since the configuration does not want it to hand over.
    Declined(String),
    /// The link ended.
    Lost(String),
    /// The stream ended before the peer said anything.
    Unmet(String),
    /// It cannot be.
    Refused(Failure),
    /// Both changed data on their own, and this session was to tell what.
    Apart(Failure, Vec<Difference>, bool),
    /// This process is to end.
    Stopped,
}

/// A session of a node that is not active.
pub struct Standby<'a> {
    /// The process's events.
    pub events: &'a mut mpsc::Receiver<Event>,
    /// Where others put them.
    pub sender: mpsc::Sender<Event>,
    /// The runtime of links and sockets.
    pub rt: Handle,
    /// The status.
    pub board: Arc<Board>,
    /// Names and wishes.
    pub party: Party,
    /// When to end.
    pub until: Until,
    /// This node dialled the stream; otherwise the peer did, and its newest stream is the one that counts.
    pub dialled: bool,
    /// This node is about to become active: it only takes what it lacks.
    pub takeover: Option<Takeover>,
    /// Paths changed here while nobody watched, until the sender's state has taken their place.
    pub drift: Vec<TreePath>,
    /// These are all that were changed, as of now.
    pub looked_over: bool,
    /// When this node last stood where its peer stood, in milliseconds of this host's clock.
    in_step: Option<u64>,
    /// Who waits for the end of a catch-up.
    waiting: Vec<Replies>,
    /// Told how far it is.
    pub progress: &'a mut dyn FnMut(&Progress),
}

impl<'a> Standby<'a> {
    /// A session that ends when told to, on a node that stays what it is.
    #[must_use]
    pub fn new(
        events: &'a mut mpsc::Receiver<Event>,
        sender: mpsc::Sender<Event>,
        rt: Handle,
        board: Arc<Board>,
        party: Party,
        progress: &'a mut dyn FnMut(&Progress),
    ) -> Self {
        Self {
            events,
            sender,
            rt,
            board,
            party,
            until: Until::Told,
            dialled: false,
            takeover: None,
            drift: Vec::new(),
            looked_over: false,
            in_step: None,
            waiting: Vec::new(),
            progress,
        }
    }

    /// Runs the session; the node's state comes back with how it ended.
    ///
    /// # Errors
    /// A failure where the node's own state fails.
    pub fn run(
        &mut self,
        mut side: Receiving,
        mut peer: Peer,
    ) -> Result<(Receiving, End), Failure> {
        loop {
            let ours = hello(&side.node, &self.party);
            peer.send(Message::Hello(Box::new(ours.clone())));
            let theirs = match self.await_hello(&mut peer, &ours) {
                Ok(theirs) => theirs,
                Err(end) => return Ok((side, end)),
            };
            let met = side.node.note_silence(None);
            met.map_err(|e| failed(e, "see syncctl check"))?;
            let course = judge(&ours, &theirs, &self.party);
            tracing::info!("met {}: {course:?}", theirs.node);
            let end = match course {
                _ if self.takes_nothing(&theirs, &course) => {
                    self.beside_active(&peer, &theirs.node)
                }
                Course::Send { .. } if self.takeover.is_some() => {
                    End::Nothing(format!("{} is not ahead", theirs.node))
                }
                Course::Receive { since } => {
                    self.survey(&mut side.node)?;
                    side.node.lost_split_brain = gave_up(&ours, &theirs);
                    side.node.peer_outage = theirs.outage;
                    side.node.peer_index_lost = theirs.index_lost;
                    let (back, end, next) = self.follow(side, &peer, since, (&ours, &theirs))?;
                    side = back;
                    if let Some(next) = next {
                        peer.close();
                        peer = next;
                        continue;
                    }
                    end
                }
                Course::Give { since } => {
                    let (back, end, next) =
                        self.bring_together(side, &peer, since, &ours, &theirs)?;
                    side = back;
                    if let Some(next) = next {
                        peer.close();
                        peer = next;
                        continue;
                    }
                    end
                }
                Course::Send { .. } | Course::TakeIn { .. } if theirs.role == Role::Standby => {
                    let takes_in = matches!(course, Course::TakeIn { .. });
                    let (back, end) = self.bring(side, &peer, (ours, &theirs), takes_in)?;
                    side = back;
                    end
                }
                Course::Diverged { since } => self.apart(&side.node, &peer, since)?,
                other => refuse(&peer, other, &self.party),
            };
            if !matches!(end, End::Lost(_)) {
                peer.send(Message::Bye {
                    text: format!("{} is done", self.party.node),
                });
            }
            peer.close();
            self.rt.block_on(async {
                tokio::time::timeout(Duration::from_secs(2), peer.finished())
                    .await
                    .ok()
            });
            return Ok((side, end));
        }
    }

    fn receive(
        &mut self,
        receiver: &mut Receiver,
        ours: &Hello,
        theirs: &Hello,
    ) -> Result<(End, Option<Peer>), Failure> {
        let mut caught_up = false;
        receiver.report.direction = "receive".into();
        receiver.report.verdict = format!(
            "{} holds newer or equal data (sequence {}, here {})",
            theirs.node,
            theirs.history.head(),
            ours.history.head()
        );
        let session = receiver.session();
        // An active peer that was asked to hand over goes on sending until it says that it has.
        let hands_over = self.takeover.filter(|_| theirs.role == Role::Active);
        let looks = self.takeover.filter(|_| theirs.unclean);
        let mut heard = Instant::now();
        loop {
            let wait = async { tokio::time::timeout(QUIET, self.events.recv()).await };
            let event = match self.rt.block_on(wait) {
                Err(_) if hands_over.is_some_and(|t| heard.elapsed() >= t.patience) => {
                    return Ok((End::Lost("it does not hand over".into()), None));
                }
                Err(_) if looks.is_some_and(|t| heard.elapsed() >= t.patience) => {
                    let why = "it ended without order, and is still looking for what changed then";
                    return Ok((End::Lost(why.into()), None));
                }
                Err(_) => {
                    receiver.side.checkpoint().map_err(|e| apply_failure(&e))?;
                    if caught_up {
                        self.in_step = Some(clock::unix_ms().saturating_sub(SILENCE_MS));
                    }
                    continue;
                }
                Ok(None | Some(Event::Stop)) => return Ok((End::Stopped, None)),
                Ok(Some(event)) => event,
            };
            match event {
                Event::Peer {
                    session: s,
                    message: Message::HandedOver { left, why },
                    ..
                } if s == session => {
                    let report = receiver.report.clone();
                    return Ok((handed_over(report, &theirs.node, left, &why), None));
                }
                Event::Peer {
                    session: s,
                    message,
                    room: _room,
                } if s == session => {
                    heard = Instant::now();
                    let begins = matches!(message, Message::Begin { .. });
                    let listed = matches!(message, Message::Listed);
                    let full = matches!(message, Message::Begin { full: true, .. });
                    if full {
                        self.look_over(&mut receiver.side.node)?;
                    }
                    let next = receiver.handle(message).map_err(|e| apply_failure(&e))?;
                    if begins && !self.party.dry_run {
                        let asked = receiver.ask_for(&self.drift);
                        asked.map_err(|e| apply_failure(&e))?;
                    }
                    if listed && self.party.dry_run {
                        return Ok((End::Done(receiver.dry_report()), None));
                    }
                    let r = &receiver.report;
                    (self.progress)(&Progress {
                        phase: "receiving".into(),
                        paths: r.puts,
                        bytes: r.bytes,
                        ..Progress::default()
                    });
                    match next {
                        Next::Go => {}
                        Next::End(why)
                            if caught_up
                                && self.until == Until::CaughtUp
                                && hands_over.is_none() =>
                        {
                            tracing::debug!("the session ended: {why}");
                            return Ok((End::Done(receiver.report.clone()), None));
                        }
                        Next::End(why) => return Ok((End::Lost(why), None)),
                        Next::Refused(code, text) => {
                            self.board.update(|s| {
                                "halted".clone_into(&mut s.peer.state);
                                text.clone_into(&mut s.peer.reason);
                                text.clone_into(&mut s.last_error);
                            });
                            return Ok((End::Refused(refusal(code, text)), None));
                        }
                        Next::CaughtUp => {
                            caught_up = true;
                            // Not before: a session that is cut has brought nothing for sure.
                            self.drift.clear();
                            let inactive = receiver.side.node.epochs.set_active(false);
                            inactive.map_err(|e| failed(e, "see syncctl check"))?;
                            self.in_sync();
                            for replies in std::mem::take(&mut self.waiting) {
                                replies.send(self.answer(
                                    &Request::Resync {
                                        full: false,
                                        checksum: false,
                                        dry_run: false,
                                    },
                                    true,
                                ));
                            }
                            if self.until == Until::CaughtUp && hands_over.is_none() {
                                return Ok((End::Done(receiver.report.clone()), None));
                            }
                        }
                    }
                    if caught_up {
                        self.in_step = Some(clock::unix_ms());
                    }
                }
                Event::LinkDown { session: s, why } if s == session => {
                    return Ok((End::Lost(why), None));
                }
                // The peer holds this very session, or no longer lives: who dialled anew dials again once that is noticed.
                Event::LinkUp(next) if self.dialled => next.close(),
                Event::LinkUp(next) => {
                    return Ok((End::Lost("another session took over".into()), Some(next)));
                }
                Event::Command(
                    Request::Resync {
                        full: false,
                        checksum: false,
                        dry_run: false,
                    },
                    replies,
                ) if !caught_up => self.waiting.push(replies),
                Event::Command(request, replies) => {
                    replies.send(self.answer(&request, caught_up));
                }
                _ => {}
            }
        }
    }

    /// Finds what was changed here without any index knowing of it: a comparison of everything is to find that as well.
    fn look_over(&mut self, node: &mut Node) -> Result<(), Failure> {
        if node.index_fresh {
            if !node.adopted {
                survey::adopt(node).map_err(|e| failed(e, "see syncctl check"))?;
            }
            return Ok(());
        }
        if std::mem::take(&mut self.looked_over) {
            return Ok(());
        }
        let progress = &mut *self.progress;
        let found = survey::changed_here(node, &mut |paths| {
            progress(&Progress {
                phase: "scanning".into(),
                paths,
                ..Progress::default()
            });
        });
        self.drift = found.map_err(|e| failed(e, "see syncctl check"))?;
        Ok(())
    }

    /// A node that was active when its process ended may hold changes that not even its index knows: they are its tail
    /// as well, and must not pass for the newest data at its next activation.
    fn survey(&mut self, node: &mut Node) -> Result<(), Failure> {
        if !node.epochs.was_active() || !self.drift.is_empty() || self.party.dry_run {
            return Ok(());
        }
        self.look_over(node)?;
        if !self.drift.is_empty() {
            tracing::warn!(
                "this node was active when its process ended, and {} of its paths were changed without being noted",
                self.drift.len()
            );
        }
        Ok(())
    }

    /// Both changed data on their own: each tells the other what, and neither does anything.
    fn apart(&mut self, node: &Node, peer: &Peer, since: Seq) -> Result<End, Failure> {
        let here = Changed::here(node, since).map_err(|e| failed(e, "see syncctl check"))?;
        peer.send(here.clone().message());
        let text = diverged(&self.party, since);
        peer.send(Message::Refuse {
            code: DIVERGED,
            text: text.clone(),
        });
        if !self.party.dry_run {
            return Ok(End::Refused(refusal(DIVERGED, text)));
        }
        loop {
            let wait = async { tokio::time::timeout(HELLO, self.events.recv()).await };
            match self.rt.block_on(wait) {
                Err(_) => return Ok(End::Lost("the peer does not tell what it changed".into())),
                Ok(None | Some(Event::Stop)) => return Ok(End::Stopped),
                Ok(Some(Event::Peer {
                    session,
                    message: Message::Changed { paths, more },
                    ..
                })) if session == peer.session => {
                    let paths = paths.into_iter().collect();
                    let (found, more) = differences(node, &here, &Changed { paths, more });
                    return Ok(End::Apart(refusal(DIVERGED, text), found, more));
                }
                Ok(Some(Event::LinkDown { session, why })) if session == peer.session => {
                    return Ok(End::Lost(why));
                }
                Ok(Some(Event::Command(request, replies))) => {
                    replies.send(self.answer(&request, false));
                }
                Ok(Some(_)) => {}
            }
        }
    }

    fn in_sync(&self) {
        self.board.update(|s| {
            s.peer.state = "in-sync".into();
            s.peer.reason.clear();
        });
    }

    /// Answers a peer that is behind, until it has everything, after a look for changes that nobody noted where it `scans`.
    fn send(
        &mut self,
        side: Receiving,
        peer: Peer,
        ours: Hello,
        theirs: &Hello,
        scans: bool,
    ) -> Result<Ran, Failure> {
        let hints = Arc::new(Hints::new(0, self.sender.clone()));
        let (down, _down) = mpsc::unbounded_channel();
        let bulk = spawn_bulk(self.sender.clone())?;
        let parts = Parts {
            side,
            hints,
            board: self.board.clone(),
            party: self.party.clone(),
            bulk,
            scrub: Scrub::new(None),
            down,
            flush_timeout: Duration::ZERO,
            scans,
        };
        let mut engine = Engine::new(parts);
        engine
            .take_over(peer, ours, theirs, !self.dialled)
            .map_err(|e| failed(e, "see syncctl check"))?;
        let ran = engine.run(self.events, &self.rt);
        let mut ran = ran.map_err(|fallen| failed(fallen.error, "see syncctl check"))?;
        self.waiting.append(&mut ran.waiting);
        Ok(ran)
    }
}

fn refuse(peer: &Peer, course: Course, party: &Party) -> End {
    let (code, text) = match course {
        Course::Refused(code, text) => (code, text),
        Course::Idle => return End::Nothing("both nodes hold the same data".into()),
        Course::Blank => {
            return End::Nothing("neither node holds replicated data yet; start syncd on the one whose data are to be kept".into());
        }
        Course::Stale
        | Course::Send { .. }
        | Course::Receive { .. }
        | Course::TakeIn { .. }
        | Course::Give { .. }
        | Course::Diverged { .. } => (6, format!("{} is active", party.peer)),
    };
    peer.send(Message::Refuse {
        code,
        text: text.clone(),
    });
    End::Refused(refusal(code, text))
}
