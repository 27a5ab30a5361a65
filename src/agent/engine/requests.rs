//! What the commands of `syncctl` make the engine do; who waits for what is kept in [`Commands`].
//!
//! [`Commands`]: crate::agent::commands::Commands

use std::time::Duration;

use super::Engine;
use crate::agent::board::Board;
use crate::agent::commands::{done, failure};
use crate::agent::divergence::{Changed, differences};
use crate::agent::once::apart;
use crate::agent::owner::no_such_root;
use crate::agent::replies::Replies;
use crate::agent::session::Phase;
use crate::model::epoch::Keep;
use crate::wire::control::{Answer, Outcome, Request, ResyncReport};
use crate::wire::message::Role;

/// What to do about replication that is halted.
const HALTED: &str = "where both nodes are active, run \"syncctl deactivate\" on the one that is not to be; see syncctl status on both nodes";

impl Engine {
    /// Does what a command asks for, or has it wait.
    pub(super) fn command(&mut self, request: Request, replies: Replies) {
        let needs_peer = matches!(
            request,
            Request::Resync { .. } | Request::Resolve { .. } | Request::Verify { .. }
        );
        if needs_peer && !self.has_met() && !self.paused {
            // Whoever asks may have mended just now what the last attempt failed of.
            let _ = self.down.send(());
            return self.commands.wait_for_meeting(request, replies);
        }
        match request {
            Request::Status => {
                let status = Box::new(self.board.snapshot());
                replies.send(Answer::Done(Outcome {
                    status: Some(status),
                    ..Outcome::default()
                }));
            }
            Request::Flush { timeout_ms } => {
                let roots: Vec<_> = self
                    .side
                    .node
                    .roots
                    .iter()
                    .map(|r| r.root.clone())
                    .collect();
                let now = self.hints.now();
                self.commands
                    .flush(&roots, Duration::from_millis(timeout_ms), now, replies);
            }
            Request::Pause | Request::Resume => {
                self.pause(matches!(request, Request::Pause), &replies)
            }
            Request::Resync { .. } if self.party.role == Role::Standby => {
                self.resync_under_way(&request, replies);
            }
            Request::Resync {
                full,
                checksum,
                dry_run,
            } => self.resync(full, checksum, dry_run, replies),
            Request::Approve { root } => {
                let answer = match (&root, self.approve(root.as_deref())) {
                    (Some(name), _) if !self.has_root(name) => Answer::Error(no_such_root(name)),
                    (_, names) if names.is_empty() => {
                        let held = self.roots.first_held(&self.side.node);
                        let held = held.map_or(String::new(), |why| format!("; {why}"));
                        Answer::Done(done(format!("nothing waits for an approval{held}")))
                    }
                    (_, names) => Answer::Done(done(format!(
                        "approved: what is gone from {} on one node is deleted on the other, too",
                        names.join(", ")
                    ))),
                };
                replies.send(answer);
            }
            Request::Resolve {
                keep_local,
                dry_run,
            } => self.resolve_split(keep_local, dry_run, replies),
            Request::Verify { quick } => self.verify(quick, replies),
            Request::Deactivate { timeout_ms } => {
                self.depart(Duration::from_millis(timeout_ms), Some(replies));
            }
            Request::Serve | Request::Yield => {
                replies.send(failure(
                    1,
                    "this request is not for the engine",
                    "report this as a defect",
                ));
            }
        }
    }

    /// What was asked for while the nodes were apart is answered now, if they have met, or do not meet soon.
    pub(super) fn answer_early(&mut self) {
        if !self.commands.has_early() {
            return;
        }
        let met = self.has_met();
        for (request, replies) in self.commands.take_early(met) {
            if met {
                self.command(request, replies);
            } else {
                replies.send(self.no_session());
            }
        }
    }

    /// Whether it is known how this node stands to its peer.
    fn has_met(&self) -> bool {
        let halted = matches!(&*self.board.snapshot().peer.state, "diverged" | "halted");
        halted || (self.session.as_ref()).is_some_and(|s| !matches!(s.phase, Phase::Meeting))
    }

    fn has_root(&self, name: &str) -> bool {
        self.side.node.roots.iter().any(|r| r.root.name == name)
    }

    fn pause(&mut self, on: bool, replies: &Replies) {
        self.paused = on;
        note_pause(&self.board, on, None, replies);
        if on {
            self.link_down("replication was paused by syncctl pause");
        } else {
            let _ = self.down.send(());
        }
    }

    /// A node that is not active and has a session is doing what a resync does, unless more than that is asked for.
    fn resync_under_way(&mut self, request: &Request, replies: Replies) {
        let plain = Request::Resync {
            full: false,
            checksum: false,
            dry_run: false,
        };
        if *request != plain {
            return self.commands.await_end(replies);
        }
        let report = ResyncReport {
            direction: "send".into(),
            verdict: format!("{} was behind and received", self.party.peer),
            ..ResyncReport::default()
        };
        self.commands.await_sync(report, replies);
    }

    fn resync(&mut self, full: bool, checksum: bool, dry_run: bool, replies: Replies) {
        // Who dials during a pause is greeted, and no more.
        if (self.session.is_none() || self.paused) && !(dry_run && self.paused) {
            replies.send(self.no_session());
            return;
        }
        if dry_run {
            replies.send(self.would_send(full || checksum));
            return;
        }
        if checksum && let Err(e) = self.side.node.store.forget_hashes() {
            replies.send(failure(1, e.to_string(), "see syncctl check"));
            return;
        }
        self.scan_all();
        let verdict = format!("{} is active and sends", self.party.node);
        let report = ResyncReport {
            direction: "send".into(),
            verdict,
            ..ResyncReport::default()
        };
        self.party.full = full || checksum;
        // A new meeting compares anew.
        self.link_down("a resync was asked for");
        self.commands.await_sync(report, replies);
        let _ = self.down.send(());
    }

    /// Why nothing can be asked of the peer now.
    fn no_session(&self) -> Answer {
        let why = &self.unreachable;
        if self.paused {
            return failure(6, "replication is paused", "run \"syncctl resume\" first");
        }
        match self.board.snapshot().peer.state.as_str() {
            "diverged" => failure(5, why, "see \"Split brain\" in README.md"),
            "halted" => failure(6, why, HALTED),
            _ => {
                let text = format!("{} cannot be reached: {why}", self.party.peer);
                failure(4, text, "see syncctl check")
            }
        }
    }

    /// What this node, which is active, would send: what it knows to be pending. What a comparison would find it does not know.
    fn would_send(&self, compare: bool) -> Answer {
        let (node, peer) = (&self.party.node, &self.party.peer);
        if compare {
            let hint = format!(
                "run \"syncctl diff\" here to compare metadata and \"syncctl verify\" to compare contents, or the dry run on {peer} while {node} is not active"
            );
            let text = format!("{node} is active, and does not know what a comparison would find");
            return failure(2, text, hint);
        }
        let pending = self.board.snapshot().pending;
        let least = if pending.scanning {
            "; a scan is under way, and may find more"
        } else {
            ""
        };
        let (direction, verdict) = match pending.paths {
            0 => (
                "none",
                format!("{peer} has every change that {node} noticed{least}"),
            ),
            _ => (
                "send",
                format!("{node} is active and sends what {peer} lacks{least}"),
            ),
        };
        Answer::Done(Outcome {
            resync: Some(ResyncReport {
                direction: direction.into(),
                verdict,
                puts: pending.paths,
                bytes: pending.bytes,
                ..ResyncReport::default()
            }),
            ..done("nothing was changed")
        })
    }

    /// Both nodes changed data on their own: tells what, or has this node's data be kept.
    fn resolve_split(&mut self, keep_local: bool, dry_run: bool, replies: Replies) {
        let (node, peer) = (&self.party.node, &self.party.peer);
        let Some((since, there)) = &self.apart else {
            let answer = match self.board.snapshot().peer.state.as_str() {
                "in-sync" | "catching-up" => Answer::Done(done(format!(
                    "nothing to decide: the data of {node} and {peer} have not diverged"
                ))),
                // Whether there is anything to decide shows when the nodes meet.
                _ => self.no_session(),
            };
            replies.send(answer);
            return;
        };
        if dry_run {
            let here = match Changed::here(&self.side.node, *since) {
                Ok(here) => here,
                Err(e) => {
                    replies.send(failure(1, e.to_string(), "see syncctl check"));
                    return;
                }
            };
            let (found, more) = differences(&self.side.node, &here, there);
            let text = apart(&found, more, node, peer);
            for difference in found {
                replies.send(Answer::Difference(difference));
            }
            replies.send(Answer::Done(done(text)));
            return;
        }
        if !keep_local {
            let text = format!("{node} is active with the data that are to be given up");
            let hint = format!(
                "deactivate {node} first: move the service to {peer}, or run \"syncctl deactivate\""
            );
            replies.send(failure(6, text, hint));
            return;
        }
        let verdict =
            format!("the data of {node} are kept; what {peer} changed is preserved there");
        let report = ResyncReport {
            direction: "send".into(),
            verdict,
            ..ResyncReport::default()
        };
        self.party.keep = Keep::Mine;
        self.board
            .update(|s| "unreachable".clone_into(&mut s.peer.state));
        self.link_down("it was decided which side is kept");
        self.commands.await_sync(report, replies);
        let _ = self.down.send(());
    }

    fn verify(&mut self, quick: bool, replies: Replies) {
        if self.party.role != Role::Active {
            let text = format!(
                "{} is not active; a comparison is run by the active node",
                self.party.node
            );
            replies.send(failure(2, text, format!("run it on {}", self.party.peer)));
            return;
        }
        let live = matches!(self.session.as_ref().map(|s| &s.phase), Some(Phase::Live));
        if !live || self.commands.is_comparing() {
            replies.send(if live {
                failure(1, "another comparison is under way", "see syncctl status")
            } else if self.session.is_none() {
                self.no_session()
            } else {
                let text = "the peer is not in sync, so there is nothing to compare yet";
                failure(4, text, "see syncctl status")
            });
            return;
        }
        if let Some(round) = self.begin_compare(quick) {
            self.commands.compare(quick, round, replies);
        }
    }
}

/// Notes for the status and for the next engine whether replication is paused, and answers who asked for that; `halted` says
/// why nothing would be sent anyway.
pub fn note_pause(board: &Board, on: bool, halted: Option<&str>, replies: &Replies) {
    board.update(|s| s.paused = on);
    let message = match (on, halted) {
        (true, None) => {
            "replication is paused; changes are noted and sent after syncctl resume".to_owned()
        }
        (false, None) => "replication goes on".to_owned(),
        (true, Some(why)) => format!("replication is paused, and it is halted: {why}"),
        (false, Some(why)) => format!("replication is no longer paused, but it is halted: {why}"),
    };
    replies.send(Answer::Done(done(message)));
}
