//! Two nodes at work for a long time: a mixed load, a growing log, cuts and kills, and nothing that grows.
//!
//! `OSM_SOAK` is the time in seconds; `make soak` takes an hour. What was measured is printed as lines of marks, and written as a
//! table to `target/tmp/soak.csv`. The first quarter is the warm-up. In the first half of that (of a long run) the active node is killed
//! as well: its own figures begin anew with each of its deaths, and its last process is to be warm when they count.

mod common;
#[path = "soak/series.rs"]
mod series;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::background::command_line;
use common::history::History;
use common::netns::{Ground, over_ssh};
use common::node::{Options, Pair, Side, signal};
use common::random::Random;
use common::steps::{flushed_equal, is_slow};
use nix::sys::signal::Signal;
use series::Series;

/// Time between two measurements.
const MOMENT: Duration = Duration::from_secs(1);
/// A run from which the bounds of a long one count.
const LONG_RUN: Duration = Duration::from_secs(30 * 60);
/// Longest that the nodes may take to be equal after the last fault.
const CALM: Duration = Duration::from_secs(60);
/// A log is begun anew at this length.
const LOG_MAX: u64 = 64 << 20;
/// What it grows by at a time.
const LOG_STEP: usize = 64 << 10;

/// What is measured.
struct Figures {
    active_memory: Series,
    active_files: Series,
    active_time: Series,
    standby_memory: Series,
    standby_files: Series,
    standby_time: Series,
    lag: Series,
}

impl Figures {
    fn new(time: Duration) -> Self {
        // A short run ends while caches still fill, and a fault or two make a quarter of it.
        let long = time >= LONG_RUN;
        let (mib, ms_per_s, lag) = if long {
            (0.0, 50.0, 100.0)
        } else {
            (5.0, 200.0, 2000.0)
        };
        Self {
            active_memory: Series::new("active: memory, MiB", 0.05, mib),
            active_files: Series::new("active: open files", 0.05, 6.0),
            active_time: Series::new("active: processor, ms/s", 0.5, ms_per_s),
            standby_memory: Series::new("standby: memory, MiB", 0.05, mib),
            standby_files: Series::new("standby: open files", 0.05, 6.0),
            standby_time: Series::new("standby: processor, ms/s", 0.5, ms_per_s),
            lag: Series::new("lag, ms", 0.5, lag),
        }
    }

    fn all(&self) -> [&Series; 7] {
        [
            &self.active_memory,
            &self.active_files,
            &self.active_time,
            &self.standby_memory,
            &self.standby_files,
            &self.standby_time,
            &self.lag,
        ]
    }

    fn table(&self) -> String {
        let all = self.all();
        let mut text = all.map(|s| s.name.replace(", ", " ")).join(",") + "\n";
        for at in 0..self.lag.len() {
            text += &(all.map(|s| s.field(at)).join(",") + "\n");
        }
        text
    }
}

/// A process and the processor time that it had used when it was last looked at.
#[derive(Default)]
struct Watched(Option<(u32, f64)>);

impl Watched {
    /// Memory in MiB, open files, and processor time in ms since the last look at the same process.
    fn look(&mut self, pid: Option<u32>) -> [Option<f64>; 3] {
        let taken = pid.and_then(|pid| Some((pid, memory(pid)?, files(pid)?, used(pid)?)));
        let Some((pid, memory, files, used)) = taken else {
            self.0 = None;
            return [None; 3];
        };
        let before = self.0.replace((pid, used));
        let time = before.filter(|(p, _)| *p == pid).map(|(_, t)| used - t);
        [Some(memory), Some(files), time]
    }
}

fn memory(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024.0)
}

fn files(pid: u32) -> Option<f64> {
    let count = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

fn used(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    // User and system time, in hundredths of a second.
    Some((ticks(11)? + ticks(12)?) * 10.0)
}

/// A file that grows, and begins anew once it is long.
struct Log {
    path: PathBuf,
    file: File,
    line: Vec<u8>,
}

impl Log {
    fn new(root: &Path) -> Self {
        let path = root.join("log");
        let file = File::create(&path).expect("a log");
        let line = b"a line of a log\n".repeat(LOG_STEP / 16);
        Self { path, file, line }
    }

    fn grow(&mut self) {
        if self.file.metadata().is_ok_and(|m| m.len() > LOG_MAX) {
            fs::rename(&self.path, self.path.with_extension("1")).expect("rotated");
            self.file = File::create(&self.path).expect("a log");
        }
        self.file.write_all(&self.line).expect("written");
    }
}

/// A file that says how late the standby is.
struct Probe {
    here: PathBuf,
    there: PathBuf,
    sent: Option<(u64, Instant)>,
    count: u64,
}

impl Probe {
    /// How long ago what the standby lacks was written, or how long the last one took; in ms.
    fn look(&mut self) -> Option<f64> {
        let (wanted, at) = self.sent?;
        let late = at.elapsed();
        let there = fs::read_to_string(&self.there).unwrap_or_default();
        if there.parse::<u64>() == Ok(wanted) {
            self.sent = None;
            return Some(late.as_secs_f64() * 1000.0);
        }
        None
    }

    fn send(&mut self) {
        if self.sent.is_none() {
            self.count += 1;
            fs::write(&self.here, self.count.to_string()).expect("written");
            self.sent = Some((self.count, Instant::now()));
        }
    }
}

struct Soak {
    pair: Pair,
    ground: Option<Ground>,
    random: Random,
    cut: bool,
    killed: bool,
    done: [u32; 3],
}

impl Soak {
    fn standby(&self) -> Option<u32> {
        let lock = fs::read_to_string(self.pair.dir().join("b/run/owner.lock")).ok()?;
        let pid = lock.lines().next()?.trim().parse().ok()?;
        // The number may belong to somebody else by now.
        let mark = self.pair.dir().as_os_str().as_encoded_bytes();
        let ours = command_line(pid).windows(mark.len()).any(|w| w == mark);
        ours.then_some(pid)
    }

    /// Ends the fault that is there, or makes one.
    fn fault(&mut self, warming: bool) {
        if self.cut {
            self.cut = false;
            match &self.ground {
                Some(ground) => ground.net.set_link(true).expect("link up"),
                None => self.pair.restore().expect("mended"),
            }
        } else if self.killed {
            self.killed = false;
            self.pair.start(Side::A).expect("syncd starts");
        } else {
            match self.random.below(if warming { 3 } else { 2 }) {
                0 => {
                    self.cut = true;
                    self.done[0] += 1;
                    match &self.ground {
                        Some(ground) => ground.net.set_link(false).expect("link down"),
                        None => self.pair.cut().expect("cut"),
                    }
                }
                1 => {
                    if let Some(pid) = self.standby() {
                        self.done[1] += 1;
                        signal(pid, Signal::SIGKILL);
                    }
                }
                _ => {
                    self.killed = true;
                    self.done[2] += 1;
                    self.pair.kill(Side::A);
                }
            }
        }
    }

    fn calm(&mut self) {
        while self.cut || self.killed {
            self.fault(false);
        }
        self.pair.wait_in_sync(CALM).expect("in sync");
        flushed_equal(&self.pair, "data");
    }
}

/// How long: as `OSM_SOAK` says, two minutes among the slow parts, and not at all without them.
fn soak_time() -> Option<Duration> {
    let told = std::env::var("OSM_SOAK").ok().and_then(|s| s.parse().ok());
    told.or(is_slow().then_some(120)).map(Duration::from_secs)
}

#[test]
fn nothing_grows() {
    let Some(time) = soak_time() else {
        println!("skipped: nothing_grows: set OSM_SLOW=1, or OSM_SOAK to seconds");
        return;
    };
    let mut options = Options::new(env!("CARGO_BIN_EXE_syncd"), env!("CARGO_BIN_EXE_syncctl"));
    options.sync_lines = "max_delete = \"100%\"".to_owned();
    let ground = over_ssh(&mut options);
    let pair = Pair::new(options).expect("a pair");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("tree")).expect("a directory");
    let mut soak = Soak {
        pair,
        ground,
        random: Random::new(7),
        cut: false,
        killed: false,
        done: [0; 3],
    };
    soak.pair.start(Side::A).expect("syncd starts");
    soak.pair.wait_in_sync(CALM).expect("in sync");
    let mut history = History::new(7, vec![a.join("tree")]);
    let mut log = Log::new(&a);
    let mut probe = Probe {
        here: a.join("probe"),
        there: b.join("probe"),
        sent: None,
        count: 0,
    };
    let mut figures = Figures::new(time);
    let (mut active, mut standby) = (Watched::default(), Watched::default());
    let began = Instant::now();
    let every = (time / 30).clamp(Duration::from_secs(3), Duration::from_secs(20));
    let (mut measure_at, mut fault_at) = (began + MOMENT, began + every);
    // A short run has but a few faults, and bounds that forgive a young process.
    let deaths = time / if time >= LONG_RUN { 8 } else { 4 };
    let mut lags = Vec::new();
    while began.elapsed() < time {
        history.step().expect("the tree can be listed");
        if soak.random.once_in(4) {
            log.grow();
        }
        lags.extend(probe.look());
        probe.send();
        // What programs leave between two changes, not a wait for anything.
        std::thread::sleep(Duration::from_millis(soak.random.below(20)));
        let now = Instant::now();
        if now >= measure_at {
            measure_at += MOMENT;
            let pid = (!soak.killed).then(|| soak.pair.pid(Side::A)).flatten();
            let [memory, files, used] = active.look(pid);
            figures.active_memory.take(memory);
            figures.active_files.take(files);
            figures.active_time.take(used);
            let [memory, files, used] = standby.look(soak.standby());
            figures.standby_memory.take(memory);
            figures.standby_files.take(files);
            figures.standby_time.take(used);
            lags.sort_by(f64::total_cmp);
            figures.lag.take(lags.get(lags.len() / 2).copied());
            lags.clear();
        }
        if now >= fault_at {
            fault_at += every;
            soak.fault(began.elapsed() < deaths);
        }
    }
    soak.calm();
    let [cuts, standby_kills, active_kills] = soak.done;
    println!(
        "{} s, {} changes of a tree, {cuts} cuts, {standby_kills} kills of the standby, {active_kills} of the active node; lowest to highest, median after the warm-up -> at the end",
        time.as_secs(),
        history.done.len()
    );
    for series in figures.all() {
        println!("{}", series.plot());
    }
    let table = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.csv");
    let mut out = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(&table)
        .expect("the table");
    out.write_all(figures.table().as_bytes()).expect("written");
    let grown: Vec<_> = figures.all().iter().filter_map(|s| s.growth()).collect();
    assert!(grown.is_empty(), "{grown:#?}\n{}", table.display());
}
