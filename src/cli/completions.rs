//! `syncctl completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::Exit;
use super::{Cli, term};
use crate::wire::control::Failure;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl completions bash > /etc/bash_completion.d/syncctl\n  \
    syncctl completions zsh > /usr/share/zsh/site-functions/_syncctl")]
pub struct Args {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// A failure where standard output cannot be written.
pub fn run(args: &Args) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "syncctl", &mut script);
    term::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
