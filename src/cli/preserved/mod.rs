//! `syncctl preserved`: what was moved aside before replication replaced it.

use clap::Subcommand;
use serde::Serialize;

use super::context::Context;
use super::exit::Exit;
use super::text::printable;
use crate::agent::preserved::{Item, Preserved};
use crate::wire::control::Failure;

pub mod list;
pub mod purge;
pub mod restore;
pub mod show;

/// See, put back or let go of what was moved aside before it was replaced
///
/// Replication overwrites and deletes only what it put there itself. Whatever else stands in its way is first moved into
/// the directory .osm-failover/preserved of its root: the last changes of a node that crashed before it could send them,
/// edits made on the standby, the losing side of a split brain. It stays there for preserve_days, or until all of it takes
/// more than preserve_size (both in [sync] of the configuration). Works whether or not syncd runs.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
    syncctl preserved list                           what is there, and why?\n  \
    syncctl preserved show 1793588645000-s1          is it newer than what stands there now?\n  \
    syncctl preserved restore 1793588645000-s1       put it back, on the active node\n  \
    syncctl preserved purge --older-than 7           let go of what is older than a week"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Restore(restore::Args),
    Purge(purge::Args),
}

/// Runs the command.
///
/// # Errors
/// The failure of what was asked for.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    match &args.command {
        Command::List(a) => list::run(a, ctx),
        Command::Show(a) => show::run(a, ctx),
        Command::Restore(a) => restore::run(a, ctx),
        Command::Purge(a) => purge::run(a, ctx),
    }
}

fn open(ctx: &Context) -> Preserved {
    Preserved::open(&ctx.config, ctx.node)
}

/// A preserved version, as JSON.
#[derive(Debug, Serialize)]
struct Line {
    id: String,
    root: String,
    /// Escaped, as in the notes; nothing where no note tells.
    path: Option<String>,
    origin: &'static str,
    reason: String,
    time: u64,
    size: u64,
    kind: &'static str,
}

impl From<&Item> for Line {
    fn from(i: &Item) -> Self {
        Self {
            id: i.id(),
            root: i.root.clone(),
            path: i.path.as_ref().map(ToString::to_string),
            origin: i.origin.word(),
            reason: i.reason.clone(),
            time: i.time,
            size: i.size,
            kind: i.kind,
        }
    }
}

/// Why it was moved aside: where it came from, and what was seen.
fn why(i: &Item) -> String {
    let (origin, reason) = (i.origin, printable(&i.reason));
    match origin {
        crate::decide::kept::Origin::Unknown => reason,
        _ => format!("{}: {reason}", origin.word()),
    }
}
