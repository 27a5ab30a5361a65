//! `syncctl resume`.

use super::context::Context;
use super::exit::Exit;
use super::pause::simple;
use crate::wire::control::{Failure, Request};

/// Send changes again after `pause`
///
/// What waited is sent at once, as the files are now.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(_: &Args, ctx: &Context) -> Result<Exit, Failure> {
    simple(ctx, &Request::Resume)
}
