//! One large file: a hundred pages of it, and a new one.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use crate::common::kinds::noise;
use crate::data::large;
use crate::figure::{Figure, Sample};
use crate::lab::{Lab, Result};
use crate::meter::Meter;
use crate::tool::{Session, Tool, has_size};
use crate::trees::ssh_cat;

/// A hundred pages of 4 KiB, anywhere in a file of 1 GiB.
pub fn pages(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    let (a, b) = (s.a().join("database"), s.b().join("database"));
    let mib = lab.sized(256, 1024);
    large(&a, mib)?;
    s.mirror()?;
    s.start()?;
    s.calm();
    let meter = Meter::start(lab)?;
    write_pages(&a, mib * 256)?;
    let end = Instant::now();
    let time = s.until_equal(end, || same_time(&a, &b))?;
    let cost = meter.stop()?;
    s.verify_contents()?;
    s.stop();
    Ok(Sample::new(&[(Figure::Time, time)], cost))
}

fn write_pages(a: &Path, pages: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(a)?;
    for i in 0..100u64 {
        // A prime step spreads the pages over the whole file.
        let page = i * 1_000_003 % pages;
        file.write_all_at(&noise(4096, 7_000_000 + i), page * 4096)?;
    }
    Ok(())
}

fn same_time(a: &Path, b: &Path) -> bool {
    let time = |p: &Path| fs::metadata(p).map(|m| (m.mtime(), m.mtime_nsec())).ok();
    time(a) == time(b)
}

/// A new file of 1 GiB, complete when it appears.
pub fn throughput(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    let mib = lab.sized(256, 1024);
    let ready = s.pair.dir().join("ready");
    large(&ready, mib)?;
    s.start()?;
    s.calm();
    let (a, b) = (s.a().join("new"), s.b().join("new"));
    let size = mib << 20;
    let meter = Meter::start(lab)?;
    fs::rename(&ready, &a)?;
    let start = Instant::now();
    let time = if tool == Tool::Base {
        ssh_cat(lab, &a, &b)?;
        start.elapsed().as_secs_f64()
    } else {
        s.until_equal(start, || has_size(&b, size))?
    };
    let cost = meter.stop()?;
    s.verify_contents()?;
    s.stop();
    #[allow(clippy::cast_precision_loss)]
    let rate = size as f64 / time;
    Ok(Sample::new(
        &[(Figure::Rate, rate), (Figure::Time, time)],
        cost,
    ))
}
