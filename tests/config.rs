//! The configuration file: the example, the defaults, and what follows from it.

use std::path::Path;
use std::time::Duration;

use osm_failover::config::{
    Activation, Compression, Config, Durability, Hook, HookEvent, MaxDelete, Node, OnPeerActive,
    OnStale, Paths, Protocol, SplitBrain, Sync, Vip, Watcher,
};

const EXAMPLE: &str = include_str!("../config.example.toml");

/// The shortest configuration, on lines 1 to 11.
const SMALL: &str = r#"[cluster]
name = "c"
[[node]]
name = "a"
address = "10.0.0.1"
[[node]]
name = "b"
address = "10.0.0.2"
[[root]]
name = "r"
path = "/srv/r"
"#;

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("config.toml")).unwrap_or_else(|e| panic!("{e}; {}", e.hint()))
}

/// The example with every commented-out setting in force.
fn example_in_full() -> String {
    let setting = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let key = rest.split(" =").next()?;
        let known = Config::known_keys().any(|(_, k)| k == key) && rest.contains(" = ");
        (known || rest == "[[hook]]").then(|| rest.to_owned())
    };
    EXAMPLE
        .lines()
        .map(|l| setting(l).unwrap_or_else(|| l.to_owned()) + "\n")
        .collect()
}

#[test]
fn the_example_loads_and_shows_the_defaults() {
    let c = parse(EXAMPLE);
    let small = parse(SMALL);
    assert_eq!(c.sync, small.sync);
    assert_eq!(c.activation, small.activation);
    assert_eq!(c.paths, small.paths);
    assert_eq!(c.metrics, small.metrics);
    assert_eq!(c.hooks, small.hooks);
    assert_eq!(c.roots[0].exclude, small.roots[0].exclude);
    assert_eq!(c.nodes[0].remote_command, Node::REMOTE_COMMAND);
    let bare = Node {
        name: "osm1".into(),
        address: "10.0.0.1".into(),
        ..small.nodes[0].clone()
    };
    assert_eq!(c.nodes[0], bare);
    let vip = c.vip.expect("the example has one");
    assert_eq!(
        (vip.wait, vip.flush_conntrack),
        (Vip::WAIT, Vip::FLUSH_CONNTRACK)
    );
    let s = &c.snat[0];
    assert_eq!((&s.out_interface, s.protocol, s.port), (&None, None, None));
    assert_eq!(Some(s.address), c.vip.map(|v| v.address));
}

#[test]
fn the_example_in_full_loads_and_its_hook_shows_the_defaults() {
    let c = parse(&example_in_full());
    assert_eq!(c.nodes[0].port, Some(22));
    assert_eq!(c.nodes[0].command, ["/usr/local/bin/bridge", "osm1"]);
    assert_eq!(c.state_dir(0), Path::new("/srv/osm1.state"));
    assert_eq!(c.snat[0].protocol, Some(Protocol::Tcp));
    let h = &c.hooks[0];
    let defaults = Hook {
        paths: vec![],
        on: vec![Hook::ON],
        timeout: Hook::TIMEOUT,
        validate: vec![],
        ..h.clone()
    };
    assert_eq!(*h, defaults);
    assert!(c.metrics.textfile.is_some());
}

#[test]
fn every_known_key_stands_in_the_example() {
    let text = example_in_full();
    let mut table = "";
    let mut shown = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            table = line.trim();
        } else if let Some((key, _)) = line.split_once(" = ") {
            shown.push((table, key));
        }
    }
    for known in Config::known_keys() {
        assert!(
            shown.contains(&known),
            "{known:?} is not in config.example.toml"
        );
    }
}

#[test]
fn the_defaults() {
    let c = parse(SMALL);
    let seconds = Duration::from_secs;
    let sync = Sync {
        watcher: Watcher::Auto,
        durability: Durability::Fsync,
        compression: Compression::Auto,
        settle: Duration::from_millis(200),
        max_delete: Some(MaxDelete {
            count: None,
            percent: Some(50),
            window: MaxDelete::WINDOW,
        }),
        bandwidth_limit: None,
        scrub: Some(seconds(86_400)),
        preserve_days: 30,
        preserve_size: Some(10 << 30),
    };
    assert_eq!(c.sync, sync);
    let activation = Activation {
        activate_timeout: seconds(5),
        flush_timeout: seconds(30),
        on_peer_active: OnPeerActive::Handover,
        on_stale: OnStale::Pull,
        split_brain: SplitBrain::Manual,
    };
    assert_eq!(c.activation, activation);
    let paths = Paths {
        state_dir: "/var/lib/osm-failover".into(),
        run_dir: "/run/osm-failover".into(),
    };
    assert_eq!(c.paths, paths);
    assert_eq!((c.vip, c.snat.len(), c.hooks.len()), (None, 0, 0));
}

#[test]
fn values_other_than_the_defaults_are_read() {
    let c = parse(&format!(
        "{SMALL}exclude = ['*.tmp']\n[sync]\nwatcher = 'inotify'\ndurability = 'write'\ncompression = 'always'\n\
         settle = '1s'\nmax_delete = {{ percent = 10, count = 500 }}\nbandwidth_limit = '10MiB/s'\nscrub = '0'\n\
         preserve_days = 0\npreserve_size = '500MiB'\n[activation]\nactivate_timeout = '1m'\nflush_timeout = '0'\non_peer_active = 'refuse'\n\
         on_stale = 'serve'\nsplit_brain = 'keep-node:b'\n[vip]\naddress = 'fd00::1'\nwait = '0'\nflush_conntrack = true\n\
         [[snat]]\ndestination = '10.0.0.0/8'\naddress = '10.1.1.1'\nprotocol = 'udp'\nport = 53\nout_interface = 'eth0.7'\n\
         [[snat]]\ndestination = 'fd00::/64'\n[[hook]]\npaths = ['/srv/r/conf/']\non = ['applied']\n\
         run = ['/bin/true', '{{paths}}']\ntimeout = '5s'\nvalidate = ['/bin/look', '{{paths}}']\n\
         [[hook]]\non = ['activated', 'deactivated', 'problem']\nrun = ['/bin/true']\n"
    ));
    let sync = Sync {
        watcher: Watcher::Inotify,
        durability: Durability::Write,
        compression: Compression::Always,
        settle: Duration::from_secs(1),
        max_delete: Some(MaxDelete {
            count: Some(500),
            percent: Some(10),
            window: MaxDelete::WINDOW,
        }),
        bandwidth_limit: Some(10 << 20),
        scrub: None,
        preserve_days: 0,
        preserve_size: Some(500 << 20),
    };
    assert_eq!(c.sync, sync);
    let activation = Activation {
        activate_timeout: Duration::from_secs(60),
        flush_timeout: Duration::ZERO,
        on_peer_active: OnPeerActive::Refuse,
        on_stale: OnStale::Serve,
        split_brain: SplitBrain::KeepNode(1),
    };
    assert_eq!(c.activation, activation);
    let vip = c.vip.expect("there is one");
    assert_eq!((vip.wait, vip.flush_conntrack), (Duration::ZERO, true));
    assert_eq!(c.snat[0].port, Some(53));
    assert_eq!(c.snat[1].address.to_string(), "fd00::1");
    let h = &c.hooks[0];
    assert_eq!(h.on, [HookEvent::Applied]);
    assert_eq!(h.validate, ["/bin/look", Hook::PATHS]);
    assert_eq!(h.timeout, Duration::from_secs(5));
    assert_eq!(c.hooks[1].on, HookEvent::ALL[1..]);
}

#[test]
fn a_node_finds_itself() {
    let c = parse(&SMALL.replace("\"b\"", "\"b.example.org\""));
    for (given, host, me) in [
        (None, "a", Some(0)),
        (None, "a.example.org", Some(0)),
        (None, "A", Some(0)),
        (None, "b", Some(1)),
        (None, "b.example.org", Some(1)),
        (None, "b.elsewhere.org", Some(1)),
        (None, "localhost", None),
        (None, "", None),
        (Some("b.example.org"), "a", Some(1)),
        (Some("b"), "a", None),
        (Some("x"), "a", None),
    ] {
        let got = c.local(given, host).ok();
        assert_eq!(got, me.map(|m: usize| (m, 1 - m)), "{given:?} {host}");
    }
    let twins = parse(
        &SMALL
            .replace("\"a\"", "\"n.east\"")
            .replace("\"b\"", "\"n.west\""),
    );
    assert_eq!(twins.local(None, "n.west").ok(), Some((1, 0)));
    assert!(twins.local(None, "n").is_err(), "both match");
    let e = c.local(None, "localhost").expect_err("no such node");
    assert_eq!(
        e.to_string(),
        "config.toml: the host name \"localhost\" names no node"
    );
    assert_eq!(
        e.hint(),
        "the nodes are a and b.example.org: say which one this is with --node or OSM_NODE, or correct a name"
    );
    let e = c.local(Some("x"), "a").expect_err("no such node");
    assert_eq!(
        (e.to_string().as_str(), e.hint()),
        (
            "config.toml: there is no node \"x\"",
            "the nodes are a and b.example.org"
        )
    );
}

#[test]
fn each_node_has_its_own_places() {
    let own =
        "root_prefix = '/tmp/b'\nstate_dir = '/tmp/b.state'\nrun_dir = '/tmp/b.run'\n[[root]]";
    let c = parse(&SMALL.replace("[[root]]", own));
    assert_eq!(c.root_path(0, 0), Path::new("/srv/r"));
    assert_eq!(c.root_path(1, 0), Path::new("/tmp/b/srv/r"));
    assert_eq!(c.state_dir(0), Path::new("/var/lib/osm-failover"));
    assert_eq!(c.state_dir(1), Path::new("/tmp/b.state"));
    assert_eq!(c.run_dir(0), Path::new("/run/osm-failover"));
    assert_eq!(c.run_dir(1), Path::new("/tmp/b.run"));
    assert_eq!(c.node("b").map(|n| n.address.as_str()), Some("10.0.0.2"));
}

#[test]
fn the_fingerprint_ignores_order_only_where_it_has_no_meaning() {
    let with = |list: &str| parse(&format!("{SMALL}exclude = {list}\n")).fingerprint();
    assert_eq!(with("['b', 'a', 'b']"), with("['a', 'b']"));
    assert_ne!(with("['a', '!b']"), with("['!b', 'a']"));
    assert_ne!(with("['a']"), with("[]"));
    assert_eq!(
        with("['b', 'a']"),
        [("r".to_owned(), vec!["a".to_owned(), "b".to_owned()])]
    );
}
