//! Commands that meet the peer by themselves and end: `syncctl resync` without an owner process, `syncctl check`.
//!
//! Both run in the process of the command itself, which serves nobody else and ends with its session.

use std::time::{Duration, Instant};

use super::attend::Attendant;
use super::door::{self, Door};
use super::engine::Event;
use super::meeting::MISMATCH;
use super::meeting::terms::Terms;
use super::owner::{RECEIVES, Site, apply_failure, failed, held, no_such_root, refusal};
use super::standby::{End, HELLO, Standby, Until};
use super::{setup, survey};
use crate::config::Config;
use crate::model::epoch::Keep;
use crate::wire::control::{Difference, Failure, Outcome, Progress, ResyncReport};
use crate::wire::message::{Message, Role};

/// What a one-shot session is to do besides bringing the node that is behind up to date.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Compare everything.
    pub full: bool,
    /// Read every file again.
    pub checksum: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Which side is kept where both changed data on their own.
    pub keep: Keep,
    /// That both changed data is what is asked about, and no failure.
    pub apart: bool,
}

/// `syncctl approve` where no process owns the node: what stands at the path of a root is the root from now on.
///
/// # Errors
/// A failure with the exit code of its kind.
pub fn approve_once(config: &Config, node: usize, root: Option<&str>) -> Result<Outcome, Failure> {
    let site = Site::new(config.clone(), node);
    if let Some(name) = root.filter(|name| !config.roots.iter().any(|r| r.name == **name)) {
        return Err(no_such_root(name));
    }
    let owner = site.own("approve").map_err(|e| held(&e))?;
    let names = site.approve_roots(root)?;
    drop(owner);
    let message = if names.is_empty() {
        "nothing waits for an approval".into()
    } else {
        format!(
            "approved: what stands at the path of {} is replicated from now on. This node counts as one without data: it takes the other node's, and preserves what it finds here that is not the same. Start it again",
            names.join(", ")
        )
    };
    Ok(Outcome {
        message,
        ..Outcome::default()
    })
}

/// For `syncctl check`: the names of the roots at whose paths other directories stand than those that were replicated.
#[must_use]
pub fn other_roots(config: &Config, node: usize) -> Vec<String> {
    Site::new(config.clone(), node).other_roots()
}

/// `syncctl resync` and `syncctl resolve` where no process owns the node: dials the peer, brings the node that is behind
/// up to date, ends.
///
/// # Errors
/// A failure with the exit code of its kind.
pub fn resync_once(
    config: &Config,
    node: usize,
    wish: Wish,
    progress: &mut dyn FnMut(&Progress),
    found: &mut dyn FnMut(Difference),
) -> Result<Outcome, Failure> {
    let Wish {
        full,
        checksum,
        dry_run,
        keep,
        ..
    } = wish;
    let site = Site::new(config.clone(), node);
    let rt = setup::runtime()?;
    let opening = setup::begin(&site, &rt);
    let owner = site
        .own_in_place_of(&RECEIVES, "resync")
        .map_err(|e| held(&e))?;
    let mut side = site.open()?;
    let (sender, mut events) = setup::events();
    let board = site.board(None, &side.node);
    let attendant = Attendant::start(&site, &board, None)?;
    // Whoever wants to make this node active meanwhile asks here, and gets it.
    Door::new(&site, &board, &sender, true).serve(&rt, door::make(&site)?)?;
    setup::prepare(&mut side)?;
    side.attach(attendant.hooks());
    let drift = survey::changed_here(&mut side.node, &mut |paths| {
        progress(&Progress {
            phase: "scanning".into(),
            paths,
            ..Progress::default()
        });
    })
    .map_err(|e| failed(e, "see syncctl check"))?;
    if checksum {
        side.node
            .store
            .forget_hashes()
            .map_err(|e| failed(e, "see syncctl check"))?;
    }
    let started = Instant::now();
    let mut party = site.party(Role::Standby);
    party.full = full || checksum;
    party.dry_run = dry_run;
    party.keep = keep;
    let handle = rt.handle().clone();
    let mut dial = || setup::dial(&site, &rt, &sender);
    let to = sender.clone();
    let mut standby = Standby::new(&mut events, to, handle, board, party, progress);
    standby.until = Until::CaughtUp;
    standby.drift = drift;
    standby.looked_over = true;
    let peer = setup::meet(opening, &site, &rt, &sender)?;
    let (mut side, end) = standby.run_dialled(side, peer, &mut dial)?;
    door::shut(&rt, &mut events);
    side.checkpoint().map_err(|e| apply_failure(&e))?;
    attendant.say_stopped();
    drop(owner);
    rt.shutdown_timeout(Duration::from_millis(500));
    drop(attendant);
    match end {
        End::Done(mut report) | End::Short(mut report) => {
            report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let message = if dry_run {
                "nothing was changed"
            } else {
                "this node is up to date"
            };
            Ok(Outcome {
                message: message.into(),
                resync: Some(report),
                ..Outcome::default()
            })
        }
        End::Nothing(text) | End::Declined(text) => {
            let report = ResyncReport {
                direction: "none".into(),
                verdict: text.clone(),
                ..ResyncReport::default()
            };
            Ok(Outcome {
                message: text,
                resync: Some(report),
                ..Outcome::default()
            })
        }
        End::Refused(f) => Err(f),
        End::Apart(diverged, ..) if !wish.apart => Err(diverged),
        End::Apart(_, differences, more) => {
            let message = apart(&differences, more, site.name(), site.peer_name());
            differences.into_iter().for_each(found);
            Ok(Outcome {
                message,
                ..Outcome::default()
            })
        }
        End::Lost(why) | End::Unmet(why) => Err(Failure {
            code: 4,
            message: format!("the session with {} ended: {why}", site.peer_name()),
            hint: "run it again: it goes on where it stopped".into(),
        }),
        End::Stopped => Err(failed(
            "interrupted",
            "run it again: it goes on where it stopped",
        )),
    }
}

/// In words, what each side changed.
pub(super) fn apart(differences: &[Difference], more: bool, node: &str, peer: &str) -> String {
    let of = |what: &str| {
        let both = |d: &&Difference| d.what == what || d.what == "changed-on-both";
        differences.iter().filter(both).count()
    };
    let least = if more { "at least " } else { "" };
    format!(
        "{} changed {least}{} paths, {} {least}{}; nothing was changed",
        node,
        of("changed-here"),
        peer,
        of("changed-on-peer")
    )
}

/// `syncctl check`: meets the peer and says what it is, without any effect on either side.
///
/// # Errors
/// The failure a session would end with.
pub fn check_peer(config: &Config, node: usize) -> Result<String, Failure> {
    let site = Site::new(config.clone(), node);
    let rt = setup::runtime()?;
    let (sender, mut events) = setup::events();
    std::fs::create_dir_all(site.run_dir()).map_err(|e| {
        failed(
            format!("cannot make {}: {e}", site.run_dir().display()),
            "run as root",
        )
    })?;
    let peer = setup::dial(&site, &rt, &sender)?;
    let answer = rt.block_on(async { tokio::time::timeout(HELLO, events.recv()).await });
    peer.send(Message::Bye {
        text: "syncctl check".into(),
    });
    peer.close();
    let unreachable = |why: String| Failure {
        code: 4,
        message: format!("{} cannot be reached: {why}", site.peer_name()),
        hint: "see \"When something is wrong\" in README.md".into(),
    };
    let result = match answer {
        Ok(Some(Event::Peer {
            message: Message::Hello(h),
            ..
        })) => match Terms::of(config, node).mismatch(&(&*h).into(), site.peer_name()) {
            None => Ok(format!(
                "{} answers: osm-failover {}, protocol {}, cluster \"{}\", sequence {}",
                h.node,
                h.version,
                h.protocol,
                h.cluster,
                h.history.head()
            )),
            Some(why) => Err(refusal(MISMATCH, why)),
        },
        Ok(Some(Event::Peer {
            message: Message::Refuse { code, text },
            ..
        })) => Err(refusal(code, text)),
        Ok(Some(Event::LinkDown { why, .. })) => Err(unreachable(why)),
        _ => Err(unreachable("it did not say hello".into())),
    };
    rt.shutdown_timeout(Duration::from_millis(500));
    result
}
