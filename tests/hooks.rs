//! Programs that are run when something happened, and those that must end well before.

mod common;

#[path = "hooks/apache.rs"]
mod apache;
#[path = "hooks/applied.rs"]
mod applied;
#[path = "hooks/events.rs"]
mod events;
#[path = "hooks/validate.rs"]
mod validate;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::common::node::{Pair, Side};
use crate::common::steps::{self, LONG, has_problem, until};

/// A directory with the programs of a test and what they wrote down.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program; `$DESK` in it is this directory.
    fn program(&self, name: &str, script: &str) -> String {
        let path = self.at(name);
        let desk = self.dir.path().display();
        steps::program(&path, &format!("#!/bin/sh\nDESK='{desk}'\n{script}\n"));
        path.display().to_string()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_owned).collect()
    }

    /// Waits until a file has this many lines, and returns them.
    fn wait_lines(&self, name: &str, count: usize) -> Vec<String> {
        until(LONG, || self.lines(name).len() >= count);
        let lines = self.lines(name);
        assert_eq!(lines.len(), count, "{name}: {lines:?}");
        lines
    }

    /// A pipe on which a program waits for a word.
    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        path
    }
}

/// Lets the program that reads from a pipe go on, once it does.
fn release(pipe: &Path) {
    let mut last = None;
    let written = until(LONG, || {
        let open = fs::File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(pipe);
        let done = open.and_then(|mut p| p.write_all(b"go\n"));
        let well = done.is_ok();
        last = done.err();
        well
    });
    assert!(written, "nobody reads: {last:?}");
}

/// A `[[hook]]` table; `words` are program and arguments.
fn hook(lines: &str, words: &[&str]) -> String {
    let words: Vec<_> = words
        .iter()
        .map(|w| toml::Value::String((*w).to_owned()).to_string())
        .collect();
    let mut table = format!("\n[[hook]]\nrun = [{}]\n", words.join(", "));
    let _ = writeln!(table, "{lines}");
    table
}

/// Waits until B's status says this of the hook; `None` for nothing.
fn told(pair: &Pair, name: &str, wanted: Option<&str>) {
    let mut last = String::new();
    let is = until(LONG, || {
        let Ok(status) = pair.status_of(Side::B) else {
            return false;
        };
        last = status["problems"].to_string();
        match wanted {
            Some(text) => has_problem(&status, name) && last.contains(text),
            None => !has_problem(&status, name),
        }
    });
    assert!(is, "{wanted:?}: {last}");
}
