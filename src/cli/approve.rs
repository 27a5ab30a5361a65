//! `syncctl approve`.

use super::client::{SHORT_WAIT, ask, ignore};
use super::context::Context;
use super::exit::Exit;
use super::pause::tell;
use crate::agent::approve_once;
use crate::wire::control::{Failure, Request};

/// Say that what is gone from a root is meant to be
///
/// Replication of a root halts where more is gone from it at once than max_delete allows, or where a file system that was
/// mounted in it is gone; `status` lists it under problems. After this it goes on, and what is gone here is deleted on the
/// other node. If it is not meant to be, put back what is missing instead.
///
/// Where no process can run, because another directory stands at the path of a root than the one that was replicated, that
/// directory (a new disk) is the root from then on: the node takes the other node's data, and preserves what it finds there.
/// If something is merely not mounted, mount it instead.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl approve        all roots that wait for it\n  \
    syncctl approve ovd    this one")]
pub struct Args {
    /// Name of the root [default: all that wait]
    root: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let root = args.root.clone();
    let outcome = match ask(ctx, &Request::Approve { root }, SHORT_WAIT, &mut ignore)? {
        Some(outcome) => outcome,
        // Nobody can run while a root is another directory.
        None => approve_once(&ctx.config, ctx.node, args.root.as_deref())?,
    };
    tell(ctx, &outcome)?;
    Ok(Exit::Done)
}
