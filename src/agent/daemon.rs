//! `syncd`: the active node's daemon.
//!
//! It makes sure that this node has the newest data that can be had, starts the
//! watch, then scans, then sends. The watch comes before the scan, so no change falls between them.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::apply::Receiving;
use super::attend::Attendant;
use super::board::Board;
use super::engine::{Engine, Event, Parts};
use super::hints::Hints;
use super::owner::{Site, failed, held};
use super::preserved::{Preserved, Tally};
use super::scrub::Scrub;
use super::standby::{End, Standby, Until};
use super::{door, peer, setup, survey};
use crate::config::{Config, Watcher};
use crate::index::store::Store;
use crate::sys::link;
use crate::sys::routes::Routes;
use crate::sys::watch::{self, Choice, WatchRoot};
use crate::wire::control::{Failure, Progress, Status};
use crate::wire::message::Role;

/// First and longest time between two attempts to reach the peer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Time between attempts that changes of the network call for: some hosts change theirs all the time.
const CALLED: Duration = Duration::from_millis(500);
/// Time between attempts while replication is halted.
const HALTED: Duration = Duration::from_secs(30);

/// Runs the daemon of a node until it is told to stop.
///
/// # Errors
/// A failure with the exit code of its kind.
pub fn run_daemon(config: Config, node: usize) -> Result<(), Failure> {
    let site = Arc::new(Site::new(config, node));
    let owner = site.own_in_place_of_serve("active").map_err(|e| held(&e))?;
    let mut side = site.open()?;
    let claimed = side.node.claim_reserved();
    claimed.map_err(|e| failed(e, "see syncctl check"))?;
    say_what_has_no_effect(&site.config);
    let rt = setup::runtime()?;
    let side = catch_up(&site, &rt, side)?;
    let Receiving { mut node, .. } = side;
    node.index_is_complete()
        .map_err(|e| failed(e, "see syncctl check"))?;
    node.epochs
        .set_active(true)
        .map_err(|e| failed(e, "see syncctl check"))?;
    let (sender, mut events) = setup::events();
    let settle = u64::try_from(site.config.sync.settle.as_millis()).unwrap_or(u64::MAX);
    let hints = Arc::new(Hints::new(settle, sender.clone()));
    let board = site.board("active", Some(hints.clone()));
    let attendant = Attendant::start(&site, &board)?;
    let guard = rt.enter();
    door::open(&site, &rt, &board, &sender, false)?;
    let watcher = start_watch(&site, &node, &hints, &board)?;
    let (down, ended) = mpsc::unbounded_channel();
    rt.spawn(dialer(site.clone(), board.clone(), sender.clone(), ended));
    rt.spawn(stop_on_signals(sender.clone()));
    drop(guard);
    let bulk = setup::spawn_bulk(sender)?;
    let parts = Parts {
        node,
        hints,
        board,
        party: site.party(Role::Active),
        bulk,
        scrub: Scrub::new(site.config.sync.scrub),
        down,
    };
    if let Err(e) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!("no service manager to notify: {e}");
    }
    tracing::info!("{} is active", site.name());
    let result = Engine::new(parts).run(&mut events, rt.handle());
    drop(watcher);
    let done = result
        .map(|_| ())
        .map_err(|e| failed(e, "see syncctl check"));
    rt.shutdown_timeout(Duration::from_secs(1));
    drop(owner);
    drop(attendant);
    done
}

/// Settings that this version reads and checks and does not act upon yet: nobody shall rely on them.
fn say_what_has_no_effect(config: &Config) {
    let idle = [
        (
            "[vip] and [[snat]]",
            config.vip.is_some() || !config.snat.is_empty(),
        ),
        ("[[hook]]", !config.hooks.is_empty()),
        ("[metrics]", config.metrics.textfile.is_some()),
    ];
    for (what, set) in idle {
        if set {
            tracing::warn!(
                "{what} of {} has no effect in this version of osm-failover",
                config.file.display()
            );
        }
    }
}

/// Asks the peer whether it is ahead, and takes what this node lacks before it becomes active.
fn catch_up(
    site: &Site,
    rt: &tokio::runtime::Runtime,
    mut side: Receiving,
) -> Result<Receiving, Failure> {
    let (sender, mut events) = setup::events();
    let peer = match setup::dial(site, rt, &sender) {
        Ok(peer) => peer,
        Err(f) if f.code == 2 => return Err(f),
        Err(f) => {
            tracing::warn!("{}; going on with the local data", f.message);
            return Ok(side);
        }
    };
    if side.node.index_fresh {
        survey::adopt(&mut side.node).map_err(|e| failed(e, "see syncctl check"))?;
    }
    let board = site.board("standby", None);
    let mut quiet = |_: &Progress| {};
    let (rt, party) = (rt.handle().clone(), site.party(Role::Standby));
    let mut standby = Standby::new(&mut events, sender, rt, board, party, &mut quiet);
    standby.until = Until::CaughtUp;
    standby.activating = true;
    let (side, end) = standby.run(side, peer)?;
    match end {
        End::Done(report) => tracing::info!(
            "caught up before becoming active: {} paths",
            report.puts + report.deletes
        ),
        End::Nothing(text) => tracing::info!("{text}"),
        End::Lost(why) => {
            tracing::warn!("the peer could not be asked ({why}); going on with the local data")
        }
        // A split brain or a differing configuration halts replication, not the service.
        End::Refused(f) if matches!(f.code, 2 | 5) => tracing::error!("{}", f.message),
        End::Refused(f) => return Err(f),
        End::Stopped => return Err(failed("interrupted", "start it again")),
    }
    Ok(side)
}

fn start_watch(
    site: &Site,
    node: &super::node::Node,
    hints: &Arc<Hints>,
    board: &Board,
) -> Result<Box<dyn watch::Watcher>, Failure> {
    let choice = match site.config.sync.watcher {
        Watcher::Auto => Choice::Auto,
        Watcher::Inotify => Choice::Inotify,
        Watcher::Fanotify => Choice::Fanotify,
    };
    let roots = node.roots.iter().map(|r| WatchRoot {
        id: r.root.id,
        path: r.root.path.clone(),
        only: r.root.only.clone(),
    });
    let filters: Vec<_> = node.roots.iter().map(|r| r.filter.clone()).collect();
    let exclude: watch::ExcludeDir = Arc::new(move |id, path| {
        filters
            .get(usize::from(id.0))
            .is_some_and(|f| f.excluded(path, true))
    });
    let started = watch::start(choice, roots.collect(), exclude, hints.clone());
    let (watcher, why) = started.map_err(|e| failed(e, "see syncctl check"))?;
    tracing::info!("watching with {}: {why}", watcher.backend());
    board.update(|s| {
        s.watch.backend = watcher.backend().to_string();
        s.watch.reason = why;
        s.watch.directories = watcher.directories();
    });
    Ok(watcher)
}

/// Keeps a session with the peer, with growing pauses between attempts that fail.
async fn dialer(
    site: Arc<Site>,
    board: Arc<Board>,
    events: mpsc::Sender<Event>,
    mut ended: mpsc::UnboundedReceiver<()>,
) {
    let mut pause = BACKOFF.0;
    let mut called = tokio::time::Instant::now();
    let routes = match Routes::watch() {
        Ok(routes) => Some(routes),
        Err(e) => {
            tracing::warn!(
                "changes of the network are not told, so a peer that is back is found a little later: {e}"
            );
            None
        }
    };
    loop {
        let status = board.snapshot();
        if status.paused {
            if ended.recv().await.is_none() {
                return;
            }
            continue;
        }
        match link::connect(&site.target(), &site.run_dir(), Duration::from_secs(5)).await {
            Ok(link) => {
                let peer = peer::start(link, site.style(), events.clone());
                while ended.try_recv().is_ok() {}
                let began = tokio::time::Instant::now();
                if events.send(Event::Dialled(peer.clone())).await.is_err() {
                    return;
                }
                peer.ended().await;
                if began.elapsed() > Duration::from_secs(5) {
                    pause = BACKOFF.0;
                }
            }
            Err(e) => {
                let why = format!("{} ({})", e.message, e.hint);
                if events
                    .send(Event::LinkDown { session: 0, why })
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        let state = board.snapshot().peer.state;
        let halted = state == "diverged" || state == "halted";
        let wait = if halted { HALTED } else { jittered(pause) };
        pause = (pause * 2).min(BACKOFF.1);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // A resume or a resync does not wait for the next attempt.
            call = ended.recv() => if call.is_none() {
                return;
            },
            () = network_changed(routes.as_ref()), if !halted && called.elapsed() > CALLED => {
                called = tokio::time::Instant::now();
                pause = BACKOFF.0;
            }
        }
    }
}

/// Waits until the network changed, and has settled for a moment: one change of a link is told as several.
async fn network_changed(routes: Option<&Routes>) {
    let Some(routes) = routes else {
        return std::future::pending().await;
    };
    if let Err(e) = routes.changed().await {
        tracing::debug!("changes of the network: {e}");
        return std::future::pending().await;
    }
    tokio::time::sleep(BACKOFF.0).await;
}

/// A pause shortened by up to a half, so that two nodes do not dial each other in step.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0u8; 1];
    if getrandom::fill(&mut byte).is_err() {
        return pause;
    }
    pause - pause.mul_f64(f64::from(byte[0]) / 512.0)
}

async fn stop_on_signals(events: mpsc::Sender<Event>) {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    let _ = events.send(Event::Stop).await;
}

/// The status of a node that no process owns, read from its state.
#[must_use]
pub fn offline_status(config: &Config, node: usize) -> Status {
    let site = Site::new(config.clone(), node);
    let mut status = site.status("stopped");
    status.watch.backend = "none".into();
    status.peer.reason = "no process of osm-failover runs on this node".into();
    let dir = config.state_dir(node);
    match Preserved::open(config, node).items() {
        Ok(found) => status.preserved = Tally::of(&found.items).into(),
        Err(f) => status.last_error = f.message,
    }
    if !dir.join(crate::index::store::FILE).exists() {
        return status;
    }
    let epochs = crate::index::epochs::Epochs::open(&dir);
    match (epochs, Store::peek_head(&dir)) {
        (Ok(epochs), Ok(head)) => {
            status.epoch = epochs.history().last().map_or(0, |e| e.number);
            status.sequence = head;
            if epochs.catching_up() {
                status.last_error = "a catch-up was interrupted: the tree is between two states; run syncctl resync".into();
            }
        }
        (Err(e), _) => status.last_error = e.to_string(),
        (_, Err(e)) => status.last_error = e.to_string(),
    }
    status
}
