//! A node's state as figures for Prometheus, in its text format.
//!
//! Pure. A stopped node tells only what is true without a process: its position, and what it preserved. Nothing is told
//! with a time of its own, since `node_exporter` refuses such a file; moments are gauges.

use std::fmt::Write as _;

use super::control::Status;

/// States a node can be in.
pub const ROLES: [&str; 3] = ["active", "standby", "stopped"];
/// States the peer can be in.
pub const PEER_STATES: [&str; 5] = [
    "in-sync",
    "catching-up",
    "unreachable",
    "diverged",
    "halted",
];
/// States of the SNAT rules.
const SNAT_STATES: [&str; 4] = ["in-force", "partial", "absent", "failed"];
/// Begins every name.
const PREFIX: &str = "osm_failover_";
/// When the nodes were last seen in step.
const IN_STEP: &str = "last_in_step_timestamp_seconds";

/// What is told. Times are milliseconds since 1970 by this node's clock.
#[derive(Debug, Clone, Copy)]
pub struct Figures<'a> {
    /// The node's state.
    pub status: &'a Status,
    /// Names of the roots.
    pub roots: &'a [String],
    /// Now.
    pub written: u64,
    /// When the process began.
    pub started: u64,
    /// What [`in_step`] says.
    pub in_step: u64,
}

/// The moment up to which the standby has everything, as far as this node knows: `before` where nothing new is known, 0
/// for never.
#[must_use]
pub fn in_step(s: &Status, now: u64, before: u64) -> u64 {
    let whole = s.halted_roots.is_empty() && !s.pending.scanning && !s.incomplete;
    match s.role.as_str() {
        "active" | "standby" if s.peer.state == "in-sync" && whole => {
            before.max(now.saturating_sub(s.pending.oldest_ms))
        }
        _ => before,
    }
}

/// The figures as text.
#[must_use]
pub fn render(f: &Figures<'_>) -> String {
    let s = f.status;
    let mut t = Text {
        common: format!("cluster={},node={}", quoted(&s.cluster), quoted(&s.node)),
        out: String::new(),
    };
    let (peer, version) = (quoted(&s.peer.name), env!("CARGO_PKG_VERSION"));
    t.head("info", "gauge", "Who this is; always 1.");
    t.sample("info", &format!("peer={peer},version=\"{version}\""), 1);
    t.states(
        "role",
        "What this node is, 1 for the state it is in.",
        &ROLES,
        &s.role,
    );
    t.gauge(
        "epoch",
        "Epoch of the newest change this node holds, 0 before the first.",
        s.epoch,
    );
    t.gauge(
        "sequence",
        "Number of the newest change this node holds.",
        s.sequence,
    );
    t.gauge(
        "incomplete",
        "Whether the tree is between two states since a catch-up was interrupted.",
        u64::from(s.incomplete),
    );
    t.gauge(
        "preserved_entries",
        "Versions that were moved aside on this node.",
        s.preserved.items,
    );
    t.gauge("preserved_bytes", "Bytes they take.", s.preserved.bytes);
    t.seconds(
        "preserved_oldest_timestamp_seconds",
        "When the oldest of them was moved aside, 0 if there is none.",
        s.preserved.oldest,
    );
    t.seconds(
        IN_STEP,
        "Moment up to which the standby had everything, as far as this node knows; 0 for never.",
        f.in_step,
    );
    t.seconds(
        "written_timestamp_seconds",
        "When this file was written. If it is old while the role is not stopped, the process died.",
        f.written,
    );
    if s.role != "stopped" {
        running(&mut t, f);
    }
    t.out
}

/// What only a process can tell.
fn running(t: &mut Text, f: &Figures<'_>) {
    let s = f.status;
    t.seconds(
        "process_start_time_seconds",
        "When the process began.",
        f.started,
    );
    t.states(
        "peer_state",
        "How the other node stands, 1 for the state it is in.",
        &PEER_STATES,
        &s.peer.state,
    );
    t.gauge(
        "peer_acked_sequence",
        "Number of the newest change that the other node confirmed.",
        s.peer.acked_sequence,
    );
    t.gauge(
        "pending_paths",
        "Changed paths that would be lost if this node died now.",
        s.pending.paths,
    );
    t.gauge(
        "pending_bytes",
        "Bytes of content among them, as far as known.",
        s.pending.bytes,
    );
    t.seconds(
        "pending_oldest_seconds",
        "Age of the oldest of them.",
        s.pending.oldest_ms,
    );
    t.gauge(
        "scanning",
        "Whether not everything was scanned yet, so that more may be found.",
        u64::from(s.pending.scanning),
    );
    t.gauge(
        "paused",
        "Whether syncctl pause holds replication.",
        u64::from(s.paused),
    );
    let problems = s.problems.len() as u64 + s.problems_more;
    t.gauge(
        "problems",
        "Paths that cannot be replicated at present, and the like; see syncctl status.",
        problems,
    );
    t.head(
        "root_halted",
        "gauge",
        "Whether a guard halted the replication of this root.",
    );
    for root in f.roots {
        let halted = s.halted_roots.contains(root);
        t.sample(
            "root_halted",
            &format!("root={}", quoted(root)),
            u64::from(halted),
        );
    }
    let sums = [
        ("batches_total", "Batches acknowledged.", s.totals.batches),
        (
            "operations_total",
            "Paths put, moved and deleted.",
            s.totals.operations,
        ),
        (
            "content_bytes_total",
            "Bytes of content, of the files that were put; on the standby of what travelled.",
            s.totals.content_bytes,
        ),
        (
            "sent_bytes_total",
            "Bytes written to the link.",
            s.totals.sent_bytes,
        ),
        (
            "received_bytes_total",
            "Bytes read from the link.",
            s.totals.received_bytes,
        ),
        (
            "sessions_total",
            "Sessions with the other node.",
            s.totals.sessions,
        ),
        (
            "watch_overflows_total",
            "Times the kernel's queue of events overflowed.",
            s.watch.overflows,
        ),
    ];
    for (name, help, value) in sums {
        t.head(name, "counter", &format!("{help} Since the process began."));
        t.sample(name, "", value);
    }
    if !s.watch.backend.is_empty() {
        t.head("watch_info", "gauge", "How changes are noticed; always 1.");
        t.sample(
            "watch_info",
            &format!("backend={}", quoted(&s.watch.backend)),
            1,
        );
        t.gauge(
            "watch_directories",
            "Directories that carry a watch, 0 where one mark covers the file system.",
            s.watch.directories,
        );
        t.gauge(
            "watch_degraded",
            "Whether some changes are found by scans only.",
            u64::from(!s.watch.degraded.is_empty()),
        );
    }
    if !s.snat.state.is_empty() {
        t.states(
            "snat_state",
            "How the SNAT rules stand, 1 for the state they are in.",
            &SNAT_STATES,
            &s.snat.state,
        );
    }
}

/// What an earlier file says of when the nodes were last in step; 0 where it says nothing.
#[must_use]
pub fn in_step_of(text: &str) -> u64 {
    value(text, IN_STEP, "").map_or(0, millis)
}

/// Whether a file says that a process runs.
#[must_use]
pub fn says_running(text: &str) -> bool {
    let is = |role: &str| value(text, "role", &format!("state=\"{role}\"")) == Some("1");
    is("active") || is("standby")
}

/// The value of the first sample of a name whose labels contain `label`.
fn value<'a>(text: &'a str, name: &str, label: &str) -> Option<&'a str> {
    let samples = text.lines().filter_map(|l| {
        let rest = l.strip_prefix(PREFIX)?.strip_prefix(name)?;
        let (labels, value) = rest.strip_prefix('{')?.rsplit_once("} ")?;
        labels.contains(label).then_some(value)
    });
    samples.into_iter().next()
}

/// Seconds with at most three decimals as milliseconds; 0 for anything else.
fn millis(seconds: &str) -> u64 {
    let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let whole: Option<u64> = whole.parse().ok();
    let part: Option<u64> = format!("{part:0<3}").get(..3).and_then(|p| p.parse().ok());
    whole
        .zip(part)
        .and_then(|(w, p)| w.checked_mul(1000)?.checked_add(p))
        .unwrap_or(0)
}

/// A label's value.
fn quoted(s: &str) -> String {
    let escaped = s
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

struct Text {
    /// The labels of every sample.
    common: String,
    out: String,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(
            self.out,
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = writeln!(
            self.out,
            "{PREFIX}{name}{{{}{comma}{labels}}} {value}",
            self.common
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn seconds(&mut self, name: &str, help: &str, ms: u64) {
        self.head(name, "gauge", help);
        self.sample(name, "", format_args!("{}.{:03}", ms / 1000, ms % 1000));
    }

    fn states(&mut self, name: &str, help: &str, all: &[&str], now: &str) {
        self.head(name, "gauge", help);
        for state in all {
            self.sample(
                name,
                &format!("state=\"{state}\""),
                u64::from(*state == now),
            );
        }
    }
}

#[cfg(test)]
mod tests;
