//! Conversation: one file per subcommand, rendering, exit codes.
//!
//! Only this layer prints and only it ends the process. It decides nothing about data: a command is a request to the
//! process that owns the node, or, where none runs, a call into `agent`. The doc comment of each subcommand is its help.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::wire::control::Failure;

pub mod activate;
pub mod approve;
pub mod check;
pub mod client;
pub mod cluster;
pub mod completions;
mod confinement;
pub mod context;
pub mod daemon;
pub mod deactivate;
pub mod demo;
pub mod diff;
pub mod exit;
pub mod flush;
pub mod man;
pub mod pair;
pub mod pause;
pub mod preserved;
pub mod probe;
pub mod progress;
pub mod resolve;
pub mod resume;
pub mod resync;
pub mod snat;
pub mod status;
pub mod status_text;
pub mod term;
pub mod text;
pub mod verify;

use context::Globals;
use exit::Exit;

/// Exit codes, for the help.
const AFTER_HELP: &str = "\
Examples:
  syncctl status               is the other node in step, and what would be lost if not?
  syncctl check                is everything there that replication needs?
  syncctl resync --dry-run     what would be done to bring the node that is behind up to date?
  syncctl flush                return when everything written so far is on the other node

Exit codes:
  0 done   1 failed   2 usage or configuration   3 not running   4 peer unreachable
  5 diverged, nothing changed   6 refused by a guard   7 timed out";

/// Asks and steers osm-failover on this node.
#[derive(Debug, Parser)]
#[command(name = "syncctl", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Activate(activate::Args),
    Deactivate(deactivate::Args),
    Status(status::Args),
    Resync(resync::Args),
    Resolve(resolve::Args),
    Approve(approve::Args),
    Flush(flush::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Snat(snat::Args),
    Preserved(preserved::Args),
    Pair(pair::Args),
    Check(check::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs `syncctl` with the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    let Cli { globals, command } = Cli::parse();
    let json = globals.json;
    if let Command::Status(args) = &command
        && let Some(words) = args.words()
    {
        return match cluster::run(words, &globals) {
            Ok(code) => code.into(),
            Err(f) => fail(&f, json),
        };
    }
    match dispatch(command, globals) {
        Ok(exit) => exit.into(),
        Err(f) => fail(&f, json),
    }
}

fn dispatch(command: Command, globals: Globals) -> Result<Exit, Failure> {
    match command {
        Command::Activate(a) => activate::run(&a, &globals.load()?),
        Command::Deactivate(a) => match globals.load() {
            Ok(ctx) => deactivate::run(&a, &ctx),
            Err(refused) => deactivate::run_without(&a, &globals, &refused),
        },
        Command::Status(a) => status::run(&a, &globals.load()?),
        Command::Resync(a) => resync::run(&a, &globals.load()?),
        Command::Approve(a) => approve::run(&a, &globals.load()?),
        Command::Resolve(a) => resolve::run(&a, &globals.load()?),
        Command::Flush(a) => flush::run(&a, &globals.load()?),
        Command::Verify(a) => verify::run(&a, &globals.load()?),
        Command::Diff(a) => diff::run(&a, &globals.load()?),
        Command::Pause(a) => pause::run(&a, &globals.load()?),
        Command::Resume(a) => resume::run(&a, &globals.load()?),
        Command::Snat(a) => snat::run(&a, &globals.load()?),
        Command::Preserved(a) => preserved::run(&a, &globals.load()?),
        Command::Pair(a) => pair::run(&a, &globals.load()?),
        Command::Check(a) => check::run(&a, globals),
        Command::Demo(a) => demo::run(&a, &globals),
        Command::Completions(a) => completions::run(&a),
        Command::Man(a) => man::run(&a),
    }
}

/// Says why a command failed, to people on standard error, to programs as JSON on standard output.
pub(crate) fn fail(f: &Failure, json: bool) -> ExitCode {
    let code = if f.code == 0 {
        Exit::Failed.code()
    } else {
        f.code
    };
    // Where even this cannot be written there is nobody left to tell; the exit code still says it.
    let _ = if json { term::json(f) } else { term::error(f) };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_and_argument_has_help() {
        let cli = Cli::command();
        let all = cli.get_subcommands();
        for sub in all.flat_map(|s| std::iter::once(s).chain(s.get_subcommands())) {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for arg in sub.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    sub.get_name(),
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn global_options_may_stand_before_and_after_the_subcommand() {
        for line in [
            "syncctl --node a --json status",
            "syncctl status --node a --json",
            "syncctl --config /x status --watch",
            "syncctl status --lsb",
            "syncctl status --ocf --node a",
            "syncctl resync --full --checksum --dry-run",
            "syncctl flush --timeout 5s",
            "syncctl verify --quick",
            "syncctl snat apply --if-active --json",
            "syncctl snat remove",
            "syncctl --node a snat status",
            "syncctl preserved list --json",
            "syncctl preserved restore 1-s1 --to /x",
            "syncctl preserved purge 1-s1 2-s1",
            "syncctl preserved purge --older-than 7",
            "syncctl preserved purge --all",
            "syncctl pair 10.0.0.2",
            "syncctl pair root@osm2 --fingerprint SHA256:x --dry-run --json",
            "syncctl pair --answer",
            "syncctl completions bash",
            "syncctl man",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "syncctl",
            "syncctl fly",
            "syncctl status --lsb --ocf",
            "syncctl status --lsb --watch",
            "syncctl preserved purge",
            "syncctl preserved purge --all 1-s1",
            "syncctl preserved purge --all --older-than 7",
            "syncctl preserved show",
            "syncctl flush --timeout soon",
            "syncctl completions dos",
            "syncctl snat",
            "syncctl snat flush",
            "syncctl pair",
            "syncctl pair osm2 --yes --fingerprint SHA256:x",
            "syncctl pair osm2 --answer",
            "syncctl snat remove --if-active",
        ] {
            let code = Cli::try_parse_from(line.split(' ')).map_or_else(|e| e.exit_code(), |_| 0);
            assert_eq!(code, i32::from(Exit::Usage.code()), "{line}");
        }
    }
}
