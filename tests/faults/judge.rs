//! Runs a scenario with one fault and looks whether the promises hold.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::node::{Side, tail};
use crate::common::steps::{LONG, ctl_when_free, idle, is_preserved, until};
use crate::common::tree::{self, Snapshot};
use crate::options;

use super::calls::{Fault, Order};
use super::scenarios::{Scenario, Target};
use super::stage::Stage;
use super::trees::is_first;

/// How long a fault may be waited for once everything else is settled: the calls of a quiet time count, too.
const QUIET: Duration = Duration::from_millis(1200);

/// Runs a scenario: without an order the calls that counted come back, one a line; with one what was hit, if it was.
///
/// # Errors
/// The promise that does not hold.
pub(crate) fn run(scenario: &Scenario, order: Option<&Order>) -> Result<Option<String>, String> {
    let mut options = options!();
    options.sync_lines = "max_delete = \"100%\"".to_owned();
    options.keep = std::env::var_os("OSM_KEEP").is_some();
    let mut stage = Stage::new(idle(options), order);
    if stage.pair.dir().exists() && std::env::var_os("OSM_KEEP").is_some() {
        println!("{}: {}", scenario.name, stage.pair.dir().display());
    }
    let crash = order.is_some_and(|o| o.fault == Fault::Crash);
    (scenario.prepare)(&mut stage);
    let (receiver, source) = (scenario.receiver, other(scenario.receiver));
    let old = stage.tree(receiver);
    let before = [Side::A, Side::B].map(|s| position(&stage, s));
    if !scenario.first {
        (scenario.change)(&stage);
    }
    let new = stage.tree(source);
    let written = [
        (source, contents(&stage, source, &new)),
        (receiver, contents(&stage, receiver, &old)),
    ];
    stage.arm();
    if scenario.mends {
        stage.pair.restore().expect("mended");
    }
    let outcome = go(&mut stage, scenario, order.is_some())?;
    stage.disarm();
    let hit = stage.hit();
    if crash && hit.is_some() {
        after_crash(&stage, scenario, &old, &new)?;
    }
    if stage.pair.dir().join("link-is-cut").exists() {
        stage.pair.restore().expect("mended");
    }
    let decided = finish(&mut stage, scenario, crash, outcome)?;
    if decided && let Some(order) = order {
        println!("{}:{order}: a person decided", scenario.name);
    }
    judge(&stage, scenario, before, decided)?;
    if scenario.active_after() {
        nothing_waits(&stage, scenario.active)?;
    }
    let sides = match (decided, scenario.may_keep) {
        (true, _) => 2,
        (_, true) => 1,
        _ => 0,
    };
    for (side, written) in &written[..sides] {
        nothing_is_gone(&stage, *side, written)?;
    }
    for (last, order) in stage.ended.iter().zip(order) {
        println!("{}:{order}: syncd ended by itself: {last}", scenario.name);
    }
    Ok(if order.is_some() {
        hit
    } else {
        std::fs::read_to_string(stage.plan.calls()).ok()
    })
}

/// What an active node took in before is on its disk, so that nothing is ever done again over what it wrote since.
fn nothing_waits(stage: &Stage, active: Side) -> Result<(), String> {
    let state = stage.pair.dir().join(active.letter()).join("state");
    let journal = state.join("redo.log");
    // Its header alone.
    let empty = || std::fs::metadata(&journal).is_ok_and(|m| m.len() == 48);
    if until(LONG, empty) {
        return Ok(());
    }
    Err(format!("{} still holds records", journal.display()))
}

fn other(side: Side) -> Side {
    if side == Side::A { Side::B } else { Side::A }
}

/// Epoch and sequence of a node.
fn position(stage: &Stage, side: Side) -> (u64, u64) {
    let status = stage.status(side).unwrap_or(Value::Null);
    let number = |key: &str| status[key].as_u64().unwrap_or(0);
    (number("epoch"), number("sequence"))
}

/// Lets the scenario happen, until it is over or the fault was met; the outcome of a command.
fn go(
    stage: &mut Stage,
    scenario: &Scenario,
    awaited: bool,
) -> Result<Option<(Option<i32>, String)>, String> {
    let outcome = match scenario.target {
        Target::Command(side, args) | Target::Answer(side, args) => {
            let log = stage.pair.daemon_log(side);
            let mut args = args.to_vec();
            if args == ["activate"] {
                args.extend(["--log", &log]);
            }
            let planned = matches!(scenario.target, Target::Command(..));
            let (status, text) = stage.run(side, &args, planned)?;
            if status.code() == Some(101) || text.contains("panicked") {
                return Err(format!("{args:?} panicked: {text}"));
            }
            Some((status.code(), text))
        }
        Target::Serve | Target::Daemon => {
            if scenario.first {
                (scenario.change)(stage);
                stage.start(Side::A, matches!(scenario.target, Target::Daemon));
            } else {
                // Once it goes on, everything that was changed goes in one batch.
                let (code, text) = ctl_when_free(&stage.pair, Side::A, &["resume"]);
                if code != 0 && stage.hit().is_none() {
                    return Err(format!("resume: {text}"));
                }
            }
            None
        }
    };
    if scenario.active_after() {
        let settled = |stage: &Stage| {
            let side = scenario.active;
            let status = stage.status(side).unwrap_or(Value::Null);
            status["peer"]["state"] == "in-sync" && status["pending"]["paths"] == 0
        };
        if !awaited {
            until(LONG, || settled(stage));
        }
        let mut calm = None;
        until(LONG, || {
            if awaited && (stage.hit().is_some() || outcome.is_some()) {
                return true;
            }
            if !settled(stage) {
                calm = None;
                return false;
            }
            calm.get_or_insert_with(std::time::Instant::now).elapsed() > QUIET
        });
    }
    Ok(outcome)
}

/// After a crash: every file is old or new, and once the node looked after itself it stands at the end of a batch.
fn after_crash(
    stage: &Stage,
    scenario: &Scenario,
    old: &Snapshot,
    new: &Snapshot,
) -> Result<(), String> {
    let receiver = scenario.receiver;
    let stopped = scenario.target.command().is_none();
    if matches!(scenario.target, Target::Serve) {
        // The other node may have dialled anew just before, and that session goes on.
        stage.pair.kill_serve(receiver);
    }
    if stopped && stage.hit().is_some_and(|h| h.starts_with("execve")) {
        // What was killed is what a process had just made: that one dials anew.
        stage.pair.cut().expect("cut");
    }
    if stopped {
        stage.wait_gone(receiver)?;
    }
    let mut now = stage.tree(receiver);
    if let Some(file) = scenario.grows {
        is_part(stage, scenario, file)?;
        now.insert(file.into(), new[file.as_bytes()].clone());
    }
    each_old_or_new(&now, old, new, (scenario.first, false))?;
    if !stopped || scenario.first {
        return Ok(());
    }
    let out = Command::new(env!("CARGO_BIN_EXE_syncd"))
        .args(["serve", "--config"])
        .arg(stage.pair.config())
        .args(["--node", receiver.name()])
        .stdin(Stdio::null())
        .output()
        .expect("syncd serve");
    let said = String::from_utf8_lossy(&out.stderr);
    // What somebody put there stays until the file that replaces it comes whole.
    let kept = |line: &str| {
        scenario
            .keeps
            .iter()
            .any(|k| line.contains(&format!("data:{} ", k.1)))
    };
    let astray = |line: &str| line.contains("not as the journal left it") && !kept(line);
    if said.lines().any(astray) || said.contains("cannot ") {
        return Err(format!(
            "not at the end of a batch ({}): {said}",
            out.status
        ));
    }
    each_old_or_new(&stage.tree(receiver), old, new, (scenario.first, true))
}

/// Contents and kinds only: times and owners of a directory follow at the end of a batch. Before a node has looked after itself,
/// a file of which only the metadata change may have some of them, and what becomes of another kind may be away, as it was on
/// the node where that was done.
fn each_old_or_new(
    now: &Snapshot,
    old: &Snapshot,
    new: &Snapshot,
    (first, recovered): (bool, bool),
) -> Result<(), String> {
    let kind = |s: &Snapshot, path: &[u8]| s.get(path).map(|f| f.kind);
    for (path, facts) in now.iter().filter(|(_, f)| f.kind == "file") {
        let in_place = !recovered
            && old.get(path).map(|f| (f.kind, f.hash)) == new.get(path).map(|f| (f.kind, f.hash));
        let is = |s: &Snapshot| {
            s.get(path).is_some_and(|f| {
                (f.kind, f.hash) == (facts.kind, facts.hash)
                    && (in_place
                        || (f.mode, f.uid, &f.xattrs) == (facts.mode, facts.uid, &facts.xattrs))
            })
        };
        if !is(old) && !is(new) {
            return Err(format!(
                "{} is neither old nor new: {facts:?}",
                tree::show(path)
            ));
        }
    }
    // What both have must never be away; but what stood there before the first meeting is moved aside at its beginning.
    if first {
        return Ok(());
    }
    let stays = |path: &&Vec<u8>| {
        let (was, is) = (kind(old, path), kind(new, path));
        is.is_some() && (was == is || recovered)
    };
    let both = old.keys().filter(stays);
    let gone: Vec<_> = both.filter(|p| !now.contains_key(*p)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let gone: Vec<_> = gone.into_iter().map(|p| tree::show(p)).collect();
    Err(format!("away for a while: {}", gone.join(", ")))
}

/// A file that is extended in place is the new one up to somewhere.
fn is_part(stage: &Stage, scenario: &Scenario, file: &str) -> Result<(), String> {
    let read = |side| {
        let path = stage.pair.root(side, "data").join(file);
        std::fs::read(path).map_err(|e| format!("{file}: {e}"))
    };
    let (now, new) = (read(scenario.receiver)?, read(other(scenario.receiver))?);
    if new.starts_with(&now) {
        return Ok(());
    }
    Err(format!("{file} is no part of the new one"))
}

/// Without the fault everything ends as it should; whether a person had to decide.
fn finish(
    stage: &mut Stage,
    scenario: &Scenario,
    crash: bool,
    outcome: Option<(Option<i32>, String)>,
) -> Result<bool, String> {
    let mut decided = false;
    if let (Some((side, args)), Some((code, text))) = (scenario.target.command(), outcome) {
        if code.is_none() && !(crash && stage.hit().is_some()) {
            return Err(format!("{args:?} was killed: {text}"));
        }
        if args == ["deactivate"] && code == Some(0) && !text.contains("not on the peer") {
            let differ = tree::diff(&stage.tree(Side::A), &stage.tree(Side::B));
            if !differ.is_empty() {
                return Err(format!(
                    "deactivate said nothing is left: {text}\n{}",
                    differ.join("\n")
                ));
            }
        }
        let log = stage.pair.daemon_log(side);
        let mut args = args.to_vec();
        if args == ["activate"] {
            args.extend(["--log", &log]);
        }
        let mut last = (-1, String::new());
        // The node that answers may still be busy with what failed there: then it is said that the command is to be run again.
        let answers = matches!(scenario.target, Target::Answer(..));
        until(if answers { LONG } else { Duration::ZERO }, || {
            last = ctl_when_free(&stage.pair, side, &args);
            let collides = last.0 == 5 && last.1.contains("and these paths on both");
            decided = scenario.may_collide && collides;
            last.0 == 0 || decided
        });
        if decided {
            last = ctl_when_free(&stage.pair, side, &["resolve", "--keep", "peer"]);
        }
        let (again, said) = last;
        if again != 0 {
            return Err(format!(
                "{args:?} once more: {again} {said}\nfirst: {code:?} {text}"
            ));
        }
        if args == ["deactivate"] {
            // What may not have been sent is there still.
            stage.start(Side::A, false);
        }
    }
    if scenario.may_keep {
        // Whichever data it has, its service writes; until then the other one, which may have newer data, is not overwritten.
        let root = stage.pair.root(scenario.active, "data");
        std::fs::write(root.join("written since"), "by the service").expect("a file");
    }
    stage.settle(scenario.active, crash)?;
    Ok(decided)
}

/// What the files of a tree hold.
fn contents(stage: &Stage, side: Side, tree: &Snapshot) -> Vec<(PathBuf, Vec<u8>)> {
    let root = stage.pair.root(side, "data");
    let files = tree.iter().filter(|(_, f)| f.kind == "file");
    let paths = files.map(|(path, _)| PathBuf::from(OsStr::from_bytes(path)));
    let read = |p: PathBuf| std::fs::read(root.join(&p)).ok().map(|bytes| (p, bytes));
    paths.filter_map(read).collect()
}

/// What was written on a node is in the tree, or preserved there.
fn nothing_is_gone(
    stage: &Stage,
    side: Side,
    written: &[(PathBuf, Vec<u8>)],
) -> Result<(), String> {
    let root = stage.pair.root(side, "data");
    // Both had what the tree was filled with, so it goes as any replicated file.
    for (path, content) in written.iter().filter(|w| !is_first(&w.1)) {
        let is_at =
            |path: &PathBuf| std::fs::read(root.join(path)).is_ok_and(|now| now == *content);
        // A further name of a file that stands is no version of its own.
        let mut names = written.iter().filter(|w| w.1 == *content);
        if !is_at(path)
            && !names.any(|w| is_at(&w.0))
            && !is_preserved(&stage.pair, side, "data", content)
        {
            return Err(format!("{} of {} is gone", path.display(), side.name()));
        }
    }
    Ok(())
}

fn judge(
    stage: &Stage,
    scenario: &Scenario,
    before: [(u64, u64); 2],
    decided: bool,
) -> Result<(), String> {
    let mut differ = Vec::new();
    let equal = until(Duration::from_secs(3), || {
        differ = tree::diff(&stage.tree(Side::A), &stage.tree(Side::B));
        differ.is_empty()
    });
    if !equal {
        return Err(format!("not equal: {}", differ.join("\n")));
    }
    let holds = if decided { &[] } else { scenario.holds };
    for (path, content) in holds {
        let file = stage.pair.root(Side::A, "data").join(path);
        match std::fs::read_to_string(&file) {
            Ok(now) if now == *content => {}
            other => return Err(format!("{path} is not what was written: {other:?}")),
        }
    }
    for (side, path, content) in scenario.keeps {
        if !is_preserved(&stage.pair, *side, "data", content.as_bytes()) {
            return Err(format!("{path} of {} is not preserved", side.name()));
        }
    }
    for side in [Side::A, Side::B] {
        let kept = crate::common::steps::preserved(&stage.pair, side, "data");
        let wanted = scenario.keeps.iter().filter(|k| k.0 == side).count();
        if kept.len() > wanted && !scenario.may_keep && !decided {
            let names: Vec<_> = kept.iter().map(|k| &k.0).collect();
            return Err(format!(
                "needlessly preserved on {}: {names:?}",
                side.name()
            ));
        }
        let now = position(stage, side);
        if now.0 < before[side as usize].0 {
            return Err(format!(
                "{} went back from {:?} to {now:?}",
                side.name(),
                before[side as usize]
            ));
        }
        let log = stage.pair.log(side);
        if log.contains("panicked") {
            return Err(format!("a panic: {}", tail(&log)));
        }
    }
    Ok(())
}
