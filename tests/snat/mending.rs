//! Twice is as good as once, half is made whole, two at once do no harm, and nothing of an earlier time is left.

use std::process::Stdio;

use crate::lab::{Lab, Tools, with_each_tool};

/// The command that lists what is ours of a family, without handles and counters.
fn ours(lab: &Lab) -> String {
    let chain = format!("OSM-{}", lab.cluster);
    match lab.tools {
        Tools::Nft => lab.sh(&format!("nft list table inet osm-failover-{}", lab.cluster)),
        _ => lab.sh(&format!(
            "for t in iptables ip6tables; do $t -w 5 -t nat -S | grep {chain}; done; true"
        )),
    }
}

#[test]
fn twice_is_as_good_as_once() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.do_snat(&["apply"]);
        let once = ours(lab);
        lab.do_snat(&["apply"]);
        assert_eq!(ours(lab), once);
        assert_eq!(lab.do_snat(&["remove"]), "SNAT rules removed\n");
        assert_eq!(
            lab.do_snat(&["remove"]),
            "no SNAT rules of ours, nothing to remove\n"
        );
    });
}

/// Ways in which the rules can be half there.
fn damages(lab: &Lab) -> Vec<String> {
    let (name, chain) = (&lab.cluster, format!("OSM-{}", lab.cluster));
    let table = format!("inet osm-failover-{name}");
    let jump = format!("POSTROUTING -m comment --comment 'osm-failover {name}' -j {chain}");
    match lab.tools {
        Tools::Nft => vec![
            format!("nft delete chain {table} postrouting"),
            format!("nft flush chain {table} postrouting"),
            format!("nft insert rule {table} postrouting accept"),
            format!("nft add chain {table} another"),
            format!(
                "nft delete rule {table} postrouting handle \
                 $(nft -a list table {table} | grep -o 'snat ip to.*handle [0-9]*' | grep -o '[0-9]*$' | head -1)"
            ),
            format!("nft delete table {table}; nft add table {table}"),
            format!(
                "nft delete table {table}; nft 'add table {table}; \
                 add chain {table} postrouting {{ type filter hook input priority 0; }}'"
            ),
        ],
        _ => vec![
            format!("iptables -w 5 -t nat -D {jump}"),
            format!("iptables -w 5 -t nat -F {chain}"),
            format!("iptables -w 5 -t nat -D {chain} 1"),
            format!(
                "ip6tables -w 5 -t nat -D {jump}; ip6tables -w 5 -t nat -F {chain}; ip6tables -w 5 -t nat -X {chain}"
            ),
            format!("iptables -w 5 -t nat -I {chain} 1 -j ACCEPT"),
        ],
    }
}

#[test]
fn what_is_half_there_is_seen_and_made_whole_or_removed() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.do_snat(&["apply"]);
        let whole = ours(lab);
        lab.do_snat(&["remove"]);
        let nothing = lab.firewall();
        for damage in damages(lab) {
            lab.do_snat(&["apply"]);
            assert_eq!(ours(lab), whole, "before {damage}");
            lab.sh(&damage);
            let (code, out, _) = lab.snat(&["status"]);
            assert_eq!(code, 1, "{damage}: {out}");
            assert!(out.starts_with("SNAT rules: not whole"), "{damage}: {out}");
            lab.do_snat(&["apply"]);
            assert_eq!(lab.state(), "present", "after {damage}");
            assert_eq!(ours(lab), whole, "after {damage}");
            lab.sh(&damage);
            lab.do_snat(&["remove"]);
            assert_eq!(lab.firewall(), nothing, "after {damage}");
        }
    });
}

#[test]
fn rules_of_an_earlier_configuration_go_with_the_next_one() {
    with_each_tool(|lab| {
        let nothing = {
            lab.configure_both();
            lab.do_snat(&["apply"]);
            lab.do_snat(&["remove"]);
            lab.firewall()
        };
        lab.do_snat(&["apply"]);
        // Another destination, and no IPv6 any more.
        let one = format!(
            "[[snat]]\ndestination = \"198.51.100.0/24\"\naddress = \"{}\"\n",
            lab.vip()
        );
        lab.configure(&one);
        assert_eq!(lab.state(), "partial");
        lab.do_snat(&["apply"]);
        assert_eq!(lab.state(), "present");
        let now = ours(lab);
        assert!(now.contains("198.51.100.0/24"), "{now}");
        assert!(!now.contains("fd00:5a::"), "{now}");
        // None at all: nothing is applied, and what is left is seen and can be removed.
        lab.configure("");
        let said = lab.do_snat(&["apply"]);
        assert_eq!(said, "no [[snat]] is configured, nothing to do\n");
        let (code, out, _) = lab.snat(&["status"]);
        assert_eq!(code, 1, "{out}");
        assert!(
            out.contains("rules of an earlier configuration are there"),
            "{out}"
        );
        lab.do_snat(&["remove"]);
        assert_eq!(lab.firewall(), nothing);
        assert_eq!(lab.do_snat(&["status"]), "SNAT: none configured\n");
    });
}

#[test]
fn several_at_once_end_as_one() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.do_snat(&["apply"]);
        let whole = ours(lab);
        lab.do_snat(&["remove"]);
        let nothing = lab.firewall();
        let all_at_once = |words: [&'static str; 2]| {
            lab.on_node(|| {
                let start = |n: usize| {
                    let mut command = lab.syncctl(&[words[n % 2]]);
                    command.stdout(Stdio::piped()).stderr(Stdio::piped());
                    command.spawn().expect("syncctl starts")
                };
                let running: Vec<_> = (0..6).map(start).collect();
                for child in running {
                    let out = child.wait_with_output().expect("it ends");
                    assert!(
                        out.status.success(),
                        "{words:?}: {}",
                        crate::lab::said(&out)
                    );
                }
            });
        };
        for _ in 0..5 {
            all_at_once(["apply", "remove"]);
            let either = lab.state();
            assert_ne!(either, "partial");
            all_at_once(["apply", "apply"]);
            assert_eq!(lab.state(), "present");
            assert_eq!(ours(lab), whole);
            all_at_once(["remove", "remove"]);
            assert_eq!(lab.firewall(), nothing);
        }
    });
}

#[test]
fn what_iptables_left_goes_with_nft() {
    for tools in [Tools::Iptables, Tools::Legacy] {
        let Some(mut lab) = crate::lab::lab(tools) else {
            return;
        };
        lab.configure_both();
        lab.do_snat(&["apply"]);
        lab.do_snat(&["remove"]);
        let nothing = lab.firewall();
        lab.do_snat(&["apply"]);
        // As if the package nftables had been installed meanwhile.
        lab.sees_nft_too();
        lab.do_snat(&["apply"]);
        assert_eq!(lab.do_snat(&["remove"]), "SNAT rules removed\n");
        assert_eq!(lab.firewall(), nothing, "{tools:?}");
    }
}
