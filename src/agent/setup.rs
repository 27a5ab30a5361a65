//! What the processes of a node set up before they do what they are for: runtime, events, bulk thread, the first dial.
//!
//! Daemon, `syncd serve` and the commands that speak to the peer by themselves differ in what they run, not in this.

use tokio::sync::mpsc;

use super::apply::Receiving;
use super::bulk;
use super::engine::Event;
use super::owner::{Site, failed};
use super::peer::{self, Peer};
use super::survey;
use crate::sys::link::{self, Opening};
use crate::wire::control::Failure;

/// Events waiting for the engine.
const QUEUE: usize = 256;

/// The runtime of links, sockets and timers.
///
/// # Errors
/// A failure where it cannot be made.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    built.map_err(|e| {
        failed(
            format!("cannot start the runtime: {e}"),
            "see ulimit -u and ulimit -n",
        )
    })
}

/// Where the events of a process go, and where it takes them from.
#[must_use]
pub fn events() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(QUEUE)
}

/// Starts the thread that reads large files.
///
/// # Errors
/// A failure where no thread can be made.
pub fn spawn_bulk(events: mpsc::Sender<Event>) -> Result<bulk::Handle, Failure> {
    let (jobs, queue) = std::sync::mpsc::channel();
    let (signatures, arrived) = std::sync::mpsc::sync_channel(bulk::MAX_PARTS);
    let work = move || {
        bulk::run(&queue, &arrived, &mut |job, result| {
            let _ = events.blocking_send(Event::Bulk(Box::new((job, result))));
        });
    };
    std::thread::Builder::new()
        .name("bulk".into())
        .spawn(work)
        .map_err(|e| failed(format!("cannot start a thread: {e}"), "see ulimit -u"))?;
    Ok(bulk::Handle { jobs, signatures })
}

/// Begins to dial the peer: what takes long of it goes on while this process does something else.
#[must_use]
pub fn begin(site: &Site, rt: &tokio::runtime::Runtime) -> Opening {
    let _guard = rt.enter();
    let timeout = site.config.activation.activate_timeout;
    link::begin(&site.target(), &site.run_dir(), timeout)
}

/// Dials the peer once.
///
/// # Errors
/// Exit code 4 where it cannot be reached, 2 where the configuration is at fault.
pub fn dial(
    site: &Site,
    rt: &tokio::runtime::Runtime,
    events: &mpsc::Sender<Event>,
) -> Result<Peer, Failure> {
    meet(begin(site, rt), site, rt, events)
}

/// Dials the peer to the end.
///
/// # Errors
/// Those of [`dial`].
pub fn meet(
    opening: Opening,
    site: &Site,
    rt: &tokio::runtime::Runtime,
    events: &mpsc::Sender<Event>,
) -> Result<Peer, Failure> {
    let linked = rt.block_on(opening.finish()).map_err(link_failure)?;
    let _guard = rt.enter();
    Ok(peer::start(linked, site.style(), events.clone()))
}

/// The failure that a link that did not come about is: exit code 4, or 2 where the configuration is at fault.
#[must_use]
pub fn link_failure(e: link::LinkError) -> Failure {
    let code = if e.category() == link::LinkCategory::Configuration {
        2
    } else {
        4
    };
    Failure {
        code,
        message: e.message,
        hint: e.hint,
    }
}

/// An index that knows nothing first learns what stands in the tree. What counts as known afterwards is on the disk: it is
/// compared, and acknowledged without being written anew.
///
/// # Errors
/// A failure where the index fails, or a file system cannot be synced.
pub fn prepare(side: &mut Receiving) -> Result<(), Failure> {
    if side.node.index_fresh {
        let found = survey::adopt(&mut side.node).map_err(|e| failed(e, "see syncctl check"))?;
        side.staging.sync_trees().map_err(|e| {
            failed(
                format!("cannot sync the roots: {e}"),
                "see the kernel's log",
            )
        })?;
        tracing::info!("the index is new: {found} paths found here");
    } else {
        survey::look_once_more(&mut side.node).map_err(|e| failed(e, "see syncctl check"))?;
    }
    Ok(())
}
