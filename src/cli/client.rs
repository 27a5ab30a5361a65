//! The client of the control socket: one request, the lines of its answer, a bound on every wait.
//!
//! It knows nothing of what the answers mean. That nobody answers is no failure here but a result of its own, since
//! some commands can do without the process that owns the node.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::context::Context;
use super::exit::Exit;
use crate::model::span::span;
use crate::wire::control::{Answer, Difference, Failure, MAX_LINE, Outcome, Progress, Request};

/// Name of the control socket in the run directory.
pub const SOCKET: &str = "control.sock";
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

/// Asks the process that owns this node; `None` where none runs.
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
    let path = ctx.config.run_dir(ctx.node).join(SOCKET);
    let broken = |e: io::Error| explain(&path, wait, &e);
    let stream = match connect(&path) {
        Ok(s) => s,
        Err(e) if absent(&e) => return Ok(None),
        Err(e) => return Err(broken(e)),
    };
    stream.set_read_timeout(Some(wait)).map_err(broken)?;
    stream.set_write_timeout(Some(wait)).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(|e| broken(e.into()))?;
    line.push(b'\n');
    (&stream).write_all(&line).map_err(broken)?;
    let mut reader = BufReader::new(stream);
    loop {
        let line = read_line(&mut reader).map_err(broken)?;
        let answer = serde_json::from_slice(&line).map_err(|e| {
            let message = format!("read the answer on {}: {e}", path.display());
            Exit::Failed.failure(
                message,
                "syncctl and the running process are of different versions: restart it",
            )
        })?;
        match answer {
            Answer::Progress(p) => on(Event::Progress(p))?,
            Answer::Difference(d) => on(Event::Difference(d))?,
            Answer::Done(outcome) => return Ok(Some(outcome)),
            Answer::Error(failure) => return Err(failure),
        }
    }
}

/// As [`ask`], where the command makes no sense without a running process.
///
/// # Errors
/// As [`ask`], and one with [`Exit::NotRunning`] where none runs.
pub fn ask_running(
    ctx: &Context,
    request: &Request,
    wait: Duration,
    on: &mut dyn FnMut(Event) -> Result<(), Failure>,
) -> Result<Outcome, Failure> {
    ask(ctx, request, wait, on)?.ok_or_else(|| {
        let message = format!("nothing runs for node {}", ctx.name());
        let hint = "start syncd on the active node; on the standby a process runs only while the active one is connected";
        Exit::NotRunning.failure(message, hint)
    })
}

/// Takes no notice of what arrives before the end.
///
/// # Errors
/// Never.
pub fn ignore(_: Event) -> Result<(), Failure> {
    Ok(())
}

/// Connects without waiting: a process that no longer accepts leaves a full queue, on which a plain connect hangs.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    reader.take(limit + 1).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        return Ok(line);
    }
    if line.len() > MAX_LINE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is too long",
        ));
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn explain(path: &Path, wait: Duration, e: &io::Error) -> Failure {
    let asked = format!("ask the process behind {}", path.display());
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Exit::TimedOut.failure(
            format!("{asked}: no answer within {}", span(ms(wait))),
            "see its log; if it hangs, restart it",
        ),
        io::ErrorKind::PermissionDenied => {
            Exit::Failed.failure(format!("{asked}: permission denied"), "run syncctl as root")
        }
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => Exit::NotRunning.failure(
            format!("{asked}: it ended before it answered"),
            "see its log for the reason",
        ),
        io::ErrorKind::InvalidInput => Exit::Failed.failure(
            format!("{asked}: the path is too long for a socket"),
            "choose a shorter run_dir in the configuration",
        ),
        _ => Exit::Failed.failure(format!("{asked}: {e}"), "see its log"),
    }
}
