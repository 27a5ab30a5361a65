//! A session in which the peer takes in what this node changed on its own, and in which this node then is behind.

use super::{End, Standby};
use crate::agent::activation::IN_STEP;
use crate::agent::apply::Receiving;
use crate::agent::owner::{apply_failure, failed, refusal};
use crate::agent::peer::Peer;
use crate::agent::receiver::Receiver;
use crate::model::epoch::Seq;
use crate::sys::clock;
use crate::wire::control::{Failure, ResyncReport};
use crate::wire::message::Hello;

/// A side, how its session ended, and the stream of the one that took its place, if one did.
pub(super) type Followed = (Receiving, End, Option<Peer>);

impl Standby<'_> {
    /// Both changed data on their own after `since`: the peer takes in what this node changed, then this node receives.
    ///
    /// # Errors
    /// A failure where the node's own state fails.
    pub(super) fn bring_together(
        &mut self,
        mut side: Receiving,
        peer: &Peer,
        since: Seq,
        ours: &Hello,
        theirs: &Hello,
    ) -> Result<Followed, Failure> {
        self.survey(&mut side.node)?;
        let ran = self.send(side, peer.clone(), ours.clone(), theirs, false)?;
        let mut side = ran.side;
        if !ran.given {
            return Ok((side, halted(ran.refused, ran.why), None));
        }
        // What nobody noted is this node's tail until the peer's state has taken its place.
        let unnoted = side.node.epochs.was_active() && !self.drift.is_empty();
        // The peer holds what this node changed, so from now on this node is behind it and nothing else.
        let settled = side.settle(&[], &[], theirs.history.truncated(since));
        settled.map_err(|e| apply_failure(&e))?;
        let node = &mut side.node;
        let counted = node.store.count_as_shared(since);
        counted.map_err(|e| failed(e, "see syncctl check"))?;
        if unnoted {
            let noted = node.epochs.set_active(true);
            noted.map_err(|e| failed(e, "see syncctl check"))?;
        }
        node.lost_split_brain = false;
        let (side, mut end, next) = self.follow(side, peer, since, (ours, theirs))?;
        if let End::Done(report) = &mut end {
            report.verdict = both(&self.party.node, &self.party.peer);
        }
        Ok((side, end, next))
    }

    /// Brings the peer, which is behind, to where this node stands; before that this node takes in what the peer changed on
    /// its own, where `takes_in` says so.
    ///
    /// # Errors
    /// A failure where the node's own state fails.
    pub(super) fn bring(
        &mut self,
        mut side: Receiving,
        peer: &Peer,
        (ours, theirs): (Hello, &Hello),
        takes_in: bool,
    ) -> Result<(Receiving, End), Failure> {
        let scans = side.node.is_unclean() && !takes_in;
        if scans {
            side.node.epochs.go_on_with_epoch(&self.party.node);
        }
        let ran = self.send(side, peer.clone(), ours, theirs, scans)?;
        let mut side = ran.side;
        if !ran.caught_up {
            return Ok((side, halted(ran.refused, ran.why)));
        }
        if scans {
            // Everything was noted.
            let noted = side.node.epochs.set_active(false);
            noted.map_err(|e| failed(e, "see syncctl check"))?;
        }
        let peer = &self.party.peer;
        let verdict = if self.party.dry_run {
            format!("{peer} is behind and would receive")
        } else if takes_in {
            both(&self.party.node, peer)
        } else {
            format!("{peer} was behind and received")
        };
        let report = ran.brought.report(ResyncReport {
            direction: "send".into(),
            verdict,
            ..ResyncReport::default()
        });
        Ok((side, End::Done(report)))
    }

    /// Receives what the peer has more than both shared at `since`.
    ///
    /// # Errors
    /// A failure where the node's own state fails.
    pub(super) fn follow(
        &mut self,
        side: Receiving,
        peer: &Peer,
        since: Seq,
        (ours, theirs): (&Hello, &Hello),
    ) -> Result<Followed, Failure> {
        let mut receiver = Receiver::new(side, peer.clone(), self.board.clone(), since);
        receiver.not_taken(theirs.lacks.clone());
        self.in_step = None;
        let (end, next) = self.receive(&mut receiver, ours, theirs)?;
        // Before anything is brought to disk, which takes its time.
        let silence = peer
            .silence()
            .and_then(|s| u64::try_from(s.as_millis()).ok());
        let since = silence.map(|ms| clock::unix_ms().saturating_sub(ms));
        let side = receiver.finish();
        if let Some(ms) = self.in_step {
            let noted = side.node.store.set_number(IN_STEP, ms);
            let noted = noted.and_then(|()| side.node.note_silence(since));
            noted.map_err(|e| failed(e, "see syncctl check"))?;
        }
        Ok((side, end, next))
    }
}

/// In words, that both sides' changes are on both nodes now.
fn both(node: &str, peer: &str) -> String {
    format!("{node} and {peer} both changed data, and both have both sides' changes now")
}

/// How a session ended in which this node sent and did not come to the end.
fn halted(refused: Option<(u8, String)>, why: String) -> End {
    match refused {
        Some((code, text)) => End::Refused(refusal(code, text)),
        None => End::Lost(why),
    }
}
