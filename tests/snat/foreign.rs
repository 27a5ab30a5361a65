//! Only our own rules are ever touched.

use crate::lab::{Lab, Tools, with_each_tool};

/// Rules of others, as many kinds as the tools of this node can make, in the very chain we must enter.
fn add_foreign(lab: &Lab) {
    lab.sh_with_all(
        "/usr/sbin/nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; }; \
         add rule inet filter input tcp dport 22 accept comment \"osm-failover-like\"; \
         add table inet osm-failover; add chain inet osm-failover postrouting { type nat hook postrouting priority 90; }; \
         add rule inet osm-failover postrouting ip daddr 198.51.100.1 snat ip to 198.51.100.2'",
    );
    if lab.tools == Tools::Nft {
        lab.sh("nft 'add table ip nat; add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; }; \
                add rule ip nat POSTROUTING ip daddr { 198.51.100.3, 198.51.100.4 } masquerade'");
        return;
    }
    lab.sh("iptables -w 5 -t nat -N OSM-other && iptables -w 5 -t nat -A OSM-other -d 198.51.100.5 -j SNAT --to 198.51.100.6 && \
            iptables -w 5 -t nat -A POSTROUTING -m comment --comment 'osm-failover other' -j OSM-other && \
            iptables -w 5 -t nat -A POSTROUTING -s 198.51.100.0/24 -j MASQUERADE && \
            ip6tables -w 5 -t nat -A POSTROUTING -d 2001:db8::/32 -j MASQUERADE && \
            iptables -w 5 -t nat -A OUTPUT -d 198.51.100.7 -j DNAT --to 198.51.100.8");
}

/// What is not ours of a listing.
fn without_ours(lab: &Lab, all: &str) -> Vec<String> {
    let table = format!("table inet osm-failover-{} ", lab.cluster);
    let chain = format!("OSM-{}", lab.cluster);
    let mut lines = Vec::new();
    let mut depth = 0;
    for line in all.lines() {
        if depth > 0 || line.starts_with(&table) || line.starts_with(&format!("chain {chain} ")) {
            depth += line.matches('{').count();
            depth -= line.matches('}').count();
        } else if !line.contains(&chain) && !line.is_empty() {
            lines.push(line.to_owned());
        }
    }
    lines
}

#[test]
fn foreign_rules_stay_exactly_as_they_were() {
    with_each_tool(|lab| {
        lab.configure_both();
        add_foreign(lab);
        let before = lab.firewall();
        assert!(before.contains("198.51.100.2"), "{before}");
        assert_eq!(
            before.contains("198.51.100.5"),
            lab.tools != Tools::Nft,
            "{before}"
        );
        for _ in 0..2 {
            lab.do_snat(&["apply"]);
            let during = lab.firewall();
            assert!(during.contains(&lab.cluster), "{during}");
            assert_eq!(without_ours(lab, &during), without_ours(lab, &before));
        }
        assert_eq!(lab.state(), "present");
        for _ in 0..2 {
            lab.do_snat(&["remove"]);
            assert_eq!(lab.firewall(), before);
        }
        assert_eq!(lab.state(), "absent");
    });
}

#[test]
fn another_cluster_on_this_host_keeps_its_rules() {
    with_each_tool(|lab| {
        // Names of which one begins with the other.
        let (short, long) = (lab.cluster.clone(), format!("{}-b", lab.cluster));
        let config = |lab: &Lab, name: &str| {
            lab.configure_both();
            let text = std::fs::read_to_string(lab.config_file()).expect("the configuration");
            let text = text.replace(&format!("\"{short}\""), &format!("\"{name}\""));
            std::fs::write(lab.config_file(), text).expect("the configuration");
        };
        config(lab, &long);
        lab.do_snat(&["apply"]);
        let others = lab.firewall();
        config(lab, &short);
        assert_eq!(lab.state(), "absent");
        lab.do_snat(&["apply"]);
        lab.do_snat(&["remove"]);
        assert_eq!(lab.firewall(), others);
        config(lab, &long);
        assert_eq!(lab.state(), "present");
    });
}

#[test]
fn the_older_iptables_is_not_woken_where_it_is_not_used() {
    with_each_tool(|lab| {
        lab.configure("");
        lab.do_snat(&["remove"]);
        lab.do_snat(&["status"]);
        lab.configure_both();
        lab.do_snat(&["remove"]);
        let (code, _, _) = lab.snat(&["status"]);
        assert_eq!(code, 3);
        let names =
            lab.sh("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null; true");
        assert_eq!(names, "", "asking for a table makes it");
    });
}

#[test]
fn the_tools_are_what_the_tests_take_them_for() {
    with_each_tool(|lab| {
        let version = lab.sh("iptables --version");
        assert_eq!(version.contains("legacy"), lab.tools == Tools::Legacy);
        let nft = lab.sh("if [ -x /usr/sbin/nft ]; then echo there; fi");
        assert_eq!(nft == "there\n", lab.tools == Tools::Nft);
    });
}
