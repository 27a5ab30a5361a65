//! What the agent adds to a cluster manager's own takeover time, measured on booted nodes without one, and printed
//! beside what is to be reached.
//!
//! As under a cluster manager the virtual IP comes before the agent is started and goes after it was stopped. What misses
//! its limit is shown; what misses it by far fails, since the machine that measures may be a slow one.

use std::time::{Duration, Instant};

use super::machine::Machine;
use super::net::VIP;
use super::shell::wait;
use super::takeover;
use super::world::World;

/// Directories of a thousand files each.
const DIRECTORIES: usize = 200;
/// Limits in milliseconds: with a dead peer, a planned move, a return, a status.
const DEAD: f64 = 300.0;
const MOVE: f64 = 500.0;
const RETURN: f64 = 2000.0;
const STATUS: f64 = 20.0;
/// How many times a limit is by far too slow.
const BY_FAR: f64 = 5.0;
/// The program itself, without what notes its calls.
const REAL: &str = "/usr/local/bin/syncctl";
/// Looks at the status.
const LOOKS: u32 = 50;

/// Milliseconds that a command took in a node, by the node's own clock.
fn took(node: &Machine, command: &str) -> Result<f64, String> {
    let said = node.run(&format!(
        "s=$(date +%s%N); {{ {command}; }} >/dev/null || exit; e=$(date +%s%N); echo $((e - s))"
    ))?;
    let ns: f64 = said.trim().parse().map_err(|e| format!("{said}: {e}"))?;
    Ok(ns / 1e6)
}

/// As [`took`], of an activation; the virtual IP is there before it.
fn activate(node: &Machine) -> Result<f64, String> {
    node.run(&format!("ip addr add {VIP}/24 dev eth0"))?;
    took(node, &format!("{REAL} activate"))
}

/// As [`took`], of a deactivation; the virtual IP goes after it.
fn deactivate(node: &Machine) -> Result<f64, String> {
    let ms = took(node, &format!("{REAL} deactivate --timeout 1s"))?;
    node.run(&format!("ip addr del {VIP}/24 dev eth0"))?;
    Ok(ms)
}

/// Prints a figure and keeps what is by far too slow.
fn tell(slow: &mut Vec<String>, what: &str, ms: f64, limit: Option<f64>) {
    let to_reach = limit.map_or_else(String::new, |l| {
        let missed = if ms > l { ", MISSED" } else { "" };
        format!(" (to reach: {l:.0} ms{missed})")
    });
    let line = format!("{what}: {ms:.1} ms{to_reach}");
    println!("{line}");
    takeover::note_agent(&line);
    if limit.is_some_and(|l| ms > BY_FAR * l) {
        slow.push(line);
    }
}

/// Measures.
///
/// # Errors
/// What failed, or was slower than it is to be.
pub fn figures() -> Result<(), String> {
    let mut world = World::new()?;
    let done = measure(&mut world);
    done.map_err(|e| format!("{e}\n{}", world.autopsy()))
}

fn measure(world: &mut World) -> Result<(), String> {
    let mut slow = Vec::new();
    for n in [1, 2] {
        world.node(n).power_on()?;
    }
    for n in [1, 2] {
        world.node(n).booted()?;
    }
    let [first, second] = &world.nodes;
    first.run(&format!(
        "cd /srv/data && for d in $(seq {DIRECTORIES}); do mkdir $d && (cd $d && seq 1000 | xargs touch); done"
    ))?;
    activate(first)?;
    let began = Instant::now();
    world.in_sync(1)?;
    println!(
        "first sync of 200,000 empty files: {:.1} s",
        began.elapsed().as_secs_f64()
    );

    let all = took(
        first,
        &format!("for i in $(seq {LOOKS}); do syncctl status --json; done"),
    )?;
    tell(&mut slow, "status", all / f64::from(LOOKS), Some(STATUS));

    // A planned move with nothing pending: what the old node's stop and the new node's start take together.
    let stop = deactivate(first)?;
    let start = activate(second)?;
    tell(
        &mut slow,
        "planned move, stop and start",
        stop + start,
        Some(MOVE),
    );
    world.in_sync(2)?;
    // Here the cluster manager has moved the address already.
    second.run(&format!("ip addr del {VIP}/24 dev eth0"))?;
    let over = activate(first)?;
    tell(
        &mut slow,
        "planned move, the other node handing over",
        over,
        Some(MOVE),
    );
    world.in_sync(1)?;

    // The active node dies; then it comes back to 2,000 changes.
    let config = "/etc/osm-failover/config.toml";
    let text = second.read(config)?;
    let serve = format!("{text}\n[activation]\non_stale = \"serve\"\n");
    world.node(1).power_cut()?;
    let second = &world.nodes[1];
    // A cluster manager waits longer than this until it calls the peer dead.
    wait(Duration::from_secs(10), "the silence noticed", || {
        second.run(&format!("{REAL} status >/dev/null; test $? = 3"))
    })?;
    let dead = activate(second)?;
    tell(&mut slow, "peer dead", dead, Some(DEAD));
    deactivate(second)?;
    second.write(config, "644", &serve)?;
    let dead = activate(second)?;
    tell(
        &mut slow,
        "peer dead, on_stale = \"serve\"",
        dead,
        Some(DEAD),
    );
    second.run(
        "cd /srv/data && for d in 1 2; do (cd $d && for f in *; do echo changed >$f; done); done",
    )?;
    // Once it has been looked at, it is the other node's return that is measured and not this node's scan.
    wait(Duration::from_secs(60), "all changes noticed", || {
        let status = world.status(2)?;
        let paths = status["pending"]["paths"].as_u64().unwrap_or(0);
        if paths >= 2000 && status["pending"]["scanning"] != true {
            Ok(())
        } else {
            Err(status["pending"].to_string())
        }
    })?;
    world.node(1).power_on()?;
    world.node(1).booted()?;
    let first = &world.nodes[0];
    let shown = first.run(
        "systemctl show -p ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic,Result osm-failover-resync",
    )?;
    let number = |key: &str| {
        let line = shown
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .ok_or(&shown)?;
        line.parse::<f64>().map_err(|_| &shown)
    };
    let began = number("ExecMainStartTimestampMonotonic=")?;
    let ended = number("ExecMainExitTimestampMonotonic=")?;
    let ms = (ended - began) / 1e3;
    tell(
        &mut slow,
        "return after 2,000 missed changes among 200,000 files",
        ms,
        Some(RETURN),
    );
    let same = first.run("cat /srv/data/[12]/* | grep -c changed")?;
    if same != "2000" {
        return Err(format!("{same} of 2000 changes arrived; {shown}"));
    }
    if slow.is_empty() {
        Ok(())
    } else {
        Err(format!("slower than it is to be: {}", slow.join("; ")))
    }
}
