//! `syncctl resolve`.

use clap::ValueEnum;

use super::client::{Event, LONG_WAIT, SHORT_WAIT, ask, ignore};
use super::context::Context;
use super::exit::Exit;
use super::progress::Bar;
use super::text::printable;
use super::{resync, term};
use crate::agent::{Wish, resync_once};
use crate::model::epoch::Keep;
use crate::wire::control::{Difference, Failure, Outcome, Request};

/// Decide which side to keep where both nodes changed data on their own
///
/// Replication halts when both nodes changed data after the last state they share (a split brain), and changes nothing.
/// This ends it: the side that is given up takes the other one's state, after every version of its own that would be
/// overwritten or deleted was preserved. A node that is active is never the one that gives up: deactivate it first.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl resolve --keep local --dry-run   what did each side change?\n  \
    syncctl resolve --keep local             this node's data are the right ones\n  \
    syncctl resolve --keep peer              the other node's data are the right ones\n\n\
What was preserved lies on the side that was given up, in .osm-failover/preserved of each root.")]
pub struct Args {
    /// Which side's data are kept
    #[arg(long, value_enum)]
    keep: Which,
    /// Only list what each side changed
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// This node's
    Local,
    /// The other node's
    Peer,
}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let bar = Bar::new(ctx.json);
    let mut listed = Ok(());
    let mut list = |d: Difference| {
        if listed.is_ok() {
            listed = show(ctx, &d);
        }
    };
    let outcome = decide(*args, ctx, &bar, &mut list);
    drop(bar);
    let outcome = outcome?;
    listed?;
    if ctx.json {
        term::json_line(&outcome)?;
    } else {
        term::print(&resync::summary(&outcome, args.dry_run))?;
    }
    Ok(Exit::Done)
}

fn decide(
    args: Args,
    ctx: &Context,
    bar: &Bar,
    list: &mut dyn FnMut(Difference),
) -> Result<Outcome, Failure> {
    let (keep_local, dry_run) = (args.keep == Which::Local, args.dry_run);
    let request = Request::Resolve {
        keep_local,
        dry_run,
    };
    let status = ask(ctx, &Request::Status, SHORT_WAIT, &mut ignore)?.and_then(|o| o.status);
    if status.is_some_and(|s| s.role == "active") {
        let answered = ask(ctx, &request, LONG_WAIT, &mut |event| {
            match event {
                Event::Progress(p) => bar.show(&p),
                Event::Difference(d) => list(d),
            }
            Ok(())
        })?;
        // Where it ended meanwhile, this command does what is asked by itself, as for a node that is not active.
        if let Some(outcome) = answered {
            return Ok(outcome);
        }
    }
    let keep = match args.keep {
        // A dry run asks nothing of the peer.
        _ if dry_run => Keep::Undecided,
        Which::Local => Keep::Mine,
        Which::Peer => Keep::Yours,
    };
    let wish = Wish {
        dry_run,
        keep,
        apart: dry_run,
        ..Wish::default()
    };
    let mut progress = |p: &_| bar.show(p);
    resync_once(&ctx.config, ctx.node, wish, &mut progress, list)
}

fn show(ctx: &Context, d: &Difference) -> Result<(), Failure> {
    if ctx.json {
        return term::json_line(d);
    }
    term::line(&printable(&format!("{:16} {}:{}", d.what, d.root, d.path)))
}
