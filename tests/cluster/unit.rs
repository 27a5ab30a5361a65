//! The units and the init script on booted nodes, without a cluster manager: crashes, hangs, broken configurations, and
//! whether the unit's confinement leaves it able to do its work.

use std::path::PathBuf;
use std::time::Duration;

use super::net::{self, VIP};
use super::shell::{run, wait};
use super::world::World;

/// Longest until systemd has done something.
const DONE: Duration = Duration::from_secs(30);
const UNIT: &str = "osm-failover.service";

/// A file system that takes no changes until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(at: PathBuf) -> Result<Self, String> {
        run("fsfreeze", &["-f", &at.display().to_string()])?;
        Ok(Self(at))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = run("fsfreeze", &["-u", &self.0.display().to_string()]);
    }
}

/// Runs a test on two booted nodes, the virtual IP on the first; a failure tells what they say of themselves.
fn on_two(test: impl FnOnce(&mut World) -> Result<(), String>) -> Result<(), String> {
    let mut world = World::new()?;
    let done = boot_both(&mut world).and_then(|()| test(&mut world));
    done.map_err(|e| format!("{e}\n{}", world.autopsy()))
}

fn boot_both(world: &mut World) -> Result<(), String> {
    for n in [1, 2] {
        // So that a frozen disk stops the engine, and not only who writes data.
        let node = world.node(n);
        let config = "/etc/osm-failover/config.toml";
        let text = node.read(config)? + "\n[paths]\nstate_dir = \"/srv/state\"\n";
        node.write(config, "644", &text)?;
        node.power_on()?;
    }
    for n in [1, 2] {
        world.node(n).booted()?;
    }
    let address = format!("ip addr add {VIP}/24 dev eth0");
    world.nodes[0].run(&address).map(drop)
}

fn expect(world: &World, node: usize, what: &str, wanted: &str) -> Result<(), String> {
    let node = &world.nodes[node - 1];
    let why = format!("`{what}` saying {wanted:?}");
    wait(DONE, &why, || {
        let said = node.run(&format!("{what} 2>&1 || true"))?;
        if said.contains(wanted) {
            Ok(())
        } else {
            Err(said)
        }
    })
    .map(drop)
}

fn refused(said: Result<String, String>, what: &str, status: i32) -> Result<(), String> {
    match said {
        Err(e) if e.contains(&format!("exit status: {status}")) => Ok(()),
        other => Err(format!("{what}: expected exit status {status}: {other:?}")),
    }
}

fn is_active(world: &World, yes: bool) -> Result<(), String> {
    expect(
        world,
        1,
        "syncctl status --lsb",
        if yes { "is running" } else { "is stopped" },
    )?;
    let rules = if yes { "osm-failover" } else { "none" };
    expect(
        world,
        1,
        "nft list tables | grep osm-failover || echo none",
        rules,
    )
}

/// Starts, crashes, hangs and stops the unit.
///
/// # Errors
/// What was not as it must be.
pub fn unit() -> Result<(), String> {
    on_two(unit_on)
}

fn unit_on(world: &mut World) -> Result<(), String> {
    let first = |command: &str| world.nodes[0].run(command);
    first(&format!("systemctl start {UNIT}"))?;
    is_active(world, true)?;
    world.in_sync(1)?;

    // A crash: systemd takes the rules out and starts it again, which puts them back.
    first(&format!("systemctl kill -s KILL --kill-whom=main {UNIT}"))?;
    expect(
        world,
        1,
        &format!("systemctl show -p NRestarts {UNIT}"),
        "=1",
    )?;
    is_active(world, true)?;
    first(&format!("mkdir -p /run/systemd/system/{UNIT}.d"))?;
    let set = |lines: &str| {
        first(&format!(
            "printf '[Service]\\n{lines}\\n' >/run/systemd/system/{UNIT}.d/test.conf && systemctl daemon-reload"
        ))
    };
    set("Restart=no")?;
    first(&format!("systemctl kill -s KILL --kill-whom=main {UNIT}"))?;
    expect(world, 1, &format!("systemctl is-failed {UNIT}"), "failed")?;
    is_active(world, false)?;

    // A hang of the thread that does the work, while others still answer.
    set("WatchdogSec=2")?;
    first(&format!(
        "systemctl reset-failed {UNIT}; systemctl start {UNIT}"
    ))?;
    world.in_sync(1)?;
    let frozen = Frozen::new(world.nodes[0].disk())?;
    let _ = first("timeout 1 syncctl flush");
    first("syncctl status --lsb")?;
    expect(
        world,
        1,
        &format!("journalctl -q -u {UNIT}"),
        "Watchdog timeout",
    )?;
    drop(frozen);
    expect(world, 1, &format!("systemctl is-active {UNIT}"), "active")?;
    is_active(world, true)?;

    // The last change is pushed before the end.
    first(&format!(
        "echo last >/srv/data/last-change; systemctl stop {UNIT}"
    ))?;
    is_active(world, false)?;
    expect(world, 2, "cat /srv/data/last-change", "last")?;
    expect(world, 1, &format!("systemctl is-active {UNIT}"), "inactive")?;

    // A configuration that is refused is not tried again and again.
    first(
        "cp /etc/osm-failover/config.toml /root && echo 'unknown = 1' >>/etc/osm-failover/config.toml",
    )?;
    refused(first(&format!("systemctl start {UNIT}")), "start", 1)?;
    expect(
        world,
        1,
        &format!("systemctl show -p ExecMainStatus,NRestarts {UNIT}"),
        "NRestarts=0\nExecMainStatus=2",
    )?;
    first("mv /root/config.toml /etc/osm-failover/")?;
    first(&format!(
        "systemctl reset-failed {UNIT}; systemctl start {UNIT}"
    ))?;
    is_active(world, true)?;
    first(&format!("systemctl stop {UNIT}")).map(drop)
}

/// Everything that makes the second node's data hard to take, and how it is compared.
const MAKE: &str = "cd /srv/data && mknod null c 1 3 && mknod loop b 7 0 && mkfifo fifo && cp /usr/bin/id setuid && \
    chmod 6755 setuid && chown 12345:54321 setuid && chmod 6755 setuid && cp /usr/bin/ping ping && \
    setcap cap_net_raw+ep ping && setfattr -n user.a -v 1 ping && setfattr -n trusted.b -v 2 ping && \
    setfacl -m u:12345:rwx ping && ln ping link && mkdir -m 1777 sticky && touch -d @1 old";
const LIST: &str = "cd /srv/data && find . -not -path './.osm-failover*' -not -name . -printf '%p %y %m %U %G %s %n %T@\\n' | \
    sort; getfattr -d -m - -h ping setuid; getfacl -n ping; stat -c '%n %t %T' null loop";

/// What the unit takes before it becomes active arrives with everything that belongs to it, in spite of its confinement.
///
/// # Errors
/// What was not as it must be.
pub fn confined() -> Result<(), String> {
    on_two(confined_on)
}

fn confined_on(world: &mut World) -> Result<(), String> {
    let [first, second] = &world.nodes;
    first.run(&format!("systemctl start {UNIT}"))?;
    world.in_sync(1)?;
    first.run(&format!("systemctl stop {UNIT}"))?;
    net::link(false)?;
    second.run("syncctl activate")?;
    second.run(MAKE)?;
    second.run("syncctl deactivate")?;
    net::link(true)?;
    first.run(&format!("systemctl start {UNIT}"))?;
    let (there, here) = (second.run(LIST)?, first.run(LIST)?);
    if there != here {
        return Err(format!("on osm2:\n{there}\non osm1:\n{here}"));
    }
    expect(
        world,
        1,
        "journalctl -q -u osm-failover",
        "fanotify can watch",
    )?;
    is_active(world, true)
}

/// The init script on a host that systemd runs.
///
/// # Errors
/// What was not as it must be.
pub fn init() -> Result<(), String> {
    on_two(init_on)
}

fn init_on(world: &mut World) -> Result<(), String> {
    let first = |command: &str| world.nodes[0].run(command);
    let script = |verb: &str| first(&format!("/etc/init.d/osm-failover {verb}"));
    refused(script("status"), "status", 3)?;
    script("start")?;
    is_active(world, true)?;
    // What was started outlives who started it, in a session of its own.
    first("test \"$(ps -o sid= -p $(pidof syncd) | tr -d ' ')\" = \"$(pidof syncd)\"")?;

    first("echo 'unknown = 1' >>/etc/osm-failover/config.toml")?;
    if !script("status")?.contains("is running") {
        return Err("a broken configuration hides the node that runs with the old one".into());
    }
    refused(script("restart"), "restart", 6)?;
    is_active_at_all(world)?;
    script("stop")?;
    refused(script("status"), "status", 3)?;
    first("! pidof syncd && ! nft list tables | grep osm-failover")?;
    refused(script("start"), "start", 6)?;
    script("stop").map(drop)
}

fn is_active_at_all(world: &World) -> Result<(), String> {
    world.nodes[0].run("pidof syncd").map(drop)
}

/// A peer that takes connections and never answers does not keep a node from booting.
///
/// # Errors
/// What was not as it must be.
pub fn boot() -> Result<(), String> {
    on_two(boot_on)
}

fn boot_on(world: &mut World) -> Result<(), String> {
    let limit = "/etc/systemd/system/osm-failover-resync.service.d/limit.conf";
    world
        .node(1)
        .write(limit, "644", "[Service]\nTimeoutStartSec=3\n")?;
    world.node(1).power_cut()?;
    world.node(2).freeze(true)?;
    world.node(1).power_on()?;
    let took = world.node(1).booted()?;
    println!(
        "boot beside a node that does not answer: {:.1} s, 3 of them for the resync",
        took.as_secs_f64()
    );
    expect(
        world,
        1,
        "systemctl show -p Result osm-failover-resync",
        "timeout",
    )?;
    world.node(2).freeze(false)?;
    // And once it answers, the same unit does its work.
    world
        .node(1)
        .run("systemctl restart osm-failover-resync")
        .map(drop)
}
