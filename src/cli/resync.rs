//! `syncctl resync`.

use super::client::{Event, LONG_WAIT, ask};
use super::context::Context;
use super::exit::Exit;
use super::progress::Bar;
use super::term;
use super::text::{count, printable, size};
use crate::agent::{Wish, resync_once};
use crate::model::span::span;
use crate::wire::control::{Failure, Outcome, Request, ResyncReport};

/// Bring the node that is behind up to date
///
/// Which node that is follows from their histories, never from clocks: a stale node cannot overwrite a newer one.
/// Local changes that replication would overwrite are preserved first. Works whether syncd runs or not. When both
/// nodes changed data on their own, nothing is changed and the command ends with 5.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl resync --dry-run           which node is behind, and by how much?\n  \
    syncctl resync                     send or take what changed since the nodes last met\n  \
    syncctl resync --full              compare everything, as after a restored backup\n  \
    syncctl resync --full --checksum   and read every file again, as after a repaired disk")]
pub struct Args {
    /// Compare everything, not only what changed since the nodes last met
    #[arg(long)]
    full: bool,
    /// Read every file again instead of trusting its times and size
    #[arg(long)]
    checksum: bool,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let bar = Bar::new(ctx.json);
    let outcome = through_owner_or_alone(args, ctx, &bar);
    drop(bar);
    let outcome = outcome?;
    let problems = outcome.resync.as_ref().map_or(0, |r| r.problems);
    if ctx.json {
        term::json(&outcome)?;
    } else {
        term::print(&summary(&outcome, args.dry_run))?;
    }
    Ok(if problems == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Code of [`Exit::NotRunning`].
const ALONE: u8 = Exit::NotRunning.code();

fn through_owner_or_alone(args: &Args, ctx: &Context, bar: &Bar) -> Result<Outcome, Failure> {
    let Args {
        full,
        checksum,
        dry_run,
    } = *args;
    let request = Request::Resync {
        full,
        checksum,
        dry_run,
    };
    let answered = ask(ctx, &request, LONG_WAIT, &mut |event| {
        if let Event::Progress(p) = event {
            bar.show(&p);
        }
        Ok(())
    });
    match answered {
        Ok(Some(outcome)) => Ok(outcome),
        // A process that only received is gone, or has nobody to receive from: this command does it itself.
        Ok(None) | Err(Failure { code: ALONE, .. }) => {
            let mut progress = |p: &_| bar.show(p);
            let wish = Wish {
                full,
                checksum,
                dry_run,
                ..Wish::default()
            };
            // Whether both nodes changed data, `resolve` tells in detail.
            resync_once(&ctx.config, ctx.node, wish, &mut progress, &mut drop)
        }
        Err(e) => Err(e),
    }
}

pub(super) fn summary(outcome: &Outcome, dry_run: bool) -> String {
    let mut text = String::new();
    for part in [
        Some(outcome.message.as_str()),
        outcome.resync.as_ref().map(|r| r.verdict.as_str()),
    ] {
        if let Some(sentence) = part.filter(|s| !s.is_empty()) {
            text += &format!("{}\n", printable(sentence));
        }
    }
    if let Some(r) = &outcome.resync {
        text += &format!("{}\n", figures(r, dry_run));
    }
    text
}

fn figures(r: &ResyncReport, dry_run: bool) -> String {
    let took = span(r.elapsed_ms);
    let done = match (r.direction.as_str(), dry_run) {
        ("receive", false) => "received",
        ("receive", true) => "would receive",
        ("send", false) => "sent",
        ("send", true) => "would send",
        _ => return format!("nothing to do ({took})"),
    };
    let mut parts = vec![
        format!("{done} {} ({})", count(r.puts, "path"), size(r.bytes)),
        format!("{} deleted", r.deletes),
    ];
    if r.preserved > 0 {
        parts.push(format!("{} preserved first", r.preserved));
    }
    if r.problems > 0 {
        parts.push(format!(
            "{} could not be done (see syncctl status)",
            r.problems
        ));
    }
    format!("{}, in {took}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary() {
        let mut report = ResyncReport {
            direction: "receive".into(),
            verdict: "osm1 is behind osm2 since change 40".into(),
            puts: 12,
            deletes: 3,
            bytes: 3_565_158,
            preserved: 1,
            problems: 2,
            elapsed_ms: 2100,
        };
        let outcome = |r: &ResyncReport| Outcome {
            resync: Some(r.clone()),
            ..Outcome::default()
        };
        assert_eq!(
            summary(&outcome(&report), false),
            "osm1 is behind osm2 since change 40\n\
             received 12 paths (3.4 MiB), 3 deleted, 1 preserved first, 2 could not be done (see syncctl status), in 2.1 s\n"
        );
        report = ResyncReport {
            direction: "send".into(),
            puts: 1,
            elapsed_ms: 5,
            ..ResyncReport::default()
        };
        assert_eq!(
            summary(&outcome(&report), true),
            "would send 1 path (0 B), 0 deleted, in 5 ms\n"
        );
        report = ResyncReport {
            direction: "none".into(),
            ..report
        };
        assert_eq!(summary(&outcome(&report), false), "nothing to do (5 ms)\n");
        let only = Outcome {
            message: "done".into(),
            ..Outcome::default()
        };
        assert_eq!(summary(&only, false), "done\n");
    }
}
