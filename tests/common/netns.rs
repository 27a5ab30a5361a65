//! Two network namespaces joined by a veth pair, and a real `sshd` in one of them.
//!
//! Needs root; without it the maker returns the reason, for `skipped: reason`. Names carry the process id, so runs
//! side by side do not meet. Everything is taken down on drop, also while a panic unwinds. Nothing outside the two
//! namespaces is configured.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::node::{Link, Options};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// One of the two namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The active node's.
    A,
    /// The standby's.
    B,
}

/// Two namespaces with addresses 10.x.y.1 (A) and 10.x.y.2 (B).
#[derive(Debug)]
pub struct NetPair {
    names: [String; 2],
    addresses: [Ipv4Addr; 2],
}

fn ip(args: &[&str]) -> Result<(), String> {
    let out = Command::new("ip")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run ip: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(format!("ip {}: {why}", args.join(" ")))
}

impl NetPair {
    /// Makes both namespaces and brings the link up.
    ///
    /// # Errors
    /// The reason why this process cannot: no root, no `ip`, a kernel without namespaces.
    pub fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let pid = std::process::id();
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let low = pid.wrapping_mul(16).wrapping_add(n).to_be_bytes();
        let pair = Self {
            names: [format!("osm{pid}n{n}a"), format!("osm{pid}n{n}b")],
            addresses: [
                Ipv4Addr::new(10, low[2], low[3], 1),
                Ipv4Addr::new(10, low[2], low[3], 2),
            ],
        };
        // From here on a failure drops `pair`, which takes down what was made.
        let [a, b] = [pair.name(End::A), pair.name(End::B)];
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&[
            "link", "add", "veth", "netns", a, "type", "veth", "peer", "name", "veth", "netns", b,
        ])?;
        for end in [End::A, End::B] {
            let address = format!("{}/24", pair.address(end));
            ip(&["-n", pair.name(end), "addr", "add", &address, "dev", "veth"])?;
            ip(&["-n", pair.name(end), "link", "set", "lo", "up"])?;
            ip(&["-n", pair.name(end), "link", "set", "veth", "up"])?;
        }
        Ok(pair)
    }

    /// The namespace's name, as `ip netns` lists it.
    pub fn name(&self, end: End) -> &str {
        &self.names[end as usize]
    }

    /// The address inside the namespace.
    pub fn address(&self, end: End) -> Ipv4Addr {
        self.addresses[end as usize]
    }

    /// The words to put before a program's own so that it runs inside; they exec, so its process id stays.
    pub fn prefix(&self, end: End) -> Vec<String> {
        let ns = format!("--net=/run/netns/{}", self.name(end));
        vec!["nsenter".to_owned(), ns]
    }

    /// A command that runs inside.
    pub fn command(&self, end: End, program: &str) -> Command {
        let words = self.prefix(end);
        let mut c = Command::new(&words[0]);
        c.args(&words[1..]).arg(program);
        c
    }

    /// Takes the link down or brings it up, seen from A.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn set_link(&self, up: bool) -> Result<(), String> {
        let state = if up { "up" } else { "down" };
        ip(&["-n", self.name(End::A), "link", "set", "veth", state])
    }
}

impl Drop for NetPair {
    fn drop(&mut self) {
        for name in &self.names {
            if Path::new("/run/netns").join(name).exists() {
                let _ = ip(&["netns", "del", name]);
            }
        }
    }
}

/// A running `sshd` and what a client needs to reach it.
#[derive(Debug)]
pub struct Sshd {
    child: Child,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The client's private key.
    pub client_key: PathBuf,
    /// A known_hosts file that pins the host key.
    pub known_hosts: PathBuf,
    /// A client configuration with all of the above, for `ssh -F`.
    pub ssh_config: PathBuf,
    /// What `sshd` logs.
    pub log: PathBuf,
}

/// Longest that `sshd` may take to listen.
const SSHD_START: Duration = Duration::from_secs(10);
const SSHD_PORT: u16 = 22;

/// Starts `sshd` in end B, with keys and configuration in `dir`; `before` are words put before the command
/// (a wrapper that moves it into a control group), `options` further lines of its configuration.
///
/// # Errors
/// A missing program, a refused configuration, or no listening socket in time.
pub fn sshd_in(
    net: &NetPair,
    dir: &Path,
    before: &[String],
    options: &str,
) -> Result<Sshd, String> {
    sshd_at(net, End::B, dir, before, options)
}

/// As [`sshd_in`], in the end that is given.
///
/// # Errors
/// As [`sshd_in`].
pub fn sshd_at(
    net: &NetPair,
    end: End,
    dir: &Path,
    before: &[String],
    options: &str,
) -> Result<Sshd, String> {
    let said = |e: io::Error| format!("sshd in {}: {e}", dir.display());
    let address = net.address(end);
    write_files(dir, address, options).map_err(said)?;
    let log = dir.join("sshd.log");
    let words: Vec<String> = before.iter().cloned().chain(net.prefix(end)).collect();
    let child = Command::new(&words[0])
        .args(&words[1..])
        .args(["/usr/sbin/sshd", "-D", "-f"])
        .arg(dir.join("sshd_config"))
        .arg("-E")
        .arg(&log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(said)?;
    let mut sshd = Sshd {
        child,
        address,
        port: SSHD_PORT,
        client_key: dir.join("client_key"),
        known_hosts: dir.join("known_hosts"),
        ssh_config: dir.join("ssh_config"),
        log,
    };
    sshd.wait_listening()?;
    Ok(sshd)
}

/// Keys, pinned host key and both configurations.
fn write_files(dir: &Path, address: Ipv4Addr, options: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    // sshd refuses to start without the directory that its package makes at boot.
    fs::create_dir_all("/run/sshd")?;
    let path = |name: &str| dir.join(name).display().to_string();
    for key in ["host_key", "client_key"] {
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(path(key)))?;
    }
    let host_key = fs::read_to_string(path("host_key.pub"))?;
    fs::write(path("known_hosts"), format!("{address} {host_key}"))?;
    fs::copy(path("client_key.pub"), path("authorized_keys"))?;
    let server = format!(
        "ListenAddress {address}\nPort {SSHD_PORT}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
         PermitRootLogin yes\nStrictModes no\nUsePAM no\nUseDNS no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nMaxStartups 100\nPrintMotd no\nLogLevel INFO\n{options}\n",
        path("host_key"),
        path("authorized_keys")
    );
    fs::write(path("sshd_config"), server)?;
    let client = format!(
        "Host *\n  User root\n  Port {SSHD_PORT}\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
         GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n  LogLevel ERROR\n  ConnectTimeout 10\n",
        path("client_key"),
        path("known_hosts")
    );
    fs::write(path("ssh_config"), client)
}

fn run(c: &mut Command) -> io::Result<()> {
    let out = c.stdin(Stdio::null()).output()?;
    if out.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(io::Error::other(format!("{c:?}: {why}")))
}

impl Sshd {
    fn wait_listening(&mut self) -> Result<(), String> {
        let until = Instant::now() + SSHD_START;
        loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            if said.contains("Server listening") {
                return Ok(());
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > until {
                return Err(format!("sshd does not listen ({ended:?}): {}", said.trim()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Process id of the listener.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sessions accepted so far, from the log.
    pub fn accepted(&self) -> usize {
        fs::read_to_string(&self.log)
            .unwrap_or_default()
            .matches("Accepted publickey")
            .count()
    }

    /// Bytes that crossed the link in both directions, as the namespace's counters have them.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn wire_bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.pid()))?;
        let line = text
            .lines()
            .find_map(|l| l.trim().strip_prefix("veth:"))
            .ok_or_else(|| io::Error::other("no veth in the namespace"))?;
        let field: Vec<u64> = line
            .split_whitespace()
            .map(|f| f.parse().unwrap_or(0))
            .collect();
        Ok(field.first().unwrap_or(&0) + field.get(8).unwrap_or(&0))
    }
}

/// What a pair that is joined by a real link stands on.
#[derive(Debug)]
pub struct Ground {
    /// Where A reaches B.
    pub sshd: Sshd,
    /// The network.
    pub net: NetPair,
    _keys: tempfile::TempDir,
}

/// Joins the nodes of a pair by SSH between two namespaces: its programs run in A's, `sshd` in B's. Says that the test is
/// skipped, and why, where that cannot be.
pub fn over_ssh(options: &mut Options) -> Option<Ground> {
    let keys = tempfile::tempdir().expect("a directory");
    let made = NetPair::new().and_then(|net| {
        let sshd = sshd_in(&net, keys.path(), &[], "")?;
        Ok((net, sshd))
    });
    let (net, sshd) = match made {
        Ok(made) => made,
        Err(why) => {
            println!("skipped: {why}");
            return None;
        }
    };
    options.launcher = net.prefix(End::A);
    options.link = Link::Ssh {
        addresses: [End::A, End::B].map(|e| net.address(e).to_string()),
        port: sshd.port,
        identity_file: sshd.client_key.clone(),
        known_hosts: sshd.known_hosts.clone(),
    };
    Some(Ground {
        sshd,
        net,
        _keys: keys,
    })
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Its own session children end with their connections, which the namespaces' removal cuts.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
