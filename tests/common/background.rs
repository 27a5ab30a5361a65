//! A pair's processes that run in the background, however they were started.

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

    /// Kills the `syncd serve` that the wrapper became on a node, if one runs.
    pub fn kill_serve(&self, side: Side) {
        let text = fs::read_to_string(self.pid_file(side)).unwrap_or_default();
        let Ok(pid) = text.trim().parse::<u32>() else {
            return;
        };
        // The number may belong to somebody else by now; only a command line of ours is ended.
        let line = command_line(pid);
        let mark = self.dir().as_os_str().as_encoded_bytes();
        if line.windows(mark.len()).any(|w| w == mark) {
            signal(pid, Signal::SIGKILL);
        }
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

/// The words of a process, each with a zero byte behind it; nothing once it is gone.
pub fn command_line(pid: u32) -> Vec<u8> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    loop {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        // A process has none for the moment in which it becomes another program, and none after its end.
        if !line.is_empty() || fs::read_link(process.join("exe")).is_err() {
            return line;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
