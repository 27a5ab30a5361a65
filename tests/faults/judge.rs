//! Runs a scenario with one fault and looks whether the promises hold.

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
    stage.arm();
    let outcome = go(&mut stage, scenario, order.is_some())?;
    stage.disarm();
    let hit = stage.hit();
    if crash && hit.is_some() {
        after_crash(&stage, scenario, &old, &new)?;
    }
    if stage.pair.dir().join("link-is-cut").exists() {
        stage.pair.restore().expect("mended");
    }
    finish(&mut stage, scenario, crash, outcome)?;
    judge(&stage, scenario, before)?;
    for (last, order) in stage.ended.iter().zip(order) {
        println!("{}:{order}: syncd ended by itself: {last}", scenario.name);
    }
    Ok(if order.is_some() {
        hit
    } else {
        std::fs::read_to_string(stage.plan.calls()).ok()
    })
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
        Target::Command(side, args) => {
            let log = stage.pair.daemon_log(side);
            let mut args = args.to_vec();
            if args == ["activate"] {
                args.extend(["--log", &log]);
            }
            let (status, text) = stage.planned(side, &args)?;
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
    let stopped = !matches!(scenario.target, Target::Command(..));
    if stopped {
        stage.wait_gone(receiver)?;
    }
    each_old_or_new(&stage.tree(receiver), old, new, scenario.first)?;
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
    if said.contains("not as the journal left it") || said.contains("cannot ") {
        return Err(format!(
            "not at the end of a batch ({}): {said}",
            out.status
        ));
    }
    each_old_or_new(&stage.tree(receiver), old, new, scenario.first)
}

/// Contents and kinds only: times and owners of a directory follow at the end of a batch.
fn each_old_or_new(
    now: &Snapshot,
    old: &Snapshot,
    new: &Snapshot,
    first: bool,
) -> Result<(), String> {
    for (path, facts) in now.iter().filter(|(_, f)| f.kind == "file") {
        let is = |s: &Snapshot| {
            s.get(path).is_some_and(|f| {
                (f.kind, f.hash, f.mode, f.uid, &f.xattrs)
                    == (facts.kind, facts.hash, facts.mode, facts.uid, &facts.xattrs)
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
    let both = old.keys().filter(|p| new.contains_key(*p));
    let gone: Vec<_> = both.filter(|p| !now.contains_key(*p)).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let gone: Vec<_> = gone.into_iter().map(|p| tree::show(p)).collect();
    Err(format!("away for a while: {}", gone.join(", ")))
}

/// Without the fault everything ends as it should.
fn finish(
    stage: &mut Stage,
    scenario: &Scenario,
    crash: bool,
    outcome: Option<(Option<i32>, String)>,
) -> Result<(), String> {
    if let (Target::Command(side, args), Some((code, text))) = (scenario.target, outcome) {
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
        let (again, said) = ctl_when_free(&stage.pair, side, &args);
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
    stage.settle(scenario.active, crash)
}

fn judge(stage: &Stage, scenario: &Scenario, before: [(u64, u64); 2]) -> Result<(), String> {
    let mut differ = Vec::new();
    let equal = until(Duration::from_secs(3), || {
        differ = tree::diff(&stage.tree(Side::A), &stage.tree(Side::B));
        differ.is_empty()
    });
    if !equal {
        return Err(format!("not equal: {}", differ.join("\n")));
    }
    for (side, path, content) in scenario.keeps {
        if !is_preserved(&stage.pair, *side, "data", content.as_bytes()) {
            return Err(format!("{path} of {} is not preserved", side.name()));
        }
    }
    for side in [Side::A, Side::B] {
        let kept = crate::common::steps::preserved(&stage.pair, side, "data");
        let wanted = scenario.keeps.iter().filter(|k| k.0 == side).count();
        if kept.len() > wanted {
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
