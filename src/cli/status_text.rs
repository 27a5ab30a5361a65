//! A node's state in words: first the answer for somebody who was woken up, then the figures behind it. Pure.

use super::text::{count, moment, printable, size};
use crate::model::span::span;
use crate::wire::control::{Pending, PreservedStatus, Problem, Status};

/// Renders a state: one line with the verdict, an empty line, one line for each fact.
#[must_use]
pub fn render(s: &Status) -> String {
    let mut rows = vec![
        ("cluster", printable(&s.cluster)),
        ("peer", peer(s)),
        ("position", position(s)),
        ("pending", pending(&s.pending)),
    ];
    if s.role == "active" || !s.watch.backend.is_empty() {
        rows.push(("watch", watch(s)));
    }
    if !s.activation.is_empty() {
        rows.push(("active", printable(&s.activation)));
    }
    if !s.snat.state.is_empty() {
        rows.push(("snat", snat(s)));
    }
    if !s.watch.degraded.is_empty() {
        rows.push(("warning", printable(&s.watch.degraded)));
    }
    if s.pid != 0 {
        rows.push(("traffic", traffic(s)));
        rows.push((
            "process",
            format!("pid {}, up {}", s.pid, span(s.uptime_ms)),
        ));
    }
    if s.preserved.items > 0 {
        rows.push(("preserved", preserved(&s.preserved)));
    }
    rows.extend(s.problems.iter().map(|p| ("problem", problem(p))));
    if s.problems_more > 0 {
        rows.push(("problem", format!("and {} more", s.problems_more)));
    }
    if !s.last_error.is_empty() {
        rows.push(("last error", printable(&s.last_error)));
    }
    let facts: String = rows
        .iter()
        .map(|(k, v)| format!("  {k:<12}{v}\n"))
        .collect();
    format!("{}\n\n{facts}", verdict(s))
}

/// The answer in one line.
#[must_use]
pub fn verdict(s: &Status) -> String {
    let (me, peer) = (printable(&s.node), printable(&s.peer.name));
    match s.role.as_str() {
        "active" => active(s, &me, &peer),
        "standby" => standby(s, &me, &peer),
        "stopped" => {
            format!("{me} is stopped: no process runs for it, nothing it writes reaches {peer}")
        }
        other => format!("{me} is {}", printable(other)),
    }
}

fn active(s: &Status, me: &str, peer: &str) -> String {
    let lost = at_stake(&s.pending).map(|what| format!("{what} would be lost if {me} died now"));
    let scanning = "not everything was scanned yet, what would be lost is not known";
    let or = |nothing: String| match &lost {
        Some(lost) => lost.clone(),
        None if s.pending.scanning => scanning.to_owned(),
        None => nothing,
    };
    let safe = || format!("nothing would be lost if {me} died now");
    let how = match (s.peer.state.as_str(), s.paused) {
        ("diverged", _) => {
            return format!(
                "{me} is active, {peer} has diverged: replication is halted, both keep their data until you choose a side"
            );
        }
        ("unreachable", _) => {
            let nothing = or(format!(
                "it has every change so far, the next ones are on {me} alone"
            ));
            return format!("{me} is active, {peer} is unreachable: {nothing}");
        }
        ("halted", _) => format!("replication to {peer} is halted"),
        _ if !s.halted_roots.is_empty() => {
            let roots = printable(&s.halted_roots.join(", "));
            let noun = if s.halted_roots.len() == 1 {
                "root"
            } else {
                "roots"
            };
            let rest = or(format!(
                "of the rest nothing would be lost if {me} died now"
            ));
            return format!(
                "{me} is active, replication of {noun} {roots} to {peer} is halted: {rest}"
            );
        }
        (_, true) => format!("replication to {peer} is paused"),
        ("in-sync", _) if lost.is_none() && !s.pending.scanning => format!("{peer} is in sync"),
        ("in-sync", _) => format!("{peer} is following"),
        ("catching-up", _) => format!("{peer} is catching up"),
        (other, _) => format!("{peer} is {}", printable(other)),
    };
    format!("{me} is active, {how}: {}", or(safe()))
}

fn standby(s: &Status, me: &str, peer: &str) -> String {
    match s.peer.state.as_str() {
        "in-sync" => format!("{me} is standby and has everything that {peer} sent"),
        "catching-up" => format!(
            "{me} is standby and is taking what it missed from {peer}: it is not ready to take over without loss"
        ),
        "unreachable" => format!("{me} is standby, {peer} is not connected: {me} may be behind"),
        "diverged" => format!(
            "{me} is standby, {peer} has diverged: replication is halted, both keep their data until you choose a side"
        ),
        "halted" => {
            format!("{me} is standby, replication from {peer} is halted: {me} may be behind")
        }
        other => format!("{me} is standby, {peer} is {}", printable(other)),
    }
}

/// What is only on this node, where anything is.
fn at_stake(p: &Pending) -> Option<String> {
    if p.paths == 0 {
        return None;
    }
    let least = if p.scanning { "at least " } else { "" };
    Some(format!(
        "{least}{} ({}), oldest {},",
        count(p.paths, "path"),
        size(p.bytes),
        span(p.oldest_ms)
    ))
}

fn snat(s: &Status) -> String {
    let state = printable(&s.snat.state);
    match s.snat.why.as_str() {
        "" => state,
        why => format!("{state}: {}", printable(why)),
    }
}

fn peer(s: &Status) -> String {
    let mut text = format!("{}, {}", printable(&s.peer.name), printable(&s.peer.state));
    if !s.peer.reason.is_empty() {
        text += &format!(": {}", printable(&s.peer.reason));
    }
    text
}

fn position(s: &Status) -> String {
    if s.epoch == 0 {
        return "no change was ever made".to_owned();
    }
    let (peer, acked) = (printable(&s.peer.name), s.peer.acked_sequence);
    let here = format!("change {} of epoch {}", s.sequence, s.epoch);
    match s.role.as_str() {
        "active" if acked == s.sequence => format!("{here}, {peer} has it"),
        "active" => format!("{here}, {peer} has {acked}"),
        _ => here,
    }
}

fn pending(p: &Pending) -> String {
    let what = match p.paths {
        0 => "nothing".to_owned(),
        n => format!(
            "{}, {}, oldest {}",
            count(n, "path"),
            size(p.bytes),
            span(p.oldest_ms)
        ),
    };
    let scan = if p.scanning {
        "; not everything was scanned yet"
    } else {
        ""
    };
    format!("{what}{scan}")
}

fn watch(s: &Status) -> String {
    let w = &s.watch;
    let mut text = match w.backend.as_str() {
        "" => "none".to_owned(),
        backend => printable(backend),
    };
    if w.directories > 0 {
        text += &format!(" on {}", count(w.directories, "directory"));
    }
    if !w.reason.is_empty() {
        text += &format!(": {}", printable(&w.reason));
    }
    if w.overflows > 0 {
        text += &format!("; the queue overflowed {}", count(w.overflows, "time"));
    }
    text
}

fn traffic(s: &Status) -> String {
    let t = &s.totals;
    format!(
        "{} sent, {} received, {} in {}, {}",
        size(t.sent_bytes),
        size(t.received_bytes),
        count(t.operations, "operation"),
        count(t.batches, "batch"),
        count(t.sessions, "session")
    )
}

fn preserved(p: &PreservedStatus) -> String {
    format!(
        "{}, {}, oldest of {} (syncctl preserved list)",
        count(p.items, "version"),
        size(p.bytes),
        moment(p.oldest)
    )
}

fn problem(p: &Problem) -> String {
    let (path, operation, cause) = (
        printable(&p.path),
        printable(&p.operation),
        printable(&p.cause),
    );
    format!("{path}: {operation}: {cause} (since {})", moment(p.since))
}
