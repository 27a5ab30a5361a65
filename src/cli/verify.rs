//! `syncctl verify`, and what `diff` shares with it.

use super::client::{Event, LONG_WAIT, ask_running};
use super::context::Context;
use super::exit::Exit;
use super::progress::Bar;
use super::term;
use super::text::{count, printable};
use crate::wire::control::{Answer, Difference, Failure, Request};

/// Compare both nodes' trees by content and list the differences
///
/// Every file is read on both nodes. Nothing is changed. Ends with 0 when the trees are equal and with 1 when they
/// differ. Changes that are on their way are not differences.
///
/// With --json each difference is a line {"difference": ...}; the last line is {"done": ...}, or the failure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl verify                       read everything, print each path that differs\n  \
    syncctl verify --quick               compare metadata and recorded hashes only\n  \
    syncctl verify --json | jq -r 'select(.difference).difference.path'")]
pub struct Args {
    /// Compare metadata and recorded hashes only, read no file
    #[arg(long)]
    quick: bool,
}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    compare(ctx, args.quick)
}

/// Asks for a comparison and prints each difference as it comes.
pub(super) fn compare(ctx: &Context, quick: bool) -> Result<Exit, Failure> {
    let bar = Bar::new(ctx.json);
    let mut listed = 0;
    let outcome = ask_running(
        ctx,
        &Request::Verify { quick },
        LONG_WAIT,
        &mut |event| match event {
            Event::Progress(p) => {
                bar.show(&p);
                Ok(())
            }
            Event::Difference(d) => {
                listed += 1;
                bar.beside(|| print(ctx.json, d))
            }
        },
    );
    drop(bar);
    let outcome = outcome?;
    let differences = outcome.differences.unwrap_or(listed);
    if ctx.json {
        term::json_line(&Answer::Done(outcome))?;
    } else {
        let summary = match (outcome.message.as_str(), differences) {
            ("", 0) => "both trees are equal".to_owned(),
            ("", n) => count(n, "difference"),
            (message, _) => printable(message),
        };
        term::line(&summary)?;
    }
    Ok(if differences == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn print(json: bool, d: Difference) -> Result<(), Failure> {
    if json {
        return term::json_line(&Answer::Difference(d));
    }
    term::line(&format!(
        "{}:{}  {}",
        printable(&d.root),
        printable(&d.path),
        printable(&d.what)
    ))
}
