//! The demo's two nodes: a folder, a configuration, the first node's daemon, a link that can be cut.
//!
//! The daemon dials the second node by starting `syncd serve` through a few words of shell, which refuse while the
//! file `cut` exists and note their process id. Dropping [`Nodes`] ends the processes and removes the folder, also
//! after a failure or an interrupt; a process is only ever ended after its command line was seen to name this folder.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::client::{LONG_WAIT, SHORT_WAIT, ask, ignore};
use crate::cli::context::{Context, Globals};
use crate::cli::exit::Exit;
use crate::wire::control::{Failure, Request, Status};

/// The active node.
pub(super) const FIRST: &str = "osm1";
/// The standby node.
pub(super) const SECOND: &str = "osm2";
/// The root's path below each node's folder.
pub(super) const ROOT: &str = "/data";
/// How long a process may take to end.
const ENDING: Duration = Duration::from_secs(10);
/// Bytes at the end of the log that are looked at after a failure.
const LOG_TAIL: usize = 16 * 1024;
/// Lines of it that are shown.
const LOG_LINES: usize = 3;
/// Characters of a line that are shown.
const LOG_WIDTH: usize = 300;
/// What carries the stream to the second node: `$1` cut, `$2` pid file, `$3` syncd, `$4` configuration.
const LINK: &str =
    r#"test ! -e "$1" || exit 1; echo $$ > "$2"; exec "$3" --config "$4" --node osm2 serve"#;

/// A failure of the demo.
pub(super) fn failed(what: impl Into<String>, hint: impl Into<String>) -> Failure {
    Exit::Failed.failure(what, hint)
}

/// The two nodes.
pub(super) struct Nodes {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
    keep: bool,
    programs: PathBuf,
    daemon: Option<Child>,
    context: Context,
    interrupted: Arc<AtomicBool>,
}

impl Nodes {
    /// Makes the folder and starts the first node.
    ///
    /// # Errors
    /// A failure that says what could not be made or started.
    pub(super) fn start(keep: bool) -> Result<Self, Failure> {
        let interrupted = watch_interrupts()?;
        let programs = programs()?;
        let made = |e: io::Error| {
            failed(
                format!("make a folder for the demo: {e}"),
                "set TMPDIR to a folder that can be written",
            )
        };
        let folder = tempfile::Builder::new()
            .prefix("osm-demo-")
            .tempdir()
            .map_err(made)?;
        // A link on the way (TMPDIR) would make the folder's own paths look foreign.
        let path = folder.path().canonicalize().map_err(made)?;
        for node in [FIRST, SECOND] {
            fs::create_dir_all(path.join(node).join(&ROOT[1..])).map_err(made)?;
        }
        let config = path.join("config.toml");
        fs::write(&config, configuration(&path, &programs)?).map_err(made)?;
        let globals = Globals {
            config,
            node: Some(FIRST.into()),
            json: false,
        };
        let context = globals.load()?;
        let mut this = Self {
            folder: Some(folder),
            path,
            keep,
            programs,
            daemon: None,
            context,
            interrupted,
        };
        this.daemon = Some(this.spawn()?);
        Ok(this)
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let syncd = self.syncd();
        let started = |e: io::Error| {
            failed(
                format!("start {}: {e}", syncd.display()),
                "build syncd and put it beside syncctl",
            )
        };
        let log = fs::File::create(self.path.join("syncd.log")).map_err(started)?;
        let mut command = Command::new(&syncd);
        command
            .arg("--config")
            .arg(self.config())
            .args(["--node", FIRST]);
        // A group of its own: an interrupt from the terminal is for the demo, which then ends the daemon in good order.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        command.spawn().map_err(started)
    }

    /// The folder that holds everything.
    pub(super) fn folder(&self) -> &Path {
        &self.path
    }

    /// Whether the folder stays.
    pub(super) fn keeps(&self) -> bool {
        self.keep
    }

    /// The configuration of both nodes.
    pub(super) fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The daemon's program.
    pub(super) fn syncd(&self) -> PathBuf {
        self.programs.join("syncd")
    }

    /// This program.
    pub(super) fn syncctl(&self) -> PathBuf {
        self.programs.join("syncctl")
    }

    /// What requests to the first node need.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Where a path below the root stands on a node.
    pub(super) fn path(&self, node: &str, below: &str) -> PathBuf {
        self.path.join(node).join(&ROOT[1..]).join(below)
    }

    /// Whether somebody wants the demo to end.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// The first node's state; `None` while it does not answer yet.
    ///
    /// # Errors
    /// The failure it answered with.
    pub(super) fn status(&mut self) -> Result<Option<Status>, Failure> {
        let outcome = ask(&self.context, &Request::Status, SHORT_WAIT, &mut ignore)?;
        Ok(outcome.and_then(|o| o.status).map(|s| *s))
    }

    /// Looks again and again until there is something to see; tells how long that took.
    ///
    /// # Errors
    /// A failure where it takes longer than `limit`, the daemon ended, or somebody interrupts.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        pause: Duration,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, Failure>,
    ) -> Result<(T, Duration), Failure> {
        let begun = Instant::now();
        loop {
            if let Some(seen) = look(self)? {
                return Ok((seen, begun.elapsed()));
            }
            if self.interrupted() {
                return Err(failed("interrupted", ""));
            }
            if let Some(Ok(Some(end))) = self.daemon.as_mut().map(Child::try_wait) {
                return Err(failed(
                    format!("syncd ended ({end}) before {what}"),
                    "see its log",
                ));
            }
            if begun.elapsed() > limit {
                let why = self.status().ok().flatten().map_or(String::new(), |s| {
                    format!("{:?}", (s.peer, s.pending, s.last_error))
                });
                return Err(failed(
                    format!("{what}: not within {} s", limit.as_secs()),
                    why,
                ));
            }
            std::thread::sleep(pause);
        }
    }

    /// Cuts the link: the process at its other end dies as in a crash, and no new one is started.
    ///
    /// # Errors
    /// A failure where there is no such process.
    pub(super) fn cut(&mut self) -> Result<(), Failure> {
        fs::write(self.path.join("cut"), b"")
            .map_err(|e| failed(format!("cut the link: {e}"), ""))?;
        let pid = self
            .serve()
            .ok_or_else(|| failed(format!("cut the link: no process serves {SECOND}"), ""))?;
        kill(pid, Signal::SIGKILL).map_err(|e| failed(format!("cut the link: {e}"), ""))
    }

    /// Mends the link.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn mend(&mut self) -> Result<(), Failure> {
        fs::remove_file(self.path.join("cut"))
            .map_err(|e| failed(format!("mend the link: {e}"), ""))
    }

    /// The process that serves the second node, if it runs and is ours.
    fn serve(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.path.join("serve.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.config();
        let ours = line
            .split(|b| *b == 0)
            .any(|word| word == config.as_os_str().as_encoded_bytes());
        ours.then(|| Pid::from_raw(pid))
    }

    /// Stops the first node in good order.
    ///
    /// # Errors
    /// A failure where it does not end, or not well.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        ask(
            &self.context,
            &Request::Deactivate { timeout_ms: 10_000 },
            LONG_WAIT,
            &mut ignore,
        )?;
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        let begun = Instant::now();
        while begun.elapsed() < ENDING {
            match daemon.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(end)) if end.success() => return self.wait_served(),
                Ok(Some(end)) => {
                    return Err(failed(
                        format!("syncd ended with {end} when it was told to stop"),
                        "",
                    ));
                }
                Err(e) => return Err(failed(format!("wait for syncd: {e}"), "")),
            }
        }
        self.daemon = Some(daemon);
        Err(failed(
            format!(
                "syncd was told to stop and still runs after {} s",
                ENDING.as_secs()
            ),
            "",
        ))
    }

    /// The second node's process must end by itself once its stream does.
    fn wait_served(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        while self.serve().is_some() {
            if begun.elapsed() > ENDING {
                return Err(failed(
                    format!("the process that serves {SECOND} outlives its stream"),
                    "",
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The last lines of the daemon's log, each cut to a readable length.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read(self.path.join("syncd.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned();
        let lines: Vec<String> = text
            .lines()
            .rev()
            .take(LOG_LINES)
            .map(|l| l.chars().take(LOG_WIDTH).collect())
            .collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // No new process at the other end from here on.
        let _ = fs::write(self.path.join("cut"), b"");
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended by itself; then there is nothing to do but to collect it.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let begun = Instant::now();
        while let Some(pid) = self.serve()
            && begun.elapsed() < ENDING
        {
            let _ = kill(pid, Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(folder) = self.folder.take() {
            if self.keep {
                let _ = fs::remove_file(self.path.join("cut"));
                let _ = folder.keep();
            } else if let Err(e) = folder.close() {
                let _ = crate::cli::term::error(&failed(
                    format!("remove {}: {e}", self.path.display()),
                    "remove it by hand",
                ));
            }
        }
    }
}

/// Where this program and `syncd` are.
fn programs() -> Result<PathBuf, Failure> {
    let here =
        std::env::current_exe().map_err(|e| failed(format!("find this program: {e}"), ""))?;
    let dir = here.parent().map(Path::to_path_buf).unwrap_or_default();
    if dir.join("syncd").is_file() {
        return Ok(dir);
    }
    Err(failed(
        format!("there is no syncd beside {}", here.display()),
        "build and install both: make install",
    ))
}

fn configuration(folder: &Path, programs: &Path) -> Result<String, Failure> {
    // A basic string of TOML is written as one of JSON.
    let quoted = |p: PathBuf| -> Result<String, Failure> {
        let text = p.to_str().ok_or_else(|| {
            failed(
                format!("{} is no text", p.display()),
                "set TMPDIR to another folder",
            )
        })?;
        serde_json::to_string(text).map_err(|e| failed(e.to_string(), ""))
    };
    let at = |name: &str| quoted(folder.join(name));
    let node = |name: &str, command: String| -> Result<String, Failure> {
        Ok(format!(
            "[[node]]\nname = \"{name}\"\ncommand = [{command}]\nroot_prefix = {}\nstate_dir = {}\nrun_dir = {}\n\n",
            at(name)?,
            at(&format!("{name}.state"))?,
            at(&format!("{name}.run"))?
        ))
    };
    let link = [
        at("cut")?,
        at("serve.pid")?,
        quoted(programs.join("syncd"))?,
        at("config.toml")?,
    ];
    let link = format!(
        "\"/bin/sh\", \"-c\", '''{LINK}''', \"sh\", {}",
        link.join(", ")
    );
    Ok(format!(
        "[cluster]\nname = \"demo\"\n\n{}{}[[root]]\nname = \"data\"\npath = \"{ROOT}\"\n",
        node(FIRST, "\"/bin/false\"".into())?,
        node(SECOND, link)?
    ))
}

type Ready = mpsc::Sender<io::Result<()>>;

/// Never returns once it has told that it is ready.
async fn note_interrupts(
    noted: &AtomicBool,
    ready: &Ready,
) -> Result<(), mpsc::SendError<io::Result<()>>> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [Ok(mut int), Ok(mut end), Ok(mut hup)] = kinds.map(signal) else {
        return ready.send(Err(io::Error::other("no signal can be caught")));
    };
    ready.send(Ok(()))?;
    loop {
        tokio::select! { _ = int.recv() => {}, _ = end.recv() => {}, _ = hup.recv() => {} }
        noted.store(true, Ordering::Relaxed);
    }
}

/// Notes SIGINT, SIGTERM and SIGHUP instead of dying of them, so that what was started is ended.
fn watch_interrupts() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&interrupted);
    let (ready, armed) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        // Whoever started this waits for the first message, so a closed channel means that it is gone.
        let _ = match runtime {
            Ok(runtime) => runtime.block_on(note_interrupts(&noted, &ready)),
            Err(e) => ready.send(Err(e)),
        };
    });
    let failed = |e: String| failed(format!("watch for interrupts: {e}"), "");
    armed
        .recv()
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e| failed(e.to_string()))?;
    Ok(interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_accepted_whatever_the_folder_is_called() {
        for folder in [
            "/t/plain",
            "/t/with space",
            "/t/quote'\"back\\slash",
            "/t/$(x)`y`",
        ] {
            let text = configuration(Path::new(folder), Path::new("/opt/bin")).expect("written");
            let config =
                crate::config::Config::parse(&text, Path::new("c.toml")).expect("accepted");
            assert_eq!(config.root_path(0, 0), Path::new(folder).join("osm1/data"));
            let command = &config.nodes[1].command;
            assert_eq!(command[2], LINK);
            assert_eq!(
                command[4..],
                [
                    format!("{folder}/cut"),
                    format!("{folder}/serve.pid"),
                    "/opt/bin/syncd".into(),
                    format!("{folder}/config.toml")
                ]
            );
        }
    }
}
