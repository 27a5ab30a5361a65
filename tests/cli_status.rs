//! What `syncctl status` says: the verdict for every state, and the whole text.

use osm_failover::cli::status_text::{render, verdict};
use osm_failover::wire::control::{
    PeerStatus, Pending, PreservedStatus, Problem, Status, Totals, WatchStatus,
};

fn status(role: &str, peer: &str) -> Status {
    Status {
        version: 1,
        cluster: "osmha".into(),
        node: "osm1".into(),
        role: role.into(),
        epoch: 3,
        sequence: 1234,
        peer: PeerStatus {
            name: "osm2".into(),
            state: peer.into(),
            acked_sequence: 1234,
            reason: String::new(),
        },
        ..Status::default()
    }
}

const SOME: Pending = Pending {
    paths: 12,
    bytes: 3_565_158,
    oldest_ms: 2100,
    scanning: false,
};
const SCAN: Pending = Pending {
    paths: 0,
    bytes: 0,
    oldest_ms: 0,
    scanning: true,
};
const BOTH: Pending = Pending {
    paths: 1,
    bytes: 0,
    oldest_ms: 40,
    scanning: true,
};
const NONE: Pending = Pending {
    paths: 0,
    bytes: 0,
    oldest_ms: 0,
    scanning: false,
};

#[test]
fn the_verdict_for_every_state() {
    let lost = "12 paths (3.4 MiB), oldest 2.1 s, would be lost if osm1 died now";
    let halted = "replication is halted, both keep their data until you choose a side";
    let scanning = "not everything was scanned yet, what would be lost is not known";
    for (role, peer, pending, paused, text) in [
        ("active", "in-sync", NONE, false, "osm1 is active, osm2 is in sync: nothing would be lost if osm1 died now".to_owned()),
        ("active", "in-sync", SOME, false, format!("osm1 is active, osm2 is following: {lost}")),
        ("active", "in-sync", SCAN, false, format!("osm1 is active, osm2 is following: {scanning}")),
        ("active", "catching-up", SOME, false, format!("osm1 is active, osm2 is catching up: {lost}")),
        ("active", "catching-up", SCAN, false, format!("osm1 is active, osm2 is catching up: {scanning}")),
        ("active", "catching-up", BOTH, false, "osm1 is active, osm2 is catching up: at least 1 path (0 B), oldest 40 ms, would be lost if osm1 died now".to_owned()),
        ("active", "unreachable", SOME, false, format!("osm1 is active, osm2 is unreachable: {lost}")),
        ("active", "unreachable", NONE, false, "osm1 is active, osm2 is unreachable: it has every change so far, the next ones are on osm1 alone".to_owned()),
        ("active", "unreachable", NONE, true, "osm1 is active, osm2 is unreachable: it has every change so far, the next ones are on osm1 alone".to_owned()),
        ("active", "diverged", SOME, false, format!("osm1 is active, osm2 has diverged: {halted}")),
        ("active", "halted", SOME, false, format!("osm1 is active, replication to osm2 is halted: {lost}")),
        ("active", "in-sync", SOME, true, format!("osm1 is active, replication to osm2 is paused: {lost}")),
        ("active", "in-sync", NONE, true, "osm1 is active, replication to osm2 is paused: nothing would be lost if osm1 died now".to_owned()),
        ("standby", "in-sync", NONE, false, "osm1 is standby and has everything that osm2 sent".to_owned()),
        ("standby", "catching-up", NONE, false, "osm1 is standby and is taking what it missed from osm2: it is not ready to take over without loss".to_owned()),
        ("standby", "unreachable", NONE, false, "osm1 is standby, osm2 is not connected: osm1 may be behind".to_owned()),
        ("standby", "diverged", NONE, false, format!("osm1 is standby, osm2 has diverged: {halted}")),
        ("standby", "halted", NONE, false, "osm1 is standby, replication from osm2 is halted: osm1 may be behind".to_owned()),
        ("stopped", "unreachable", NONE, false, "osm1 is stopped: no process runs for it, nothing it writes reaches osm2".to_owned()),
    ] {
        let s = Status { pending: pending.clone(), paused, ..status(role, peer) };
        assert_eq!(verdict(&s), text, "{role} {peer} {pending:?} {paused}");
    }
}

#[test]
fn a_halted_root_stands_in_the_first_line() {
    let mut s = status("active", "in-sync");
    s.halted_roots = vec!["one".into()];
    assert_eq!(
        verdict(&s),
        "osm1 is active, replication of root one to osm2 is halted: of the rest nothing would be lost if osm1 died now"
    );
    s.halted_roots.push("two".into());
    s.pending = SOME;
    assert_eq!(
        verdict(&s),
        "osm1 is active, replication of roots one, two to osm2 is halted: 12 paths (3.4 MiB), oldest 2.1 s, would be lost if osm1 died now"
    );
    s.peer.state = "halted".into();
    assert!(verdict(&s).contains("replication to osm2 is halted"));
}

#[test]
fn the_whole_text_of_a_busy_node() {
    let mut s = status("active", "catching-up");
    s.peer.acked_sequence = 1200;
    s.peer.reason = "back since 3 s".into();
    s.pending = SOME;
    s.watch = WatchStatus {
        backend: "inotify".into(),
        reason: "no CAP_SYS_ADMIN".into(),
        directories: 1,
        overflows: 2,
        degraded: "9 directories are only scanned: raise fs.inotify.max_user_watches".into(),
    };
    let problem = Problem {
        path: "ovd:a\\nb".into(),
        operation: "read".into(),
        cause: "permission denied, run as root".into(),
        since: 1_793_588_645_000,
    };
    s.preserved = PreservedStatus {
        items: 3,
        bytes: 3_565_158,
        oldest: 1_793_588_645_000,
    };
    s.problems = vec![problem];
    s.problems_more = 7;
    s.last_error = "link lost\x1b[2J".into();
    (s.pid, s.uptime_ms) = (42, 11_520_000);
    s.totals = Totals {
        batches: 2,
        operations: 31,
        content_bytes: 9,
        sent_bytes: 2048,
        received_bytes: 10,
        sessions: 1,
    };
    let text = "\
osm1 is active, osm2 is catching up: 12 paths (3.4 MiB), oldest 2.1 s, would be lost if osm1 died now

  cluster     osmha
  peer        osm2, catching-up: back since 3 s
  position    change 1234 of epoch 3, osm2 has 1200
  pending     12 paths, 3.4 MiB, oldest 2.1 s
  watch       inotify on 1 directory: no CAP_SYS_ADMIN; the queue overflowed 2 times
  warning     9 directories are only scanned: raise fs.inotify.max_user_watches
  traffic     2.0 KiB sent, 10 B received, 31 operations in 2 batches, 1 session
  process     pid 42, up 3 h 12 min
  preserved   3 versions, 3.4 MiB, oldest of 2026-11-02 03:04:05 UTC (syncctl preserved list)
  problem     ovd:a\\nb: read: permission denied, run as root (since 2026-11-02 03:04:05 UTC)
  problem     and 7 more
  last error  link lost\\u{1b}[2J
";
    assert_eq!(render(&s), text);
}

#[test]
fn the_whole_text_of_quiet_nodes() {
    let mut s = status("active", "in-sync");
    s.watch.backend = "fanotify".into();
    let text = "\
osm1 is active, osm2 is in sync: nothing would be lost if osm1 died now

  cluster     osmha
  peer        osm2, in-sync
  position    change 1234 of epoch 3, osm2 has it
  pending     nothing
  watch       fanotify
";
    assert_eq!(render(&s), text);
    let mut s = status("stopped", "unreachable");
    s.epoch = 0;
    let text = "\
osm1 is stopped: no process runs for it, nothing it writes reaches osm2

  cluster     osmha
  peer        osm2, unreachable
  position    no change was ever made
  pending     nothing
";
    assert_eq!(render(&s), text);
}
