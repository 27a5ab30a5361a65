//! A progress bar on standard error for long commands; nothing at all where that is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::{count, printable, size};
use crate::wire::control::{Failure, Progress};

/// A bar that follows a command's progress and disappears with it.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar; hidden where `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// Shows how far the command is.
    pub fn show(&self, p: &Progress) {
        let known = p.paths_total > 0;
        let template = if known {
            "{bar:30} {percent:>3}% {msg}"
        } else {
            "{spinner} {msg}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
        if known {
            self.0.set_length(p.paths_total);
        } else {
            self.0.unset_length();
        }
        self.0.set_position(p.paths);
        self.0.set_message(message(p));
    }

    /// Prints beside the bar.
    ///
    /// # Errors
    /// That of `print`.
    pub fn beside(&self, print: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        self.0.suspend(print)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn message(p: &Progress) -> String {
    let of = |done: String, total: u64, all: String| {
        if total > 0 {
            format!("{done} of {all}")
        } else {
            done
        }
    };
    let paths = of(
        p.paths.to_string(),
        p.paths_total,
        count(p.paths_total, "path"),
    );
    let paths = if p.paths_total > 0 {
        paths
    } else {
        count(p.paths, "path")
    };
    let bytes = of(size(p.bytes), p.bytes_total, size(p.bytes_total));
    format!("{}: {paths}, {bytes}", printable(&p.phase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bar_says() {
        let mut p = Progress {
            phase: "scanning".into(),
            paths: 1,
            ..Progress::default()
        };
        assert_eq!(message(&p), "scanning: 1 path, 0 B");
        p = Progress {
            phase: "receiving".into(),
            paths: 5,
            paths_total: 20,
            bytes: 1024,
            bytes_total: 4096,
        };
        assert_eq!(message(&p), "receiving: 5 of 20 paths, 1.0 KiB of 4.0 KiB");
    }
}
