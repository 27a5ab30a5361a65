//! Two nodes on one host: their directories, the configuration they share, and the processes that run them.
//!
//! A [`Pair`] starts, stops and kills `syncd` as an operator would and asks it only through `syncctl`; it never looks
//! into its state. The link is either a wrapper script on a pipe, which can be cut, or SSH. Whatever it started is
//! ended by process id on drop.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::pauses::Pauses;

/// Names of the two nodes in every configuration written here.
pub const NODES: [&str; 2] = ["osm1", "osm2"];
/// How long a process may take to end after a polite signal.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// One of the two nodes; A is `osm1`, B is `osm2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `osm1`, active unless a test says otherwise.
    A,
    /// `osm2`.
    B,
}

impl Side {
    /// The node's name.
    pub fn name(self) -> &'static str {
        NODES[self as usize]
    }

    pub fn letter(self) -> &'static str {
        ["a", "b"][self as usize]
    }
}

/// How one node reaches the other.
#[derive(Debug, Clone)]
pub enum Link {
    /// `command`: a script that becomes `syncd serve`, on a pipe.
    Pipe,
    /// OpenSSH to these addresses, with one key and one known_hosts file for both.
    Ssh {
        /// Address of each node.
        addresses: [String; 2],
        /// Port of `sshd`.
        port: u16,
        /// The client's private key.
        identity_file: PathBuf,
        /// Where the host keys are pinned.
        known_hosts: PathBuf,
    },
}

/// What a pair is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// `syncd` to run.
    pub syncd: PathBuf,
    /// `syncctl` to run.
    pub syncctl: PathBuf,
    /// Name and path of each root; the path lies below the node's own directory.
    pub roots: Vec<(String, String)>,
    /// `fsync` or `write`.
    pub durability: String,
    /// `auto`, `inotify` or `fanotify`.
    pub watcher: String,
    /// Further lines of `[sync]`.
    pub sync_lines: String,
    /// Further tables, as `[activation]`.
    pub tables: String,
    /// How the nodes reach each other.
    pub link: Link,
    /// Words before `syncd`, as `nsenter --net=...`; they must exec.
    pub launcher: Vec<String>,
    /// Where both nodes' directories go; a directory of its own is made inside.
    pub parent: PathBuf,
    /// Whether the directories stay when the pair is dropped.
    pub keep: bool,
}

impl Options {
    /// One root `/data`, `fsync`, the default watcher, joined by a pipe.
    pub fn new(syncd: impl Into<PathBuf>, syncctl: impl Into<PathBuf>) -> Self {
        Self {
            syncd: syncd.into(),
            syncctl: syncctl.into(),
            roots: vec![("data".to_owned(), "/data".to_owned())],
            durability: "fsync".to_owned(),
            watcher: "auto".to_owned(),
            sync_lines: String::new(),
            tables: String::new(),
            link: Link::Pipe,
            launcher: Vec::new(),
            parent: std::env::temp_dir(),
            keep: false,
        }
    }
}

/// Two nodes on one host.
#[derive(Debug)]
pub struct Pair {
    dir: tempfile::TempDir,
    options: Options,
    running: [Option<Child>; 2],
}

impl Pair {
    /// Makes the directories and writes the configuration; nothing runs yet.
    ///
    /// # Errors
    /// A directory or file cannot be made.
    pub fn new(options: Options) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("osm-pair-")
            .disable_cleanup(options.keep)
            .tempdir_in(&options.parent)?;
        let pair = Self {
            dir,
            options,
            running: [None, None],
        };
        for side in [Side::A, Side::B] {
            for (_, path) in &pair.options.roots {
                fs::create_dir_all(pair.below(side, path))?;
            }
            fs::create_dir_all(pair.home(side).join("state"))?;
            fs::create_dir_all(pair.home(side).join("run"))?;
            pair.write_wrapper(side)?;
        }
        fs::write(pair.config(), pair.config_text())?;
        Ok(pair)
    }

    /// The directory that holds everything of this pair.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file of both nodes.
    pub fn config(&self) -> PathBuf {
        self.dir().join("config.toml")
    }

    /// What belongs to a node: its roots, its state and its run directory.
    pub fn home(&self, side: Side) -> PathBuf {
        self.dir().join(side.letter())
    }

    fn below(&self, side: Side, path: &str) -> PathBuf {
        self.home(side).join(path.trim_start_matches('/'))
    }

    /// Where a root lies on a node's side.
    ///
    /// # Panics
    /// No root has that name.
    pub fn root(&self, side: Side, name: &str) -> PathBuf {
        let root = self.options.roots.iter().find(|(n, _)| n == name);
        self.below(side, &root.expect("a root of this name").1)
    }

    /// What the node's `syncd` wrote to standard error.
    pub fn log(&self, side: Side) -> String {
        fs::read_to_string(self.dir().join(format!("{}.log", side.letter()))).unwrap_or_default()
    }

    fn serve_words(&self, side: Side) -> String {
        format!(
            "{} serve --config {} --node {}",
            quote(&self.options.syncd),
            quote(&self.config()),
            side.name()
        )
    }

    fn cut_file(&self) -> PathBuf {
        self.dir().join("link-is-cut")
    }

    pub(super) fn pid_file(&self, side: Side) -> PathBuf {
        self.dir().join(format!("serve-{}.pid", side.letter()))
    }

    fn wrapper(&self, side: Side) -> PathBuf {
        self.dir().join(format!("serve-{}.sh", side.letter()))
    }

    fn write_wrapper(&self, side: Side) -> io::Result<()> {
        // The process id is written before the look at the file, and `cut` does it the other way round:
        // whichever comes first, no session survives a cut.
        let text = format!(
            "#!/bin/sh\necho $$ > {pid}\nif [ -e {cut} ]; then echo 'the link is cut' >&2; exit 255; fi\nexec {serve}\n",
            pid = quote(&self.pid_file(side)),
            cut = quote(&self.cut_file()),
            serve = self.serve_words(side)
        );
        fs::write(self.wrapper(side), text)
    }

    fn config_text(&self) -> String {
        let mut t = String::from("[cluster]\nname = \"pair\"\n");
        for side in [Side::A, Side::B] {
            let home = self.home(side);
            let _ = write!(
                t,
                "\n[[node]]\nname = {}\nroot_prefix = {}\nstate_dir = {}\nrun_dir = {}\n",
                text(side.name()),
                text(&home.display().to_string()),
                text(&home.join("state").display().to_string()),
                text(&home.join("run").display().to_string())
            );
            match &self.options.link {
                Link::Pipe => {
                    // Run by name of the shell: a script just written may still be open for writing in a child
                    // that another thread forks, and would be "text file busy".
                    let wrapper = text(&self.wrapper(side).display().to_string());
                    let _ = write!(
                        t,
                        "address = \"127.0.0.1\"\ncommand = [\"/bin/sh\", {wrapper}]\n"
                    );
                }
                Link::Ssh {
                    addresses,
                    port,
                    identity_file,
                    known_hosts,
                } => {
                    let _ = write!(
                        t,
                        "address = {}\nuser = \"root\"\nport = {port}\nidentity_file = {}\nknown_hosts = {}\nremote_command = {}\n",
                        text(&addresses[side as usize]),
                        text(&identity_file.display().to_string()),
                        text(&known_hosts.display().to_string()),
                        text(&self.serve_words(side))
                    );
                }
            }
        }
        for (name, path) in &self.options.roots {
            let _ = write!(
                t,
                "\n[[root]]\nname = {}\npath = {}\n",
                text(name),
                text(path)
            );
        }
        let _ = write!(
            t,
            "\n[sync]\nwatcher = {}\ndurability = {}\n{}\n{}\n",
            text(&self.options.watcher),
            text(&self.options.durability),
            self.options.sync_lines,
            self.options.tables
        );
        t
    }

    /// What is started from now on is started without a launcher.
    pub fn launch_plainly(&mut self) {
        self.options.launcher.clear();
    }

    fn launch(&self, program: &Path) -> Command {
        let mut words = self.options.launcher.iter();
        let Some(first) = words.next() else {
            return Command::new(program);
        };
        let mut c = Command::new(first);
        c.args(words).arg(program);
        c
    }

    /// Starts `syncd` on a node, which makes it active.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(&mut self, side: Side) -> io::Result<u32> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.daemon_log(side))?;
        let child = self
            .launch(&self.options.syncd)
            .arg("--config")
            .arg(self.config())
            .args(["--node", side.name()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = child.id();
        self.running[side as usize] = Some(child);
        Ok(pid)
    }

    /// Process id of the node's `syncd`, if it was started and not stopped.
    pub fn pid(&self, side: Side) -> Option<u32> {
        self.running[side as usize].as_ref().map(Child::id)
    }

    /// Whether the node's `syncd` ended by itself, and how.
    pub fn ended(&mut self, side: Side) -> Option<ExitStatus> {
        self.running[side as usize].as_mut()?.try_wait().ok()?
    }

    /// Ends `syncd` with SIGTERM and waits; after a while with SIGKILL.
    pub fn stop(&mut self, side: Side) -> Option<ExitStatus> {
        let mut child = self.running[side as usize].take()?;
        signal(child.id(), Signal::SIGTERM);
        let until = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < until {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        child.wait().ok()
    }

    /// Kills `syncd` as a crash would.
    pub fn kill(&mut self, side: Side) {
        if let Some(mut child) = self.running[side as usize].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Cuts a piped link in both directions: sessions end, new ones are refused until [`Pair::restore`].
    ///
    /// # Errors
    /// The marker cannot be written.
    pub fn cut(&self) -> io::Result<()> {
        fs::write(self.cut_file(), "")?;
        for side in [Side::A, Side::B] {
            self.kill_serve(side);
        }
        Ok(())
    }

    /// Mends a cut link.
    ///
    /// # Errors
    /// The marker cannot be removed.
    pub fn restore(&self) -> io::Result<()> {
        fs::remove_file(self.cut_file())
    }

    /// Runs `syncctl` with these arguments on a node.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn syncctl(&self, side: Side, args: &[&str]) -> io::Result<Output> {
        self.launch(&self.options.syncctl)
            .arg("--config")
            .arg(self.config())
            .args(["--node", side.name()])
            .args(args)
            .stdin(Stdio::null())
            .output()
    }

    /// The status of A.
    ///
    /// # Errors
    /// What `syncctl` says, or that it printed no JSON.
    pub fn status(&self) -> Result<serde_json::Value, String> {
        self.status_of(Side::A)
    }

    /// The status of a node.
    ///
    /// # Errors
    /// What `syncctl` says, or that it printed no JSON.
    pub fn status_of(&self, side: Side) -> Result<serde_json::Value, String> {
        let out = self
            .syncctl(side, &["status", "--json"])
            .map_err(|e| format!("cannot run syncctl: {e}"))?;
        serde_json::from_slice(&out.stdout).map_err(|e| {
            let said = String::from_utf8_lossy(&out.stderr);
            format!("syncctl status ({}): {e}; {}", out.status, said.trim())
        })
    }

    /// Waits until A says that B holds everything and nothing is pending.
    ///
    /// # Errors
    /// A daemon that ended, or the last status once `timeout` has passed.
    pub fn wait_in_sync(&mut self, timeout: Duration) -> Result<(), String> {
        self.wait_status(timeout, "in sync", |s| {
            s["peer"]["state"] == "in-sync"
                && s["pending"]["paths"] == 0
                && s["pending"]["scanning"] != true
        })
    }

    /// Waits until the status of A satisfies `good`.
    ///
    /// # Errors
    /// A daemon that ended, or the last status once `timeout` has passed.
    pub fn wait_status(
        &mut self,
        timeout: Duration,
        what: &str,
        good: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<(), String> {
        let until = Instant::now() + timeout;
        let mut pauses = Pauses::new();
        loop {
            let status = self.status();
            if status.as_ref().is_ok_and(&good) {
                return Ok(());
            }
            for side in [Side::A, Side::B] {
                if let Some(how) = self.ended(side) {
                    let log = tail(&self.log(side));
                    return Err(format!("syncd of {} ended ({how}): {log}", side.name()));
                }
            }
            if Instant::now() > until {
                let last = status.map_or_else(|e| e, |s| s.to_string());
                let log = tail(&self.log(Side::A));
                return Err(format!("not {what} after {timeout:?}: {last}\n{log}"));
            }
            pauses.wait();
        }
    }

    /// Returns when everything changed on A before now is on B.
    ///
    /// # Errors
    /// What `syncctl flush` says.
    pub fn flush(&self) -> Result<(), String> {
        let out = self
            .syncctl(Side::A, &["flush", "--timeout", "60s"])
            .map_err(|e| format!("cannot run syncctl: {e}"))?;
        if out.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&out.stderr);
        Err(format!(
            "flush: {}: {}\n{}",
            out.status,
            said.trim(),
            tail(&self.log(Side::A))
        ))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in [Side::A, Side::B] {
            self.kill(side);
            self.kill_daemon(side);
            self.kill_serve(side);
        }
    }
}

/// Last lines of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

pub fn signal(pid: u32, s: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), s);
    }
}

/// A TOML string.
fn text(s: &str) -> String {
    toml::Value::String(s.to_owned()).to_string()
}

/// A word of a shell command.
fn quote(p: &Path) -> String {
    format!("'{}'", p.display().to_string().replace('\'', "'\\''"))
}
