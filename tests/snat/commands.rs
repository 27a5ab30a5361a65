//! `syncctl snat` as a person, a monitoring system and a unit of systemd use it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::netns::End;
use crate::common::node::{Pair, Side};
use crate::common::steps::{LONG, ctl, idle, start};
use crate::lab::{Lab, Tools, lab, said, with_each_tool};
use crate::options;

#[test]
fn status_says_what_is_in_force() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.do_snat(&["apply"]);
        let (code, out, _) = lab.snat(&["status", "--json"]);
        let (tool, place) = match lab.tools {
            Tools::Nft => ("nft", format!("table inet osm-failover-{}", lab.cluster)),
            _ => (
                "iptables",
                format!("chain OSM-{} of table nat", lab.cluster),
            ),
        };
        let b = lab.address(End::B);
        let expected = json!({
            "state": "present", "configured": 2, "by": tool, "place": place, "why": "",
            "rules": [format!("to {b}/32: leaves with {}", lab.vip()),
                      format!("to fd00:5a::/64: leaves with {}", lab.vip6())],
            "left_alone": [], "vip": { "address": lab.vip().to_string(), "here": false },
        });
        let got: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, got), (0, expected));
        lab.move_vip(true);
        let words = lab.do_snat(&["status"]);
        assert_eq!(
            words,
            format!(
                "SNAT rules: in force ({tool}, {place})\n  to {b}/32: leaves with {vip}\n  \
                 to fd00:5a::/64: leaves with {}\nvirtual IP {vip}: on this node\n",
                lab.vip6(),
                vip = lab.vip()
            )
        );
    });
}

#[test]
fn what_was_done_is_told_as_json_too() {
    let Some(lab) = lab(Tools::Nft) else { return };
    lab.configure_both();
    lab.move_vip(true);
    let told = |args: &[&str]| -> Value {
        serde_json::from_str(&lab.do_snat(&[args, &["--json"]].concat())).expect("JSON")
    };
    let applied = json!({ "rules": 2, "by": "nft", "warnings": [] });
    assert_eq!(told(&["apply"]), applied);
    assert_eq!(told(&["remove"]), json!({ "found": true, "unknown": "" }));
    assert_eq!(told(&["remove"]), json!({ "found": false, "unknown": "" }));
    lab.configure("");
    let nothing = json!({ "rules": 0, "by": null, "warnings": [] });
    assert_eq!(told(&["apply"]), nothing);
}

#[test]
fn check_looks_at_what_the_rules_need() {
    for tools in [Tools::Nft, Tools::Iptables, Tools::None] {
        let Some(lab) = lab(tools) else { return };
        lab.configure(&format!(
            "[vip]\naddress = \"{}\"\nflush_conntrack = true\n\
             [[snat]]\ndestination = \"198.51.100.0/24\"\nout_interface = \"second\"\n",
            lab.vip()
        ));
        let out = lab.on_node(|| {
            crate::lab::hide(&["/usr/sbin/conntrack"]);
            let check = Command::new(env!("CARGO_BIN_EXE_syncctl"))
                .arg("--config")
                .arg(lab.config_file())
                .args(["--node", "osm1", "check", "--json"])
                .output();
            check.expect("syncctl runs").stdout
        });
        let report: Value = serde_json::from_slice(&out).expect("JSON");
        let checks = report["checks"].as_array().expect("a list").iter();
        let ours: Vec<_> = checks
            .filter(|c| c["name"] == "snat" || c["name"] == "vip")
            .map(|c| {
                format!(
                    "{}: {}",
                    c["state"].as_str().expect("a state"),
                    c["message"].as_str().expect("words")
                )
            })
            .collect();
        let tool = match tools {
            Tools::Nft => "ok: rules are installed by nft",
            Tools::None => "fail: neither nft nor iptables is on this host",
            _ => "ok: rules are installed by iptables",
        };
        assert_eq!(
            ours,
            [
                tool,
                "warn: this host has no interface second",
                "warn: conntrack is not on this host"
            ]
        );
    }
}

/// Two nodes of which A lives in the lab, with rules to B.
fn pair(lab: &Lab) -> Pair {
    let mut options = options!();
    options.launcher = lab.launcher();
    options.tables = format!(
        "[vip]\naddress = \"{}\"\n[[snat]]\ndestination = \"{}\"\n",
        lab.vip(),
        lab.address(End::B)
    );
    idle(options)
}

#[test]
fn if_active_does_nothing_on_a_node_that_is_not_active() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let mut pair = pair(&lab);
    let state = |pair: &Pair| {
        let out = pair.syncctl(Side::A, &["snat", "status", "--json"]);
        let out = out.expect("syncctl runs");
        let json: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        json["state"].as_str().expect("a state").to_owned()
    };
    let apply = ["snat", "apply", "--if-active"];
    let nothing = (0, "this node is not active, nothing to do\n".to_owned());
    assert_eq!(ctl(&pair, Side::A, &apply), nothing, "nothing runs");
    assert_eq!(state(&pair), "absent");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    assert_eq!(ctl(&pair, Side::B, &apply), nothing, "the standby");
    assert_eq!(state(&pair), "absent");
    let (code, words) = ctl(&pair, Side::A, &apply);
    assert_eq!(code, 0, "{words}");
    assert!(words.contains("1 SNAT rule in force (nft)"), "{words}");
    assert_eq!(state(&pair), "present");
    pair.stop(Side::A);
    assert_eq!(ctl(&pair, Side::A, &["snat", "remove"]).0, 0);
    assert_eq!(ctl(&pair, Side::A, &apply), nothing, "active no more");
    assert_eq!(state(&pair), "absent");
}

/// The unit with the program of this build, checked by systemd itself.
#[test]
fn the_unit_is_what_systemd_takes() {
    let analyze = Path::new("/usr/bin/systemd-analyze");
    if !analyze.exists() {
        println!("skipped: the unit: needs systemd-analyze (Debian package systemd)");
        return;
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/osm-failover-snat@.service");
    let text = std::fs::read_to_string(unit).expect("the unit");
    let installed = "/usr/local/bin/syncctl";
    assert!(text.contains(installed));
    let dir = tempfile::tempdir().expect("a folder");
    let copy = dir.path().join("osm-failover-snat@nftables.service");
    let text = text.replace(installed, env!("CARGO_BIN_EXE_syncctl"));
    std::fs::write(&copy, text).expect("written");
    let out = Command::new(analyze).arg("verify").arg(&copy).output();
    let out = out.expect("it runs");
    assert_eq!(said(&out), "");
    assert!(out.status.success());
}
