//! One node: a Debian that systemd boots in a container, with a network, a disk and a cluster manager of its own.
//!
//! It can be powered off as a power cut would (the peer's connections stay open and silent), shut down, and frozen.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::net::{self, VIP};
use super::shell::{good, run, wait};

/// Longest that a boot or a shutdown may take; both take about a second without a cluster manager.
const BOOT: Duration = Duration::from_secs(60);
/// Longest that a command in a node may take, in seconds.
const COMMAND: &str = "90";
/// Size of the disk with the data.
const DISK: u64 = 1 << 30;
/// Files it has room for.
const INODES: &str = "300000";
/// The control groups of all nodes of a run.
const GROUP: &str = "osm-failover-test";

/// What watching a whole file system needs beyond the calls that systemd-nspawn lets through.
const CALLS: &str =
    "--system-call-filter=fanotify_init fanotify_mark name_to_handle_at open_by_handle_at";
/// Enters the control groups named before `--` and becomes what is named behind it.
const START: &str =
    r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit; shift; done; shift; exec "$@""#;

/// A node, switched on or off.
#[derive(Debug)]
pub struct Machine {
    /// 1 or 2.
    pub number: usize,
    /// `osm1` or `osm2`.
    pub name: String,
    /// Its directories on the host.
    dir: PathBuf,
    /// What both nodes see as `/log`.
    log: PathBuf,
    starter: Option<Child>,
    leader: i32,
}

impl Machine {
    /// A node that is switched off, with an empty disk; `dir` is on a file system that can be an overlay's.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(number: usize, base: &Path, dir: &Path, log: &Path) -> Result<Self, String> {
        let machine = Self {
            number,
            name: format!("osm{number}"),
            dir: dir.join(format!("osm{number}")),
            log: log.to_owned(),
            starter: None,
            leader: 0,
        };
        let path = |name: &str| machine.dir.join(name).display().to_string();
        for d in ["upper", "work", "root", "disk"] {
            fs::create_dir_all(machine.dir.join(d)).map_err(|e| format!("{}: {e}", path(d)))?;
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            base.display(),
            path("upper"),
            path("work")
        );
        run(
            "mount",
            &["-t", "overlay", "-o", &layers, "overlay", &path("root")],
        )?;
        let image = machine.dir.join("disk.img");
        let made = fs::File::create(&image).and_then(|f| f.set_len(DISK));
        made.map_err(|e| format!("{}: {e}", image.display()))?;
        run("mkfs.ext4", &["-q", "-N", INODES, &path("disk.img")])?;
        // overlayfs refuses a fanotify mark on a file system; this one takes it.
        run("mount", &["-o", "loop", &path("disk.img"), &path("disk")])?;
        Ok(machine)
    }

    /// The node's root file system on the host.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The node's `/srv` on the host.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// Writes a file of the node.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, path: &str, mode: &str, text: &str) -> Result<(), String> {
        let file = self.root().join(path.trim_start_matches('/'));
        let said = |e: std::io::Error| format!("{}: {e}", file.display());
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(said)?;
        }
        fs::write(&file, text).map_err(said)?;
        run("chmod", &[mode, &file.display().to_string()]).map(drop)
    }

    /// Reads a file of the node.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, path: &str) -> Result<String, String> {
        let file = self.root().join(path.trim_start_matches('/'));
        fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))
    }

    /// Has a unit started at boot.
    ///
    /// # Errors
    /// What `systemctl` says.
    pub fn enable(&self, unit: &str) -> Result<(), String> {
        let root = format!("--root={}", self.root().display());
        run("systemctl", &["--quiet", &root, "enable", unit]).map(drop)
    }

    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        self.leader != 0
    }

    /// Switches it on, and returns when its PID 1 runs.
    ///
    /// # Errors
    /// What the system says.
    pub fn power_on(&mut self) -> Result<(), String> {
        net::plug(self.number)?;
        let groups = self.groups();
        for group in &groups {
            fs::create_dir_all(group).map_err(|e| format!("{}: {e}", group.display()))?;
        }
        let console = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("console.log"));
        let console = console.map_err(|e| format!("console: {e}"))?;
        let twin = console.try_clone().map_err(|e| format!("console: {e}"))?;
        // What is started lands below the control groups of its starter, and both nodes in the same ones.
        let mut c = Command::new("sh");
        c.args(["-c", START, "sh"]).args(&groups);
        c.args(["--", "systemd-nspawn"])
            .args(["--settings=no", "--register=no", "--keep-unit", "--boot"])
            .args(["--private-users=no", "--resolv-conf=off", "--timezone=off"])
            .args(["--link-journal=no", "--console=pipe"])
            .args(["--capability=CAP_NET_ADMIN,CAP_IPC_LOCK", CALLS])
            .arg(format!("--machine={}", self.name))
            .arg(format!("--hostname={}", self.name))
            .arg(format!("--directory={}", self.root().display()))
            .arg(format!("--bind={}:/srv", self.disk().display()))
            .arg(format!("--bind={}:/log", self.log.display()))
            .arg(format!(
                "--network-namespace-path=/run/netns/{}",
                net::of(self.number)
            ))
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(twin);
        let starter = c.spawn().map_err(|e| format!("systemd-nspawn: {e}"))?;
        let pid = starter.id();
        self.starter = Some(starter);
        let (leader, _) = wait(BOOT, "the node's PID 1", || leader_of(pid))
            .map_err(|e| format!("{e}\n{}", self.console()))?;
        self.leader = leader;
        Ok(())
    }

    /// Returns when the boot is over.
    ///
    /// # Errors
    /// It took too long.
    pub fn booted(&self) -> Result<Duration, String> {
        let what = format!("the boot of {}", self.name);
        wait(BOOT, &what, || {
            let said = self.run("systemctl is-system-running || true")?;
            match said.lines().next() {
                Some("running" | "degraded") => Ok(()),
                _ => Err(said),
            }
        })
        .map(|(_, took)| took)
    }

    /// What the console showed.
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console.log")).unwrap_or_default()
    }

    /// Runs a shell command in the node.
    ///
    /// # Errors
    /// Its exit code and what it said.
    pub fn run(&self, command: &str) -> Result<String, String> {
        if !self.is_on() {
            return Err(format!("{} is off", self.name));
        }
        let mut c = Command::new("nsenter");
        c.args(["-t", &self.leader.to_string(), "-a", "--"])
            .args(["timeout", "-k", "5", COMMAND])
            .args(["bash", "-c", &format!("cd /\n{command}")])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
            .env("HOME", "/root");
        good(c).map_err(|e| format!("{}: {e}", self.name))
    }

    /// Whether the virtual IP is on it; answered also while it is frozen.
    pub fn has_vip(&self) -> bool {
        let table = format!("/proc/{}/net/fib_trie", self.leader);
        let mark = format!("|-- {VIP}\n");
        self.is_on() && fs::read_to_string(table).is_ok_and(|t| t.contains(&mark))
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// The cables cannot be pulled.
    pub fn power_cut(&mut self) -> Result<(), String> {
        net::silence(self.number)?;
        self.gone();
        Ok(())
    }

    /// Begins to shut it down in good order.
    pub fn shut_down(&self) {
        // The call itself is ended with the node.
        let _ = self.run("systemctl poweroff --no-block");
    }

    /// Returns when it is off.
    ///
    /// # Errors
    /// It does not end.
    pub fn is_shut_down(&mut self) -> Result<(), String> {
        let Some(mut starter) = self.starter.take() else {
            return Err(format!("{} is off", self.name));
        };
        let ended = wait(BOOT, "the shutdown", || match starter.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        self.starter = Some(starter);
        self.gone();
        ended.map(drop)
    }

    /// Stops every process of it, or lets them go on; its kernel still answers to pings.
    ///
    /// # Errors
    /// There is no freezer.
    pub fn freeze(&self, on: bool) -> Result<(), String> {
        let groups = self.groups();
        let mut files = groups.iter().map(|g| g.join("cgroup.freeze"));
        let file = files.rfind(|f| f.exists());
        let file = file.ok_or("no control group of version 2 to freeze with")?;
        let said = |e: std::io::Error| format!("{}: {e}", file.display());
        fs::write(&file, if on { "1" } else { "0" }).map_err(said)
    }

    fn gone(&mut self) {
        let leader = std::mem::take(&mut self.leader);
        if let Some(mut starter) = self.starter.take() {
            // Once the starter has ended, the leader's number may be somebody else's.
            let runs = matches!(starter.try_wait(), Ok(None));
            if runs && leader != 0 {
                let _ = kill(Pid::from_raw(leader), Signal::SIGKILL);
            } else if runs {
                let _ = starter.kill();
            }
            let _ = starter.wait();
        }
        net::unplug(self.number);
        self.groups().iter().for_each(|g| remove_group(g));
    }

    /// The node's control groups, one in each hierarchy that systemd uses.
    fn groups(&self) -> Vec<PathBuf> {
        let top = Path::new("/sys/fs/cgroup");
        let tops = [top.join("systemd"), top.join("unified"), top.to_owned()];
        let used = tops.into_iter().filter(|t| t.join("cgroup.procs").exists());
        used.map(|t| t.join(GROUP).join(&self.name)).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A frozen process takes no signal.
        let _ = self.freeze(false);
        self.gone();
        for d in ["root", "disk"] {
            let _ = run("umount", &["-l", &self.dir.join(d).display().to_string()]);
        }
    }
}

fn remove_group(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for d in below.filter(|d| d.file_type().is_ok_and(|t| t.is_dir())) {
        remove_group(&d.path());
    }
    let _ = fs::remove_dir(group);
}

/// The child of a starter that is PID 1 in its own namespace.
fn leader_of(starter: u32) -> Result<i32, String> {
    let text = fs::read_to_string(format!("/proc/{starter}/task/{starter}/children"));
    for pid in text.map_err(|e| e.to_string())?.split_whitespace() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let first = status.lines().find(|l| l.starts_with("NSpid:"));
        if first.is_some_and(|l| l.ends_with("\t1")) {
            return pid.parse().map_err(|e| format!("{pid}: {e}"));
        }
    }
    Err("not there yet".into())
}
