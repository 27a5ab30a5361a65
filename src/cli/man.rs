//! `syncctl man`.

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;

use super::exit::Exit;
use super::{Cli, daemon, term};
use crate::wire::control::Failure;

/// Print the manual page, or write all pages into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl man | man -l -\n  \
    syncctl man /usr/local/share/man/man1")]
pub struct Args {
    /// Where to write a page for syncd, for syncctl and for each subcommand
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A failure where the pages cannot be written.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.dir {
        Some(dir) => pages(dir).map_err(|e| {
            let message = format!("write manual pages to {}: {e}", dir.display());
            Exit::Failed.failure(message, "name a directory that exists and can be written")
        })?,
        None => {
            let mut page = Vec::new();
            let rendered = Man::new(Cli::command()).render(&mut page);
            rendered
                .map_err(|e| Exit::Failed.failure(format!("render the manual page: {e}"), ""))?;
            term::print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Exit::Done)
}

fn pages(dir: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), dir)?;
    clap_mangen::generate_to(daemon::Cli::command(), dir)
}
