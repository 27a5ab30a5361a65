//! A pair's `syncd` that runs in the background, however it was started.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::node::{Pair, STOP_TIMEOUT, Side, signal};

impl Pair {
    /// Process id of the `syncd` that owns a node, however it was started.
    pub fn daemon(&self, side: Side) -> Option<u32> {
        let status = self.status_of(side).ok()?;
        let pid = u32::try_from(status["pid"].as_u64()?).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let serves = line.split(|b| *b == 0).any(|word| word == b"serve");
        (!serves).then_some(pid)
    }

    /// The log of a node's `syncd`.
    pub fn daemon_log(&self, side: Side) -> String {
        let file = self.dir().join(format!("{}.log", side.letter()));
        file.display().to_string()
    }

    /// Kills the `syncd` that owns a node, however it was started.
    pub fn kill_daemon(&self, side: Side) {
        if let Some(pid) = self.daemon(side) {
            signal(pid, Signal::SIGKILL);
            let gone = PathBuf::from(format!("/proc/{pid}/exe"));
            let until = Instant::now() + STOP_TIMEOUT;
            while gone.exists() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
