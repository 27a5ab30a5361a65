//! What waiting costs: many directories, and a million files.

use std::fs;
use std::time::{Duration, Instant};

use crate::data::fill;
use crate::figure::{Figure, Sample};
use crate::lab::{Lab, Result};
use crate::meter::{Meter, resident};
use crate::tool::{PATIENCE, Session, Tool};

/// 100,000 directories, nothing happens.
pub fn directories(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    let outer = lab.sized(20, 100);
    for i in 0..outer {
        for j in 0..1000 {
            fs::create_dir_all(s.a().join(format!("o{i:03}/i{j:04}")))?;
        }
    }
    s.mirror()?;
    s.calm();
    let meter = Meter::start(lab)?;
    let start = Instant::now();
    s.launch()?;
    if tool == Tool::Osm {
        s.pair.wait_status(PATIENCE, "watching", |st| {
            let backend = st["watch"]["backend"].as_str().unwrap_or_default();
            !backend.is_empty() && backend != "none"
        })?;
    }
    let mut watching = start.elapsed().as_secs_f64();
    s.wait_started()?;
    if tool == Tool::Lsyncd {
        watching = start.elapsed().as_secs_f64();
    }
    s.calm();
    let before = lab.groups[0].cpu() + lab.groups[1].cpu();
    std::thread::sleep(Duration::from_secs(5));
    let idle = lab.groups[0].cpu() + lab.groups[1].cpu() - before;
    let rss = s.pid().map_or(0.0, resident);
    let cost = meter.stop()?;
    s.stop();
    let figures = [
        (Figure::Watching, watching),
        (Figure::IdleCpu, idle),
        (Figure::Resident, rss),
    ];
    Ok(Sample::new(&figures, cost))
}

/// A million files, then a tenth of them changes at once.
pub fn million(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    let made = fill(&s.a(), 1000, 1_000_000, 16)?;
    s.mirror()?;
    s.calm();
    let meter = Meter::start(lab)?;
    let start = Instant::now();
    s.start()?;
    let time = start.elapsed().as_secs_f64();
    for path in made.iter().step_by(10) {
        fs::write(path, "changed")?;
    }
    if tool == Tool::Osm {
        s.pair.flush()?;
    }
    let rss = s.pid().map_or(0.0, resident);
    let cost = meter.stop()?;
    s.stop();
    Ok(Sample::new(
        &[(Figure::Resident, rss), (Figure::Time, time)],
        cost,
    ))
}
