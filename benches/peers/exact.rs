//! How many of the 35 kinds of single change arrive exactly.
//!
//! `rsync` runs once after each change, a second later, since it compares times by the second. `lsyncd` gets until
//! its delay and a run of `rsync` have long passed. What did not arrive is named on standard error.

use std::time::{Duration, Instant};

use crate::common::kinds::{self, Kind, Place};
use crate::common::tree;
use crate::figure::{Figure, Sample};
use crate::lab::{Lab, Result};
use crate::meter::Meter;
use crate::tool::{Session, Tool};

/// Longest wait for `lsyncd` to bring one change over.
const LSYNCD_WAIT: Duration = Duration::from_secs(4);

/// The row.
pub fn run(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["one", "two"])?;
    s.start()?;
    let meter = Meter::start(lab)?;
    let mut exact = 0u32;
    for (n, kind) in kinds::all().iter().enumerate() {
        let (one, two) = (s.tree_a().join("one"), s.tree_a().join("two"));
        let place = Place::make(&one, &two, n)?;
        let wrong = single(&s, tool, kind, &place, n)?;
        exact += u32::from(wrong.is_empty());
        for line in wrong.iter().take(2) {
            eprintln!("    {}: {}: {line}", tool.name(), kind.name);
        }
    }
    let cost = meter.stop()?;
    s.stop();
    Ok(Sample::new(&[(Figure::Exact, f64::from(exact))], cost))
}

fn single(
    s: &Session<'_>,
    tool: Tool,
    kind: &Kind,
    place: &Place,
    n: usize,
) -> Result<Vec<String>> {
    (kind.prepare)(place)?;
    transfer(s, tool, n)?;
    let held = (kind.change)(place)?;
    let wrong = transfer(s, tool, n);
    drop(held);
    wrong
}

/// Lets the tool do its work; what differs afterwards in the places of kind `n`.
fn transfer(s: &Session<'_>, tool: Tool, n: usize) -> Result<Vec<String>> {
    match tool {
        Tool::Rsync => {
            std::thread::sleep(Duration::from_millis(1100));
            // It also tells of files it could not do; the comparison is what counts.
            let _ = s.push();
        }
        Tool::Osm => s.pair.flush()?,
        Tool::Lsyncd | Tool::Base => {
            let until = Instant::now() + LSYNCD_WAIT;
            while Instant::now() < until && !differences(s, n)?.is_empty() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    differences(s, n)
}

fn differences(s: &Session<'_>, n: usize) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for root in ["one", "two"] {
        let name = format!("{root}/k{n:02}");
        let left = tree::snapshot(&s.tree_a().join(&name))?;
        match tree::snapshot(&s.tree_b().join(&name)) {
            Ok(right) => all.extend(tree::diff(&left, &right)),
            Err(e) => all.push(format!("the standby's side: {e}")),
        }
    }
    Ok(all)
}
