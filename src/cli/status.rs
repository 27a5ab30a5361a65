//! `syncctl status`.

use std::time::Duration;

use super::client::{SHORT_WAIT, ask, ignore};
use super::cluster::Words;
use super::context::Context;
use super::exit::Exit;
use super::text::printable;
use super::{status_text, term};
use crate::wire::control::{Failure, Request, Status};

/// How often `--watch` asks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Is the other node in step, and what would be lost if not?
///
/// The first line is the answer, the rest says why. Ends with 0 while a process runs for this node, with 3 when none
/// does (the state is then read from disk), and with 5 when both nodes changed data on their own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl status\n  \
    syncctl status --watch                          redraw each second\n  \
    syncctl status --json | jq .pending.oldest_ms   for monitoring")]
pub struct Args {
    /// Ask each second until interrupted; with --json one line each time
    #[arg(long)]
    watch: bool,
    /// For init scripts: print "is running" or "is stopped", end with 0 while active, 3 if not, 4 if it cannot be told
    #[arg(long, conflicts_with_all = ["watch", "ocf"])]
    lsb: bool,
    /// For resource agents: print role, "ok" or "degraded", and the promotion score, as "active ok 10000"
    #[arg(long, conflicts_with = "watch")]
    ocf: bool,
}

impl Args {
    /// The words wanted in place of sentences for people.
    #[must_use]
    pub fn words(&self) -> Option<Words> {
        match (self.lsb, self.ocf) {
            (true, _) => Some(Words::Lsb),
            (_, true) => Some(Words::Ocf),
            _ => None,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    if !args.watch {
        let (status, exit) = fetch(ctx)?;
        show(ctx, &status)?;
        return Ok(exit);
    }
    loop {
        // A process that dies or hangs is what a watcher waits to see; only a lost reader ends the watch.
        match fetch(ctx) {
            Ok((status, _)) => redraw(ctx, &status)?,
            Err(f) if ctx.json => term::json_line(&f)?,
            Err(f) => term::line(&printable(&f.message))?,
        }
        std::thread::sleep(INTERVAL);
    }
}

fn fetch(ctx: &Context) -> Result<(Status, Exit), Failure> {
    let Some(outcome) = ask(ctx, &Request::Status, SHORT_WAIT, &mut ignore)? else {
        let status = crate::agent::offline_status(&ctx.config, ctx.node);
        return Ok((status, Exit::NotRunning));
    };
    let status = outcome.status.ok_or_else(|| {
        let hint = "syncctl and the running process are of different versions: restart it";
        Exit::Failed.failure("the answer has no status", hint)
    })?;
    let exit = if status.peer.state == "diverged" {
        Exit::Diverged
    } else {
        Exit::Done
    };
    Ok((*status, exit))
}

fn show(ctx: &Context, status: &Status) -> Result<(), Failure> {
    if ctx.json {
        return term::json(status);
    }
    term::print(&status_text::render(status))
}

fn redraw(ctx: &Context, status: &Status) -> Result<(), Failure> {
    if ctx.json {
        return term::json_line(status);
    }
    let text = status_text::render(status);
    if term::is_terminal() {
        return term::print(&format!("\x1b[H\x1b[2J{text}"));
    }
    term::line(&text)
}
