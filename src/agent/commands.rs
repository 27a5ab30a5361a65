//! Commands that take a while: who waits for what, and until when.
//!
//! What they make the engine do is in `engine/requests.rs`; here nothing but the waiting is kept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::replies::Replies;
use super::round::Round;
use super::session::Brought;
use crate::sys::tree::Root;
use crate::wire::control::{Answer, Difference, Failure, Outcome, Progress, Request, ResyncReport};

/// Time between two progress lines.
const PROGRESS: Duration = Duration::from_millis(500);

/// Bytes of answers that nobody took yet, beyond which a comparison does not go on.
const MAX_UNTAKEN: usize = 2 * 1024 * 1024;

/// Bytes of the same, beyond which what the peer finds is only counted: it may find a million files in one directory, or be
/// hostile.
const MAX_NAMED: usize = 32 * 1024 * 1024;

/// Bytes of paths that one comparison found to differ and has sent again.
const MAX_MENDED: usize = 16 * 1024 * 1024;

/// Time after which somebody who takes answers slowly may have taken some.
const SLOW: Duration = Duration::from_millis(20);

/// Time after which a peer that is sent more than it takes at once has mostly taken some.
const SOON: Duration = Duration::from_millis(1);

/// How long a command that needs the peer goes on trying to reach it.
const PATIENCE: Duration = Duration::from_secs(5);

struct Flush {
    replies: Replies,
    deadline: Instant,
    cookies: BTreeSet<u64>,
    /// When the last cookie was seen (ms of the engine's clock): everything noticed up to then must be on the peer.
    upto: Option<u64>,
    /// Whether all of that is in the index.
    noted: bool,
}

struct Waiting {
    replies: Replies,
    report: ResyncReport,
    told: Instant,
    started: Instant,
}

struct Comparing {
    replies: Replies,
    quick: bool,
    round: Option<Round>,
    found: u64,
    /// Of these, how many are not told.
    unnamed: u64,
    /// Of these, how many are not sent again.
    left: u64,
    /// Bytes of the paths of the others.
    mended: usize,
    paths: u64,
    told: Instant,
}

impl Comparing {
    fn has_room(&self) -> bool {
        self.replies.untaken() < MAX_UNTAKEN
    }
}

/// The commands under way.
#[derive(Default)]
pub struct Commands {
    flushes: Vec<Flush>,
    resyncs: Vec<Waiting>,
    comparing: Option<Comparing>,
    cookie: u64,
    /// What needs the peer, asked while the nodes were apart, and when.
    early: Vec<(Request, Replies, Instant)>,
    /// Who waits for the end of this engine, to do by itself what it asked for.
    after: Vec<Replies>,
}

/// An outcome that is a message and nothing else.
pub(super) fn done(message: impl Into<String>) -> Outcome {
    Outcome {
        message: message.into(),
        ..Outcome::default()
    }
}

/// A failure as an answer.
pub(super) fn failure(code: u8, message: impl Into<String>, hint: impl Into<String>) -> Answer {
    Answer::Error(Failure {
        code,
        message: message.into(),
        hint: hint.into(),
    })
}

impl Commands {
    /// Whether somebody waits for a flush.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        !self.flushes.is_empty()
    }

    /// Whether a comparison can go on; `room` where the peer takes more.
    #[must_use]
    pub fn has_work(&self, room: bool) -> bool {
        let goes_on = |c: &Comparing| c.round.is_some() && room && c.has_room();
        self.comparing.as_ref().is_some_and(goes_on)
    }

    /// How long until something times out, or a comparison may go on; `room` where the peer takes more.
    #[must_use]
    pub fn deadline_in(&self, room: bool) -> Duration {
        let now = Instant::now();
        let flush = self
            .flushes
            .iter()
            .map(|f| f.deadline.saturating_duration_since(now))
            .min();
        let early = self.early.iter();
        let early = early.map(|(.., asked)| (*asked + PATIENCE).saturating_duration_since(now));
        let progress = match &self.comparing {
            Some(c) if c.round.is_some() && !c.has_room() => Some(SLOW),
            Some(c) if c.round.is_some() && !room => Some(SOON),
            Some(_) => Some(PROGRESS),
            None => (!self.resyncs.is_empty()).then_some(PROGRESS),
        };
        [flush, early.min(), progress]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Duration::from_secs(3600))
    }

    /// The peer is dialled: whoever needs it waits until it is met, or for a while.
    pub(super) fn wait_for_meeting(&mut self, request: Request, replies: Replies) {
        self.early.push((request, replies, Instant::now()));
    }

    /// Whether somebody waits for a meeting.
    #[must_use]
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Those who waited for a meeting: all of them once the peer is `met`, else those who waited long enough.
    pub(super) fn take_early(&mut self, met: bool) -> Vec<(Request, Replies)> {
        let due =
            |(_, _, asked): &mut (Request, Replies, Instant)| met || asked.elapsed() >= PATIENCE;
        self.early
            .extract_if(.., due)
            .map(|(request, replies, _)| (request, replies))
            .collect()
    }

    /// A cookie came back through the watcher.
    pub fn cookie(&mut self, n: u64, now: u64) {
        for f in &mut self.flushes {
            if f.cookies.remove(&n) && f.cookies.is_empty() {
                f.upto = Some(now);
            }
        }
    }

    /// Everything was looked at that was noticed before `oldest`.
    pub fn looked_at(&mut self, oldest: Option<u64>) {
        for f in &mut self.flushes {
            f.noted |= f.upto.is_some_and(|upto| oldest.is_none_or(|o| o > upto));
        }
    }

    /// Whether the index tells of everything for which a flush waits.
    #[must_use]
    pub fn is_noted(&self) -> bool {
        self.flushes.iter().all(|f| f.noted)
    }

    /// Ends flushes whose changes are all on the peer; `oldest` is the oldest change that is not.
    pub fn check_flush(&mut self, quiet: bool, oldest: Option<u64>) {
        self.flushes.retain(|f| {
            let Some(upto) = f.upto else { return true };
            if quiet && oldest.is_none_or(|o| o > upto) {
                f.replies.send(Answer::Done(done(
                    "everything changed before this command is on the peer",
                )));
                return false;
            }
            true
        });
    }

    /// Ends all flushes: a part of the tree is held by a guard.
    pub fn refuse_flush(&mut self, why: &str) {
        for f in self.flushes.drain(..) {
            let hint = "mend the cause; syncctl status shows when it goes on";
            f.replies.send(failure(6, why, hint));
        }
    }

    /// Ends what took too long, tells how far the rest is.
    pub fn expire(&mut self, unreachable: &str, live: bool) {
        let now = Instant::now();
        self.flushes.retain(|f| {
            if f.replies.is_closed() {
                return false;
            }
            if f.deadline > now {
                return true;
            }
            let answer = if live {
                failure(
                    7,
                    "not everything is on the peer yet",
                    "see syncctl status for what is pending; try a longer --timeout",
                )
            } else {
                failure(
                    4,
                    format!("the peer cannot be reached: {unreachable}"),
                    "see syncctl check",
                )
            };
            f.replies.send(answer);
            false
        });
        self.resyncs.retain_mut(|w| {
            if w.replies.is_closed() {
                return false;
            }
            if w.told.elapsed() >= PROGRESS && w.replies.untaken() == 0 {
                w.told = now;
                w.replies.send(Answer::Progress(Progress {
                    phase: "waiting".into(),
                    ..Progress::default()
                }));
            }
            true
        });
        if let Some(c) = &mut self.comparing
            && c.told.elapsed() >= PROGRESS
            && c.replies.untaken() == 0
        {
            c.told = now;
            c.replies.send(Answer::Progress(Progress {
                phase: "comparing".into(),
                paths: c.paths,
                ..Progress::default()
            }));
        }
    }

    /// Somebody waits until the peer is up to date.
    pub fn await_sync(&mut self, report: ResyncReport, replies: Replies) {
        let now = Instant::now();
        self.resyncs.push(Waiting {
            replies,
            report,
            told: now,
            started: now,
        });
    }

    /// What somebody asked for can be done once this engine has ended: who asked sees that no answer comes.
    pub fn await_end(&mut self, replies: Replies) {
        self.after.push(replies);
    }

    /// Those who wait until both nodes stand at the same place.
    pub fn take_resyncs(&mut self) -> Vec<Replies> {
        self.resyncs.drain(..).map(|w| w.replies).collect()
    }

    /// The peer stands where this node stands, after it was brought this.
    pub fn in_sync(&mut self, brought: Brought) {
        for w in self.resyncs.drain(..) {
            let mut report = brought.report(w.report);
            report.elapsed_ms = u64::try_from(w.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let outcome = Outcome {
                resync: Some(report),
                ..done("the peer is up to date")
            };
            w.replies.send(Answer::Done(outcome));
        }
    }

    /// The peer was dialled and does not answer: who has waited for it for a while waits no longer.
    pub fn unreachable(&mut self, why: &str) {
        self.resyncs.retain(|w| {
            // A process that is just letting go of the peer is no peer that is gone.
            if w.started.elapsed() < PATIENCE {
                return true;
            }
            let text = format!("the peer cannot be reached: {why}");
            w.replies.send(failure(4, text, "see syncctl check"));
            false
        });
    }

    /// Replication halted.
    pub fn halted(&mut self, code: u8, text: &str) {
        for w in self.resyncs.drain(..) {
            w.replies.send(failure(code, text, "see syncctl status"));
        }
    }

    /// The session ended.
    pub fn session_ended(&mut self, why: &str) {
        if let Some(c) = self.comparing.take() {
            c.replies.send(failure(
                4,
                format!("the session with the peer ended: {why}"),
                "try again once it is in sync",
            ));
        }
    }

    /// Nothing that somebody waits for can be done: this node's own state failed.
    pub fn fail(&mut self, why: &str) {
        let flushes = self.flushes.drain(..).map(|f| f.replies);
        let resyncs = self.resyncs.drain(..).map(|w| w.replies);
        let comparing = self.comparing.take().map(|c| c.replies);
        let early = self.early.drain(..).map(|(_, replies, _)| replies);
        for replies in flushes.chain(resyncs).chain(comparing).chain(early) {
            replies.send(failure(6, why, "see syncctl status"));
        }
    }

    /// Whether a comparison is under way.
    #[must_use]
    pub fn is_comparing(&self) -> bool {
        self.comparing.is_some()
    }

    /// Somebody waits for a comparison; `round` lists this node's tree.
    pub fn compare(&mut self, quick: bool, round: Round, replies: Replies) {
        self.comparing = Some(Comparing {
            replies,
            quick,
            round: Some(round),
            found: 0,
            unnamed: 0,
            left: 0,
            mended: 0,
            paths: 0,
            told: Instant::now(),
        });
    }

    /// A difference was found. `false` where it is not to be sent again now: too much is, already.
    pub fn difference(&mut self, found: Difference) -> bool {
        let Some(c) = &mut self.comparing else {
            return false;
        };
        let mends = c.mended + found.path.len() <= MAX_MENDED;
        if mends {
            c.mended += found.path.len();
        } else {
            c.left += 1;
        }
        c.found += 1;
        if c.replies.untaken() < MAX_NAMED {
            c.replies.send(Answer::Difference(found));
        } else {
            c.unnamed += 1;
        }
        mends
    }

    /// The comparison is over.
    pub fn compared(&mut self, paths: u64) {
        if let Some(c) = self.comparing.take() {
            let mut message = match c.found {
                0 => format!("{paths} paths compared, both nodes are equal"),
                found => format!("{paths} paths compared, {found} differ"),
            };
            if c.unnamed > 0 {
                let text = "are not named, since nobody read as fast as they were found";
                message += &format!(", {} of them {text}", c.unnamed);
            }
            if c.left > 0 {
                message += &format!(", {} of them are not sent again yet: run it again", c.left);
            }
            tracing::info!("{message}");
            c.replies.send(Answer::Done(Outcome {
                differences: Some(c.found),
                ..done(message)
            }));
        }
    }

    /// The comparison's listing, to go on with it.
    pub fn take_comparison(&mut self, room: bool) -> Option<(bool, Round)> {
        let c = self.comparing.as_mut()?;
        if room && c.has_room() {
            c.round.take().map(|r| (c.quick, r))
        } else {
            None
        }
    }

    /// Puts the listing back.
    pub fn put_comparison(&mut self, round: Round, paths: u64) {
        if let Some(c) = &mut self.comparing {
            c.paths += paths;
            if !round.is_listed() {
                c.round = Some(round);
            }
        }
    }

    /// Somebody waits until everything noticed by now is on the peer: a cookie file in each root tells what was.
    pub fn flush(&mut self, roots: &[Arc<Root>], timeout: Duration, now: u64, replies: Replies) {
        let mut cookies = BTreeSet::new();
        for root in roots {
            self.cookie += 1;
            let n = self.cookie;
            // Kept in the set even if the file cannot be made, so that the flush cannot succeed without proof.
            cookies.insert(n);
            if let Err(e) = set_cookie(root, n) {
                let hint = "the root must be writable for syncd";
                replies.send(failure(
                    1,
                    format!("root \"{}\": cannot make a cookie file: {e}", root.name),
                    hint,
                ));
                return;
            }
        }
        let upto = cookies.is_empty().then_some(now);
        self.flushes.push(Flush {
            replies,
            deadline: Instant::now() + timeout,
            cookies,
            upto,
            noted: false,
        });
    }
}

/// Removes a cookie file that came back.
pub(super) fn clear_cookie(root: &Root, n: u64) {
    let gone = root.open_private(super::node::COOKIES).map(|dir| {
        rustix::fs::unlinkat(&dir, n.to_string().as_str(), rustix::fs::AtFlags::empty())
    });
    if let Err(e) = gone {
        tracing::debug!("a cookie file stays: {e}");
    }
}

/// Makes a cookie file; it stays until the watcher tells that it came.
fn set_cookie(root: &Root, n: u64) -> std::io::Result<()> {
    let dir = root.open_private(super::node::COOKIES)?;
    let name = n.to_string();
    let flags = rustix::fs::OFlags::CREATE
        | rustix::fs::OFlags::EXCL
        | rustix::fs::OFlags::WRONLY
        | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::unlinkat(&dir, name.as_str(), rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    drop(rustix::fs::openat(
        &dir,
        name.as_str(),
        flags,
        rustix::fs::Mode::RUSR,
    )?);
    Ok(())
}
