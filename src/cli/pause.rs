//! `syncctl pause`.

use super::client::{SHORT_WAIT, ask_running, ignore};
use super::context::Context;
use super::exit::Exit;
use super::term;
use crate::wire::control::{Failure, Outcome, Request};

/// Stop sending changes until `resume`
///
/// Changes are still noticed and counted; `status` tells what waits. Everything that waits would be lost if this
/// node died.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  syncctl pause && ./rebuild-everything.sh; syncctl resume   send the result, not each step"
)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(_: &Args, ctx: &Context) -> Result<Exit, Failure> {
    simple(ctx, &Request::Pause)
}

/// Asks for something that is done at once, and tells its outcome.
pub(super) fn simple(ctx: &Context, request: &Request) -> Result<Exit, Failure> {
    let outcome = ask_running(ctx, request, SHORT_WAIT, &mut ignore)?;
    tell(ctx, &outcome)?;
    Ok(Exit::Done)
}

/// Prints the outcome of a command that has no data of its own.
pub(super) fn tell(ctx: &Context, outcome: &Outcome) -> Result<(), Failure> {
    tell_as(ctx.json, outcome)
}

/// As [`tell`], where there is no configuration.
pub(super) fn tell_as(json: bool, outcome: &Outcome) -> Result<(), Failure> {
    if json {
        return term::json(outcome);
    }
    term::line(&super::text::printable(&outcome.message))
}
