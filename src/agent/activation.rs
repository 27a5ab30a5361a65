//! What happens before a node becomes active: it takes the newest data that can be had, and says what they are.
//!
//! A cluster manager that is refused releases the whole group on both nodes, so whatever the peer does or does not do, the
//! node becomes active in the end; only an order in the configuration stops it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::apply::Receiving;
use super::board::Board;
use super::engine::Event;
use super::meeting::some_of;
use super::owner::{Site, failed};
use super::peer::{self, MISSED, Peer};
use super::setup;
use super::standby::{AGAIN, End, Standby, Takeover, Until};
use crate::config::{OnPeerActive, OnStale};
use crate::model::span::span;
use crate::sys::clock;
use crate::sys::link::{self, Opening};
use crate::wire::control::{Answer, Failure, Progress, ResyncReport};
use crate::wire::message::Role;

/// Number in the index: when this node last stood where its active peer stood, in milliseconds of this host's clock.
pub const IN_STEP: &str = "in_step_ms";

/// Time in which a host that lives accepts or refuses a connection, with room to spare on any network that two nodes of
/// a cluster share.
const ANSWER: Duration = Duration::from_millis(200);
/// Paths named in a sentence.
const SHOWN: usize = 5;

/// What an activation works with.
pub struct Activation<'a> {
    /// The node.
    pub site: &'a Site,
    /// The runtime of links and sockets.
    pub rt: &'a tokio::runtime::Runtime,
    /// The status.
    pub board: &'a Arc<Board>,
    /// The process's events.
    pub events: &'a mut mpsc::Receiver<Event>,
    /// Where others put them.
    pub sender: &'a mpsc::Sender<Event>,
    /// The connection to the peer, which is being made already.
    pub opening: Option<Opening>,
}

impl Activation<'_> {
    /// Asks the peer, takes what it has and this node lacks, has an active peer hand over. Returns how this node comes to
    /// be active, in a sentence.
    ///
    /// # Errors
    /// A failure where the configuration is at fault or forbids it, where this node's own state fails, or where it was
    /// told to end.
    pub fn take_newest(&mut self, mut side: Receiving) -> Result<(Receiving, String), Failure> {
        let settings = &self.site.config.activation;
        if settings.on_stale == OnStale::Serve {
            let text = format!(
                "{}, as on_stale says, without asking the peer",
                local(&mut side)?
            );
            return Ok((side, text));
        }
        let patience = settings.activate_timeout;
        let takeover = Takeover {
            on_peer_active: settings.on_peer_active,
            patience,
        };
        let alone = |side: &mut Receiving, why: &str| -> Result<String, Failure> {
            let text = format!("{}: {} {why}", local(side)?, self.site.peer_name());
            tracing::warn!("going on {text}");
            Ok(text)
        };
        if self.is_gone(&side)? {
            let why = "fell silent while both held the same, and its host does not answer";
            let text = alone(&mut side, why)?;
            return Ok((side, text));
        }
        let peer = match self.dial()? {
            Ok(peer) => peer,
            Err(why) => {
                let text = alone(&mut side, &format!("cannot be reached ({why})"))?;
                return Ok((side, text));
            }
        };
        setup::prepare(&mut side)?;
        let (mut side, end) = self.pull(side, peer, takeover)?;
        let text = match end {
            End::Done(report) | End::Short(report) if report.problems > 0 => {
                let text = format!(
                    "without {} paths that could not be taken ({}; see syncctl status)",
                    report.problems, report.verdict
                );
                tracing::error!("going on {text}");
                text
            }
            End::Short(report) => {
                let taken = report.puts + report.deletes;
                let text = format!("as {}; {taken} paths taken", report.verdict);
                tracing::error!("going on {text}");
                text
            }
            End::Done(report) => format!(
                "with the newest data ({}; {} paths taken)",
                report.verdict,
                report.puts + report.deletes
            ),
            End::Nothing(text) => format!("with the newest data ({text})"),
            End::Declined(why) => alone(&mut side, &why)?,
            End::Apart(..) => alone(&mut side, "changed data of its own")?,
            End::Lost(why) | End::Unmet(why) => alone(&mut side, &format!("was lost ({why})"))?,
            // A split brain or a differing configuration halts replication, not the service.
            End::Refused(f) if matches!(f.code, 2 | 5) => {
                alone(&mut side, &format!("cannot be followed: {}", f.message))?
            }
            End::Refused(f) => return Err(f),
            End::Stopped => return Err(interrupted()),
        };
        Ok((side, text))
    }

    /// Takes what the peer has. What failed for a moment is tried once more: this node is about to be the one that counts.
    fn pull(
        &mut self,
        side: Receiving,
        peer: Peer,
        takeover: Takeover,
    ) -> Result<(Receiving, End), Failure> {
        let begun = Instant::now();
        let (site, rt, sender) = (self.site, self.rt, self.sender);
        let mut party = site.party(Role::Standby);
        party.takes_over = takeover.on_peer_active == OnPeerActive::Handover;
        let mut quiet = |_: &Progress| {};
        let (handle, board) = (rt.handle().clone(), self.board.clone());
        let mut standby = Standby::new(
            self.events,
            sender.clone(),
            handle,
            board,
            party,
            &mut quiet,
        );
        standby.until = Until::CaughtUp;
        standby.takeover = Some(takeover);
        let mut dial = || setup::dial(site, rt, sender);
        let (side, end) = standby.run_dialled(side, peer.clone(), &mut dial)?;
        let left = takeover.patience.saturating_sub(begun.elapsed());
        match &end {
            End::Done(report) | End::Short(report) if report.problems > 0 => {
                // It is remembered, and may be a moment's trouble.
                tracing::warn!("not everything could be taken: it is asked for once more");
            }
            // A peer that fell silent would do so again, and one whose host is gone is not there to be asked.
            End::Lost(why) if !left.is_zero() && peer.silence().is_none() && !is_dead(site, rt) => {
                tracing::warn!("the session was lost ({why}): the peer is asked once more");
                standby.takeover = Some(Takeover {
                    patience: left,
                    ..takeover
                });
            }
            _ => return Ok((side, end)),
        }
        let Ok(peer) = dial() else {
            return Ok((side, end));
        };
        let (side, again) = standby.run_dialled(side, peer, &mut dial)?;
        Ok((side, once_more(end, again)))
    }

    /// Whether the peer died, as two observations say that do not depend on each other: the stream on which it sent its
    /// changes to this node fell silent, and its host does not answer now. There is nobody to wait for then.
    fn is_gone(&mut self, side: &Receiving) -> Result<bool, Failure> {
        let since = side.node.peer_silent_since();
        let Some(since) = since.map_err(|e| failed(e, "see syncctl check"))? else {
            return Ok(false);
        };
        let (rt, site) = (self.rt, self.site);
        let silence = Duration::from_millis(clock::unix_ms().saturating_sub(since));
        let left = MISSED.saturating_sub(silence);
        if !is_dead(site, rt) {
            return Ok(false);
        }
        if left.is_zero() {
            return Ok(true);
        }
        // The stream was given up so early that the peer's sign of life may only have been late.
        self.wait(left)?;
        Ok(is_dead(site, rt))
    }

    /// Dials the peer, for as long as nobody tells this process to end, and again where what failed may be well a moment
    /// later; why it cannot be reached is no failure.
    fn dial(&mut self) -> Result<Result<Peer, String>, Failure> {
        let (site, rt) = (self.site, self.rt);
        let mut pauses = AGAIN.into_iter();
        loop {
            let opening = self.opening.take();
            let opening = opening.unwrap_or_else(|| setup::begin(site, rt));
            let dialled = rt.block_on(async {
                tokio::select! {
                    linked = opening.finish() => Some(linked),
                    () = told_to_end(self.events) => None,
                }
            });
            match dialled {
                None => return Err(interrupted()),
                Some(Ok(linked)) => {
                    let _guard = self.rt.enter();
                    let peer = peer::start(linked, self.site.style(), self.sender.clone());
                    return Ok(Ok(peer));
                }
                Some(Err(e)) => match pauses.next().filter(|_| e.may_pass()) {
                    None => return Ok(Err(setup::link_failure(e).message)),
                    Some(pause) => self.wait(pause)?,
                },
            }
        }
    }

    /// Lets some time go by, unless this process is told to end.
    fn wait(&mut self, time: Duration) -> Result<(), Failure> {
        let told = self
            .rt
            .block_on(async { tokio::time::timeout(time, told_to_end(self.events)).await });
        if told.is_ok() {
            return Err(interrupted());
        }
        Ok(())
    }
}

/// The end of a session and of the one that was to take what the first could not: what is left is what the second left.
fn once_more(first: End, second: End) -> End {
    match (first, second) {
        (End::Done(first) | End::Short(first), End::Done(second)) => End::Done(ResyncReport {
            puts: first.puts + second.puts,
            deletes: first.deletes + second.deletes,
            ..second
        }),
        (End::Lost(_), second) | (_, second @ (End::Stopped | End::Refused(_))) => second,
        (first, _) => first,
    }
}

/// Whether the peer's host does not answer at all.
fn is_dead(site: &Site, rt: &tokio::runtime::Runtime) -> bool {
    rt.block_on(link::is_dead(&site.target(), ANSWER))
}

/// Returns when this process is told to end; what else it is told before it met its peer is answered or dropped.
async fn told_to_end(events: &mut mpsc::Receiver<Event>) {
    loop {
        match events.recv().await {
            None | Some(Event::Stop) => return,
            // The stream that this node dials counts.
            Some(Event::LinkUp(peer)) => peer.close(),
            Some(Event::Command(_, replies)) => {
                let f = Failure {
                    code: 3,
                    message: "this node is about to become active".into(),
                    hint: "try again in a moment".into(),
                };
                replies.send(Answer::Error(f));
            }
            Some(_) => {}
        }
    }
}

fn interrupted() -> Failure {
    failed("interrupted before it was active", "start it again")
}

/// In words, what this node's own data are.
fn local(side: &mut Receiving) -> Result<String, Failure> {
    let node = &mut side.node;
    let number = node.store.number(IN_STEP);
    let since = number.map_err(|e| failed(e, "see syncctl check"))?;
    let history = node.epochs.history();
    let mut text = match history.last() {
        None => "with local data that were never replicated".into(),
        Some(epoch) => {
            let mut text = format!(
                "with local data (sequence {}, epoch {} of {}",
                history.head(),
                epoch.number,
                epoch.node
            );
            if since > 0 {
                let age = span(clock::unix_ms().saturating_sub(since));
                text += &format!(", last in step with the peer {age} ago");
            }
            text + ")"
        }
    };
    if node.epochs.catching_up() {
        text += " which are between two states, since a catch-up was interrupted";
    }
    let lacked = node.store.lacked();
    let lacked = lacked.map_err(|e| failed(e, "see syncctl check"))?;
    if !lacked.is_empty() {
        let shown = lacked.iter().take(SHOWN).map(|l| node.show(&l.path));
        let shown = some_of(&shown.collect::<Vec<_>>(), lacked.len() as u64);
        text += &format!(" and without the peer's version of {shown}, which never came here");
    }
    Ok(text)
}
