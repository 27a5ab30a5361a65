use std::path::Path;

use super::*;

/// A configuration with these tables at its end.
fn config(tables: &str) -> Config {
    let text = format!(
        "[cluster]\nname = \"osmha\"\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
         [[node]]\nname = \"b\"\naddress = \"fd00::b\"\n[[root]]\nname = \"r\"\npath = \"/srv/r\"\n{tables}"
    );
    Config::parse(&text, Path::new("config.toml")).expect("a good configuration")
}

const BOTH: &str = "[vip]\naddress = \"192.168.0.200\"\n\
    [[snat]]\ndestination = \"192.168.0.0/24\"\nout_interface = \"eth0\"\nprotocol = \"tcp\"\nport = 443\n\
    [[snat]]\ndestination = \"fd00::/64\"\naddress = \"fd00::200\"\nprotocol = \"sctp\"\n";

fn both() -> RuleSet {
    RuleSet::of(&config(BOTH))
}

fn said(set: &RuleSet) -> Vec<String> {
    set.rules.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_configured_is_nothing_to_do() {
    let set = RuleSet::of(&config("[vip]\naddress = \"192.168.0.200\"\n"));
    assert!(set.is_empty());
    assert!(set.tags().is_empty());
}

#[test]
fn what_must_keep_its_source_is_left_alone_where_a_destination_covers_it() {
    let rules = |destination: &str, address: &str| {
        let table = format!("[[snat]]\ndestination = \"{destination}\"\naddress = \"{address}\"\n");
        let set = RuleSet::of(&config(&table));
        let kept = set.rules.iter().filter(|r| matches!(r, Rule::Keep(_)));
        kept.map(ToString::to_string).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(rules("192.168.0.0/24", "192.168.0.200"), none);
    assert_eq!(
        rules("10.0.0.0/8", "192.168.0.200"),
        ["to 10.0.0.1/32: left alone"]
    );
    assert_eq!(
        rules("10.0.0.1/32", "192.168.0.200"),
        none,
        "named as it is, it is meant"
    );
    assert_eq!(
        rules("0.0.0.0/0", "192.168.0.200"),
        [
            "to 10.0.0.1/32: left alone",
            "to 224.0.0.0/4: left alone",
            "to 255.255.255.255/32: left alone"
        ]
    );
    assert_eq!(
        rules("::/0", "fd00::200"),
        [
            "to fd00::b/128: left alone",
            "to fe80::/10: left alone",
            "to ff00::/8: left alone"
        ]
    );
    assert_eq!(
        rules("fd00::/64", "fd00::200"),
        ["to fd00::b/128: left alone"]
    );
    assert_eq!(rules("224.0.0.0/4", "192.168.0.200"), none);
}

#[test]
fn a_rule_in_words() {
    assert_eq!(
        said(&both()),
        [
            "what stays on this host is left alone",
            "to fd00::b/128: left alone",
            "to 192.168.0.0/24 by eth0, tcp port 443: leaves with 192.168.0.200",
            "to fd00::/64, sctp: leaves with fd00::200"
        ]
    );
    assert_eq!(
        said(&both().only(Family::V4)),
        [
            "what stays on this host is left alone",
            "to 192.168.0.0/24 by eth0, tcp port 443: leaves with 192.168.0.200",
        ]
    );
}

#[test]
fn each_tag_names_cluster_place_and_content() {
    let tags = both().tags();
    assert!(tags[2].starts_with("osm-failover osmha 3/4 "), "{tags:?}");
    let changed = |from: &str, to: &str| {
        let other = RuleSet::of(&config(&BOTH.replace(from, to))).tags();
        tags.iter().zip(&other).filter(|(a, b)| a != b).count()
    };
    assert_eq!(changed("443", "444"), 1);
    assert_eq!(changed("eth0", "eth1"), 1);
    assert_eq!(changed("fd00::200", "fd00::201"), 1);
    assert_eq!(changed("osmha", "osmha"), 0);
}

#[test]
fn tags_and_names_fit_what_the_kernel_takes() {
    let mut set = both();
    set.cluster = "c".repeat(64);
    // 128 bytes with the end for nft, 256 for iptables.
    assert!(set.tags().iter().all(|t| t.len() < 127));
    assert!(nft::table(&set.cluster).len() < 256);
    let long = iptables::chain(&set.cluster);
    assert_eq!(long.len(), iptables::MAX_CHAIN);
    assert_ne!(long, iptables::chain(&format!("{}d", "c".repeat(63))));
    assert_eq!(iptables::chain(&"c".repeat(24)).len(), iptables::MAX_CHAIN);
    assert_eq!(iptables::chain("osmha"), "OSM-osmha");
}

#[test]
fn what_nft_is_given() {
    let json = serde_json::to_value(nft::install(&both())).expect("JSON");
    let commands = json["nftables"].as_array().expect("commands");
    let words: Vec<_> = commands
        .iter()
        .map(|c| c.to_string().replace('"', ""))
        .collect();
    let table = "table:{family:inet,name:osm-failover-osmha}";
    assert_eq!(words[0], format!("{{add:{{{table}}}}}"));
    assert_eq!(words[1], format!("{{delete:{{{table}}}}}"));
    assert_eq!(words[2], words[0]);
    assert_eq!(
        words[3],
        "{add:{chain:{family:inet,hook:postrouting,name:postrouting,policy:accept,prio:90,\
         table:osm-failover-osmha,type:nat}}}"
    );
    let rules: Vec<_> = commands[4..]
        .iter()
        .map(|c| c["add"]["rule"]["expr"].to_string().replace('"', ""))
        .collect();
    let same = |left: &str, right: &str| format!("{{match:{{left:{left},op:==,right:{right}}}}}");
    let field = |p: &str, f: &str| format!("{{payload:{{field:{f},protocol:{p}}}}}");
    let meta = |key: &str| format!("{{meta:{{key:{key}}}}}");
    assert_eq!(
        rules,
        [
            format!("[{},{{return:null}}]", same(&meta("oifname"), "lo")),
            format!(
                "[{},{{return:null}}]",
                same(&field("ip6", "daddr"), "fd00::b")
            ),
            format!(
                "[{},{},{},{{snat:{{addr:192.168.0.200,family:ip}}}}]",
                same(&field("ip", "daddr"), "{prefix:{addr:192.168.0.0,len:24}}"),
                same(&meta("oifname"), "eth0"),
                same(&field("tcp", "dport"), "443")
            ),
            format!(
                "[{},{},{{snat:{{addr:fd00::200,family:ip6}}}}]",
                same(&field("ip6", "daddr"), "{prefix:{addr:fd00::,len:64}}"),
                same(&meta("l4proto"), "132")
            ),
        ]
    );
    let tags: Vec<_> = commands[4..]
        .iter()
        .filter_map(|c| c["add"]["rule"]["comment"].as_str())
        .collect();
    assert_eq!(tags, both().tags());
}

#[test]
fn what_iptables_restore_is_given() {
    let set = both().only(Family::V4);
    let tags = set.tags();
    let rules = format!(
        "*nat\n:OSM-osmha - [0:0]\n\
         -A OSM-osmha -o lo -m comment --comment \"{}\" -j RETURN\n\
         -A OSM-osmha -d 192.168.0.0/24 -o eth0 -p tcp -m tcp --dport 443 -m comment --comment \"{}\" \
         -j SNAT --to-source 192.168.0.200\n",
        tags[0], tags[1]
    );
    let jump = "POSTROUTING 1 -m comment --comment \"osm-failover osmha\" -j OSM-osmha\n";
    assert_eq!(
        iptables::install(&set, false),
        format!("{rules}-I {jump}COMMIT\n")
    );
    let old = jump.replace(" 1 ", " ");
    assert_eq!(
        iptables::install(&set, true),
        format!("{rules}-D {old}-I {jump}COMMIT\n")
    );
}

#[test]
fn what_iptables_restore_is_given_to_remove_our_chain() {
    let chain = "-F OSM-osmha\n-X OSM-osmha\nCOMMIT\n";
    let jump = "-D POSTROUTING -m comment --comment \"osm-failover osmha\" -j OSM-osmha\n";
    assert_eq!(
        iptables::uninstall("osmha", false),
        format!("*nat\n{chain}")
    );
    assert_eq!(
        iptables::uninstall("osmha", true),
        format!("*nat\n{jump}{chain}")
    );
}

/// A listing of our table with these comments, as `nft -j list table` prints it.
fn listing(chain: &str, tags: &[String]) -> String {
    let rules: String = tags
        .iter()
        .enumerate()
        .map(|(i, t)| {
            format!(", {{\"rule\": {{\"handle\": {i}, \"comment\": \"{t}\", \"expr\": []}}}}")
        })
        .collect();
    format!(
        "{{\"nftables\": [{{\"metainfo\": {{}}}}, {{\"table\": {{\"name\": \"osm-failover-osmha\"}}}}{chain}{rules}]}}"
    )
}

const CHAIN: &str = ", {\"chain\": {\"name\": \"postrouting\", \"type\": \"nat\", \"hook\": \"postrouting\", \
    \"prio\": 90, \"policy\": \"accept\"}}";

#[test]
fn what_nft_lists_is_judged_by_the_tags() {
    let set = both();
    let tags = set.tags();
    let why = |chain: &str, tags: &[String]| {
        let look = nft::judge(&listing(chain, tags), &set);
        assert_eq!(
            look.presence,
            Presence::Partial,
            "{chain} {tags:?}: {look:?}"
        );
        look.why
    };
    let whole = nft::judge(&listing(CHAIN, &tags), &set);
    assert_eq!(whole.presence, Presence::Present);
    assert_eq!(why("", &[]), "the table is empty");
    assert_eq!(why(CHAIN, &[]), "0 of the 4 configured rules are there");
    assert_eq!(
        why(CHAIN, &tags[1..]),
        "3 of the 4 configured rules are there"
    );
    let mut swapped = tags.clone();
    swapped.swap(0, 1);
    assert_eq!(why(CHAIN, &swapped), "the rules are not in their order");
    let more = [tags.clone(), vec![String::new()]].concat();
    assert_eq!(why(CHAIN, &more), "1 rules too many are there");
    let elsewhere = CHAIN.replace("90", "0");
    assert_eq!(why(&elsewhere, &tags), "its chain is not at its place");
    let twice = CHAIN.repeat(2);
    assert_eq!(
        why(&twice, &tags),
        "the table holds chains that are not ours"
    );
    let unreadable = nft::judge("nonsense", &set);
    assert_eq!(unreadable.presence, Presence::Partial);
    let none = RuleSet::of(&config(""));
    let left = nft::judge(&listing(CHAIN, &tags), &none);
    assert_eq!(left.why, "rules of an earlier configuration are there");
}

#[test]
fn a_changed_rule_under_its_old_tag_has_another_print() {
    let set = both();
    let before = listing(CHAIN, &set.tags());
    let print = |text: &str| nft::judge(text, &set).print;
    assert_eq!(
        print(&before),
        print(&before.replace("\"handle\": 3", "\"handle\": 9"))
    );
    let changed = before.replacen("\"expr\": []", "\"expr\": [{\"drop\": null}]", 1);
    assert_ne!(print(&before), print(&changed));
    assert!(!print(&before).is_empty());
}

#[test]
fn what_iptables_lists_is_judged_by_the_tags() {
    let set = both().only(Family::V4);
    let tags = set.tags();
    let text = format!(
        "-N OSM-osmha\n-A OSM-osmha -o lo -m comment --comment \"{}\" -j RETURN\n\
         -A OSM-osmha -d 192.168.0.0/24 -o eth0 -p tcp -m comment --comment \"{}\" -m tcp --dport 443 -j SNAT\n",
        tags[0], tags[1]
    );
    assert_eq!(
        iptables::judge(&text, true, &set).presence,
        Presence::Present
    );
    let why = |text: &str, jump| iptables::judge(text, jump, &set).why;
    assert_eq!(
        why(&text, false),
        "no rule of POSTROUTING leads to its chain"
    );
    assert_eq!(
        why("-N OSM-osmha\n", true),
        "0 of the 2 configured rules are there"
    );
    let foreign = format!("{text}-A OSM-osmha -m comment --comment mine -j ACCEPT\n");
    assert_eq!(why(&foreign, true), "1 rules too many are there");
    let bare = format!("{text}-A OSM-osmha -j ACCEPT\n");
    assert_eq!(why(&bare, true), "1 rules too many are there");
}

#[test]
fn several_places_together() {
    let look = |presence| Look {
        presence,
        ..Look::default()
    };
    let all = |list: &[Presence]| Look::of_all(list.iter().map(|p| look(*p)).collect()).presence;
    use Presence::{Absent, Partial, Present};
    for (list, whole) in [
        (&[][..], Absent),
        (&[Absent, Absent], Absent),
        (&[Present], Present),
        (&[Present, Present], Present),
        (&[Present, Absent], Partial),
        (&[Absent, Partial], Partial),
    ] {
        assert_eq!(all(list), whole, "{list:?}");
    }
}
