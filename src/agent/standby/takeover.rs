//! The session before an activation, where the peer is active itself: it is asked to hand over, or left as it is.

use std::time::{Duration, Instant};

use super::{End, HELLO, Standby};
use crate::agent::engine::Event;
use crate::agent::meeting::Course;
use crate::agent::owner::refusal;
use crate::agent::peer::Peer;
use crate::config::OnPeerActive;
use crate::wire::control::ResyncReport;
use crate::wire::message::{Hello, Message, Role};

/// How a node that is about to become active treats its peer.
#[derive(Debug, Clone, Copy)]
pub struct Takeover {
    /// What to do where the peer is active.
    pub on_peer_active: OnPeerActive,
    /// How long the peer may take to say hello, and may say nothing while it hands over.
    pub patience: Duration,
}

impl Standby<'_> {
    /// Whether nothing can be taken from a peer that is active while this node is to become it.
    pub(super) fn takes_nothing(&self, theirs: &Hello, course: &Course) -> bool {
        let asks = |t: Takeover| t.on_peer_active == OnPeerActive::Handover;
        theirs.role == Role::Active
            && self
                .takeover
                .is_some_and(|t| !asks(t) || !matches!(course, Course::Receive { .. }))
    }

    /// The peer is active, and this node takes nothing from it: the configuration does not want it to hand over, or its
    /// data are no use here.
    pub(super) fn beside_active(&mut self, peer: &Peer, name: &str) -> End {
        let takeover = self.takeover;
        match takeover.map(|t| t.on_peer_active) {
            Some(OnPeerActive::Refuse) => {
                let text = format!(
                    "{name} is active and on_peer_active is \"refuse\"; deactivate {name} first"
                );
                return End::Refused(refusal(6, text));
            }
            Some(OnPeerActive::Serve) => {
                let text =
                    "is active, too, and on_peer_active is \"serve\": nothing was taken from it";
                return End::Declined(text.into());
            }
            None => return End::Nothing(format!("{name} is active, too")),
            Some(OnPeerActive::Handover) => {}
        }
        let patience = takeover.map_or(HELLO, |t| t.patience);
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = async { tokio::time::timeout(left, self.events.recv()).await };
            match self.rt.block_on(wait) {
                Err(_) => return End::Lost("it is active and does not hand over".into()),
                Ok(None | Some(Event::Stop)) => return End::Stopped,
                Ok(Some(Event::LinkUp(other))) => other.close(),
                Ok(Some(Event::LinkDown { session, why })) if session == peer.session => {
                    return End::Lost(format!("it was active: {why}"));
                }
                Ok(Some(Event::Peer {
                    session,
                    message: Message::HandedOver { left, why },
                    ..
                })) if session == peer.session => {
                    return handed_over(ResyncReport::default(), name, left, &why);
                }
                Ok(Some(Event::Command(request, replies))) => {
                    replies.send(self.answer(&request, false));
                }
                Ok(Some(_)) => {}
            }
        }
    }
}

/// The peer is no longer active; what it could not send stays there.
pub(super) fn handed_over(report: ResyncReport, name: &str, left: u64, why: &str) -> End {
    if left == 0 && why.is_empty() {
        let verdict = format!("{name} handed over");
        return End::Done(ResyncReport { verdict, ..report });
    }
    tracing::error!("{name} handed over and keeps {left} changed paths that are not here: {why}");
    let paths = if left == 1 { "path" } else { "paths" };
    let verdict = format!("{name} handed over without {left} changed {paths} ({why})");
    End::Short(ResyncReport { verdict, ..report })
}
