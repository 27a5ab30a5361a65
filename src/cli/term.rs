//! Standard output and standard error: the only place that writes to them.
//!
//! A reader that went away is a failure like any other and not a panic, so `syncctl status --watch | head` ends.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::exit::Exit;
use super::text::printable;
use crate::wire::control::Failure;

fn broken(e: io::Error) -> Failure {
    Exit::Failed.failure(format!("write to standard output: {e}"), "")
}

/// Writes text to standard output and flushes it.
///
/// # Errors
/// A failure where nobody reads it.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(broken)
}

/// Writes a line to standard output.
///
/// # Errors
/// As [`print`].
pub fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`print`].
pub fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(|e| broken(e.into()))?)
}

/// Writes a value as one line of JSON.
///
/// # Errors
/// As [`print`].
pub fn json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    line(&serde_json::to_string(value).map_err(|e| broken(e.into()))?)
}

/// Writes a failure as one line of JSON to standard error.
///
/// # Errors
/// As [`error`].
pub fn error_json(f: &Failure) -> Result<(), Failure> {
    let line = serde_json::to_string(f).map_err(|e| broken(e.into()))?;
    let mut out = io::stderr().lock();
    writeln!(out, "{line}").map_err(broken)
}

/// Says on standard error why a command failed and what to do.
///
/// # Errors
/// A failure where nobody reads it.
pub fn error(f: &Failure) -> Result<(), Failure> {
    let mut text = format!("error: {}\n", printable(&f.message));
    if !f.hint.is_empty() {
        text += &format!("hint: {}\n", printable(&f.hint));
    }
    io::stderr().write_all(text.as_bytes()).map_err(broken)
}

/// Whether a person looks at standard output.
#[must_use]
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
