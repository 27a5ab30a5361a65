//! Two nodes with osm-failover installed as a user would, on one network with a third host.
//!
//! It is made in namespaces of processes and mounts that end with the run (see `tests/cluster/run`), so that nothing
//! stays behind however the run ends. What is checked after each fault is here as well.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::machine::Machine;
use super::net::{self, THIRD, VIP};
use super::shell::{run, wait};
use super::takeover::Takeover;
use super::{base, writer};

/// Longest that anything may take that a cluster manager decides.
const DECISION: Duration = Duration::from_secs(90);
/// How long one node must have served alone until the cluster counts as settled.
const STAYS: Duration = Duration::from_secs(4);
/// Longest until both nodes hold the same once they can talk.
const CATCH_UP: Duration = Duration::from_secs(30);
/// The programs the machinery of the tests needs.
const TOOLS: [&str; 8] = [
    "systemd-nspawn",
    "mmdebstrap",
    "ip",
    "nsenter",
    "mkfs.ext4",
    "ssh-keygen",
    "mount",
    "timeout",
];

const CONFIG: &str = r#"[cluster]
name = "osmha"

[[node]]
name = "osm1"
address = "10.0.0.1"
identity_file = "/etc/osm-failover/id_ed25519"
known_hosts = "/etc/osm-failover/known_hosts"

[[node]]
name = "osm2"
address = "10.0.0.2"
identity_file = "/etc/osm-failover/id_ed25519"
known_hosts = "/etc/osm-failover/known_hosts"

[[root]]
name = "data"
path = "/srv/data"

[vip]
address = "192.168.0.200"

[[snat]]
destination = "192.168.0.0/24"
"#;

/// Notes when a wrapper called `syncctl`, for how long, and how that ended; found before the real one in PATH.
const SPY: &str = r#"#!/bin/bash
case "$*" in
    *flush* | *status*) exec /usr/local/bin/syncctl "$@" ;;
esac
began=$(date +%s%N)
/usr/local/bin/syncctl "$@"
code=$?
echo "$(hostname) $* $(((($(date +%s%N) - began)) / 1000000)) $code" >>/log/calls
exit $code
"#;

/// Two nodes and what is around them.
#[derive(Debug)]
pub struct World {
    /// `osm1` and `osm2`.
    pub nodes: [Machine; 2],
    /// What both nodes see as `/log`.
    pub log: PathBuf,
    dir: PathBuf,
}

/// Whether nodes can be booted here.
///
/// # Errors
/// Why not.
pub fn possible() -> Result<(), String> {
    if std::env::var_os("OSM_CLUSTER_PRIVATE").is_none() {
        return Err(
            "two booted nodes need root and namespaces of their own: make test-cluster".into(),
        );
    }
    for tool in TOOLS {
        run("sh", &["-c", "command -v \"$1\"", "sh", tool])
            .map_err(|_| format!("{tool} is not installed"))?;
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err("this kernel has no loop devices".into());
    }
    base::base().map(drop)
}

impl World {
    /// Two nodes, switched off, with osm-failover installed.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> Result<Self, String> {
        let base = base::base()?;
        let dir = PathBuf::from("/run/osm-failover-test");
        let log = dir.join("log");
        let said = |e: std::io::Error| format!("{}: {e}", dir.display());
        fs::create_dir_all(&dir).map_err(said)?;
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                "size=4g,mode=755",
                "cluster",
                &dir.display().to_string(),
            ],
        )?;
        fs::create_dir_all(&log).map_err(said)?;
        net::make()?;
        let node = |n| Machine::new(n, &base, &dir, &log);
        let world = Self {
            nodes: [node(1)?, node(2)?],
            log,
            dir: dir.clone(),
        };
        world.install()?;
        Ok(world)
    }

    fn install(&self) -> Result<(), String> {
        let host_key = self.nodes[0]
            .root()
            .join("etc/ssh/ssh_host_ed25519_key.pub");
        let host_key =
            fs::read_to_string(&host_key).map_err(|e| format!("{}: {e}", host_key.display()))?;
        let key = self.dir.join("id_ed25519");
        run(
            "ssh-keygen",
            &[
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                &key.display().to_string(),
            ],
        )?;
        let read = |p: &Path| fs::read_to_string(p).map_err(|e| format!("{}: {e}", p.display()));
        let (secret, public) = (read(&key)?, read(&key.with_extension("pub"))?);
        for node in &self.nodes {
            node.write(
                "/etc/hosts",
                "644",
                "127.0.0.1 localhost\n10.0.0.1 osm1\n10.0.0.2 osm2\n",
            )?;
            node.write("/etc/hostname", "644", &format!("{}\n", node.name))?;
            node.write("/etc/osm-failover/config.toml", "644", CONFIG)?;
            node.write("/etc/osm-failover/id_ed25519", "600", &secret)?;
            node.write(
                "/etc/osm-failover/known_hosts",
                "644",
                &format!("10.0.0.1,10.0.0.2 {host_key}"),
            )?;
            node.write(
                "/root/.ssh/authorized_keys",
                "600",
                &format!("restrict,command=\"syncd serve\" {public}"),
            )?;
            node.write("/usr/local/sbin/syncctl", "755", SPY)?;
            node.write("/usr/local/bin/osm-writer", "755", writer::PROGRAM)?;
            node.write("/etc/init.d/osm-writer", "755", writer::INIT)?;
            node.write("/var/log/journal/.keep", "644", "")?;
            let root = node.root().display().to_string();
            for (from, to, mode) in [
                (env!("CARGO_BIN_EXE_syncd"), "usr/local/bin/syncd", "755"),
                (
                    env!("CARGO_BIN_EXE_syncctl"),
                    "usr/local/bin/syncctl",
                    "755",
                ),
                ("init.d/osm-failover", "etc/init.d/osm-failover", "755"),
                (
                    "ocf/osm-failover",
                    "usr/lib/ocf/resource.d/osm/osm-failover",
                    "755",
                ),
                (
                    "keepalived/notify.sh",
                    "usr/local/lib/osm-failover/keepalived-notify",
                    "755",
                ),
                (
                    "systemd/osm-failover.service",
                    "lib/systemd/system/osm-failover.service",
                    "644",
                ),
                (
                    "systemd/osm-failover-resync.service",
                    "lib/systemd/system/osm-failover-resync.service",
                    "644",
                ),
            ] {
                run(
                    "install",
                    &["-D", "-m", mode, from, &format!("{root}/{to}")],
                )?;
            }
            node.enable("osm-failover-resync.service")?;
            let data = node.disk().join("data");
            fs::create_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        }
        Ok(())
    }

    /// A node by its number.
    pub fn node(&mut self, number: usize) -> &mut Machine {
        &mut self.nodes[number - 1]
    }

    /// The number of the node that has the virtual IP, an active agent and the running service, if it is one alone.
    pub fn serving(&self) -> Option<usize> {
        let serves: Vec<_> = self
            .nodes
            .iter()
            .filter(|n| self.serves(n))
            .map(|n| n.number)
            .collect();
        (serves.len() == 1 && self.nodes.iter().filter(|n| n.has_vip()).count() == 1)
            .then(|| serves[0])
    }

    /// Waits until one node alone serves, and goes on to: while a cluster is put together again it may look so for a
    /// moment.
    ///
    /// # Errors
    /// It never does.
    pub fn settles(&self) -> Result<usize, String> {
        let mut held: Option<(usize, Instant)> = None;
        let (node, _) = wait(DECISION, "one node that serves alone, and stays", || {
            let now = self.serving();
            held = match (held, now) {
                (Some((node, since)), Some(n)) if n == node => Some((node, since)),
                (_, Some(n)) => Some((n, Instant::now())),
                (_, None) => None,
            };
            match held {
                Some((node, since)) if since.elapsed() > STAYS => Ok(node),
                _ => Err(self.picture()),
            }
        })?;
        Ok(node)
    }

    fn serves(&self, node: &Machine) -> bool {
        node.has_vip()
            && node
                .run("syncctl status --lsb && /etc/init.d/osm-writer status")
                .is_ok()
    }

    /// Waits until a node has the virtual IP; how long after `since` that was, in seconds.
    ///
    /// # Errors
    /// It does not get it.
    pub fn vip_after(&self, number: usize, since: u128) -> Result<f64, String> {
        let node = &self.nodes[number - 1];
        let what = format!("the virtual IP on {}", node.name);
        wait(DECISION, &what, || {
            node.has_vip().then_some(()).ok_or_else(|| self.picture())
        })?;
        Ok(seconds(now() - since))
    }

    /// Waits until this node alone serves; the times until it had the virtual IP and until its service started.
    ///
    /// # Errors
    /// It does not, and what the nodes say.
    pub fn serves_after(&self, number: usize, since: u128) -> Result<Takeover, String> {
        let name = &self.nodes[number - 1].name;
        let vip = self.vip_after(number, since)?;
        let (at, _) = wait(DECISION, &format!("the service on {name} alone"), || {
            let starts = writer::starts(&self.log);
            let start = starts.iter().rfind(|s| s.at > since && s.node == *name);
            match (start, self.serving()) {
                (Some(start), Some(n)) if n == number => Ok(start.at),
                _ => Err(self.picture()),
            }
        })?;
        let service = seconds(at - since);
        Ok(Takeover { vip, service })
    }

    /// Waits until the serving node says that the other one has everything.
    ///
    /// # Errors
    /// It does not, and what it says.
    pub fn in_sync(&self, number: usize) -> Result<Duration, String> {
        let node = &self.nodes[number - 1];
        let what = format!("{} in sync with its peer", node.name);
        let (_, took) = wait(CATCH_UP, &what, || {
            let status = self.status(number)?;
            if status["peer"]["state"] == "in-sync" {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })?;
        Ok(took)
    }

    /// What a node's agent says of itself.
    ///
    /// # Errors
    /// It says nothing.
    pub fn status(&self, number: usize) -> Result<serde_json::Value, String> {
        // It ends with 3 or 5 where nothing runs or the nodes have diverged.
        let said = self.nodes[number - 1].run("syncctl status --json 2>&1 || true")?;
        serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))
    }

    /// Everything acknowledged is on this node, in place or preserved there or, where `anywhere`, on the other one.
    ///
    /// # Errors
    /// What is missing.
    pub fn nothing_lost(&self, number: usize, anywhere: bool) -> Result<usize, String> {
        let acknowledged = writer::acknowledged(&self.log);
        let mut held = writer::held(&self.nodes[number - 1].disk());
        if anywhere {
            held.extend(writer::held(&self.nodes[2 - number].disk()));
        }
        let missing: Vec<_> = acknowledged.difference(&held).take(10).collect();
        if missing.is_empty() {
            return Ok(acknowledged.len());
        }
        Err(format!("acknowledged and lost on osm{number}: {missing:?}"))
    }

    /// How many changes were acknowledged.
    pub fn count(&self) -> usize {
        writer::acknowledged(&self.log).len()
    }

    /// The other node has what this one has, and nothing besides; the service goes on meanwhile.
    ///
    /// # Errors
    /// What differs.
    pub fn equal(&self, number: usize) -> Result<(), String> {
        let [here, there] = [number, 3 - number].map(|n| &self.nodes[n - 1]);
        let before = writer::numbers(&here.disk());
        here.run("syncctl flush")?;
        let theirs = writer::numbers(&there.disk());
        let after = writer::numbers(&here.disk());
        let missing: Vec<_> = before.difference(&theirs).take(10).collect();
        let besides: Vec<_> = theirs.difference(&after).take(10).collect();
        if missing.is_empty() && besides.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} lacks {missing:?} and has {besides:?} besides",
            there.name
        ))
    }

    /// Nothing newer was overwritten by something older: who took over went on from what was acknowledged.
    ///
    /// # Errors
    /// The last number is older.
    pub fn nothing_older(&self, number: usize) -> Result<(), String> {
        let highest = writer::highest(&writer::acknowledged(&self.log));
        let last = writer::last(&self.nodes[number - 1].disk());
        if last >= highest {
            return Ok(());
        }
        Err(format!(
            "osm{number} went back to {last}, though {highest} was acknowledged"
        ))
    }

    /// Where a node's connections to the third host seem to come from.
    ///
    /// # Errors
    /// There is no connection.
    pub fn source_of(&self, number: usize) -> Result<IpAddr, String> {
        let node = &self.nodes[number - 1];
        net::source_of_connection(|port| {
            node.run(&format!("exec 3<>/dev/tcp/{THIRD}/{port}"))
                .map(drop)
        })
    }

    /// Outgoing connections of this node alone carry the virtual IP.
    ///
    /// # Errors
    /// What they carry.
    pub fn vip_leaves_from(&self, number: usize) -> Result<(), String> {
        for node in self.nodes.iter().filter(|n| n.is_on()) {
            let seen = self.source_of(node.number)?.to_string();
            let own = format!("192.168.0.{}", node.number);
            let expected = if node.number == number { VIP } else { &own };
            if seen != expected {
                return Err(format!(
                    "connections of {} come from {seen}, not {expected}",
                    node.name
                ));
            }
        }
        Ok(())
    }

    /// Who has what, in one line for messages.
    pub fn picture(&self) -> String {
        let line = |n: &Machine| {
            if !n.is_on() {
                return format!("{} is off", n.name);
            }
            let said = n
                .run("syncctl status --lsb 2>&1; /etc/init.d/osm-writer status 2>&1; true")
                .unwrap_or_else(|e| e);
            format!(
                "{}: vip {}, {}",
                n.name,
                n.has_vip(),
                said.replace('\n', ", ")
            )
        };
        self.nodes.each_ref().map(line).join("; ")
    }

    /// What to look at after a failure.
    pub fn autopsy(&self) -> String {
        let mut text = format!(
            "{}\ncalls:\n{}",
            self.picture(),
            tail(&self.log.join("calls"))
        );
        for node in &self.nodes {
            text += &format!("\n-- {}: {:?}\n", node.name, self.status(node.number));
            text += &tail(&node.root().join("var/log/ha-log"));
            let journal = format!(
                "--directory={}",
                node.root().join("var/log/journal").display()
            );
            let said = run(
                "journalctl",
                &[
                    &journal,
                    "-q",
                    "-n",
                    "80",
                    "--no-hostname",
                    "-o",
                    "short-precise",
                ],
            );
            text += &said.unwrap_or_else(|e| e);
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.autopsy());
        }
        for node in &mut self.nodes {
            if node.is_on() {
                let _ = node.power_cut();
            }
        }
        net::unmake();
        let _ = run("umount", &["-l", &self.dir.display().to_string()]);
    }
}

/// Nanoseconds since 1970.
pub fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos())
}

/// Nanoseconds as seconds.
pub fn seconds(ns: u128) -> f64 {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)).as_secs_f64()
}

fn tail(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n") + "\n"
}
