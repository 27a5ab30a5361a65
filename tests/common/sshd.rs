//! A real `sshd` for one test: its own host key, configuration and authorized key, on a free port, gone when dropped.
//!
//! It touches nothing of the machine's own SSH set-up, except that root's `sshd` needs `/run/sshd`, which is made if
//! missing. Needs `sshd` and `ssh-keygen`; [`missing`] says what is not there, for the test to report itself skipped.

#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};

/// How an `sshd` is to run; the default is a free port on 127.0.0.1, no forced command.
#[derive(Debug, Clone)]
pub struct Options {
    /// Network namespace to run in (`ip netns exec NAME`).
    pub netns: Option<String>,
    /// Address to listen on, within the namespace.
    pub listen: String,
    /// Port, 0 for a free one.
    pub port: u16,
    /// Options before the key in `authorized_keys`, as `restrict,command="cat"`.
    pub key_options: Option<String>,
    /// Further lines for `sshd_config`.
    pub config: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            netns: None,
            listen: "127.0.0.1".to_owned(),
            port: 0,
            key_options: None,
            config: String::new(),
        }
    }
}

/// A running `sshd`.
pub struct Sshd {
    child: Child,
    dir: tempfile::TempDir,
    listen: String,
    port: u16,
    log: Arc<Mutex<VecDeque<String>>>,
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/local/sbin"])
        .map(|d| Path::new(d).join(name))
        .find(|p| p.is_file())
}

/// What is not installed, if anything is not: the reason to skip.
pub fn missing() -> Option<String> {
    ["sshd", "ssh", "ssh-keygen"]
        .into_iter()
        .find(|p| program(p).is_none())
        .map(|p| format!("{p} is not installed"))
}

/// Prints the reason and returns `true` if there can be no `sshd`.
pub fn skip() -> bool {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return true;
    }
    false
}

/// Makes a key pair without a passphrase; `path` is the private key, `path.pub` the public one.
pub fn keygen(path: &Path) {
    let done = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
        .arg(path)
        .status()
        .expect("ssh-keygen");
    assert!(done.success(), "ssh-keygen failed");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read").trim().to_owned()
}

impl Sshd {
    /// Starts one and waits until it listens.
    pub fn start(options: &Options) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("osm-sshd-")
            .tempdir()
            .expect("tempdir");
        keygen(&dir.path().join("host_key"));
        keygen(&dir.path().join("client_key"));
        if Uid::effective().is_root() {
            fs::create_dir_all("/run/sshd").expect("mkdir /run/sshd");
        }
        let port = match options.port {
            0 => TcpListener::bind("127.0.0.1:0")
                .and_then(|l| l.local_addr())
                .expect("a free port")
                .port(),
            port => port,
        };
        write_files(dir.path(), options, port);
        let sshd = program("sshd").expect("sshd");
        let mut command = match &options.netns {
            Some(name) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", name]).arg(sshd);
                ip
            }
            None => Command::new(sshd),
        };
        command.args(["-D", "-e", "-f"]);
        command.arg(dir.path().join("sshd_config"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start sshd");
        let log = follow(&mut child);
        Self {
            child,
            dir,
            listen: options.listen.clone(),
            port,
            log,
        }
    }

    /// The address it listens on.
    pub fn address(&self) -> &str {
        &self.listen
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The user to log in as: the present one.
    pub fn user(&self) -> String {
        User::from_uid(Uid::effective())
            .expect("passwd")
            .expect("a user name")
            .name
    }

    /// The directory with its configuration and keys; the test may put files of its own there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The private key that it accepts.
    pub fn client_key(&self) -> PathBuf {
        self.dir.path().join("client_key")
    }

    /// A `known_hosts` file with its host key.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// Replaces the options before the key, for connections made from now on.
    pub fn set_key_options(&self, options: Option<&str>) {
        write_authorized(self.dir.path(), options);
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let lines = self.log.lock().expect("log");
        lines.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// Every process below it at present: sessions and the commands they run.
    pub fn session_pids(&self) -> Vec<i32> {
        descendants(i32::try_from(self.child.id()).expect("pid"))
    }

    /// Sends a signal to every session and command; returns how many there were.
    pub fn signal_sessions(&self, signal: Signal) -> usize {
        let pids = self.session_pids();
        for pid in &pids {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        pids.len()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let sessions = self.session_pids();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in sessions {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn write_files(dir: &Path, options: &Options, port: u16) {
    let host = read(&dir.join("host_key.pub"));
    let name = match port {
        22 => options.listen.clone(),
        port => format!("[{}]:{port}", options.listen),
    };
    fs::write(dir.join("known_hosts"), format!("{name} {host}\n")).expect("write");
    write_authorized(dir, options.key_options.as_deref());
    let (d, listen, more) = (dir.display(), &options.listen, &options.config);
    let config = format!(
        "Port {port}\nListenAddress {listen}\nHostKey {d}/host_key\nAuthorizedKeysFile {d}/authorized_keys\n\
         PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPrintMotd no\nUseDNS no\nMaxStartups 100\n{more}\n"
    );
    fs::write(dir.join("sshd_config"), config).expect("write");
}

fn write_authorized(dir: &Path, options: Option<&str>) {
    let key = read(&dir.join("client_key.pub"));
    let line = options.map_or(format!("{key}\n"), |o| format!("{o} {key}\n"));
    fs::write(dir.join("authorized_keys"), line).expect("write");
}

/// Keeps the last lines of the log and returns once the server listens.
fn follow(child: &mut Child) -> Arc<Mutex<VecDeque<String>>> {
    let lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
    let kept = Arc::clone(&lines);
    let err = BufReader::new(child.stderr.take().expect("stderr"));
    let (ready, listening) = mpsc::channel();
    std::thread::spawn(move || {
        for line in err.lines().map_while(Result::ok) {
            if line.contains("Server listening") {
                let _ = ready.send(());
            }
            let mut kept = kept.lock().expect("log");
            kept.push_back(line);
            if kept.len() > 100 {
                kept.pop_front();
            }
        }
    });
    match listening.recv_timeout(Duration::from_secs(10)) {
        Ok(()) => lines,
        Err(RecvTimeoutError::Timeout) => panic!("sshd does not listen after 10 s"),
        Err(RecvTimeoutError::Disconnected) => {
            let _ = child.wait();
            panic!("sshd ended: {:?}", lines.lock().expect("log"))
        }
    }
}

/// All processes with their parents.
fn parents() -> Vec<(i32, i32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name in parentheses may contain anything; the parent is the second field after it.
        let rest = stat.rsplit(')').next().unwrap_or("");
        if let Some(parent) = rest.split_whitespace().nth(1).and_then(|p| p.parse().ok()) {
            found.push((pid, parent));
        }
    }
    found
}

fn descendants(root: i32) -> Vec<i32> {
    let all = parents();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(c, _)| *c));
        next += 1;
    }
    found.remove(0);
    found
}

/// Processes whose command line contains `text`, this one left out.
pub fn processes_with(text: &str) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).expect("pid");
    let mut found = Vec::new();
    for (pid, _) in parents() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if pid != own && String::from_utf8_lossy(&line).contains(text) {
            found.push(pid);
        }
    }
    found
}
