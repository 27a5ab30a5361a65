//! A log of 200 MiB that grows by 10 MiB in each second for five seconds, held open all the while.
//!
//! Lag is the age of the oldest byte that the standby does not show yet, looked at every five milliseconds.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::kinds::noise;
use crate::data::large;
use crate::figure::{Figure, Sample, quantile};
use crate::lab::{Lab, Result};
use crate::meter::Meter;
use crate::tool::{Session, Tool, has_size};

const START_MIB: u64 = 200;
const STEP: Duration = Duration::from_millis(10);
const STEPS: u32 = 500;
const STEP_BYTES: usize = 104_858;

/// The row.
pub fn run(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    // A log stays open: with its default lsyncd would look only after the writer has ended.
    s.lsyncd_events = "CloseWrite or Modify";
    let (a, b) = (s.a().join("log"), s.b().join("log"));
    large(&a, START_MIB)?;
    s.mirror()?;
    s.start()?;
    s.calm();
    let meter = Meter::start(lab)?;
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (b, stop) = (b.clone(), Arc::clone(&stop));
        std::thread::spawn(move || observe(&b, &stop))
    };
    let written = append(&a);
    let end = Instant::now();
    stop.store(true, Ordering::Relaxed);
    let seen = watcher.join().map_err(|_| "the observer failed")?;
    let written = written?;
    let total = a.metadata()?.size();
    let time = s.until_equal(end, || has_size(&b, total))?;
    let cost = meter.stop()?;
    s.verify_contents()?;
    s.stop();
    let appended = f64::from(STEPS) * f64::from(u32::try_from(STEP_BYTES)?);
    let mut figures = vec![
        (Figure::WirePerByte, cost.wire / appended),
        (Figure::Time, time),
    ];
    if tool != Tool::Rsync {
        let lags = lags(&written, &seen);
        figures.push((Figure::LagP50, quantile(&lags, 0.5)));
        figures.push((Figure::LagP99, quantile(&lags, 0.99)));
    }
    Ok(Sample::new(&figures, cost))
}

fn append(a: &PathBuf) -> Result<Vec<(Instant, u64)>> {
    let mut log = OpenOptions::new().append(true).open(a)?;
    let mut size = log.metadata()?.size();
    let start = Instant::now();
    let mut written = Vec::new();
    for i in 0..STEPS {
        log.write_all(&noise(STEP_BYTES, 900_000 + u64::from(i)))?;
        size += u64::try_from(STEP_BYTES)?;
        written.push((Instant::now(), size));
        let next = start + STEP * (i + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(written)
}

fn observe(b: &Path, stop: &AtomicBool) -> Vec<(Instant, u64)> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let size = b.metadata().map_or(0, |m| m.size());
        seen.push((Instant::now(), size));
        std::thread::sleep(Duration::from_millis(5));
    }
    seen
}

/// For each look: how long ago was the first byte written that was not there.
fn lags(written: &[(Instant, u64)], seen: &[(Instant, u64)]) -> Vec<f64> {
    seen.iter()
        .map(|(now, size)| {
            written
                .iter()
                .find(|(_, s)| s > size)
                .map_or(0.0, |(at, _)| {
                    now.saturating_duration_since(*at).as_secs_f64()
                })
        })
        .collect()
}
