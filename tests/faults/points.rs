//! Counts the points of a scenario and tries them: all, one, or a share of them that is evenly spread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::calls::{Fault, Order};
use super::judge::run;
use super::scenarios::Scenario;
use crate::common::steps::is_slow;

/// Environment variable: `all`, a part of all as `all:K/N` with K below N, the seconds for the share of each scenario as `30s`,
/// or one point as `SCENARIO:FAULT:TIME:CALL`. A share is another one with each `OSM_SEED`.
const CHOICE: &str = "OSM_FAULTS";
/// Time for the share of one scenario, without and with the slow parts; the latter is more than a minute for all.
const SHARE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(6)];
/// How often a point that is not met is tried where all of them are.
const TRIES: usize = 3;
/// Most failures that are told in full.
const TOLD: usize = 12;

/// Tries a scenario as the environment says; panics where a promise is broken.
pub(crate) fn try_points(scenario: &Scenario) {
    let name = scenario.name;
    if !is_available(name) {
        return;
    }
    let choice = std::env::var(CHOICE).unwrap_or_default();
    if let Some(one) = choice.strip_prefix(&format!("{name}:")) {
        let order = Order::parse(one).expect("FAULT:TIME:CALL");
        let hit = run(scenario, Some(&order)).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{name}:{order}: met: {}; good", hit.is_some());
        return;
    }
    let part = choice.strip_prefix("all").map(part_of);
    let seconds = choice.strip_suffix('s').and_then(|n| n.parse().ok());
    let share = seconds.map_or(SHARE[usize::from(is_slow())], Duration::from_secs);
    if !choice.is_empty() && part.is_none() && seconds.is_none() {
        return;
    }
    // The peer may dial first, and what the command was to do is done by the process that answers it.
    let mut counts = (0..3).map(|_| count(scenario));
    let counted = counts.find(|(calls, _)| *calls > 0);
    let (calls, mut points) = counted.unwrap_or_else(|| panic!("{name}: nothing was counted"));
    let order = if let Some((k, n)) = part {
        points.retain(|p| hash(p) % n == k);
        (0..points.len()).collect()
    } else {
        let seed = std::env::var("OSM_SEED").ok();
        let from = seed.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let mut order = spread(points.len());
        for at in &mut order {
            *at = (*at + from) % points.len();
        }
        order
    };
    let begun = Instant::now();
    let (mut tried, mut missed, mut failed) = (0, 0, Vec::new());
    for at in order {
        if part.is_none() && begun.elapsed() > share {
            break;
        }
        let point = &points[at];
        tried += 1;
        // Threads share the work, so a call that came in one run may not come in another.
        let tries = if part.is_some() { TRIES } else { 1 };
        let mut attempts = (0..tries).map(|_| attempt(scenario, point));
        match attempts.find(|met| !matches!(met, Ok(false))) {
            Some(Ok(_)) => {}
            None => missed += 1,
            Some(Err(text)) => failed.push(text),
        }
    }
    println!(
        "{name}: {calls} calls, tried {tried} of {} fault points, {} failed, {missed} came to no such call",
        points.len(),
        failed.len()
    );
    let more = failed.len().saturating_sub(TOLD);
    let told: Vec<_> = failed.iter().take(TOLD).map(String::as_str).collect();
    assert!(
        failed.is_empty(),
        "{}\nand {more} more",
        told.join("\n----\n")
    );
}

/// What comes after `all`: which of how many parts.
fn part_of(text: &str) -> (u64, u64) {
    let parse = || {
        let (k, n) = text.strip_prefix(':')?.split_once('/')?;
        Some((k.parse().ok()?, n.parse().ok()?))
    };
    if text.is_empty() {
        return (0, 1);
    }
    parse()
        .filter(|(k, n)| k < n)
        .expect("all:K/N with K below N")
}

/// Each part counts for itself, and not quite the same calls: which part a point belongs to is said by what it is, not by its
/// place among the others.
fn hash(point: &Order) -> u64 {
    let mut hasher = DefaultHasher::new();
    point.to_string().hash(&mut hasher);
    hasher.finish()
}

/// Whether the point was met; the failure with the command that makes it again.
fn attempt(scenario: &Scenario, point: &Order) -> Result<bool, String> {
    let replay = format!(
        "{CHOICE}='{}:{point}' cargo test --test faults -- --nocapture {}",
        scenario.name,
        scenario.name.replace('-', "_")
    );
    let done = catch_unwind(AssertUnwindSafe(|| run(scenario, Some(point))));
    let told = match done {
        Ok(Ok(hit)) => return Ok(hit.is_some()),
        Ok(Err(told)) => told,
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| "a panic of the test".to_owned()),
    };
    let text = format!("{replay}\n  {told}");
    println!("FAILED {text}");
    Err(text)
}

/// Runs the scenario once without a fault; how many calls counted, and what can fail in it, in the order of the calls.
fn count(scenario: &Scenario) -> (usize, Vec<Order>) {
    let lines = run(scenario, None).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
    let lines = lines.unwrap_or_default();
    let mut points = Vec::new();
    let mut times = BTreeMap::new();
    for line in lines.lines() {
        let time = times.entry(line).and_modify(|n| *n += 1).or_insert(1);
        let mut words = line.split(' ');
        let call = words.next().unwrap_or_default();
        let stream = words.next() == Some("stream");
        points.extend(Fault::of(call, stream).into_iter().map(|fault| Order {
            fault,
            time: *time,
            call: line.to_owned(),
        }));
    }
    (lines.lines().count(), points)
}

/// All numbers below `n`, so that the first ones of them are evenly spread, however many are taken.
fn spread(n: usize) -> Vec<usize> {
    let bits = usize::BITS - n.leading_zeros();
    let mut seen = BTreeSet::new();
    let reversed = (0..1usize << bits).map(|i| i.reverse_bits() >> (usize::BITS - bits.max(1)));
    reversed.filter(|i| *i < n && seen.insert(*i)).collect()
}

/// Tries one point that once failed.
pub(crate) fn try_one(scenario: &Scenario, point: &str) {
    try_some(scenario, &[point.to_owned()]);
}

/// Tries points one of which once failed: threads share the work, so a call is not the same one in every run, and the last
/// ones may not come.
pub(crate) fn try_some(scenario: &Scenario, points: &[String]) {
    if !is_available(scenario.name) || std::env::var_os(CHOICE).is_some() {
        return;
    }
    let mut hits = 0;
    for point in points {
        let order = Order::parse(point).expect("FAULT:TIME:CALL");
        let hit = run(scenario, Some(&order)).unwrap_or_else(|e| panic!("{order}: {e}"));
        hits += usize::from(hit.is_some());
    }
    assert!(hits > 0, "{points:?}: there was no such call");
}

/// Whether this system can have calls fail; says that the test was skipped if not.
fn is_available(name: &str) -> bool {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let able = actions.split_whitespace().any(|a| a == "user_notif");
    if !able {
        println!("skipped: faults in {name}: this kernel has no seccomp notification");
    } else if !rustix::process::geteuid().is_root() {
        println!("skipped: faults in {name}: needs root");
        return false;
    }
    able
}

#[test]
fn a_share_is_spread_evenly() {
    for n in [1, 2, 7, 64, 1000] {
        let order = spread(n);
        assert_eq!(order.len(), n);
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), n);
    }
    let mut first: Vec<_> = spread(1000).into_iter().take(10).collect();
    first.sort_unstable();
    assert!(first.windows(2).all(|w| w[1] - w[0] < 200), "{first:?}");
}
