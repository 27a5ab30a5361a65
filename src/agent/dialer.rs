//! Keeping a session with the peer: when the active node dials, and how long it waits in between.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::board::Board;
use super::engine::Event;
use super::owner::Site;
use super::peer;
use crate::sys::link;
use crate::sys::routes::Routes;

/// First and longest time between two attempts to reach the peer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Time between attempts that changes of the network call for: some hosts change theirs all the time.
const CALLED: Duration = Duration::from_millis(500);
/// Time between attempts while replication is halted.
const HALTED: Duration = Duration::from_secs(30);

/// Keeps a session with the peer, with growing pauses between attempts that fail.
pub async fn keep_dialling(
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
        let halted = board.waits_for_a_person();
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
