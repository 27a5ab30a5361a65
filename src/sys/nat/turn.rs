//! Turns between processes: `iptables` changes one address family at a time, and an installation must not mix with a
//! removal.
//!
//! The kernel holds the lock and lets it go with the process. Whoever does not get it in time goes on without: a process
//! that is stuck must not keep a node from stopping.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// The lock's name in the run-time directory.
pub const LOCK_NAME: &str = "snat.lock";

/// Longest wait for other processes.
const WAIT: Duration = Duration::from_secs(10);

/// The turn of this process; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    _held: Option<File>,
}

impl Turn {
    /// Waits for the turn, at most ten seconds. Without it, the reason is logged and the caller goes on.
    #[must_use]
    pub fn wait(run_dir: &Path) -> Self {
        let held = acquire(run_dir, WAIT).inspect_err(|e| {
            let path = run_dir.join(LOCK_NAME);
            tracing::debug!("going on without {}: {e}", path.display());
        });
        Self { _held: held.ok() }
    }
}

fn acquire(run_dir: &Path, wait: Duration) -> io::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(run_dir.join(LOCK_NAME))?;
    let deadline = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // The kernel tells nobody when a lock is free, and a wait for it cannot be bounded.
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_nobody_waits_for_ever() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = dir.path().join("run");
        let short = Duration::from_millis(20);
        let first = acquire(&run, short).expect("free");
        let second = acquire(&run, short);
        assert_eq!(
            second.err().map(|e| e.kind()),
            Some(io::ErrorKind::TimedOut)
        );
        let waiting = {
            let run = run.clone();
            std::thread::spawn(move || acquire(&run, Duration::from_secs(30)).is_ok())
        };
        drop(first);
        assert!(waiting.join().expect("no panic"), "its turn came");
    }

    #[test]
    fn without_a_directory_it_goes_on() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(acquire(&file, Duration::ZERO).is_err());
        drop(Turn::wait(&file));
    }
}
