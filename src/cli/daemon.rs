//! The command line of `syncd`: the daemon, and `serve`, which the peer starts through SSH.
//!
//! Standard output belongs to the peer's stream, so everything said goes to standard error.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use super::context::Globals;
use super::exit::Exit;
use super::term;
use crate::sys::memory;
use crate::sys::syslog::Syslog;
use crate::wire::control::Failure;

const STDERR: &str = "stderr";
const SYSLOG: &str = "syslog";

const AFTER_HELP: &str = "\
The cluster manager starts and stops syncd through syncctl; nobody needs to run it by hand.

Environment:
  OSM_LOG    what is logged, as \"info\", \"debug\" or \"warn,osm_failover::sys=debug\"";

/// Keeps the other node equal to this one while this one is active.
#[derive(Debug, Parser)]
#[command(name = "syncd", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "OSM_CONFIG", default_value = crate::config::DEFAULT_FILE)]
    config: std::path::PathBuf,
    /// Which node of the configuration this is; without it the host name tells
    #[arg(long, global = true, value_name = "NAME", env = "OSM_NODE")]
    node: Option<String>,
    /// Where to log: "stderr", "syslog", or the absolute path of a file that is appended to
    #[arg(long, global = true, value_name = "TARGET", default_value = STDERR, value_parser = log_target)]
    log: String,
    /// Leave the session of whoever started this: for syncctl activate
    #[arg(long, hide = true)]
    detached: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Speak to the peer on standard input and output
    ///
    /// SSH runs this on the standby when the active node connects. A key for nothing else:
    /// restrict,command="syncd serve" ssh-ed25519 ... in authorized_keys.
    Serve,
}

/// A place to log to, as given on the command line.
///
/// # Errors
/// What can be given, where it is none of that.
pub(super) fn log_target(text: &str) -> Result<String, String> {
    if text == STDERR || text == SYSLOG || text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "give \"{STDERR}\", \"{SYSLOG}\" or the absolute path of a file"
    ))
}

/// Runs `syncd` with the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    memory::share();
    let cli = Cli::parse();
    let detached = cli.detached;
    let started = log_to(&cli.log).and_then(|()| {
        if detached && let Err(e) = nix::unistd::setsid() {
            tracing::debug!("this process stays in the session of who started it: {e}");
        }
        start(cli)
    });
    match started {
        Ok(()) => Exit::Done.into(),
        // Whoever started it in the background reads this from a file.
        Err(f) if detached => {
            tracing::error!("{}; {}", f.message, f.hint);
            let _ = term::error_json(&f);
            ExitCode::from(f.code.max(Exit::Failed.code()))
        }
        Err(f) => fail(&f),
    }
}

/// Has everything that is logged go to `target`.
fn log_to(target: &str) -> Result<(), Failure> {
    let wanted = std::env::var("OSM_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let filter = EnvFilter::try_new(wanted);
    let refused = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    let unusable = |e: std::io::Error| {
        Exit::Failed.failure(
            format!("cannot log to {target}: {e}"),
            "choose another --log",
        )
    };
    match target {
        STDERR => log
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_writer(std::io::stderr)
            .init(),
        // The system log has time and level of its own.
        SYSLOG => log
            .with_ansi(false)
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_writer(Syslog::open(c"osm-failover").map_err(unusable)?)
            .init(),
        file => log
            .with_ansi(false)
            .with_writer(Arc::new(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o640)
                    .open(file)
                    .map_err(unusable)?,
            ))
            .init(),
    }
    if let Some(why) = refused {
        tracing::warn!("OSM_LOG is not understood, logging as with \"info\": {why}");
    }
    Ok(())
}

fn start(cli: Cli) -> Result<(), Failure> {
    let globals = Globals {
        config: cli.config,
        node: cli.node,
        json: false,
    };
    let ctx = globals.load()?;
    match cli.command {
        None => crate::agent::run_daemon(ctx.config, ctx.node, cli.detached),
        Some(Command::Serve) => crate::agent::run_serve(ctx.config, ctx.node),
    }
}

fn fail(f: &Failure) -> ExitCode {
    // Where even this cannot be written there is nobody left to tell; the exit code still says it.
    let _ = term::error(f);
    ExitCode::from(if f.code == 0 {
        Exit::Failed.code()
    } else {
        f.code
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
        for line in ["syncd", "syncd serve", "syncd --node a serve --config /x"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(Cli::try_parse_from(["syncd", "server"]).is_err());
    }
}
