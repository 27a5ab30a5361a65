//! `syncctl preserved purge`.

use serde::Serialize;

use super::open;
use crate::agent::preserved::{Item, Preserved};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::term;
use crate::cli::text::{count, printable, size};
use crate::sys::clock;
use crate::wire::control::Failure;

const DAY: u64 = 24 * 3600 * 1000;

/// Remove some or all of them for good
///
/// There is no way back. Ends with 1 where some of what was asked for could not be removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl preserved purge 1793588645000-s1   this one\n  \
    syncctl preserved purge --older-than 7     what was moved aside more than a week ago\n  \
    syncctl preserved purge --all")]
pub struct Args {
    /// Their ids, as "list" shows them
    #[arg(value_name = "ID", required_unless_present_any = ["older_than", "all"], conflicts_with_all = ["older_than", "all"])]
    ids: Vec<String>,
    /// All that were moved aside this many days ago or earlier
    #[arg(long, value_name = "DAYS", conflicts_with = "all")]
    older_than: Option<u32>,
    /// All
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Done {
    purged: u64,
    bytes: u64,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    id: String,
    cause: String,
}

/// Runs the command.
///
/// # Errors
/// A failure where there is none of an id; nothing was removed then.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let preserved = open(ctx);
    let done = preserved.purge(&chosen(args, &preserved)?, &mut || true)?;
    let exit = if done.failed.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    };
    if ctx.json {
        let failed = done.failed.into_iter();
        term::json(&Done {
            purged: done.items,
            bytes: done.bytes,
            failed: failed.map(|(id, cause)| Failed { id, cause }).collect(),
        })?;
        return Ok(exit);
    }
    for (id, cause) in &done.failed {
        term::line(&format!("{id} cannot be removed: {}", printable(cause)))?;
    }
    term::line(&format!(
        "{} removed, {}",
        count(done.items, "version"),
        size(done.bytes)
    ))?;
    Ok(exit)
}

fn chosen(args: &Args, preserved: &Preserved) -> Result<Vec<Item>, Failure> {
    if !args.ids.is_empty() {
        return preserved.pick(&args.ids);
    }
    let mut items = preserved.items()?.items;
    if let Some(days) = args.older_than {
        let now = clock::unix_ms();
        items.retain(|i| now.saturating_sub(i.time) >= u64::from(days) * DAY);
    }
    Ok(items)
}
