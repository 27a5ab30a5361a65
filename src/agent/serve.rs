//! `syncd serve`: what the peer starts here through SSH, to speak to it on standard input and output.
//!
//! Where a process owns this node already, the stream is given to that one. One that owns the node itself gives up what a
//! receiver does not need before it reads anything of the peer's: see `confine`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::attend::Attendant;
use super::door::{self, Door};
use super::hooks::Runner;
use super::owner::{Site, apply_failure, failed, held};
use super::standby::{End, Standby};
use super::{confine, peer, setup};
use crate::config::Config;
use crate::sys::control::ControlClient;
use crate::sys::link;
use crate::sys::lock::{LockError, Owner};
use crate::wire::control::{Answer, Failure, Progress, Request};
use crate::wire::message::Role;

/// How long the process that owns this node may take to open its door, or to end after it closed it.
const BETWEEN: Duration = Duration::from_secs(5);

/// `syncd serve`: speaks to the peer on standard input and output.
///
/// # Errors
/// A failure with its remedy; the peer sees it as the remote's last words.
pub fn run_serve(config: Config, node: usize) -> Result<(), Failure> {
    // It is made while this process has one thread, before it read a byte of the peer's, and while it may still do all.
    let runner = Runner::start(&config, node)?;
    let site = Site::new(config, node);
    let Some(owner) = own_or_hand_over(&site)? else {
        return Ok(());
    };
    let socket = door::make(&site)?;
    confine::receiver(&site)?;
    let mut side = site.open()?;
    let rt = setup::runtime()?;
    let (sender, mut events) = setup::events();
    let board = site.board(None, &side.node);
    let attendant = Attendant::start(&site, &board, runner)?;
    let guard = rt.enter();
    Door::new(&site, &board, &sender, true).serve(&rt, socket)?;
    let stdio = link::stdio().map_err(|e| {
        failed(
            format!("cannot use standard input and output: {e}"),
            "syncd serve is started by the peer through SSH",
        )
    })?;
    let peer = peer::start(stdio, site.style(), sender.clone());
    drop(guard);
    setup::prepare(&mut side)?;
    side.attach(attendant.hooks());
    let mut quiet = |_: &Progress| {};
    let (handle, party) = (rt.handle().clone(), site.party(Role::Standby));
    let mut standby = Standby::new(&mut events, sender, handle, board, party, &mut quiet);
    let (mut side, end) = standby.run(side, peer)?;
    door::shut(&rt, &mut events);
    side.checkpoint().map_err(|e| apply_failure(&e))?;
    attendant.say_stopped();
    drop(owner);
    rt.shutdown_timeout(Duration::from_millis(500));
    // Hooks that are due run to their end, while the node is free for others.
    drop(attendant);
    match end {
        End::Refused(f) => Err(f),
        End::Lost(why) | End::Unmet(why) => {
            tracing::info!("the session ended: {why}");
            Ok(())
        }
        End::Done(_)
        | End::Short(_)
        | End::Nothing(_)
        | End::Declined(_)
        | End::Apart(..)
        | End::Stopped => Ok(()),
    }
}

/// The owner lock; `None` where the process that holds it took the peer's stream, and is done with it.
fn own_or_hand_over(site: &Site) -> Result<Option<Owner>, Failure> {
    let begun = Instant::now();
    loop {
        let held_by = match site.own("serve") {
            Ok(owner) => return Ok(Some(owner)),
            Err(e @ LockError::Held { .. }) => e,
            Err(e) => return Err(held(&e)),
        };
        match hand_over(site) {
            Some(done) => return done.map(|()| None),
            None if begun.elapsed() > BETWEEN => return Err(held(&held_by)),
            None => {}
        }
        // The kernel tells nobody when a lock is free.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Gives the peer's stream to the process that owns this node, and waits until it is done with it; `None` where that one
/// takes none: it has only just begun, or is ending.
fn hand_over(site: &Site) -> Option<Result<(), Failure>> {
    let stdin = std::io::stdin();
    let stdout = std::io::stdout();
    let mut client = ControlClient::connect(&site.run_dir()).ok()?;
    client
        .send_with_fds(&Request::Serve, &[stdin.as_fd(), stdout.as_fd()])
        .ok()?;
    match client.next_answer() {
        Ok(Answer::Error(f)) if f.code == door::ENDING => None,
        Ok(Answer::Error(f)) => Some(Err(f)),
        // Where it ended without a word it may have read some of the stream, which is then of no use to anybody else.
        Ok(_) | Err(_) => Some(Ok(())),
    }
}
