//! Two nodes that know nothing of each other, each with an `sshd` of its own in a network of its own, are paired.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::netns::{End, NetPair, Sshd, sshd_at};
use crate::common::steps::{feed, must, said};

const CTL: &str = env!("CARGO_BIN_EXE_syncctl");
const SYNCD: &str = env!("CARGO_BIN_EXE_syncd");
const ENDS: [End; 2] = [End::A, End::B];
const NAMES: [&str; 2] = ["osm1", "osm2"];

/// Two nodes with nothing but a configuration, and a person's key for the second.
struct Site {
    sshd: [Sshd; 2],
    net: NetPair,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let made = NetPair::new().and_then(|net| {
            let sshd = |end: End| {
                let home = dir.path().join(format!("sshd-{}", end as usize));
                sshd_at(&net, end, &home, &[], "")
            };
            Ok(([sshd(End::A)?, sshd(End::B)?], net))
        });
        match made {
            Ok((sshd, net)) => {
                let site = Self { sshd, net, dir };
                // The first node's sshd lets nobody in yet.
                fs::write(site.authorized(End::A), "# somebody's line").expect("a file");
                site.write_config();
                Some(site)
            }
            Err(why) => {
                println!("skipped: {why}");
                None
            }
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.at("config.toml")
    }

    fn authorized(&self, end: End) -> PathBuf {
        self.at(&format!("sshd-{}/authorized_keys", end as usize))
    }

    /// The key with which the other node reaches this one, and where it pins this one's host key.
    fn trust(&self, of: End) -> [PathBuf; 2] {
        ["id", "known"].map(|f| self.at(&format!("to-{}/{f}", NAMES[of as usize])))
    }

    fn serve(&self, end: End) -> String {
        let config = self.config();
        format!(
            "'{SYNCD}' serve --config '{}' --node {}",
            config.display(),
            NAMES[end as usize]
        )
    }

    fn write_config(&self) {
        let mut text = String::from("[cluster]\nname = 'pair'\n");
        for end in ENDS {
            let (name, here) = (NAMES[end as usize], self.at(NAMES[end as usize]));
            let [id, known] = self.trust(end);
            for dir in ["data", "state", "run"] {
                fs::create_dir_all(here.join(dir)).expect("made");
            }
            text += &format!(
                "[[node]]\nname = '{name}'\naddress = '{}'\nuser = 'root'\nidentity_file = '{}'\nknown_hosts = '{}'\n\
                 remote_command = \"{}\"\nroot_prefix = '{here}'\nstate_dir = '{here}/state'\nrun_dir = '{here}/run'\n",
                self.net.address(end),
                id.display(),
                known.display(),
                self.serve(end),
                here = here.display(),
            );
        }
        text += "[[root]]\nname = 'data'\npath = '/data'\n";
        fs::write(self.config(), text).expect("the configuration");
    }

    /// A command of ours on a node.
    fn ctl(&self, end: End, args: &[&str]) -> Command {
        let mut c = self.net.command(end, CTL);
        c.arg("--config").arg(self.config());
        c.args(["--node", NAMES[end as usize]]).args(args);
        c
    }

    /// What is run on the second node.
    fn remote(&self) -> String {
        format!(
            "'{CTL}' --config '{}' --node osm2 pair --answer --authorized-keys '{}'",
            self.config().display(),
            self.authorized(End::B).display()
        )
    }

    /// Pairs, from the first node.
    fn pair(&self, args: &[&str]) -> (i32, String) {
        self.pair_with(&self.remote(), args)
    }

    /// As [`Site::pair`], with this on the other node.
    fn pair_with(&self, remote: &str, args: &[&str]) -> (i32, String) {
        let host = self.net.address(End::B).to_string();
        let mut c = self.ctl(End::A, &["pair", &host, "--remote", remote]);
        c.arg("--identity").arg(&self.sshd[1].client_key);
        c.arg("--authorized-keys").arg(self.authorized(End::A));
        said(&c.args(args).output().expect("syncctl runs"))
    }

    /// The fingerprint of a node's host key.
    fn fingerprint(&self, end: End) -> String {
        let key = self.at(&format!("sshd-{}/host_key.pub", end as usize));
        let out = Command::new("ssh-keygen").arg("-lf").arg(key).output();
        let (_, text) = said(&out.expect("ssh-keygen runs"));
        text.split_whitespace()
            .nth(1)
            .expect("a fingerprint")
            .to_owned()
    }

    /// Every file that pairing may write, with its content.
    fn written(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let trust = ENDS.into_iter().flat_map(|e| self.trust(e));
        let files = ENDS.into_iter().map(|e| self.authorized(e)).chain(trust);
        files.map(|f| (f.clone(), fs::read(f).ok())).collect()
    }
}

fn mode(path: &Path) -> u32 {
    let meta = fs::metadata(path).expect("there");
    meta.permissions().mode() & 0o777
}

#[test]
fn two_nodes_are_paired_and_a_second_time_changes_nothing() {
    let Some(site) = Site::new() else { return };
    let before = site.written();
    let right = site.fingerprint(End::B);

    // Nobody said that the key is the right one.
    let (code, text) = site.pair(&[]);
    assert_eq!(code, 6, "{text}");
    assert!(
        text.contains(&right) && text.contains("--fingerprint"),
        "{text}"
    );
    let (code, text) = site.pair(&[
        "--fingerprint",
        "SHA256:uNiVztksCsDhcc0u9e8BrdJXd9dkePR5QvJ0ZVtQ6vE",
    ]);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains(&right), "{text}");
    assert_eq!(
        site.sshd[1].accepted(),
        0,
        "nobody logged in to a host that is not trusted"
    );
    let (code, text) = site.pair(&["--fingerprint", &right, "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("would").count(), 6, "{text}");
    assert_eq!(site.written(), before, "nothing was changed by any of them");

    let (code, text) = site.pair(&["--fingerprint", &right]);
    assert_eq!(code, 0, "{text}");
    println!("{text}");
    assert_eq!(text.matches("made ").count(), 6, "{text}");
    assert!(text.contains("paired"), "{text}");
    for end in ENDS {
        let (code, text) = said(&site.ctl(end, &["check"]).output().expect("it runs"));
        assert_eq!(code, 0, "{text}");
        assert_eq!(site.trust(end).map(|f| mode(&f)), [0o600; 2]);
    }
    let keys = fs::read_to_string(site.authorized(End::A)).expect("read");
    let lines: Vec<_> = keys.lines().collect();
    assert_eq!(lines[0], "# somebody's line");
    let bound = format!("restrict,command=\"{}\" ssh-ed25519 ", site.serve(End::A));
    assert!(
        lines[1].starts_with(&bound) && lines[1].ends_with(" osm-failover@osm2"),
        "{keys}"
    );
    assert_eq!(lines.len(), 2, "{keys}");
    // The person's own line is as it was.
    let before_b = before[1].1.clone().expect("a file");
    let now = fs::read(site.authorized(End::B)).expect("read");
    assert!(now.starts_with(&before_b) && now.len() > before_b.len());

    let done = site.written();
    for args in [&["--yes"][..], &["--fingerprint", &right], &[]] {
        let (code, text) = site.pair(args);
        assert_eq!(code, 0, "{args:?}: {text}");
        assert!(!text.contains("made"), "{text}");
        assert_eq!(site.written(), done, "{args:?}");
    }
    let (code, text) = site.pair(&["--json"]);
    assert_eq!(code, 0, "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["paired"], true);
    assert_eq!(
        report["steps"].as_array().map(Vec::len),
        Some(8),
        "{report}"
    );
    let (code, text) = site.pair(&[
        "--fingerprint",
        "SHA256:uNiVztksCsDhcc0u9e8BrdJXd9dkePR5QvJ0ZVtQ6vE",
    ]);
    assert_eq!(code, 6, "pinned, and not the one that is meant: {text}");
    assert_eq!(site.written(), done);
}

#[test]
fn a_person_at_a_terminal_is_asked() {
    let Some(site) = Site::new() else { return };
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: script is not installed");
        return;
    }
    let before = site.written();
    let host = site.net.address(End::B).to_string();
    let remote = site.remote();
    let words = |c: &Command| -> String {
        let all = std::iter::once(c.get_program()).chain(c.get_args());
        let quoted = all.map(|w| format!("'{}'", w.to_string_lossy().replace('\'', "'\\''")));
        quoted.collect::<Vec<_>>().join(" ")
    };
    let mut pairing = site.ctl(End::A, &["pair", &host, "--remote", &remote]);
    pairing.arg("--identity").arg(&site.sshd[1].client_key);
    pairing
        .arg("--authorized-keys")
        .arg(site.authorized(End::A));
    // Said at a terminal of its own.
    let said_at_terminal = |answer: &str| {
        let mut c = Command::new("script");
        c.args(["-qec", &words(&pairing), "/dev/null"]);
        feed(c, answer.as_bytes())
    };
    for answer in ["no\n", "y\n", "\n"] {
        let (code, text) = said_at_terminal(answer);
        assert_eq!(code, 6, "{text}");
        assert!(text.contains(&site.fingerprint(End::B)), "{text}");
        assert!(text.contains("you did not say yes"), "{text}");
        assert_eq!(site.written(), before);
    }
    let (code, text) = said_at_terminal("yes\n");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("paired"), "{text}");
    // What is pinned is not asked again.
    let (code, text) = said_at_terminal("");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn another_host_key_than_the_pinned_one_is_refused_on_either_side() {
    let Some(site) = Site::new() else { return };
    for (end, who) in [(End::B, "osm1"), (End::A, "osm2")] {
        // One node pinned a key of the other that it does not have any more.
        let [_, known] = site.trust(end);
        let stray = site.at(&format!("stray-{who}"));
        must(
            "ssh-keygen",
            &[
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                &stray.display().to_string(),
            ],
        );
        let key = fs::read_to_string(stray.with_extension("pub")).expect("a key");
        fs::create_dir_all(known.parent().expect("a directory")).expect("made");
        let line = format!("{} {key}", site.net.address(end));
        fs::write(&known, &line).expect("pinned");
        let (code, text) = site.pair(&["--yes"]);
        assert_eq!(code, 6, "{text}");
        let remedy = format!(
            "ssh-keygen -f {} -R '{}'",
            known.display(),
            site.net.address(end)
        );
        assert!(text.contains(&remedy), "{text}");
        assert!(text.contains(&site.fingerprint(end)), "{text}");
        assert_eq!(
            fs::read_to_string(&known).expect("read"),
            line,
            "left as it is"
        );
        let let_in = fs::read_to_string(site.authorized(end)).expect("read");
        assert!(!let_in.contains("osm-failover@"), "{let_in}");
        // The remedy is one.
        must(
            "ssh-keygen",
            &[
                "-q",
                "-f",
                &known.display().to_string(),
                "-R",
                &site.net.address(end).to_string(),
            ],
        );
    }
    let (code, text) = site.pair(&["--yes"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_stops_it_is_told_with_the_remedy() {
    let Some(site) = Site::new() else { return };
    for (remote, exit, part) in [
        ("no-such-syncctl", 1, "install osm-failover there first"),
        ("echo welcome", 1, "gave no answer that is understood"),
        (
            "echo broken >&2; exit 3",
            1,
            "ended without an answer (Some(3))",
        ),
    ] {
        let (code, text) = site.pair_with(remote, &["--yes"]);
        assert_eq!(code, exit, "{text}");
        assert!(text.contains(part), "{text}");
    }
    // Nobody is let in with this key.
    let stray = site.at("stray");
    must(
        "ssh-keygen",
        &[
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            &stray.display().to_string(),
        ],
    );
    fs::copy(&stray, &site.sshd[1].client_key).expect("another key");
    let (code, text) = site.pair(&["--yes"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("--identity"), "{text}");
    // A key of the first node's that needs a passphrase would have nobody type it.
    let [id, _] = site.trust(End::B);
    fs::remove_file(&id).expect("it was made");
    must(
        "ssh-keygen",
        &[
            "-q",
            "-t",
            "ed25519",
            "-N",
            "passphrase",
            "-f",
            &id.display().to_string(),
        ],
    );
    let (code, text) = site.pair(&["--yes"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("without a passphrase"), "{text}");
    // The other node's sshd is down.
    must("kill", &[&site.sshd[1].pid().to_string()]);
    let (code, text) = (0..100)
        .map(|_| site.pair(&["--yes"]))
        .find(|(code, _)| *code == 4)
        .expect("it is down");
    assert!(text.contains("Connection refused"), "{code}: {text}");
    for host in ["osm1", "root@osm1"] {
        let mut c = site.ctl(End::A, &["pair", host]);
        let (code, text) = said(&c.output().expect("it runs"));
        assert_eq!(code, 2, "{text}");
    }
}

#[test]
fn questions_that_are_none_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.toml");
    let text = "[cluster]\nname = 'c'\n[[node]]\nname = 'a'\naddress = '127.0.0.1'\n[[node]]\nname = 'b'\n\
                address = '127.0.0.1'\n[[root]]\nname = 'r'\npath = '/nowhere'\n";
    fs::write(&config, text).expect("written");
    let ask = |version: u32, cluster: &str, node: &str, key: &str| {
        format!(
            "{{\"ask\":{{\"version\":{version},\"cluster\":\"{cluster}\",\"node\":\"{node}\",\"public_key\":\"{key}\",\
             \"fingerprint\":\"SHA256:x\",\"dry_run\":true}}}}\n"
        )
    };
    let blob = "A".repeat(40);
    let good = format!("ssh-ed25519 {blob}");
    for (line, part) in [
        ("\n".to_owned(), "no question"),
        ("{}\n".to_owned(), "no question"),
        ("\"probe".to_owned(), "no question"),
        ("x".repeat(1 << 20), "no question"),
        (ask(2, "c", "a", &good), "another version"),
        (ask(1, "d", "a", &good), "is expected"),
        (ask(1, "c", "b", &good), "is expected"),
        (
            ask(1, "c", "a", &format!("command=\\\"x\\\" {good}")),
            "no public key",
        ),
        (
            ask(1, "c", "a", &format!("{good} x\\n{good}")),
            "no public key",
        ),
    ] {
        let mut c = Command::new(CTL);
        c.arg("--config").arg(&config);
        c.args(["--node", "b", "pair", "--answer", "--authorized-keys"]);
        c.arg(dir.path().join("keys"));
        let (code, said) = feed(c, line.as_bytes());
        assert_eq!(code, 0, "{said}");
        assert!(
            said.contains("\"refused\"") && said.contains(part),
            "{part}: {said}"
        );
        assert!(!dir.path().join("keys").exists());
    }
}
