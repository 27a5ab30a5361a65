//! One owner per node: the lock that names the one process that may touch this node's index and apply changes.
//!
//! It never breaks a lock: a held lock is reported with the process that holds it. It waits in one case only: a process that
//! was killed while it started a program leaves the lock to that, until it becomes the program, which is a matter of
//! milliseconds.
//! It is safe because the kernel holds the lock (`flock`) for the open file, not the text inside it: it
//! ends with the process however that ends, and a file left behind means nothing. The text is only for people.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::process::Process;

/// The lock's name in the run-time directory.
pub const LOCK_NAME: &str = "owner.lock";

/// Length of the record in the lock file; it is written in one piece and never shortened, so a reader sees no half of it.
const RECORD: usize = 160;

/// Longest text of what the owner does, in bytes.
pub const MAX_WHAT: usize = 64;

/// How long a lock is waited for whose owner is gone, and the time between two tries.
const LEFT: Duration = Duration::from_secs(2);
const BETWEEN: Duration = Duration::from_millis(5);

/// Why the node could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process owns the node.
    #[error("this node is in use by process {pid} ({what})")]
    Held {
        /// Its process id, 0 if it has not written it yet.
        pid: u32,
        /// What it does, as `active`, `serve`, `resync`.
        what: String,
    },
    /// The directory or the file could not be used.
    #[error("cannot {operation} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
}

impl LockError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::Io {
            operation,
            path,
            cause,
        }
    }
}

/// Proof that this process owns the node; dropping it lets the node go.
#[derive(Debug)]
pub struct Owner {
    file: File,
    path: PathBuf,
    since_ms: u128,
}

impl Owner {
    /// Takes the node whose run-time directory this is; the directory is made if needed, for its owner only (0700).
    ///
    /// # Errors
    /// [`LockError::Held`] if another process has it, [`LockError::Io`] if directory or file cannot be used.
    pub fn acquire(run_dir: &Path) -> Result<Self, LockError> {
        private_dir(run_dir)?;
        let path = run_dir.join(LOCK_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(LockError::io("open the lock", &path))?;
        let until = Instant::now() + LEFT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let (pid, what) = read_record(&file);
                    if pid == 0 || runs(pid) || Instant::now() > until {
                        return Err(LockError::Held { pid, what });
                    }
                    std::thread::sleep(BETWEEN);
                }
                Err(TryLockError::Error(e)) => return Err(LockError::io("lock", &path)(e)),
            }
        }
        let since_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis());
        let owner = Self {
            file,
            path,
            since_ms,
        };
        owner.set_what("starting")?;
        Ok(owner)
    }

    /// Says what the owner does now, for those who find the lock held: at most [`MAX_WHAT`] bytes are kept.
    ///
    /// # Errors
    /// [`LockError::Io`] if the file cannot be written; the lock is held all the same.
    pub fn set_what(&self, what: &str) -> Result<(), LockError> {
        let mut clean: String = what
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        while clean.len() > MAX_WHAT {
            clean.pop();
        }
        let text = format!("{}\n{clean}\n{}\n", std::process::id(), self.since_ms);
        let mut record = [b' '; RECORD];
        record[RECORD - 1] = b'\n';
        record[..text.len()].copy_from_slice(text.as_bytes());
        self.file
            .write_all_at(&record, 0)
            .map_err(LockError::io("write", &self.path))
    }

    /// The run-time directory this owner holds.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// Makes a directory that only its owner can enter, or takes that from others who could.
///
/// # Errors
/// [`LockError::Io`].
pub fn private_dir(dir: &Path) -> Result<(), LockError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(LockError::io("make the directory", dir))?;
    let meta = fs::metadata(dir).map_err(LockError::io("examine", dir))?;
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(LockError::io("set the mode of", dir))?;
    }
    Ok(())
}

/// Whether a process with this number runs, as far as this one can tell.
fn runs(pid: u32) -> bool {
    match Process::open(pid) {
        Ok(Some(process)) => !process.wait(Duration::ZERO).unwrap_or(false),
        Ok(None) => false,
        Err(_) => true,
    }
}

fn read_record(file: &File) -> (u32, String) {
    let mut record = [0u8; RECORD];
    let n = file.read_at(&mut record, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&record[..n]);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|l| l.parse().ok()).unwrap_or(0);
    let what = lines.next().unwrap_or("starting").trim().to_owned();
    (pid, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    const CHILD: &str = "OSM_TEST_LOCK_CHILD";

    #[test]
    fn a_second_acquire_names_the_holder_until_it_is_dropped() {
        let dir = tempfile::tempdir().expect("tempdir");
        let run = dir.path().join("run");
        let owner = Owner::acquire(&run).expect("first");
        assert_eq!(owner.run_dir(), run);
        owner.set_what("active\nand more").expect("set_what");
        // `flock` belongs to the open file, so a second open in this process is as foreign as another process.
        match Owner::acquire(&run) {
            Err(LockError::Held { pid, what }) => {
                assert_eq!(pid, std::process::id());
                assert_eq!(what, "active and more");
            }
            other => panic!("held lock was given: {other:?}"),
        }
        owner.set_what(&"ä".repeat(200)).expect("long text");
        drop(owner);
        // Though the file is still there. What another test is just starting holds what this process had open until its exec.
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while let Err(e) = Owner::acquire(&run) {
            assert!(std::time::Instant::now() < until, "{e}");
            std::thread::yield_now();
        }
    }

    /// As a process that was killed between `fork` and `exec` leaves it.
    #[test]
    fn what_a_dead_owner_left_to_a_child_is_waited_for() {
        let dir = tempfile::tempdir().expect("tempdir");
        let owner = Owner::acquire(dir.path()).expect("first");
        let mut gone = Command::new("true").spawn().expect("a process");
        gone.wait().expect("reaped");
        let record = format!("{}\nactive\n0\n", gone.id());
        owner
            .file
            .write_all_at(record.as_bytes(), 0)
            .expect("noted");
        let inherited = owner.file.try_clone().expect("inherited");
        let mut child = Command::new("sleep")
            .arg("0.3")
            .stdin(Stdio::from(inherited))
            .spawn()
            .expect("a child");
        drop(owner);
        drop(Owner::acquire(dir.path()).expect("it is free in a moment"));
        child.wait().expect("reaped");
    }

    #[test]
    fn the_directory_becomes_private() {
        let dir = tempfile::tempdir().expect("tempdir");
        let run = dir.path().join("a/b");
        fs::create_dir_all(&run).expect("mkdir");
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).expect("chmod");
        let _owner = Owner::acquire(&run).expect("acquire");
        assert_eq!(fs::metadata(&run).expect("stat").mode() & 0o777, 0o700);
        let lock = fs::metadata(run.join(LOCK_NAME)).expect("stat");
        assert_eq!(lock.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let run = dir.path().join("file");
        fs::write(&run, b"").expect("write");
        let err = Owner::acquire(&run).expect_err("no directory").to_string();
        assert!(err.contains("make the directory") && err.contains("file"));
    }

    /// Body of the second process: holds the lock until it is killed.
    #[test]
    fn child_holds() {
        let Some(run) = std::env::var_os(CHILD) else {
            return;
        };
        let owner = Owner::acquire(Path::new(&run)).expect("child acquires");
        owner.set_what("serve").expect("set_what");
        println!("\nHELD");
        let mut end = String::new();
        std::io::stdin().read_line(&mut end).expect("wait");
    }

    #[test]
    fn another_process_holds_it_and_its_death_frees_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let exe = std::env::current_exe().expect("exe");
        let mut child = Command::new(exe)
            .args(["--exact", "sys::lock::tests::child_holds", "--nocapture"])
            .env(CHILD, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        assert!(
            out.lines()
                .map_while(Result::ok)
                .any(|l| l.contains("HELD"))
        );
        match Owner::acquire(dir.path()) {
            Err(LockError::Held { pid, what }) => {
                assert_eq!((pid, what.as_str()), (child.id(), "serve"));
            }
            other => panic!("held lock was given: {other:?}"),
        }
        child.kill().expect("kill");
        child.wait().expect("reap");
        drop(Owner::acquire(dir.path()).expect("the kernel let go"));
    }
}
