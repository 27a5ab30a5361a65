//! The wires: two bridges in a namespace of their own, a third host, and each node's two ports.
//!
//! `eth0` is the network of the clients, 192.168.0.0/24, `eth1` the link between the nodes, 10.0.0.0/24. Nothing is
//! configured outside of the namespaces made here.

use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::shell::{ip, run};

/// The virtual IP.
pub const VIP: &str = "192.168.0.200";
/// The third host.
pub const THIRD: &str = "192.168.0.10";
/// Names of the namespaces; the machinery that runs the tests keeps them private to one run.
const SWITCH: &str = "switch";
const HOST: &str = "third";
/// Longest that a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A node's namespace.
pub fn of(node: usize) -> String {
    format!("node{node}")
}

/// Makes the bridges and the third host.
///
/// # Errors
/// What `ip` says.
pub fn make() -> Result<(), String> {
    for ns in [SWITCH, HOST] {
        run("ip", &["netns", "add", ns])?;
        ip(ns, "link set lo up")?;
    }
    for bridge in 0..2 {
        ip(SWITCH, &format!("link add br{bridge} type bridge"))?;
        // Else it takes the least address among its ports and changes it with them.
        ip(
            SWITCH,
            &format!("link set br{bridge} address 02:00:00:00:00:0{bridge}"),
        )?;
        ip(SWITCH, &format!("link set br{bridge} up"))?;
    }
    ip(
        SWITCH,
        &format!("link add third type veth peer name eth0 netns {HOST}"),
    )?;
    ip(SWITCH, "link set third master br0")?;
    ip(SWITCH, "link set third up")?;
    ip(HOST, &format!("addr add {THIRD}/24 brd + dev eth0"))?;
    ip(HOST, "link set eth0 up")
}

/// Takes away what [`make`] made.
pub fn unmake() {
    for ns in [SWITCH, HOST] {
        let _ = run("ip", &["netns", "del", ns]);
    }
}

/// Makes a node's namespace and plugs it in.
///
/// # Errors
/// What `ip` says.
pub fn plug(node: usize) -> Result<(), String> {
    let ns = of(node);
    run("ip", &["netns", "add", &ns])?;
    for (port, net) in ["192.168.0", "10.0.0"].into_iter().enumerate() {
        let port_name = name(node, port);
        ip(
            SWITCH,
            &format!("link add {port_name} type veth peer name eth{port} netns {ns}"),
        )?;
        ip(SWITCH, &format!("link set {port_name} master br{port}"))?;
        ip(SWITCH, &format!("link set {port_name} up"))?;
        ip(
            &ns,
            &format!("addr add {net}.{node}/24 brd + dev eth{port}"),
        )?;
        ip(&ns, &format!("link set eth{port} up"))?;
    }
    ip(&ns, "link set lo up")
}

/// Pulls both cables without a sound: the other ends keep their carrier, so nobody is told.
///
/// # Errors
/// What `ip` says.
pub fn silence(node: usize) -> Result<(), String> {
    for port in 0..2 {
        ip(SWITCH, &format!("link set {} nomaster", name(node, port)))?;
    }
    Ok(())
}

/// Takes a node's namespace away: a named one outlives its node and would go on answering for it.
pub fn unplug(node: usize) {
    for port in 0..2 {
        let _ = ip(SWITCH, &format!("link del {}", name(node, port)));
    }
    let _ = run("ip", &["netns", "del", &of(node)]);
}

/// Takes the link between the nodes down, or brings it up; both see their carrier go.
///
/// # Errors
/// What `ip` says.
pub fn link(up: bool) -> Result<(), String> {
    let state = if up { "up" } else { "down" };
    for node in 1..=2 {
        ip(SWITCH, &format!("link set {} {state}", name(node, 1)))?;
    }
    Ok(())
}

fn name(node: usize, port: usize) -> String {
    format!("n{node}e{port}")
}

/// Waits on the third host for one connection; the caller makes it meanwhile, and its source address comes back.
///
/// # Errors
/// No namespace, no socket, or nobody connected in time.
pub fn source_of_connection(
    connect: impl FnOnce(u16) -> Result<(), String>,
) -> Result<IpAddr, String> {
    let (tell_port, port) = mpsc::channel();
    let (tell_source, source) = mpsc::channel();
    // A namespace is entered by a thread; this one ends in it.
    std::thread::spawn(move || {
        let listener = File::open(Path::new("/run/netns").join(HOST)).and_then(|ns| {
            setns(ns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            TcpListener::bind((THIRD, 0))
        });
        let listener = match listener {
            Ok(l) => l,
            Err(e) => return drop(tell_port.send(Err(e.to_string()))),
        };
        let port = listener.local_addr().map(|a| a.port());
        let _ = tell_port.send(port.map_err(|e| e.to_string()));
        let met = listener.accept().map(|(_, from)| from.ip());
        let _ = tell_source.send(met.map_err(|e| e.to_string()));
    });
    connect(port.recv().map_err(|e| e.to_string())??)?;
    source
        .recv_timeout(CONNECT)
        .map_err(|e| format!("nobody connected to the third host: {e}"))?
}
