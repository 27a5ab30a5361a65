//! `syncctl deactivate`.

use std::time::Duration;

use super::context::Context;
use super::exit::Exit;
use super::pause::tell;
use super::progress::Bar;
use crate::agent::launch;
use crate::agent::owner::Site;
use crate::config::value;
use crate::wire::control::Failure;

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
    /// Push no longer than this, as \"5s\" or \"2m\" [default: flush_timeout of the configuration]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    timeout: Option<Duration>,
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
    tell(ctx, &outcome?)?;
    Ok(Exit::Done)
}
