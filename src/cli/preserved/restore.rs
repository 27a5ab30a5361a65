//! `syncctl preserved restore`.

use std::path::PathBuf;

use serde::Serialize;

use super::open;
use crate::cli::client::{SHORT_WAIT, ask, ignore};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::term;
use crate::model::path::Escaped;
use crate::wire::control::{Failure, Request};

/// Put one of them back, or anywhere else with --to
///
/// Without --to it goes back to where it stood, on the active node only: there it is a local change like any other, and is
/// replicated. What stands there now is not overwritten: it changes places with what is restored and is then preserved
/// itself. On a node that is not active that would be an edit which replication did not make, so it is refused (6).
///
/// What is restored is moved, not copied, unless --to names a place on another file system: then it is copied there with
/// owner, mode, times and attributes, and removed here once the copy is on disk.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl preserved restore 1793588645000-s1\n  \
    syncctl preserved restore 1793588645000-s1 --to /tmp/order.xml   to compare the two first\n  \
    syncctl preserved restore 1793588645000-s1 --to /root            under its own name in /root")]
pub struct Args {
    /// Its id, as "list" shows it; ROOT:ID where two roots have one of this name
    #[arg(value_name = "ID")]
    id: String,
    /// Where to put it: a path at which nothing stands, or a directory
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
}

#[derive(Serialize)]
struct Done {
    restored: String,
    to: String,
    replaced: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A refusal or failure; the version is then still preserved.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let preserved = open(ctx);
    let items = preserved.pick(std::slice::from_ref(&args.id))?;
    let Some(item) = items.first() else {
        return Ok(Exit::Failed);
    };
    let mut role = || {
        let answer = ask(ctx, &Request::Status, SHORT_WAIT, &mut ignore)?;
        let status = answer.and_then(|o| o.status);
        Ok(status.map_or_else(|| "stopped".to_owned(), |s| s.role))
    };
    let done = match &args.to {
        None => preserved.restore(item, &mut role)?,
        Some(to) => preserved.restore_to(item, to, &mut role)?,
    };
    let to = Escaped(done.to.as_os_str().as_encoded_bytes()).to_string();
    if ctx.json {
        term::json(&Done {
            restored: item.id(),
            to,
            replaced: done.replaced,
        })?;
    } else {
        let before = done.replaced.map_or_else(String::new, |id| {
            format!("; what stood there is preserved as {id}")
        });
        term::line(&format!("{} is at {to} again{before}", item.shown()))?;
    }
    Ok(Exit::Done)
}
