//! Programs run on the host, and waiting with a limit.

use std::fmt::Display;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at something that tells nobody of its changes, at first and later.
const POLL: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// Runs a program to its end.
///
/// # Errors
/// It cannot be started, or its exit code and what it said.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let mut c = Command::new(program);
    c.args(args);
    good(c)
}

/// As [`run`], with a command that is made already.
///
/// # Errors
/// As [`run`].
pub fn good(mut c: Command) -> Result<String, String> {
    let out = c.stdin(Stdio::null()).output();
    let out = out.map_err(|e| format!("cannot run {:?}: {e}", c.get_program()))?;
    let said = said(&out);
    if out.status.success() {
        return Ok(said);
    }
    let words: Vec<_> = c.get_args().map(|a| a.to_string_lossy()).collect();
    let program = c.get_program().to_string_lossy();
    Err(format!(
        "{program} {}: {}: {said}",
        words.join(" "),
        out.status
    ))
}

/// Both outputs of a program.
pub fn said(out: &Output) -> String {
    let mut text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let more = String::from_utf8_lossy(&out.stderr);
    if !more.trim().is_empty() {
        text += "\n";
        text += more.trim();
    }
    text
}

/// Runs `ip`, in a namespace where one is named.
///
/// # Errors
/// As [`run`].
pub fn ip(ns: &str, words: &str) -> Result<(), String> {
    let mut args = Vec::new();
    if !ns.is_empty() {
        args.extend(["-n", ns]);
    }
    args.extend(words.split(' '));
    run("ip", &args).map(drop)
}

/// Waits until `done` gives something, and tells how long that took.
///
/// # Errors
/// `what` and the limit, with what `done` said last.
pub fn wait<T, E: Display>(
    limit: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<T, E>,
) -> Result<(T, Duration), String> {
    let began = Instant::now();
    loop {
        match done() {
            Ok(t) => return Ok((t, began.elapsed())),
            Err(e) if began.elapsed() > limit => {
                return Err(format!("{what}: not within {limit:?}: {e}"));
            }
            Err(_) => std::thread::sleep((began.elapsed() / 20).clamp(POLL[0], POLL[1])),
        }
    }
}
