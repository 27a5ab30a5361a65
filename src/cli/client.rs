//! The client of the control socket: one request, the lines of its answer, a bound on every wait.
//!
//! It knows nothing of what the answers mean. That nobody answers is no failure here but a result of its own, since
//! some commands can do without the process that owns the node.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::context::Context;
use super::exit::Exit;
use crate::model::span::span;
use crate::sys::control::{ControlClient, SOCKET_NAME};
use crate::wire::control::{Answer, Difference, Failure, Outcome, Progress, Request};

/// How long a question that needs no work may take.
pub const SHORT_WAIT: Duration = Duration::from_secs(10);
/// How long a command that works and tells its progress may say nothing.
pub const LONG_WAIT: Duration = Duration::from_secs(600);

/// What arrives before the end of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// How far the command is.
    Progress(Progress),
    /// A difference that was found.
    Difference(Difference),
}

/// What came of a question.
enum Asked {
    /// The end of the answer.
    Answered(Outcome),
    /// No process owns the node.
    Nobody,
    /// The process that was asked ended before it answered, which is this failure where it matters.
    Ended(Failure),
}

/// Asks the process that owns this node; `None` where none runs, or it ended before it answered.
///
/// `wait` bounds each silence, not the whole command.
///
/// # Errors
/// The failure the process answered with, one of `on`, or one that says how the conversation broke.
pub fn ask(
    ctx: &Context,
    request: &Request,
    wait: Duration,
    on: &mut dyn FnMut(Event) -> Result<(), Failure>,
) -> Result<Option<Outcome>, Failure> {
    ask_in(&ctx.config.run_dir(ctx.node), request, wait, on)
}

/// As [`ask`], where only the run directory is known.
///
/// # Errors
/// As [`ask`].
pub fn ask_in(
    run_dir: &Path,
    request: &Request,
    wait: Duration,
    on: &mut dyn FnMut(Event) -> Result<(), Failure>,
) -> Result<Option<Outcome>, Failure> {
    match ask_twice(run_dir, request, wait, on)? {
        Asked::Answered(outcome) => Ok(Some(outcome)),
        Asked::Nobody | Asked::Ended(_) => Ok(None),
    }
}

/// As [`ask`], where the command makes no sense without a running process.
///
/// # Errors
/// As [`ask`], and one with [`Exit::NotRunning`] where none runs, or it ended before it answered.
pub fn ask_running(
    ctx: &Context,
    request: &Request,
    wait: Duration,
    on: &mut dyn FnMut(Event) -> Result<(), Failure>,
) -> Result<Outcome, Failure> {
    match ask_twice(&ctx.config.run_dir(ctx.node), request, wait, on)? {
        Asked::Answered(outcome) => Ok(outcome),
        Asked::Ended(failure) => Err(failure),
        Asked::Nobody => {
            let message = format!("nothing runs for node {}", ctx.name());
            let hint = "start syncd on the active node; on the standby a process runs only while the active one is connected";
            Err(Exit::NotRunning.failure(message, hint))
        }
    }
}

/// Asks, and once more where the process ended before it answered: it was ending while it was asked, and another one owns the
/// node now, or none. Whatever is asked may be asked twice.
fn ask_twice(
    run_dir: &Path,
    request: &Request,
    wait: Duration,
    on: &mut dyn FnMut(Event) -> Result<(), Failure>,
) -> Result<Asked, Failure> {
    let ended = match ask_once(run_dir, request, wait, on)? {
        Asked::Ended(failure) => failure,
        asked => return Ok(asked),
    };
    match ask_once(run_dir, request, wait, on)? {
        Asked::Nobody => Ok(Asked::Ended(ended)),
        asked => Ok(asked),
    }
}

fn ask_once(
    run_dir: &Path,
    request: &Request,
    wait: Duration,
    on: &mut dyn FnMut(Event) -> Result<(), Failure>,
) -> Result<Asked, Failure> {
    let path = run_dir.join(SOCKET_NAME);
    // Who was told a part of an answer is not told it again from the beginning.
    let broken = |e: io::Error, heard: bool| {
        let failure = explain(&path, wait, &e, heard);
        if ControlClient::has_ended(&e) && !heard {
            Ok(Asked::Ended(failure))
        } else {
            Err(failure)
        }
    };
    let sent = ControlClient::connect(run_dir).and_then(|mut client| {
        client.set_read_timeout(Some(wait))?;
        client.send(request)?;
        Ok(client)
    });
    let mut client = match sent {
        Ok(client) => client,
        Err(e) if ControlClient::not_running(&e) => return Ok(Asked::Nobody),
        Err(e) => return broken(e, false),
    };
    let mut heard = false;
    loop {
        match client.next_answer() {
            Ok(Answer::Progress(p)) => on(Event::Progress(p))?,
            Ok(Answer::Difference(d)) => {
                heard = true;
                on(Event::Difference(d))?;
            }
            Ok(Answer::Done(outcome)) => return Ok(Asked::Answered(outcome)),
            Ok(Answer::Error(failure)) => return Err(failure),
            Err(e) => return broken(e, heard),
        }
    }
}

/// Takes no notice of what arrives before the end.
///
/// # Errors
/// Never.
pub fn ignore(_: Event) -> Result<(), Failure> {
    Ok(())
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// In words, how a conversation broke.
fn explain(path: &Path, wait: Duration, e: &io::Error, heard: bool) -> Failure {
    let asked = format!("ask the process behind {}", path.display());
    if ControlClient::has_ended(e) {
        let (what, hint) = if heard {
            let hint = "this is not all; it ended, or nobody read what it found for ten minutes: try again";
            ("it broke off in the middle of its answer", hint)
        } else {
            ("it ended before it answered", "see its log for the reason")
        };
        return Exit::NotRunning.failure(format!("{asked}: {what}"), hint);
    }
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Exit::TimedOut.failure(
            format!("{asked}: no answer within {}", span(ms(wait))),
            "see its log; if it hangs, restart it",
        ),
        io::ErrorKind::PermissionDenied => {
            Exit::Failed.failure(format!("{asked}: permission denied"), "run syncctl as root")
        }
        io::ErrorKind::InvalidInput => Exit::Failed.failure(
            format!("{asked}: the path is too long for a socket"),
            "choose a shorter run_dir in the configuration",
        ),
        io::ErrorKind::InvalidData => Exit::Failed.failure(
            format!("read the answer on {}: {e}", path.display()),
            "syncctl and the running process are of different versions: restart it",
        ),
        _ => Exit::Failed.failure(format!("{asked}: {e}"), "see its log"),
    }
}
