//! `syncctl status --lsb` and `--ocf`: the state in the words that init scripts and resource agents need.
//!
//! A cluster manager acts on the answer, so it must not fail for anything but a process that does not answer: where
//! the configuration was broken after the start, the process that runs with the old one is found at the default place.

use std::path::Path;

use super::client::{self, SHORT_WAIT};
use super::context::Globals;
use super::exit::Exit;
use super::term;
use crate::config::DEFAULT_RUN_DIR;
use crate::decide::cluster::{Condition, health, promotion_score};
use crate::wire::control::{Failure, Request, Status};

/// What the LSB calls "program is not running", and "status is unknown".
const LSB_STOPPED: u8 = 3;
const LSB_UNKNOWN: u8 = 4;

/// Whose words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// An init script's.
    Lsb,
    /// A resource agent's.
    Ocf,
}

/// Prints the state in these words; the code is the one to end with.
///
/// # Errors
/// The output cannot be written; for [`Words::Ocf`] also a process that does not answer.
pub fn run(words: Words, globals: &Globals) -> Result<u8, Failure> {
    match (words, state(globals)) {
        (Words::Lsb, Ok(status)) => {
            // Heartbeat looks for the word "running" and for nothing else.
            if status.role == "active" {
                term::line("osm-failover is running")?;
                return Ok(Exit::Done.code());
            }
            term::line("osm-failover is stopped")?;
            Ok(LSB_STOPPED)
        }
        (Words::Lsb, Err(f)) => {
            term::error(&f)?;
            Ok(LSB_UNKNOWN)
        }
        (Words::Ocf, Ok(status)) => {
            let c = condition(&status);
            let (health, score) = (health(c).word(), promotion_score(c));
            term::line(&format!("{} {health} {score}", status.role))?;
            Ok(Exit::Done.code())
        }
        (Words::Ocf, Err(f)) => Err(f),
    }
}

/// The state as the process that owns the node tells it; "stopped" where none does.
fn state(globals: &Globals) -> Result<Status, Failure> {
    let ctx = match globals.load() {
        Ok(ctx) => ctx,
        Err(_) => return state_at(Path::new(DEFAULT_RUN_DIR)),
    };
    let status = asked(&ctx.config.run_dir(ctx.node))?;
    Ok(status.unwrap_or_else(|| crate::agent::offline_status(&ctx.config, ctx.node)))
}

fn state_at(run_dir: &Path) -> Result<Status, Failure> {
    let stopped = || Status {
        role: "stopped".into(),
        ..Status::default()
    };
    Ok(asked(run_dir)?.unwrap_or_else(stopped))
}

fn asked(run_dir: &Path) -> Result<Option<Status>, Failure> {
    let answer = client::ask_in(run_dir, &Request::Status, SHORT_WAIT, &mut client::ignore)?;
    Ok(answer.and_then(|outcome| outcome.status).map(|s| *s))
}

fn condition(s: &Status) -> Condition<'_> {
    Condition {
        role: &s.role,
        peer: &s.peer.state,
        has_data: s.epoch > 0,
        incomplete: s.incomplete,
        oldest_ms: s.pending.oldest_ms,
        halted: !s.halted_roots.is_empty(),
    }
}
