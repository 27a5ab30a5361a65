use super::*;
use crate::wire::control::{PeerStatus, Pending, Problem, SnatStatus, Totals, WatchStatus};

fn busy() -> Status {
    Status {
        cluster: "osm\"ha\\".into(),
        node: "osm1".into(),
        role: "active".into(),
        epoch: 3,
        sequence: 1234,
        peer: PeerStatus {
            name: "osm2".into(),
            state: "catching-up".into(),
            acked_sequence: 1200,
            reason: String::new(),
        },
        pending: Pending {
            paths: 12,
            bytes: 4096,
            oldest_ms: 2105,
            scanning: true,
        },
        halted_roots: vec!["ovd".into()],
        problems: vec![Problem::default()],
        problems_more: 7,
        totals: Totals {
            sent_bytes: 2048,
            ..Totals::default()
        },
        watch: WatchStatus {
            backend: "inotify".into(),
            directories: 9,
            ..WatchStatus::default()
        },
        snat: SnatStatus {
            state: "partial".into(),
            why: String::new(),
        },
        ..Status::default()
    }
}

fn text(s: &Status) -> String {
    render(&Figures {
        status: s,
        roots: &["data".to_owned(), "ovd".to_owned()],
        written: 1_793_588_645_007,
        started: 1_793_588_000_000,
        in_step: 1_793_588_640_500,
    })
}

/// Samples of a text, which must be well formed: HELP and TYPE once before the samples of each name, all samples of a
/// name together, none twice.
fn samples(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let (mut now, mut names) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("words");
            assert!(words.ends_with('.') && !words.contains('\\'), "{line}");
            let kind = lines.next().expect("a type");
            let wanted = if name.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            assert_eq!(kind, format!("# TYPE {name} {wanted}"));
            assert!(!names.contains(&name), "{name} twice");
            assert!(name.starts_with(PREFIX));
            names.push(name);
            now = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(series.starts_with(&format!("{now}{{cluster=")) && series.ends_with('}'));
        value.parse::<f64>().expect("a number");
        assert!(found.iter().all(|(s, _)| s != series), "{series} twice");
        found.push((series[PREFIX.len()..].to_owned(), value.to_owned()));
    }
    assert!(text.ends_with('\n'));
    found
}

#[test]
fn a_running_node() {
    let text = text(&busy());
    let all = samples(&text);
    let common = "cluster=\"osm\\\"ha\\\\\",node=\"osm1\"";
    for (name, labels, value) in [
        ("info", ",peer=\"osm2\",version=\"0.1.0\"", "1"),
        ("role", ",state=\"active\"", "1"),
        ("role", ",state=\"standby\"", "0"),
        ("role", ",state=\"stopped\"", "0"),
        ("peer_state", ",state=\"catching-up\"", "1"),
        ("peer_state", ",state=\"in-sync\"", "0"),
        ("epoch", "", "3"),
        ("sequence", "", "1234"),
        ("peer_acked_sequence", "", "1200"),
        ("pending_paths", "", "12"),
        ("pending_bytes", "", "4096"),
        ("pending_oldest_seconds", "", "2.105"),
        ("scanning", "", "1"),
        ("paused", "", "0"),
        ("problems", "", "8"),
        ("root_halted", ",root=\"data\"", "0"),
        ("root_halted", ",root=\"ovd\"", "1"),
        ("sent_bytes_total", "", "2048"),
        ("watch_info", ",backend=\"inotify\"", "1"),
        ("watch_directories", "", "9"),
        ("snat_state", ",state=\"partial\"", "1"),
        ("snat_state", ",state=\"in-force\"", "0"),
        ("written_timestamp_seconds", "", "1793588645.007"),
        ("process_start_time_seconds", "", "1793588000.000"),
        ("last_in_step_timestamp_seconds", "", "1793588640.500"),
    ] {
        let series = format!("{name}{{{common}{labels}}}");
        let found = all.iter().find(|(s, _)| *s == series);
        assert_eq!(found.map(|(_, v)| v.as_str()), Some(value), "{series}");
    }
    assert_eq!(in_step_of(&text), 1_793_588_640_500);
    assert!(says_running(&text));
}

#[test]
fn a_stopped_node_tells_nothing_that_only_a_process_knows() {
    let mut s = busy();
    s.role = "stopped".into();
    let text = text(&s);
    let all = samples(&text);
    let has = |name: &str| all.iter().any(|(s, _)| s.starts_with(name));
    for name in [
        "role",
        "epoch",
        "sequence",
        "preserved_bytes",
        "written",
        "last_in",
    ] {
        assert!(has(name), "{name}");
    }
    for name in [
        "peer_state",
        "pending",
        "process",
        "root",
        "watch",
        "snat",
        "problems",
    ] {
        assert!(!has(name), "{name}");
    }
    assert!(!says_running(&text));
    assert_eq!(in_step_of(&text), 1_793_588_640_500);
}

#[test]
fn when_nodes_were_last_in_step() {
    let mut s = busy();
    s.halted_roots.clear();
    s.pending.scanning = false;
    s.peer.state = "in-sync".into();
    assert_eq!(in_step(&s, 10_000, 3), 7895, "all but what is pending");
    assert_eq!(in_step(&s, 1_000, 3), 3, "the clock went back");
    s.role = "standby".into();
    s.pending = Pending::default();
    assert_eq!(in_step(&s, 10_000, 3), 10_000);
    for spoil in [
        |s: &mut Status| s.role = "stopped".into(),
        |s: &mut Status| s.peer.state = "unreachable".into(),
        |s: &mut Status| s.peer.state = "catching-up".into(),
        |s: &mut Status| s.halted_roots = vec!["data".into()],
        |s: &mut Status| s.pending.scanning = true,
        |s: &mut Status| s.incomplete = true,
    ] {
        let mut s = s.clone();
        spoil(&mut s);
        assert_eq!(in_step(&s, 10_000, 3), 3, "{s:?}");
    }
}

#[test]
fn what_an_earlier_file_says_is_read_with_care() {
    for (text, ms) in [
        ("", 0),
        ("osm_failover_last_in_step_timestamp_seconds{} 12.5", 12_500),
        (
            "osm_failover_last_in_step_timestamp_seconds{a=\"} 9\"} 12",
            12_000,
        ),
        ("osm_failover_last_in_step_timestamp_seconds{} NaN", 0),
        (
            "osm_failover_last_in_step_timestamp_seconds{} 99999999999999999999",
            0,
        ),
        (
            "osm_failover_last_in_step_timestamp_seconds{} 18446744073709551615",
            0,
        ),
        ("osm_failover_last_in_step_timestamp_seconds{} 1.\u{e4}", 0),
        ("osm_failover_last_in_step_timestamp_seconds 1", 0),
    ] {
        assert_eq!(in_step_of(text), ms, "{text}");
    }
}
