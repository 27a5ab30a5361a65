//! A process of its own that does something confined, and tells how each thing went.
//!
//! It is forked from a process that runs one test: in one that runs others at the same time another thread may hold a lock
//! (that of the environment, say) for ever in the child.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use osm_failover::agent::confine::receiver;
use osm_failover::agent::owner::Site;
use osm_failover::config::Config;
use osm_failover::sys::confine::Confined;

use crate::common::steps::said;

/// Set in a process that runs one test.
const ALONE: &str = "OSM_TEST_ALONE";

/// Runs this test in a process that runs no other one; whether that was done, and nothing is left to do here.
pub(super) fn is_done_alone() -> bool {
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let name = std::thread::current()
        .name()
        .expect("a test has one")
        .to_owned();
    let out = Command::new(std::env::current_exe().expect("this program"))
        .args([&name, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let (code, text) = said(&out);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("1 passed"), "{text}");
    let skipped = text
        .lines()
        .filter_map(|l| l.find("skipped: ").map(|at| &l[at..]));
    skipped.for_each(|line| println!("{line}"));
    true
}

/// Where a child writes down how things went, one a line.
pub(super) struct Log(std::io::PipeWriter);

impl Log {
    /// Notes how something went.
    pub(super) fn note(&mut self, what: &str, how: &str) {
        let line = format!("{what}: {}\n", how.replace('\n', " "));
        self.0.write_all(line.as_bytes()).expect("noted");
    }

    /// Notes how a call went.
    pub(super) fn tried<T>(&mut self, what: &str, done: std::io::Result<T>) {
        match done {
            Ok(_) => self.note(what, "done"),
            Err(e) => self.note(what, &e.to_string()),
        }
    }
}

/// A child of this process that was made to do something.
pub(super) struct Apart {
    pid: Pid,
    lines: std::io::PipeReader,
}

/// Does something in a process of its own, which has one thread.
pub(super) fn start(act: impl FnOnce(&mut Log)) -> Apart {
    let (lines, writer) = std::io::pipe().expect("a pipe");
    // SAFETY: the child uses what it has of its own, allocates (which the C library allows after a fork) and ends by `_exit`.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Parent { child } => Apart { pid: child, lines },
        ForkResult::Child => {
            drop(lines);
            let mut log = Log(writer);
            let done = catch_unwind(AssertUnwindSafe(|| act(&mut log)));
            // SAFETY: nothing of the parent's is run down.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
    }
}

impl Apart {
    /// What it noted, once it has ended well.
    pub(super) fn lines(mut self) -> Vec<String> {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).expect("read");
        let ended = waitpid(self.pid, None).expect("it ended");
        assert_eq!(ended, WaitStatus::Exited(self.pid, 0), "it noted:\n{text}");
        text.lines().map(str::to_owned).collect()
    }
}

/// Confines this process as `syncd serve` of the node `osm2` does.
pub(super) fn confine(config: &Path) -> Confined {
    let config = Config::load(config).expect("a configuration");
    receiver(&Site::new(config, 1)).expect("confined")
}
