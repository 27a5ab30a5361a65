//! Many files at once: new, deleted, renamed, the first sync, and what changed while the standby was away.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::kinds::noise;
use crate::data::{fill, moved};
use crate::figure::{Figure, Sample};
use crate::lab::{Lab, Result, finish};
use crate::meter::Meter;
use crate::tool::{PATIENCE, Session, Tool, has_size, in_turn};

/// 20,000 small files written at once into a tree that has 1,000.
pub fn small(lab: &Lab, tool: Tool) -> Result<Sample> {
    const SIZE: usize = 2048;
    let mut s = Session::new(lab, tool, &["data"])?;
    fill(&s.a().join("before"), 10, 1_000, SIZE)?;
    s.mirror()?;
    s.start()?;
    s.calm();
    let meter = Meter::start(lab)?;
    let start = Instant::now();
    let made = fill(&s.a().join("new"), 200, 20_000, SIZE)?;
    let end = Instant::now();
    let writing = (end - start).as_secs_f64();
    let expected = made.iter().map(|p| moved(p, &s.a(), &s.b())).collect();
    let size = u64::try_from(SIZE)?;
    let time = s.until_equal(end, in_turn(expected, |p| has_size(p, size)))?;
    let cost = meter.stop()?;
    s.verify_contents()?;
    s.stop();
    let figures = [(Figure::Time, time), (Figure::Writing, writing)];
    Ok(Sample::new(&figures, cost))
}

/// A directory with 10,000 files is removed from a tree of 11,000.
pub fn delete(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    fill(&s.a().join("stays"), 10, 1_000, 4096)?;
    fill(&s.a().join("goes"), 10, 10_000, 4096)?;
    s.mirror()?;
    s.start()?;
    s.calm();
    let gone = s.b().join("goes");
    let meter = Meter::start(lab)?;
    fs::remove_dir_all(s.a().join("goes"))?;
    let end = Instant::now();
    let time = s.until_equal(end, || !gone.exists())?;
    let cost = meter.stop()?;
    s.stop();
    Ok(Sample::new(&[(Figure::Time, time)], cost))
}

/// A directory with 10,000 files, 500 MiB in all, gets another name.
pub fn rename(lab: &Lab, tool: Tool) -> Result<Sample> {
    const DIRS: usize = 10;
    let mut s = Session::new(lab, tool, &["data"])?;
    fill(&s.a().join("old"), DIRS, 10_000, lab.sized(5_243, 52_429))?;
    s.mirror()?;
    s.start()?;
    s.calm();
    let (old, new) = (s.b().join("old"), s.b().join("new"));
    let meter = Meter::start(lab)?;
    fs::rename(s.a().join("old"), s.a().join("new"))?;
    let end = Instant::now();
    let time = s.until_equal(end, || !old.exists() && count(&new) == 10_000)?;
    let cost = meter.stop()?;
    s.verify_contents()?;
    s.stop();
    Ok(Sample::new(&[(Figure::Time, time)], cost))
}

/// Files two levels below a directory.
fn count(dir: &Path) -> usize {
    let Ok(subs) = fs::read_dir(dir) else {
        return 0;
    };
    subs.flatten()
        .map(|sub| fs::read_dir(sub.path()).map_or(0, Iterator::count))
        .sum()
}

/// The standby is empty, the active side has 100,000 files and 1 GiB.
pub fn first(lab: &Lab, tool: Tool) -> Result<Sample> {
    let mut s = Session::new(lab, tool, &["data"])?;
    let files = lab.sized(20_000, 100_000);
    let size = 10_737;
    let made = fill(&s.a(), files / 100, files, size)?;
    s.calm();
    let expected = made.iter().map(|p| moved(p, &s.a(), &s.b())).collect();
    let size = u64::try_from(size)?;
    let meter = Meter::start(lab)?;
    let start = Instant::now();
    let time = if tool == Tool::Base {
        tar(lab, &s)?;
        start.elapsed().as_secs_f64()
    } else {
        s.launch()?;
        s.until_equal(start, in_turn(expected, |p| has_size(p, size)))?
    };
    let cost = meter.stop()?;
    s.stop();
    Ok(Sample::new(&[(Figure::Time, time)], cost))
}

fn tar(lab: &Lab, s: &Session<'_>) -> Result<()> {
    let script = format!(
        "tar -C '{}' -cf - . | {} {} tar -C \"'{}'\" -xpf -",
        s.a().display(),
        lab.ssh_words(),
        lab.sshd.address,
        s.b().display()
    );
    let mut c = lab.command("bash");
    c.args(["-o", "pipefail", "-c", &script]);
    finish(c)
}

/// One file in a hundred of 200,000 changes while the link is down; the clock starts when it is up again.
pub fn away(lab: &Lab, tool: Tool) -> Result<Sample> {
    const SIZE: usize = 1024;
    let mut s = Session::new(lab, tool, &["data"])?;
    let files = lab.sized(50_000, 200_000);
    let made = fill(&s.a(), 200, files, SIZE)?;
    s.mirror()?;
    s.start()?;
    s.calm();
    lab.net.set_link(false)?;
    let changed = change_while_away(&mut s, tool, &made, SIZE + 1);
    let meter = Meter::start(lab);
    let sessions = lab.sshd.accepted();
    lab.net.set_link(true)?;
    let up = Instant::now();
    let expected = changed?.iter().map(|p| moved(p, &s.a(), &s.b())).collect();
    let mut connected = None;
    let mut arrived = in_turn(expected, |p| has_size(p, SIZE as u64 + 1));
    let time = s.until_equal(up, || {
        if connected.is_none() && lab.sshd.accepted() > sessions {
            connected = Some(up.elapsed().as_secs_f64());
        }
        arrived()
    })?;
    let cost = meter?.stop()?;
    s.verify_contents()?;
    s.stop();
    let mut figures = vec![(Figure::Time, time)];
    figures.extend(connected.map(|c| (Figure::AfterConnect, time - c)));
    Ok(Sample::new(&figures, cost))
}

fn change_while_away(
    s: &mut Session<'_>,
    tool: Tool,
    made: &[std::path::PathBuf],
    size: usize,
) -> Result<Vec<std::path::PathBuf>> {
    if tool == Tool::Osm {
        s.pair.wait_status(PATIENCE, "without its peer", |st| {
            st["peer"]["state"] == "unreachable"
        })?;
    }
    let changed: Vec<_> = made.iter().step_by(100).cloned().collect();
    for (i, path) in changed.iter().enumerate() {
        fs::write(path, noise(size, 5_000_000 + u64::try_from(i)?))?;
    }
    // Long enough for lsyncd to try and fail, as it would in a real absence.
    std::thread::sleep(Duration::from_secs(3));
    Ok(changed)
}

/// What `ssh` with a program on the other side takes from a file.
pub fn ssh_cat(lab: &Lab, from: &Path, to: &Path) -> Result<()> {
    let mut c = lab.command("ssh");
    c.arg("-F")
        .arg(&lab.sshd.ssh_config)
        .arg(lab.sshd.address.to_string())
        .arg(format!("cat > '{}'", to.display()))
        .stdin(Stdio::from(fs::File::open(from)?));
    finish(c)
}
