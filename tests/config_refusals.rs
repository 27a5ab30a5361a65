//! What a configuration is refused for: the exact words, the line, the hint, and the limits.

use std::path::{Path, PathBuf};

use osm_failover::config::Config;

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

fn refusal(text: &str) -> (String, String) {
    match Config::parse(text, Path::new("config.toml")) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(e) => (e.to_string(), e.hint().to_owned()),
    }
}

/// Appended to [`SMALL`] (whose last line is 11), the refusal, its hint.
const APPENDED: &[(&str, &str, &str)] = &[
    (
        "exlude = []",
        "config.toml:12: unknown key \"exlude\" in [[root]]; did you mean \"exclude\"?",
        "the keys of [[root]] are name, path, exclude",
    ),
    (
        "settle = '1s'",
        "config.toml:12: unknown key \"settle\" in [[root]]; it belongs in [sync]",
        "the keys of [[root]] are name, path, exclude",
    ),
    (
        "zzz = 1",
        "config.toml:12: unknown key \"zzz\" in [[root]]",
        "the keys of [[root]] are name, path, exclude",
    ),
    (
        "\"a\\nb\" = 1",
        "config.toml:12: unknown key \"a\\nb\" in [[root]]",
        "the keys of [[root]] are name, path, exclude",
    ),
    (
        "[synch]",
        "config.toml:12: unknown key \"synch\" at the top; did you mean [sync]?",
        "the tables are [cluster], [[node]], [[root]], [vip], [[snat]], [sync], [activation], [paths], [[hook]], [metrics]",
    ),
    (
        "[[sync]]",
        "config.toml:12: \"sync\" is written [sync]",
        "write [sync], once, and its keys below it",
    ),
    (
        "[snat]",
        "config.toml:12: \"snat\" is written [[snat]]",
        "write [[snat]], one for each, and its keys below it",
    ),
    (
        "path = '/x'",
        "config.toml:12: \"path\" is given twice",
        "remove one of the two",
    ),
    (
        "[cluster]",
        "config.toml:12: \"cluster\" is given twice",
        "remove one of the two",
    ),
    (
        "exclude = [",
        "config.toml:12: this is not TOML: unclosed array, expected `]`",
        "correct this line",
    ),
    (
        "exclude = ['ok', '[a']",
        "config.toml:12: root.exclude: pattern \"[a\": unclosed character class; missing ']'",
        "correct or remove the pattern; the syntax is that of .gitignore",
    ),
    (
        "exclude = '*.tmp'",
        "config.toml:12: root.exclude: this is of type string",
        "write a list of strings, as [\"a\", \"b\"]",
    ),
    (
        "[[root]]\nname = 'R'\npath = '/x'",
        "config.toml:13: the name \"r\" is taken by the [[root]] of line 10",
        "give each a name of its own",
    ),
    (
        "[[root]]\nname = 's'",
        "config.toml:12: [[root]] has no \"path\"",
        "add path = \"/...\"",
    ),
    (
        "[[root]]\nname = 's'\npath = 'srv'",
        "config.toml:14: root.path: \"srv\" is not an absolute path",
        "write the whole path, from /",
    ),
    (
        "[[root]]\nname = 's'\npath = '/x/..'",
        "config.toml:14: root.path: \"/\" is the whole system",
        "name the directories that are to be kept equal, one [[root]] each",
    ),
    (
        "[[root]]\nname = 's'\npath = '/srv/x/../r/'",
        "config.toml:14: root.path: /srv/r is /srv/r, root \"r\" of line 11",
        "keep the outer one only; use its exclude for what must stay",
    ),
    (
        "[[root]]\nname = 's'\npath = '/srv/r/s'",
        "config.toml:14: root.path: /srv/r/s lies within /srv/r, root \"r\" of line 11",
        "keep the outer one only; use its exclude for what must stay",
    ),
    (
        "[[root]]\nname = 's'\npath = '/srv'",
        "config.toml:14: root.path: /srv contains /srv/r, root \"r\" of line 11",
        "keep the outer one only; use its exclude for what must stay",
    ),
    (
        "[[root]]\nname = 's'\npath = '/var/lib'",
        "config.toml:14: root.path: /var/lib contains the state_dir /var/lib/osm-failover of node \"a\"",
        "choose another path, or another state_dir",
    ),
    (
        "[[root]]\nname = 's'\npath = '/run/osm-failover/x'",
        "config.toml:14: root.path: /run/osm-failover/x lies within the run_dir /run/osm-failover of node \"a\"",
        "choose another path, or another run_dir",
    ),
    (
        "[[root]]\nname = 'a b'\npath = '/x'",
        "config.toml:13: root.name: \"a b\" is no name",
        "use letters, digits, \".\", \"-\" and \"_\", at most 64, and begin with a letter or digit",
    ),
    (
        "[[root]]\nname = ''\npath = '/x'",
        "config.toml:13: root.name: it is empty",
        "write a value, or leave the key out",
    ),
    (
        "[[node]]\nname = 'c'\naddress = 'x'",
        "config.toml:12: there are 3 nodes, not two",
        "write one [[node]] for each of the two nodes, the same file on both",
    ),
    (
        "[sync]\nsettle = '200'",
        "config.toml:13: sync.settle: \"200\" has no unit",
        "write a whole number and a unit, as \"200ms\", \"5s\", \"1m\", \"24h\" or \"7d\"",
    ),
    (
        "[sync]\nsettle = 200",
        "config.toml:13: sync.settle: this is of type integer",
        "write a whole number and a unit, as \"200ms\", \"5s\", \"1m\", \"24h\" or \"7d\"",
    ),
    (
        "[sync]\nscrub = 'daily'",
        "config.toml:13: sync.scrub: \"daily\" is not a duration",
        "write a whole number and a unit, as \"200ms\", \"5s\", \"1m\", \"24h\" or \"7d\"",
    ),
    (
        "[sync]\nwatcher = 'kqueue'",
        "config.toml:13: sync.watcher: \"kqueue\" is not one of its values",
        "write one of auto, inotify, fanotify",
    ),
    (
        "[sync]\nbandwidth_limit = '10'",
        "config.toml:13: sync.bandwidth_limit: \"10\" has no unit",
        "write bytes each second, as \"10MiB/s\", \"500KiB/s\" or \"1GB/s\"; \"0\" for no limit",
    ),
    (
        "[sync]\nmax_delete = '150%'",
        "config.toml:13: sync.max_delete: 150% is not between 1% and 100%",
        "write \"50%\", \"1000\", \"off\", or { percent = 50, count = 1000 } where both must be exceeded",
    ),
    (
        "[sync]\nmax_delete = { percentage = 5 }",
        "config.toml:13: sync.max_delete: unknown key \"percentage\"",
        "write \"50%\", \"1000\", \"off\", or { percent = 50, count = 1000 } where both must be exceeded",
    ),
    (
        "[sync]\npreserve_days = -1",
        "config.toml:13: sync.preserve_days: -1 is out of bounds",
        "write 0 to 36500",
    ),
    (
        "[activation]\nsplit_brain = 'keep-node:c'",
        "config.toml:13: activation.split_brain: there is no node \"c\"",
        "the nodes are a and b",
    ),
    (
        "[activation]\nsplit_brain = 'newest'",
        "config.toml:13: activation.split_brain: \"newest\" is not one of its values",
        "write one of manual, keep-newest-epoch, keep-node:NAME, merge-disjoint",
    ),
    (
        "[vip]\naddress = '10.0.0.1/24'",
        "config.toml:13: vip.address: \"10.0.0.1/24\" is no IP address",
        "write an IPv4 or IPv6 address, without a prefix",
    ),
    (
        "[[snat]]\ndestination = '10.0.0.0/8'",
        "config.toml:12: [[snat]] has no address, and there is no [vip]",
        "add address = \"...\" here, or a [vip]",
    ),
    (
        "[[snat]]\ndestination = '10.0.0.1/8'",
        "config.toml:13: snat.destination: \"10.0.0.1/8\" has bits beyond its prefix; the network is \"10.0.0.0/8\"",
        "write the network's address and prefix, as \"192.168.0.0/24\" or \"fd00::/64\"",
    ),
    (
        "[[snat]]\ndestination = '10.0.0.0/8'\naddress = 'fd00::1'",
        "config.toml:13: snat.destination: 10.0.0.0/8 and the address fd00::1 are not of one family",
        "write both as IPv4 or both as IPv6",
    ),
    (
        "[[snat]]\ndestination = '10.0.0.0/8'\naddress = '10.0.0.1'\nport = 80",
        "config.toml:15: snat.port: a port without a protocol",
        "add protocol = \"tcp\", \"udp\" or \"sctp\"",
    ),
    (
        "[[snat]]\ndestination = '10.0.0.0/8'\naddress = '10.0.0.1'\nout_interface = 'eth0; drop'",
        "config.toml:15: snat.out_interface: \"eth0; drop\" is no interface name",
        "write it as \"ip link\" shows it",
    ),
    (
        // A label of an address: no packet leaves by an interface of that name.
        "[[snat]]\ndestination = '10.0.0.0/8'\naddress = '10.0.0.1'\nout_interface = 'eth0:0'",
        "config.toml:15: snat.out_interface: \"eth0:0\" is no interface name",
        "write it as \"ip link\" shows it",
    ),
    (
        "[[snat]]\ndestination = 'fd00::/64'\naddress = '10.0.0.1'",
        "config.toml:13: snat.destination: fd00::/64 and the address 10.0.0.1 are not of one family",
        "write both as IPv4 or both as IPv6",
    ),
    (
        "[vip]\naddress = '10.0.0.200'\n[[snat]]\ndestination = 'fd00::/64'",
        "config.toml:15: snat.destination: fd00::/64 and the address 10.0.0.200 are not of one family",
        "write both as IPv4 or both as IPv6",
    ),
    (
        "[vip]\naddress = '10.0.0.200'\nflush_conntrack = 'yes'",
        "config.toml:14: vip.flush_conntrack: this is of type string",
        "write true or false without quotes",
    ),
    (
        "[metrics]\ntextfile = '/srv/r/x.prom'",
        "config.toml:11: root.path: /srv/r contains the textfile /srv/r/x.prom of [metrics]",
        "choose another textfile, outside of every root",
    ),
    (
        "[paths]\nstate_dir = 'state'",
        "config.toml:13: paths.state_dir: \"state\" is not an absolute path",
        "write the whole path, from /",
    ),
    (
        "[[hook]]\nrun = []",
        "config.toml:13: hook.run: it names no program",
        "write the program and its arguments, as [\"/usr/bin/program\", \"argument\"]",
    ),
    (
        "[[hook]]\nrun = ['x']\non = ['commit']",
        "config.toml:14: hook.on: \"commit\" is not one of its values",
        "write one of applied, activated, deactivated, problem, or a list of them",
    ),
    (
        "[[hook]]\nrun = ['x']\non = 'apply'",
        "config.toml:14: hook.on: \"apply\" is not one of its values; did you mean \"applied\"?",
        "write one of applied, activated, deactivated, problem, or a list of them",
    ),
    (
        "[[hook]]\nrun = ['x']\non = ['applied', 'deactivate']",
        "config.toml:14: hook.on: \"deactivate\" is not one of its values; did you mean \"deactivated\"?",
        "write one of applied, activated, deactivated, problem, or a list of them",
    ),
    (
        "[[hook]]\nrun = ['x']\non = []",
        "config.toml:14: hook.on: it is empty",
        "write one of applied, activated, deactivated, problem, or a list of them",
    ),
    (
        "[[hook]]\nrun = ['x']\non = 7",
        "config.toml:14: hook.on: this is of type integer",
        "write a string, or a list of strings, as [\"a\", \"b\"]",
    ),
    (
        "[[hook]]\nrun = ['x', '--all={paths}']",
        "config.toml:13: hook.run: \"--all={paths}\" has {paths} inside",
        "write \"{paths}\" as an argument of its own; each path becomes one argument",
    ),
    (
        "[[hook]]\nrun = ['x']\ntimeout = '0'",
        "config.toml:14: hook.timeout: no program ends in no time",
        "write how long it may take, as \"30s\"",
    ),
    (
        "[[hook]]\nrun = ['x']\npaths = ['*.conf']\non = 'activated'",
        "config.toml:14: hook.paths: only changes that were applied have paths",
        "leave paths out, or add \"applied\" to on",
    ),
    (
        "[[hook]]\nrun = ['x']\nvalidate = ['x', '-f{paths}']",
        "config.toml:14: hook.validate: \"-f{paths}\" has {paths} inside",
        "write \"{paths}\" as an argument of its own; each path becomes one argument",
    ),
    (
        "[[hook]]\nrun = ['x']\nvalidate = 'yes'",
        "config.toml:14: hook.validate: this is of type string",
        "write a list of strings, as [\"a\", \"b\"]",
    ),
];

/// Text of [`SMALL`], what takes its place, the refusal, its hint.
const REPLACED: &[(&str, &str, &str, &str)] = &[
    (
        "[cluster]\nname = \"c\"\n",
        "",
        "config.toml: there is no [cluster]",
        "add [cluster] and below it name = \"...\"",
    ),
    (
        "name = \"c\"",
        "nmae = \"c\"",
        "config.toml:2: unknown key \"nmae\" in [cluster]; did you mean \"name\"?",
        "the keys of [cluster] are name",
    ),
    (
        "\"b\"",
        "\"a\"",
        "config.toml:7: the name \"a\" is taken by the [[node]] of line 4",
        "give each a name of its own",
    ),
    (
        "[[node]]\nname = \"b\"\naddress = \"10.0.0.2\"\n",
        "",
        "config.toml: there is only one [[node]]",
        "write one [[node]] for each of the two nodes, the same file on both",
    ),
    (
        "[[root]]\nname = \"r\"\npath = \"/srv/r\"\n",
        "",
        "config.toml: there is no [[root]]",
        "add a [[root]] with name and path for each directory that is to be kept equal",
    ),
    (
        "address = \"10.0.0.1\"",
        "",
        "config.toml:3: [[node]] has no \"address\"",
        "add address = \"10.0.0.1\"",
    ),
    (
        "10.0.0.1",
        "-oProxyCommand=x",
        "config.toml:5: node.address: \"-oProxyCommand=x\" begins with \"-\" or has a blank",
        "write the bare name or address",
    ),
    (
        "address = \"10.0.0.1\"",
        "address = \"x\"\nport = 0",
        "config.toml:6: node.port: 0 is out of bounds",
        "write 1 to 65535",
    ),
    (
        "address = \"10.0.0.1\"",
        "address = \"x\"\nport = \"22\"",
        "config.toml:6: node.port: this is of type string",
        "write a whole number without quotes",
    ),
    (
        "address = \"10.0.0.1\"",
        "address = \"x\"\nstate_dir = \"/srv/r/s\"",
        "config.toml:12: root.path: /srv/r contains the state_dir /srv/r/s of node \"a\"",
        "choose another path, or another state_dir, line 6",
    ),
];

#[test]
fn every_refusal_in_its_words() {
    for (text, message, hint) in APPENDED {
        let got = refusal(&format!("{SMALL}{text}\n"));
        assert_eq!(
            (got.0.as_str(), got.1.as_str()),
            (*message, *hint),
            "\n{text}"
        );
    }
    for (old, new, message, hint) in REPLACED {
        let got = refusal(&SMALL.replacen(old, new, 1));
        assert_eq!(
            (got.0.as_str(), got.1.as_str()),
            (*message, *hint),
            "\n{new}"
        );
    }
}

#[test]
fn names_and_words_at_their_limits() {
    let named = |n: usize| SMALL.replacen("\"r\"", &format!("\"{}\"", "x".repeat(n)), 1);
    assert_eq!(parse(&named(64)).roots[0].name.len(), 64);
    assert!(
        refusal(&named(65))
            .0
            .starts_with("config.toml:10: root.name: \"xxx")
    );
    let (message, _) = refusal(&format!("{SMALL}{} = 1\n", "k".repeat(100_000)));
    assert!(message.len() < 200, "a long word is cut: {message}");
}

#[test]
fn the_number_of_roots_at_its_limit() {
    let roots = |n: usize| {
        (1..n)
            .map(|i| format!("[[root]]\nname = 'r{i}'\npath = '/r{i}'\n"))
            .collect::<String>()
    };
    assert_eq!(parse(&format!("{SMALL}{}", roots(1024))).roots.len(), 1024);
    let (message, _) = refusal(&format!("{SMALL}{}", roots(1025)));
    assert_eq!(message, "config.toml:3081: there are more than 1024 roots");
}

#[test]
fn a_file_that_cannot_be_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let fails = |path: PathBuf, message: &str, hint: &str| {
        let e = Config::load(&path).expect_err("no configuration");
        assert_eq!(e.to_string(), format!("{}: {message}", path.display()));
        assert_eq!(e.hint(), hint);
    };
    fails(
        dir.path().join("none.toml"),
        "cannot read the configuration: No such file or directory",
        "write it (config.example.toml shows every key), or name another with --config",
    );
    fails(
        dir.path().to_owned(),
        "cannot read the configuration: Is a directory",
        "name a readable file with --config",
    );
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, b"\xff\xfe").expect("written");
    fails(
        binary,
        "cannot read the configuration: stream did not contain valid UTF-8",
        "save it as UTF-8 text",
    );
    let large = dir.path().join("large.toml");
    std::fs::write(&large, vec![b'\n'; 1024 * 1024 + 1]).expect("written");
    fails(
        large,
        "the configuration is larger than 1024 KiB",
        "is this the right file?",
    );
    let good = dir.path().join("good.toml");
    std::fs::write(&good, SMALL).expect("written");
    assert_eq!(Config::load(&good).map(|c| c.cluster), Ok("c".to_owned()));
}
