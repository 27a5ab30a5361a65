//! Files that say that hooks are still to be told of changes, and files that keep one hook from running twice at a time.
//!
//! As long as changes are in the redo journal, the journal says so: a process that finds records of an earlier one leaves a
//! mark for the hooks before it empties it. A mark is set, on disk, before the journal is emptied while something is due,
//! and removed once nothing is. Each process has a mark of its own and holds it locked; the kernel lets go of the lock
//! however the process ends, so a mark that can be locked is one that was left behind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How the names of marks begin; the number of the process follows.
const NAME: &str = "hooks.due.";

/// While this lives, hooks are due in this process.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    _locked: File,
}

/// What a look for marks of other processes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Some were left behind: nobody else will tell those hooks.
    pub left: bool,
    /// Another process holds one still, and may leave it behind.
    pub held: bool,
}

impl Mark {
    /// Has a mark of this process on disk.
    pub(super) fn set(state_dir: &Path) -> io::Result<Self> {
        let path = own(state_dir);
        let locked = open(&path)?;
        locked.try_lock()?;
        File::open(state_dir)?.sync_all()?;
        Ok(Self {
            path,
            _locked: locked,
        })
    }

    /// Has a mark of this process, `own` where it has one already, in the place of all that were left behind.
    pub(super) fn inherit(state_dir: &Path, own: &mut Option<Self>) -> io::Result<Found> {
        let mut left = Vec::new();
        let mut held = false;
        for entry in fs::read_dir(state_dir)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            let is = name.as_encoded_bytes().starts_with(NAME.as_bytes());
            if !is || own.as_ref().is_some_and(|m| m.path == path) {
                continue;
            }
            match File::open(&path) {
                Ok(file) if file.try_lock().is_ok() => left.push(path),
                Ok(_) => held = true,
                // Its process told everything just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let found = Found {
            left: !left.is_empty(),
            held,
        };
        if found.left {
            if own.is_none() {
                *own = Some(Self::set(state_dir)?);
            }
            let mine = own.as_ref().map(|m| m.path.clone());
            for path in left.into_iter().filter(|p| Some(p) != mine.as_ref()) {
                match fs::remove_file(path) {
                    // Its process told everything just now, too.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        Ok(found)
    }

    /// Leaves it behind, for a successor.
    pub(super) fn leave(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!("{} stays: {e}", self.path.display());
        }
    }
}

/// Leaves a mark for the hooks that start next on this node.
///
/// # Errors
/// What the system says.
pub fn leave(state_dir: &Path) -> io::Result<()> {
    Mark::set(state_dir).map(Mark::leave)
}

fn own(state_dir: &Path) -> PathBuf {
    state_dir.join(format!("{NAME}{}", std::process::id()))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Waits until no other process runs this hook, for as long as one run may take; the hook is this process's as long as what
/// is returned lives.
pub(super) fn alone(run_dir: &Path, hook: usize, patience: Duration) -> io::Result<File> {
    let lock = open(&run_dir.join(format!("hook-{}.lock", hook + 1)))?;
    let until = Instant::now() + patience;
    while lock.try_lock().is_err() && Instant::now() < until {
        // The kernel tells nobody when a lock is free.
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_as_left_once_nobody_holds_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let look = |own: &mut Option<Mark>| {
            let found = Mark::inherit(dir.path(), own).expect("looked");
            (found.left, found.held)
        };
        let count = || fs::read_dir(dir.path()).expect("listed").count();
        let mut own = None;
        assert_eq!(look(&mut own), (false, false));
        let mark = Mark::set(dir.path()).expect("marked");
        assert_eq!(look(&mut own), (false, true), "its process lives");
        drop(mark);
        assert_eq!(count(), 0);
        fs::write(dir.path().join("hooks.due.7"), "").expect("as of a killed process");
        leave(dir.path()).expect("as found in the journal by this one");
        assert_eq!(look(&mut own), (true, false), "both were left");
        assert_eq!(count(), 1, "one takes their place");
        assert_eq!(look(&mut own), (false, false), "it is this one's");
        fs::write(dir.path().join("hooks.due.7"), "").expect("as of one that ended later");
        assert_eq!(look(&mut own), (true, false));
        assert_eq!(count(), 1, "it is known already that something is due");
        own.take().expect("a mark").leave();
        assert_eq!(look(&mut own), (true, false), "nobody was told");
        drop(own);
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_hook_runs_once_at_a_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = alone(dir.path(), 0, Duration::from_secs(9)).expect("alone");
        let _other = alone(dir.path(), 1, Duration::ZERO).expect("another hook");
        let at = dir.path().to_owned();
        let second = std::thread::spawn(move || {
            let lock = alone(&at, 0, Duration::from_secs(9)).expect("alone");
            (lock, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(50));
        let freed = Instant::now();
        drop(first);
        let (_lock, when) = second.join().expect("no panic");
        assert!(when >= freed);
    }
}
