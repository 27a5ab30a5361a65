//! `syncctl diff`.

use super::context::Context;
use super::exit::Exit;
use super::verify::compare;
use crate::wire::control::Failure;

/// List what differs between both nodes, without reading any file
///
/// As `verify --quick`: metadata and recorded hashes are compared. A content that changed without its file's times
/// and size changing is only found by `verify`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// The failure of the request.
pub fn run(_: &Args, ctx: &Context) -> Result<Exit, Failure> {
    compare(ctx, true)
}
