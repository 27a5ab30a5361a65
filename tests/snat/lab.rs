//! A node and another host, each in a network namespace of its own, and the tools of the firewall the node has.
//!
//! A thread that stands in the node's namespace stands for the node: what it calls and starts happens there. Programs are
//! hidden from it, or put in place of others, by mounts that no other thread sees.

#![allow(unreachable_pub)]

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use osm_failover::config::Config;

use crate::common::netns::{End, NetPair};

/// How long anything may take that takes milliseconds on a quiet machine.
pub const LONG: Duration = Duration::from_secs(30);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// What the node has to translate addresses with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tools {
    /// `nft`, whatever else there is.
    Nft,
    /// No `nft`, and the `iptables` that speaks to nftables.
    Iptables,
    /// No `nft`, and the older `iptables`.
    Legacy,
    /// Neither.
    None,
}

impl Tools {
    /// Every way that works.
    pub const ALL: [Self; 3] = [Self::Nft, Self::Iptables, Self::Legacy];
}

/// The programs of this host that the tests need, by the package that brings them.
const PROGRAMS: [(&str, &str); 4] = [
    ("/usr/sbin/nft", "nftables"),
    (NFT_VARIANT, "iptables"),
    (LEGACY_VARIANT, "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
];
/// What `iptables` and its kin are links to.
const NFT_VARIANT: &str = "/usr/sbin/xtables-nft-multi";
const LEGACY_VARIANT: &str = "/usr/sbin/xtables-legacy-multi";

/// A node (end A) and another host (end B).
pub struct Lab {
    net: NetPair,
    dir: tempfile::TempDir,
    /// A name no other test has.
    pub cluster: String,
    /// What the node translates with.
    pub tools: Tools,
    /// Whether `nft` is there in spite of that.
    nft_too: bool,
}

/// The lab, or nothing and a line that says why.
pub fn lab(tools: Tools) -> Option<Lab> {
    for (program, package) in PROGRAMS {
        if !Path::new(program).exists() {
            println!("skipped: SNAT: needs {program} (Debian package {package})");
            return None;
        }
    }
    let net = match NetPair::new() {
        Ok(net) => net,
        Err(why) => {
            println!("skipped: SNAT: {why}");
            return None;
        }
    };
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    let lab = Lab {
        net,
        dir: tempfile::tempdir().expect("a folder"),
        cluster: format!("c{}.{n}", std::process::id()),
        tools,
        nft_too: false,
    };
    for end in [End::A, End::B] {
        let address = format!("{}/64", lab.v6(end));
        lab.ip(end, &["addr", "add", &address, "dev", "veth", "nodad"]);
    }
    Some(lab)
}

/// Runs a test with each of the tools; each has a lab of its own.
pub fn with_each_tool(test: impl Fn(&Lab)) {
    for tools in Tools::ALL {
        let Some(lab) = lab(tools) else { return };
        println!("with {tools:?}");
        test(&lab);
    }
}

impl Lab {
    /// Words before a program that make it run on the node, with every tool of this host.
    pub fn launcher(&self) -> Vec<String> {
        self.net.prefix(End::A)
    }

    /// An IPv4 address on the link.
    pub fn v4(&self, last: u8) -> IpAddr {
        let mut octets = self.net.address(End::A).octets();
        octets[3] = last;
        octets.into()
    }

    /// An end's address, IPv4.
    pub fn address(&self, end: End) -> IpAddr {
        self.net.address(end).into()
    }

    /// An end's address, IPv6.
    pub fn v6(&self, end: End) -> IpAddr {
        let text = ["fd00:5a::1", "fd00:5a::2"][end as usize];
        text.parse().expect("an address")
    }

    /// An end's address on the second link.
    pub fn second(&self, end: End) -> IpAddr {
        [[172, 31, 5, 1], [172, 31, 5, 2]][end as usize].into()
    }

    /// Joins the two by a second link, called `second` on both ends.
    pub fn add_second_link(&self) {
        let b = self.net.name(End::B);
        let link = "link add second type veth peer name second netns";
        let words: Vec<_> = link.split(' ').chain([b]).collect();
        self.ip(End::A, &words);
        for end in [End::A, End::B] {
            let address = format!("{}/24", self.second(end));
            self.ip(end, &["addr", "add", &address, "dev", "second"]);
            self.ip(end, &["link", "set", "second", "up"]);
        }
    }

    /// The virtual IP, IPv4.
    pub fn vip(&self) -> IpAddr {
        self.v4(200)
    }

    /// The virtual IP, IPv6.
    pub fn vip6(&self) -> IpAddr {
        "fd00:5a::200".parse().expect("an address")
    }

    /// Runs `ip` in an end's namespace; it must succeed.
    pub fn ip(&self, end: End, args: &[&str]) {
        let out = self.net.command(end, "ip").args(args).output();
        let out = out.expect("ip runs");
        assert!(out.status.success(), "ip {args:?}: {}", said(&out));
    }

    /// Brings both virtual IPs to the node, or takes them away.
    pub fn move_vip(&self, to_node: bool) {
        let verb = if to_node { "add" } else { "del" };
        for (address, more) in [
            (format!("{}/24", self.vip()), &[][..]),
            (format!("{}/64", self.vip6()), &["nodad"]),
        ] {
            let more = if to_node { more } else { &[] };
            let args = ["addr", verb, &address, "dev", "veth"];
            self.ip(End::A, &[&args, more].concat());
        }
    }

    /// A configuration of this cluster with these tables.
    pub fn config_text(&self, tables: &str) -> String {
        // The addresses are names, so nothing of the link is left alone unless a test says so.
        format!(
            "[cluster]\nname = \"{}\"\n[[node]]\nname = \"osm1\"\naddress = \"one\"\n\
             [[node]]\nname = \"osm2\"\naddress = \"two\"\n[paths]\nstate_dir = \"{dir}/state\"\n\
             run_dir = \"{dir}/run\"\n[[root]]\nname = \"r\"\npath = \"{dir}/data\"\n{tables}",
            self.cluster,
            dir = self.dir.path().display()
        )
    }

    /// The same, written to the node's file.
    pub fn configure(&self, tables: &str) -> Config {
        let text = self.config_text(tables);
        std::fs::write(self.config_file(), &text).expect("the configuration");
        Config::parse(&text, &self.config_file()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A configuration that translates to B, both families.
    pub fn configure_both(&self) -> Config {
        self.configure(&format!(
            "[vip]\naddress = \"{}\"\n[[snat]]\ndestination = \"{}\"\n\
             [[snat]]\ndestination = \"fd00:5a::/64\"\naddress = \"{}\"\n",
            self.vip(),
            self.address(End::B),
            self.vip6()
        ))
    }

    /// Where [`Lab::configure`] writes.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Does something on the node, with the tools it has.
    pub fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inside(End::A, || {
            self.arrange_tools();
            work()
        })
    }

    /// Does something in an end's network namespace, with all programs of the host.
    pub fn inside<T: Send>(&self, end: End, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(self.net.name(end));
        let namespace = File::open(path).expect("the namespace");
        std::thread::scope(|s| {
            let thread = s.spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            });
            let done = thread.join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// From now on the node has `nft` beside what it had.
    pub fn sees_nft_too(&mut self) {
        self.nft_too = true;
    }

    fn arrange_tools(&self) {
        let hidden: &[&str] = match self.tools {
            Tools::Iptables | Tools::Legacy if !self.nft_too => &["/usr/sbin/nft"],
            Tools::Nft | Tools::Iptables | Tools::Legacy => &[],
            Tools::None => &["/usr/sbin/nft", NFT_VARIANT],
        };
        hide(hidden);
        if self.tools == Tools::Legacy {
            mount(&["--bind", LEGACY_VARIANT, NFT_VARIANT]);
        }
    }

    /// Runs `syncctl snat` on the node; exit code, standard output, standard error.
    pub fn snat(&self, args: &[&str]) -> (i32, String, String) {
        let out = self.on_node(|| self.syncctl(args).output().expect("syncctl runs"));
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let code = out.status.code().expect("an exit code");
        (code, text(&out.stdout), text(&out.stderr))
    }

    /// `syncctl snat` with these arguments, to be run in a thread of the node.
    pub fn syncctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncctl"));
        command
            .arg("--config")
            .arg(self.config_file())
            .args(["--node", "osm1", "snat"])
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// A command that must do what it is asked.
    pub fn do_snat(&self, args: &[&str]) -> String {
        let (code, out, err) = self.snat(args);
        assert_eq!(code, 0, "snat {args:?}: {out}{err}");
        out
    }

    /// The `state` that `syncctl snat status --json` tells.
    pub fn state(&self) -> String {
        let (_, out, err) = self.snat(&["status", "--json"]);
        let json: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
        json["state"].as_str().expect("a state").to_owned()
    }

    /// Runs a line of shell on the node; it must succeed.
    pub fn sh(&self, line: &str) -> String {
        let out = self.on_node(|| shell(line));
        assert!(out.status.success(), "{line}: {}", said(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Runs a line of shell in the node's network namespace, with every program of the host.
    pub fn sh_with_all(&self, line: &str) -> String {
        let out = self.inside(End::A, || shell(line));
        assert!(out.status.success(), "{line}: {}", said(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Everything there is of the firewall of the node: nftables with handles, and the older tables without counters.
    pub fn firewall(&self) -> String {
        let nft = self.sh_with_all("/usr/sbin/nft -a list ruleset 2>/dev/null");
        let old = self.sh_with_all(
            "for t in iptables ip6tables; do grep -q nat /proc/net/${t%tables}_tables_names 2>/dev/null && \
             $t-legacy -w 5 -t nat -S; done; true",
        );
        // Counters go on, and a listing of iptables notes that the other kind is in use.
        let lines = nft.lines().map(|l| {
            let words: Vec<_> = l.split_whitespace().collect();
            let counter = words.iter().position(|w| *w == "packets");
            let mut kept = words;
            if let Some(at) = counter {
                kept.drain(at..(at + 4).min(kept.len()));
            }
            kept.join(" ") + "\n"
        });
        lines.collect::<String>() + &old
    }

    /// The source that B sees when the node opens a TCP connection to it.
    pub fn tcp_source(&self, to: SocketAddr) -> IpAddr {
        let listener = self.inside(End::B, || TcpListener::bind(to).expect("B listens"));
        let stream = self.inside(End::A, || TcpStream::connect_timeout(&to, LONG));
        let stream = stream.unwrap_or_else(|e| panic!("connect to {to}: {e}"));
        let (_, from) = listener.accept().expect("accepted");
        drop(stream);
        from.ip()
    }

    /// The source that B sees when the node sends it a datagram.
    pub fn udp_source(&self, to: SocketAddr) -> IpAddr {
        let receiver = self.inside(End::B, || UdpSocket::bind(to).expect("B listens"));
        receiver.set_read_timeout(Some(LONG)).expect("a limit");
        self.inside(End::A, || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let sender = UdpSocket::bind(any).expect("a socket");
            sender.send_to(b"x", to).expect("sent");
        });
        receiver.recv_from(&mut [0; 8]).expect("received").1.ip()
    }
}

/// Makes programs of the host vanish for this thread and what it starts.
pub fn hide(programs: &[&str]) {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(&["--make-rprivate", "/"]);
    for program in programs {
        mount(&["--bind", "/dev/null", program]);
    }
}

fn mount(args: &[&str]) {
    let out = Command::new("mount").args(args).output().expect("mount");
    assert!(out.status.success(), "mount {args:?}: {}", said(&out));
}

/// Runs a line of shell where this thread stands; it must succeed.
pub fn shell_here(line: &str) {
    let out = shell(line);
    assert!(out.status.success(), "{line}: {}", said(&out));
}

fn shell(line: &str) -> Output {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).stdin(Stdio::null());
    command.output().expect("sh runs")
}

/// Everything a command said.
pub fn said(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}
