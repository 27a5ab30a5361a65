//! `syncctl activate`.

use std::path::PathBuf;

use super::context::Context;
use super::exit::Exit;
use super::pause::tell;
use crate::agent::launch::{self, Launch};
use crate::agent::owner::Site;
use crate::wire::control::Failure;

/// Make this node active: take the newest data that can be had, then watch and send
///
/// For the cluster manager's start. The other node is asked for what this one lacks, for as long as activate_timeout; where
/// it is active itself it is asked to hand over; where it cannot be reached this node goes on with its own data and says
/// how old they are. Ends with 0 once the node is active, also if it was active already. It fails only where the
/// node can never work, since a start that fails makes most cluster managers give up the service on both nodes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl activate                        as /etc/init.d/osm-failover start does\n  \
    syncctl activate --log /var/log/osm-failover.log")]
pub struct Args {
    /// Where syncd logs: \"syslog\", or the absolute path of a file that it appends to
    #[arg(long, value_name = "TARGET", default_value = "syslog", value_parser = super::daemon::log_target)]
    log: String,
}

/// Runs the command.
///
/// # Errors
/// Why the node is not active.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let launch = Launch {
        syncd: syncd(),
        log: args.log.clone(),
    };
    let site = Site::new(ctx.config.clone(), ctx.node);
    let outcome = launch::activate(&site, &launch)?;
    tell(ctx, &outcome)?;
    Ok(Exit::Done)
}

/// The `syncd` beside this program, else the one the system finds.
fn syncd() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name("syncd"))
        .filter(|path| path.exists());
    beside.unwrap_or_else(|| "syncd".into())
}
