//! `syncctl approve`.

use super::context::Context;
use super::exit::Exit;
use super::pause::simple;
use crate::wire::control::{Failure, Request};

/// Say that what is gone from a root is meant to be
///
/// Replication of a root halts where more is gone from it at once than max_delete allows, or where a file system that was
/// mounted in it is gone; `status` lists it under problems. After this it goes on, and what is gone here is deleted on the
/// other node. If it is not meant to be, put back what is missing instead.
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
    simple(ctx, &Request::Approve { root })
}
