//! shellcheck, dash, systemd-analyze and ocf-tester find nothing.

use std::fs;
use std::process::Command;

use crate::common::steps::{is_root, said};
use crate::{bare, file, have, pair, programs, role};

const SCRIPTS: [&str; 4] = [
    "init.d/osm-failover",
    "init.d/osm-failover-resync",
    "keepalived/notify.sh",
    "ocf/osm-failover",
];
const BASH: [&str; 4] = [
    "tests/run",
    "tests/install",
    "tests/cluster/run",
    "tests/faults/run",
];

#[test]
fn shellcheck_is_silent() {
    if !have("shellcheck", "shellcheck") {
        return;
    }
    for (shell, scripts) in [("dash", &SCRIPTS[..]), ("bash", &BASH[..])] {
        // What ocf-shellfuncs defines is not visible to it.
        let out = Command::new("shellcheck")
            .args(["--shell", shell, "--exclude", "SC2154"])
            .args(scripts.iter().map(|s| file(s)))
            .output()
            .expect("shellcheck runs");
        assert!(out.status.success(), "{}", said(&out).1);
    }
}

#[test]
fn dash_understands_every_script() {
    if !have("dash", "dash") {
        return;
    }
    for script in SCRIPTS {
        let out = Command::new("dash").arg("-n").arg(file(script)).output();
        let (code, text) = said(&out.expect("dash runs"));
        assert_eq!((code, &*text), (0, ""), "{script}");
    }
}

#[test]
fn the_lsb_headers_are_whole() {
    for script in &SCRIPTS[..2] {
        let text = fs::read_to_string(file(script)).expect("a script");
        let block = text
            .split("### BEGIN INIT INFO\n")
            .nth(1)
            .and_then(|t| t.split("### END INIT INFO").next())
            .expect("a block");
        for key in [
            "Provides:",
            "Required-Start:",
            "Required-Stop:",
            "Default-Start:",
            "Default-Stop:",
            "Short-Description:",
            "Description:",
        ] {
            let line = format!("# {key}");
            assert!(
                block.lines().any(|l| l.starts_with(&line)),
                "{script}: {key}"
            );
        }
        let calls = |l: &str| l.contains("init-functions") && !l.starts_with('#');
        assert!(
            !text.lines().any(calls),
            "{script}: on a systemd host systemctl would answer in its place"
        );
    }
}

#[test]
fn systemd_accepts_the_units() {
    if !have("systemd-analyze", "systemd") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut units = Vec::new();
    for unit in fs::read_dir(file("systemd")).expect("units").flatten() {
        let text = fs::read_to_string(unit.path()).expect("a unit");
        // Programs that are not there would be complained about, rightly.
        let text = text.replace("/usr/local/bin", &programs().display().to_string());
        let copy = dir.path().join(unit.file_name());
        fs::write(&copy, text).expect("a copy");
        units.push(copy);
    }
    assert!(units.len() >= 2);
    let out = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units)
        .output();
    assert_eq!(
        said(&out.expect("systemd-analyze runs")),
        (0, String::new())
    );
}

#[test]
fn ocf_tester_finds_nothing() {
    if !is_root("ocf-tester")
        || !have("ocf-tester", "resource-agents")
        || !have("xmllint", "libxml2-utils")
    {
        return;
    }
    // As root runs it: `nobody` must be able to read the agent's metadata.
    let dir = tempfile::Builder::new()
        .tempdir_in("/run")
        .expect("a directory");
    let agent = dir.path().join("osm-failover");
    fs::copy(file("ocf/osm-failover"), &agent).expect("a copy");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), open).expect("it is ours");
    for promotable in ["false", "true"] {
        let pair = pair();
        let out = bare("ocf-tester", &pair)
            .env_remove("OSM_CONFIG")
            .env_remove("OSM_NODE")
            .env("OCF_RESKEY_CRM_meta_promotable", promotable)
            .env("HA_RSCTMP", dir.path())
            .args(["-n", "failover", "-o", "node=osm1", "-o"])
            .arg(format!("config={}", pair.config().display()))
            .arg(&agent)
            .output();
        let (code, text) = said(&out.expect("ocf-tester runs"));
        assert_eq!(code, 0, "promotable {promotable}: {text}");
        assert!(text.contains("passed all tests"), "{text}");
        // What it says besides are the actions an agent may leave out.
        let optional = |l: &str| {
            l.contains("(optional)") || l.contains("passed all") || l.contains("Beginning")
        };
        let odd: Vec<_> = text
            .lines()
            .filter(|l| !l.is_empty() && !optional(l))
            .collect();
        assert!(odd.is_empty(), "{odd:?}");
        assert_eq!(role(&pair), "stopped");
    }
}
