//! `syncd serve`: what the peer starts here through SSH, to speak to it on standard input and output.
//!
//! Where a process owns this node already, the stream is given to that one.

use std::os::fd::AsFd;
use std::time::Duration;

use super::attend::Attendant;
use super::owner::{Site, apply_failure, failed, held};
use super::standby::{End, Standby};
use super::{door, peer, setup};
use crate::config::Config;
use crate::sys::control::ControlClient;
use crate::sys::link;
use crate::sys::lock::LockError;
use crate::wire::control::{Answer, Failure, Progress, Request};
use crate::wire::message::Role;

/// `syncd serve`: speaks to the peer on standard input and output.
///
/// # Errors
/// A failure with its remedy; the peer sees it as the remote's last words.
pub fn run_serve(config: Config, node: usize) -> Result<(), Failure> {
    let site = Site::new(config, node);
    let owner = match site.own("serve") {
        Ok(owner) => owner,
        Err(e @ LockError::Held { .. }) => return hand_over(&site, &e),
        Err(e) => return Err(held(&e)),
    };
    let mut side = site.open()?;
    let rt = setup::runtime()?;
    let (sender, mut events) = setup::events();
    let board = site.board("standby", None);
    let attendant = Attendant::start(&site, &board)?;
    let guard = rt.enter();
    door::open(&site, &rt, &board, &sender, true)?;
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
    side.checkpoint().map_err(|e| apply_failure(&e))?;
    drop(owner);
    rt.shutdown_timeout(Duration::from_millis(500));
    // Hooks that are due run to their end, while the node is free for others.
    drop(attendant);
    match end {
        End::Refused(f) => Err(f),
        End::Lost(why) => {
            tracing::info!("the session ended: {why}");
            Ok(())
        }
        End::Done(_) | End::Nothing(_) | End::Apart(..) | End::Stopped => Ok(()),
    }
}

/// Gives the peer's stream to the process that owns this node, and waits until it is done with it.
fn hand_over(site: &Site, e: &LockError) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    let stdout = std::io::stdout();
    let asked = ControlClient::connect(&site.run_dir()).and_then(|mut client| {
        client.send_with_fds(&Request::Serve, &[stdin.as_fd(), stdout.as_fd()])?;
        client.next_answer()
    });
    match asked {
        Ok(Answer::Error(f)) => Err(f),
        Ok(_) => Ok(()),
        Err(_) => Err(held(e)),
    }
}
