//! The first words of a session, and which of two streams it is to be.
//!
//! Two nodes may dial each other at the same moment, and each then holds a stream of its own and one that was handed to
//! it. Whoever dialled says hello there at once, so each side learns from the other's what it wants, and
//! [`prevails`] tells both the same. Only a stream that the other side has not chosen is closed.

use std::time::{Duration, Instant};

use super::{End, HELLO, Standby};
use crate::agent::apply::Receiving;
use crate::agent::engine::Event;
use crate::agent::owner::refusal;
use crate::agent::peer::Peer;
use crate::agent::replies::Replies;
use crate::decide::crossing::{Call, Errand, prevails};
use crate::wire::control::{Answer, Failure, Request};
use crate::wire::message::{Hello, Message, Role};

/// How long a node waits that dialled and met nobody, before each further attempt: on the other side one process may have
/// just made way for another.
pub const AGAIN: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(400),
];

/// The stream that the peer dialled while this node dialled, and what was said there.
struct Other {
    peer: Peer,
    hello: Option<Box<Hello>>,
}

impl Standby<'_> {
    /// Runs the session on a stream that this node dialled, and dials again where nobody was met there.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_dialled(
        &mut self,
        side: Receiving,
        peer: Peer,
        dial: &mut dyn FnMut() -> Result<Peer, Failure>,
    ) -> Result<(Receiving, End), Failure> {
        self.dialled = true;
        let (mut side, mut end) = self.run(side, peer)?;
        for pause in AGAIN {
            let End::Unmet(why) = &end else { break };
            tracing::info!("nobody was met ({why}), once more");
            let next = match self.called(pause) {
                Err(end) => return Ok((side, end)),
                Ok(Some(next)) => next,
                Ok(None) => match dial() {
                    Ok(next) => next,
                    Err(f) => return Ok((side, End::Unmet(f.message))),
                },
            };
            (side, end) = self.run(side, next)?;
        }
        Ok((side, end))
    }

    /// The stream that the peer dialled within so long, if it did.
    fn called(&mut self, patience: Duration) -> Result<Option<Peer>, End> {
        let until = Instant::now() + patience;
        self.dialled = true;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = async { tokio::time::timeout(left, self.events.recv()).await };
            match self.rt.block_on(wait) {
                Err(_) => return Ok(None),
                Ok(None | Some(Event::Stop)) => return Err(End::Stopped),
                Ok(Some(Event::LinkUp(peer))) => {
                    self.dialled = false;
                    return Ok(Some(peer));
                }
                Ok(Some(Event::Command(request, replies))) => self.not_met(&request, &replies),
                Ok(Some(_)) => {}
            }
        }
    }

    /// Answers a command while no peer has been met.
    fn not_met(&self, request: &Request, replies: &Replies) {
        let answer = if let Request::Resync { .. } = request {
            let text = format!("{} has not been met yet", self.party.peer);
            Answer::Error(Failure {
                code: 3,
                message: text,
                hint: "try again".into(),
            })
        } else {
            self.answer(request, false)
        };
        replies.send(answer);
    }

    /// Waits for the peer's hello, on the stream that the session is to be.
    pub(super) fn await_hello(&mut self, peer: &mut Peer, ours: &Hello) -> Result<Hello, End> {
        let mut other = None;
        let greeted = self.greet(peer, &mut other, ours);
        if let Some(other) = other {
            other.peer.close();
        }
        greeted
    }

    /// As [`Self::await_hello`]; `other` is a stream that was handed to us meanwhile.
    fn greet(
        &mut self,
        peer: &mut Peer,
        other: &mut Option<Other>,
        ours: &Hello,
    ) -> Result<Hello, End> {
        loop {
            let patience = self.takeover.map_or(HELLO, |t| t.patience);
            let wait = async { tokio::time::timeout(patience, self.events.recv()).await };
            let event = match self.rt.block_on(wait) {
                Err(_) => return Err(End::Lost("the peer did not say hello".into())),
                Ok(None | Some(Event::Stop)) => return Err(End::Stopped),
                Ok(Some(event)) => event,
            };
            let on_other = |s: u64| other.as_ref().is_some_and(|o| o.peer.session == s);
            match event {
                Event::Peer {
                    session, message, ..
                } if session == peer.session => {
                    return first_word(message);
                }
                Event::Peer {
                    session,
                    message: Message::Hello(theirs),
                    ..
                } if on_other(session) => {
                    let is_theirs = prevails(call(&theirs), call(ours));
                    if let Some(o) = other {
                        o.hello = Some(theirs);
                    }
                    if is_theirs && let Some(hello) = self.change(peer, other, ours) {
                        return Ok(*hello);
                    }
                }
                Event::LinkDown { session, why } if session == peer.session => {
                    if other.is_none() {
                        return Err(End::Unmet(why));
                    }
                    if let Some(hello) = self.change(peer, other, ours) {
                        return Ok(*hello);
                    }
                }
                Event::LinkDown { session, .. } if on_other(session) => *other = None,
                Event::LinkUp(next) => {
                    let next = Other {
                        peer: next,
                        hello: None,
                    };
                    if let Some(older) = other.replace(next) {
                        older.peer.close();
                    }
                    if !self.dialled {
                        self.change(peer, other, ours);
                    }
                }
                Event::Command(request, replies) => self.not_met(&request, &replies),
                _ => {}
            }
        }
    }

    /// Goes over to the other stream, where there is one; what was said there already comes back.
    fn change(
        &mut self,
        peer: &mut Peer,
        other: &mut Option<Other>,
        ours: &Hello,
    ) -> Option<Box<Hello>> {
        let next = other.take()?;
        std::mem::replace(peer, next.peer).close();
        self.dialled = false;
        peer.send(Message::Hello(Box::new(ours.clone())));
        next.hello
    }
}

/// What a node wants that dialled and said this.
fn call(hello: &Hello) -> Call<'_> {
    let errand = match hello.role {
        Role::Active => Errand::Push,
        Role::Standby if hello.takes_over => Errand::TakeOver,
        Role::Standby => Errand::CatchUp,
    };
    Call {
        node: &hello.node,
        errand,
    }
}

fn first_word(message: Message) -> Result<Hello, End> {
    match message {
        Message::Hello(theirs) => Ok(*theirs),
        Message::Refuse { code, text } => Err(End::Refused(refusal(code, text))),
        Message::Bye { text } => Err(End::Lost(text)),
        _ => Err(End::Lost("the peer did not begin with hello".into())),
    }
}
