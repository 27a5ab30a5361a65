//! `syncd`: the active node's daemon.
//!
//! It makes sure that this node has the newest data that can be had, starts the
//! watch, then scans, then sends. The watch comes before the scan, so no change falls between them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::stdio::dup2_stdin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::activation::Activation;
use super::activity::{self, Activity, Over};
use super::attend::Attendant;
use super::board::{Board, NOT_YET};
use super::dialer::keep_dialling;
use super::door::{self, Door};
use super::engine::{Ended, Event};
use super::hints::Hints;
use super::owner::{RECEIVES, Site, failed, held};
use super::preserved::{Preserved, Tally};
use super::setup;
use super::traffic::Traffic;
use crate::config::{Config, HookEvent, OnStale, Watcher};
use crate::index::epochs::Epochs;
use crate::index::store::Store;
use crate::sys::lock::Owner;
use crate::sys::service;
use crate::sys::watch::{self, Choice, WatchRoot};
use crate::wire::control::{Answer, Failure, Outcome, Status};
use crate::wire::message::Message;

/// How long a process that ends tries to say so.
const TELL: Duration = Duration::from_secs(1);

/// Runs the daemon of a node until it is told to stop; `detached` where `syncctl activate` started it.
///
/// # Errors
/// A failure with the exit code of its kind.
pub fn run_daemon(config: Config, node: usize, detached: bool) -> Result<(), Failure> {
    let site = Arc::new(Site::new(config, node));
    let rt = setup::runtime()?;
    let asks = site.config.activation.on_stale != OnStale::Serve;
    let opening = asks.then(|| setup::begin(&site, &rt));
    let owner = site
        .own_in_place_of(&[RECEIVES[0], RECEIVES[1], "resync"], "active")
        .map_err(|e| held(&e))?;
    if detached {
        // The lock of the activation that started this one: the node's own takes its place.
        let gone = File::open("/dev/null").and_then(|null| Ok(dup2_stdin(null)?));
        gone.map_err(|e| failed(format!("cannot open /dev/null: {e}"), "see syncctl check"))?;
    }
    let mut side = site.open()?;
    let claimed = side.node.claim_reserved();
    claimed.map_err(|e| failed(e, "see syncctl check"))?;
    let (sender, mut events) = setup::events();
    let settle = u64::try_from(site.config.sync.settle.as_millis()).unwrap_or(u64::MAX);
    let hints = Arc::new(Hints::new(settle, sender.clone()));
    // It is no standby any more and not active yet; status shows the catch-up.
    let board = site.board(Some(hints.clone()), &side.node);
    board.update(|s| "becoming active".clone_into(&mut s.peer.reason));
    let attendant = Attendant::start(&site, &board, None)?;
    let guard = rt.enter();
    Door::new(&site, &board, &sender, false).serve(&rt, door::make(&site)?)?;
    rt.spawn(stop_on_signals(sender.clone()));
    drop(guard);
    let mut activation = Activation {
        site: &site,
        rt: &rt,
        board: &board,
        events: &mut events,
        sender: &sender,
        opening,
    };
    side.attach(attendant.hooks());
    let (side, how) = activation.take_newest(side)?;
    let side = activity::open(side)?;
    let watcher = start_watch(&site, &side.node, &hints, &board)?;
    let (down, ended) = mpsc::unbounded_channel();
    rt.spawn(keep_dialling(
        site.clone(),
        board.clone(),
        sender.clone(),
        ended,
    ));
    tracing::info!("{} is active {how}", site.name());
    board.update(|s| {
        "active".clone_into(&mut s.role);
        s.activation = how;
        "unreachable".clone_into(&mut s.peer.state);
        NOT_YET.clone_into(&mut s.peer.reason);
    });
    let config = Arc::new(site.config.clone());
    let guard = rt.enter();
    // It says that this node is ready once the rules are in force.
    let traffic = Traffic::begin(config, board.clone());
    drop(guard);
    attendant.announce(HookEvent::Activated);
    let activity = Activity {
        site: &site,
        rt: rt.handle(),
        board: &board,
        hints: &hints,
        attendant: &attendant,
        sender: &sender,
        down: &down,
    };
    let result = activity.run(side, &mut events);
    if !detached {
        service::stopping();
    }
    drop(watcher);
    // Said before the rules go: a reload of the firewall at this moment must not put them back.
    board.update(|s| "standby".clone_into(&mut s.role));
    traffic.end(&rt);
    let done = match result {
        Ok(over) => close_activity(&site, &rt, owner, over, &attendant),
        Err(e) => {
            // Its programs run to their end while the node is free.
            attendant.say_stopped();
            drop(owner);
            attendant.announce(HookEvent::Deactivated);
            Err(e)
        }
    };
    rt.shutdown_timeout(Duration::from_secs(1));
    drop(attendant);
    done
}

/// The node is no longer active; whoever asked for that is told once it is so.
fn close_activity(
    site: &Site,
    rt: &tokio::runtime::Runtime,
    owner: Owner,
    over: Over,
    attendant: &Attendant,
) -> Result<(), Failure> {
    let Over { side, ended } = over;
    // Without a flush there may be changes that nobody noted: then it ended as in a crash, and is looked over.
    let Some(Ended {
        left,
        noted,
        peer,
        waiting,
    }) = ended
    else {
        drop(side);
        attendant.say_stopped();
        drop(owner);
        attendant.announce(HookEvent::Deactivated);
        return Ok(());
    };
    let closed = match side.filter(|_| noted) {
        Some(mut side) => side.node.epochs.set_active(false),
        None => {
            tracing::warn!(
                "not all that was changed was looked at; whoever needs it has all looked over first"
            );
            Ok(())
        }
    };
    attendant.say_stopped();
    drop(owner);
    attendant.announce(HookEvent::Deactivated);
    if let Some(peer) = peer {
        let why = left.why.clone();
        let left = left.paths;
        peer.send(Message::HandedOver { left, why });
        peer.close();
        rt.block_on(async { tokio::time::timeout(TELL, peer.finished()).await.ok() });
    }
    // Whoever asked for the end is told once the hooks have run, too; a peer that takes over does not wait for them.
    attendant.settle();
    let message = match &left {
        l if l.why.is_empty() => format!("everything is on {}", site.peer_name()),
        l => format!(
            "{} changed paths are not on {}: {}",
            l.paths,
            site.peer_name(),
            l.why
        ),
    };
    for replies in &waiting {
        replies.send(Answer::Done(Outcome {
            message: message.clone(),
            left: Some(left.clone()),
            ..Outcome::default()
        }));
    }
    for replies in waiting {
        // It is closed once the answer was written.
        rt.block_on(async { tokio::time::timeout(TELL, replies.closed()).await.ok() });
    }
    closed.map_err(|e| failed(e, "see syncctl check"))
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

/// A signal has what is left pushed before the process ends, a second one does not wait for that.
async fn stop_on_signals(events: mpsc::Sender<Event>) {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return;
    };
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if events.send(Event::Stop).await.is_err() {
            return;
        }
    }
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
    position(&mut status, &dir);
    status
}

/// Puts into a status what the state on disk says of the newest change.
pub(super) fn position(status: &mut Status, dir: &Path) {
    if !dir.join(crate::index::store::FILE).exists() {
        return;
    }
    let epochs = Epochs::open(dir);
    match (epochs, Store::peek_head(dir)) {
        (Ok(epochs), Ok(head)) => {
            status.epoch = epochs.history().last().map_or(0, |e| e.number);
            status.sequence = head;
            status.incomplete = epochs.catching_up();
            if status.incomplete {
                status.last_error = "a catch-up was interrupted: the tree is between two states; run syncctl resync".into();
            }
        }
        (Err(e), _) => status.last_error = e.to_string(),
        (_, Err(e)) => status.last_error = e.to_string(),
    }
}
