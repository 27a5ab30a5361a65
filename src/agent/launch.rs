//! Starting the daemon in the background, and having it end: what `syncctl activate` and `syncctl deactivate` do.
//!
//! Both may be called twice, at the same time, and be killed at any point. Of two activations one waits for the other
//! (`activation.lock`); the daemon holds that lock, too, until it owns the node, so a deactivation that comes in between
//! sees that something is starting. The daemon tells that it is active as it would tell systemd.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::hooks::SETTLE;
use super::owner::{Site, failed};
use crate::sys::control::ControlClient;
use crate::sys::lock::{LockError, Owner, private_dir};
use crate::sys::process::{Process, Signal};
use crate::wire::control::{Answer, Failure, Left, Outcome, Progress, Request, Status};

/// Name of the lock in the run-time directory.
const LOCK: &str = "activation.lock";
/// Time a daemon has to end once it said that it will, and once it was sent a signal.
const ENDING: Duration = Duration::from_secs(5);
/// Time between two looks at locks, whose release the kernel tells nobody.
const LOOK: Duration = Duration::from_millis(5);

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub syncd: PathBuf,
    /// Where it logs: `syslog`, or a file.
    pub log: String,
}

/// Makes a node active, unless it is; returns once it is.
///
/// # Errors
/// The daemon's own failure where it could not become active, or one that says why it could not be started.
pub fn activate(site: &Site, launch: &Launch) -> Result<Outcome, Failure> {
    let lock = open_lock(&site.run_dir())?;
    lock.lock()
        .map_err(|e| failed(format!("cannot lock {LOCK}: {e}"), "run it as root"))?;
    if let Some(status) = already(site)? {
        return Ok(done(format!("{} is active already", site.name()), status));
    }
    let (ready, socket) = Ready::open(site)?;
    let mut words = tempfile::tempfile()
        .map_err(|e| failed(format!("cannot make a temporary file: {e}"), "free space"))?;
    let mut child = spawn(site, launch, lock, &ready.path, &words)?;
    let outcome = await_ready(&socket, &mut child);
    drop(ready);
    match outcome {
        Ok(true) => {
            let status = status_of(site).unwrap_or_default();
            let text = format!("{} is active {}", site.name(), status.activation);
            Ok(done(text, status))
        }
        Ok(false) => Err(last_words(&mut words, &mut child)),
        Err(e) => Err(failed(
            format!("cannot wait for {}: {e}", launch.syncd.display()),
            "see syncctl status",
        )),
    }
}

/// The status of a daemon that is active, or becomes it while this waits; `None` where none runs.
fn already(site: &Site) -> Result<Option<Status>, Failure> {
    loop {
        let pid = match Owner::acquire(&site.run_dir()) {
            Err(LockError::Held { pid, what }) if what == "active" => pid,
            Err(e @ LockError::Io { .. }) => return Err(super::owner::held(&e)),
            Ok(_) | Err(LockError::Held { .. }) => return Ok(None),
        };
        // Without this sentence it is not active yet, or about to end.
        if let Some(status) = status_of(site).filter(|s| !s.activation.is_empty()) {
            return Ok(Some(status));
        }
        let ended = Process::open(pid).and_then(|p| p.map_or(Ok(true), |p| p.wait(4 * LOOK)));
        ended.map_err(|e| {
            failed(
                format!("cannot look at process {pid}: {e}"),
                "run it as root",
            )
        })?;
    }
}

fn done(message: String, status: Status) -> Outcome {
    Outcome {
        message,
        status: Some(Box::new(status)),
        ..Outcome::default()
    }
}

fn open_lock(dir: &Path) -> Result<File, Failure> {
    private_dir(dir).map_err(|e| super::owner::held(&e))?;
    let path = dir.join(LOCK);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    opened.map_err(|e| {
        let text = format!("cannot open {}: {e}", path.display());
        failed(text, "run as root, or as the user that owns it")
    })
}

/// The status of the process that owns the node, if one runs and answers.
fn status_of(site: &Site) -> Option<Status> {
    let mut client = ControlClient::connect(&site.run_dir()).ok()?;
    client.set_read_timeout(Some(ENDING)).ok()?;
    client.send(&Request::Status).ok()?;
    match client.next_answer().ok()? {
        Answer::Done(outcome) => outcome.status.map(|s| *s),
        _ => None,
    }
}

/// The socket on which the daemon says that it is active; the file goes with this.
struct Ready {
    path: PathBuf,
}

impl Ready {
    fn open(site: &Site) -> Result<(Self, UnixDatagram), Failure> {
        let path = site.run_dir().join(format!("ready.{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).map_err(|e| {
            let text = format!("cannot make the socket {}: {e}", path.display());
            failed(text, "choose a shorter run_dir where the path is too long")
        })?;
        Ok((Self { path }, socket))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::debug!("{} stays: {e}", self.path.display());
        }
    }
}

/// Starts the daemon; the activation lock is its standard input until it owns the node.
fn spawn(
    site: &Site,
    launch: &Launch,
    lock: File,
    ready: &Path,
    words: &File,
) -> Result<Child, Failure> {
    let words = words
        .try_clone()
        .map_err(|e| failed(format!("cannot use a temporary file: {e}"), ""))?;
    let mut command = Command::new(&launch.syncd);
    command
        .arg("--config")
        .arg(&site.config.file)
        .args(["--node", site.name(), "--log", &launch.log, "--detached"])
        .env("NOTIFY_SOCKET", ready)
        .env_remove("WATCHDOG_USEC")
        .current_dir("/")
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(Stdio::from(words));
    command.spawn().map_err(|e| {
        failed(
            format!("cannot start {}: {e}", launch.syncd.display()),
            "syncd is to lie beside syncctl; install both",
        )
    })
}

/// Waits until the daemon is active (`true`) or has ended (`false`).
fn await_ready(socket: &UnixDatagram, child: &mut Child) -> io::Result<bool> {
    let process = Process::open(child.id())?;
    socket.set_nonblocking(true)?;
    let mut text = [0u8; 4096];
    loop {
        match socket.recv(&mut text) {
            Ok(n) if text[..n].split(|b| *b == b'\n').any(|l| l == b"READY=1") => return Ok(true),
            Ok(_) => continue,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
        if let Some(p) = &process {
            fds.push(PollFd::from_borrowed_fd(p.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The failure with which a daemon ended, which it left as its last line.
fn last_words(words: &mut File, child: &mut Child) -> Failure {
    let mut text = String::new();
    let read = words
        .seek(SeekFrom::Start(0))
        .and_then(|_| words.read_to_string(&mut text));
    let last = text.lines().next_back().unwrap_or_default();
    if let (Ok(_), Ok(failure)) = (read, serde_json::from_str(last)) {
        return failure;
    }
    let how = match child.wait() {
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    failed(
        format!("syncd ended before it was active ({how}) {}", last.trim()),
        "see its log",
    )
}

/// Has whatever makes this node active end, after it pushed what is left for at most `timeout`. Returns once nothing
/// of it runs any more.
///
/// # Errors
/// A failure where something is still running.
pub fn deactivate(
    site: &Site,
    timeout: Duration,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Failure> {
    let run_dir = site.run_dir();
    let name = site.name();
    deactivate_in(&Place { name, run_dir }, timeout, progress)
}

/// Where a node's process is found, all that is needed to end it.
#[derive(Debug)]
pub struct Place<'a> {
    /// What the node is called in messages.
    pub name: &'a str,
    /// Its run-time directory.
    pub run_dir: PathBuf,
}

/// As [`deactivate`], where the configuration cannot be read.
///
/// # Errors
/// As [`deactivate`].
pub fn deactivate_in(
    place: &Place<'_>,
    timeout: Duration,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Failure> {
    let lock = open_lock(&place.run_dir)?;
    let until = Instant::now() + timeout + 4 * ENDING + SETTLE;
    let mut outcome = None;
    loop {
        let starting = match lock.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(e)) => {
                return Err(failed(format!("cannot lock {LOCK}: {e}"), "run it as root"));
            }
        };
        match Owner::acquire(&place.run_dir) {
            Err(LockError::Held { pid, what }) if what == "active" => {
                let left = end_daemon(place, pid, timeout, progress)?;
                outcome = outcome.or(left);
            }
            // Who is just starting says in a moment what it is.
            Err(LockError::Held { what, .. }) if what == "starting" => {}
            Err(e @ LockError::Io { .. }) => return Err(super::owner::held(&e)),
            Ok(_) | Err(LockError::Held { .. }) if !starting => break,
            Ok(_) | Err(LockError::Held { .. }) => {}
        }
        if Instant::now() > until {
            let text = format!("an activation of {} is still under way", place.name);
            return Err(failed(text, "see syncctl status; run it again"));
        }
        std::thread::sleep(LOOK);
    }
    Ok(outcome.unwrap_or_else(|| Outcome {
        message: format!("{} was not active", place.name),
        left: Some(Left::default()),
        ..Outcome::default()
    }))
}

/// Has the daemon with this number end: it is asked, then told, then ended.
fn end_daemon(
    place: &Place<'_>,
    pid: u32,
    timeout: Duration,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Option<Outcome>, Failure> {
    let unclear = |e: io::Error| failed(format!("cannot end process {pid}: {e}"), "run it as root");
    let Some(process) = Process::open(pid).map_err(unclear)? else {
        return Ok(None);
    };
    let asked = ask_to_end(&place.run_dir, timeout, progress);
    if let Ok(outcome) = asked {
        if !process.wait(ENDING).map_err(unclear)? {
            // It gave the node free before it said so.
            tracing::info!("process {pid} ends once its hooks have");
        }
        return Ok(Some(outcome));
    }
    for signal in [Signal::TERM, Signal::KILL] {
        tracing::warn!("process {pid} does not end, and is sent a signal");
        process.signal(signal).map_err(unclear)?;
        if process.wait(ENDING).map_err(unclear)? {
            let why = "the process did not answer and was ended".to_owned();
            let message = format!(
                "{}: {why}; what it had not sent is kept and found at the next start",
                place.name
            );
            return Ok(Some(Outcome {
                message,
                left: Some(Left {
                    why,
                    ..Left::default()
                }),
                ..Outcome::default()
            }));
        }
    }
    Err(failed(
        format!("process {pid} cannot be ended"),
        "it waits for a disk or a file system that does not answer; mend that",
    ))
}

fn ask_to_end(
    run_dir: &Path,
    timeout: Duration,
    progress: &mut dyn FnMut(&Progress),
) -> io::Result<Outcome> {
    let mut client = ControlClient::connect(run_dir)?;
    client.set_read_timeout(Some(timeout + ENDING + SETTLE))?;
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    client.send(&Request::Deactivate { timeout_ms })?;
    loop {
        match client.next_answer()? {
            Answer::Progress(p) => progress(&p),
            Answer::Done(outcome) => return Ok(outcome),
            Answer::Difference(_) => {}
            Answer::Error(f) => return Err(io::Error::other(f.message)),
        }
    }
}
