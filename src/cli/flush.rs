//! `syncctl flush`.

use std::time::Duration;

use super::client::{Event, SHORT_WAIT, ask_running};
use super::context::Context;
use super::exit::Exit;
use super::pause::tell;
use super::progress::Bar;
use crate::config::value;
use crate::wire::control::{Failure, Request};

/// Return when everything written before now is on the other node
///
/// What "on the other node" means is said by `durability` in the configuration. Ends with 7 when the time is up and
/// with 4 when the other node cannot be reached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl flush                 wait as long as flush_timeout in the configuration\n  \
    syncctl flush --timeout 5s && ./move-the-service.sh")]
pub struct Args {
    /// Give up after this time, as "5s" or "2m" [default: flush_timeout of the configuration]
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    timeout: Option<Duration>,
}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let timeout = args.timeout.unwrap_or(ctx.config.activation.flush_timeout);
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let bar = Bar::new(ctx.json);
    // The process keeps the time; the extra wait is for its answer.
    let wait = timeout.saturating_add(SHORT_WAIT);
    let outcome = ask_running(ctx, &Request::Flush { timeout_ms }, wait, &mut |event| {
        if let Event::Progress(p) = event {
            bar.show(&p);
        }
        Ok(())
    });
    drop(bar);
    tell(ctx, &outcome?)?;
    Ok(Exit::Done)
}
