//! One call of a tool: its input, its output, and an end within a bound.
//!
//! Input and output are files in memory, so neither side can wait for the other, and only the end of the process is
//! waited for.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Longest that a call may take. `iptables` waits for others for half of it.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Most that is read of what a call printed, in bytes. Our own rules are far from it.
const MAX_OUTPUT: u64 = 16 * 1024 * 1024;

/// How a call ended and what it said.
pub(super) struct Output {
    /// The exit code; `None` where a signal ended it.
    pub(super) code: Option<i32>,
    /// Standard output.
    pub(super) stdout: String,
    /// Standard error.
    pub(super) stderr: String,
}

/// Runs a program, in plain English and without an environment that steers its output.
///
/// # Errors
/// It cannot be started, does not end within [`LIMIT`], or says too much.
pub(super) fn run<S: AsRef<std::ffi::OsStr>>(
    program: &Path,
    args: &[S],
    input: &[u8],
) -> io::Result<Output> {
    run_within(program, args, input, LIMIT)
}

fn run_within<S: AsRef<std::ffi::OsStr>>(
    program: &Path,
    args: &[S],
    input: &[u8],
    limit: Duration,
) -> io::Result<Output> {
    let (mut stdin, stdout, stderr) = (memory()?, memory()?, memory()?);
    stdin.write_all(input)?;
    stdin.rewind()?;
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone()?))
        .stderr(Stdio::from(stderr.try_clone()?))
        .spawn()?;
    let ended = wait(&child, limit);
    if !matches!(ended, Ok(true)) {
        child.kill()?;
    }
    let status = child.wait()?;
    if !ended? {
        let message = format!("no end within {} s", limit.as_secs_f32());
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    }
    Ok(Output {
        code: status.code(),
        stdout: text(stdout)?,
        stderr: text(stderr)?,
    })
}

fn memory() -> io::Result<File> {
    Ok(memfd_create("osm-failover", MemfdFlags::CLOEXEC)?.into())
}

fn text(mut file: File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_OUTPUT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it prints more than our own rules can be",
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for the end of a process; `false` when the time is up.
fn wait(child: &Child, limit: Duration) -> io::Result<bool> {
    let fd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_output_and_exit_code() {
        let script = "cat; echo \"$LC_ALL\"; echo bad >&2; exit 3";
        let out = run(Path::new("/bin/sh"), &["-c", script], b"in\n").expect("it runs");
        assert_eq!(out.code, Some(3));
        assert_eq!((&*out.stdout, &*out.stderr), ("in\nC\n", "bad\n"));
    }

    #[test]
    fn more_than_a_pipe_holds_goes_through() {
        let big = vec![b'x'; 1 << 20];
        let out = run(Path::new("/bin/sh"), &["-c", "cat; cat"], &big).expect("it runs");
        assert_eq!(out.stdout.len(), big.len());
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let began = Instant::now();
        let limit = Duration::from_millis(100);
        let hung = run_within(Path::new("/bin/sleep"), &["60"], b"", limit);
        assert_eq!(hung.err().map(|e| e.kind()), Some(io::ErrorKind::TimedOut));
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let none: [&str; 0] = [];
        assert!(run(Path::new("/nonexistent/nft"), &none, b"").is_err());
    }
}
