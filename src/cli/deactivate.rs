//! `syncctl deactivate`.

use std::path::PathBuf;
use std::time::Duration;

use super::context::{Context, Globals, hostname};
use super::exit::Exit;
use super::pause::{tell, tell_as};
use super::progress::Bar;
use super::term;
use crate::agent::launch::{self, Place};
use crate::agent::metrics;
use crate::agent::owner::Site;
use crate::agent::snat;
use crate::config::{Activation, DEFAULT_RUN_DIR, value};
use crate::wire::control::{Failure, Outcome};

/// Stop being active: push the last change, then end
///
/// For the cluster manager's stop. What the other node has not acknowledged is pushed for as long as flush_timeout, or
/// until it is clear that the other node is not there; what is left then is told, stays on this node, and is
/// preserved before anything replaces it. Ends with 0 once nothing runs any more, also if nothing ran.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl deactivate                 as /etc/init.d/osm-failover stop does\n  \
    syncctl deactivate --timeout 2m    give a large change more time")]
pub struct Args {
    /// Push no longer than this, as "5s" or "2m" [default: flush_timeout of the configuration]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    timeout: Option<Duration>,
}

/// Runs the command where the configuration is refused, which must not keep a node active that is told to stop: a stop
/// that fails has nodes rebooted. The process that was started with an earlier one is found at the default place.
///
/// # Errors
/// A failure where something is still running.
pub fn run_without(args: &Args, globals: &Globals, refused: &Failure) -> Result<Exit, Failure> {
    term::error(refused)?;
    let run_dir = PathBuf::from(DEFAULT_RUN_DIR);
    let node = globals.node.clone().unwrap_or_else(hostname);
    let message = format!("{node} was not active");
    let mut outcome = Outcome {
        message,
        ..Outcome::default()
    };
    if run_dir.exists() {
        let name = &node;
        let usual = Activation::default().flush_timeout;
        let timeout = args.timeout.unwrap_or(usual);
        outcome = launch::deactivate_in(&Place { name, run_dir }, timeout, &mut |_| ())?;
    }
    tell_as(globals.json, &outcome)?;
    Ok(Exit::Done)
}

/// Runs the command.
///
/// # Errors
/// A failure where something is still running.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let timeout = args.timeout.unwrap_or(ctx.config.activation.flush_timeout);
    let site = Site::new(ctx.config.clone(), ctx.node);
    let bar = Bar::new(ctx.json);
    let outcome = launch::deactivate(&site, timeout, &mut |p| bar.show(p));
    drop(bar);
    let outcome = outcome?;
    // The process takes them out itself; one that crashed earlier could not.
    if let Err(f) = snat::remove(&ctx.config) {
        // That rules stay is no reason to fail: a stop that fails has nodes rebooted.
        term::error(&f)?;
    }
    // A process that crashed earlier could not say either that it is not there any more.
    if let Err(e) = metrics::say_stopped(&site) {
        let file = ctx.config.metrics.textfile.clone().unwrap_or_default();
        let text = format!(
            "{}: cannot write the figures for Prometheus: {e}",
            file.display()
        );
        term::warning(&text)?;
    }
    tell(ctx, &outcome)?;
    Ok(Exit::Done)
}
