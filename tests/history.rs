//! Random histories: thousands of operations while the link is cut and processes are killed, and equal trees at the end.
//!
//! A failing run prints the command that makes the same operations and the same faults at the same places again;
//! what falls between them is up to the scheduler. `OSM_SEED` chooses the seed, `OSM_OPS` the number of operations;
//! `OSM_KEEP=1` keeps both nodes as they stood when the run failed.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::background::command_line;
use common::disk::Image;
use common::history::{History, names_of};
use common::netns::{Ground, over_ssh};
use common::node::{Options, Pair, Side, tail};
use common::random::Random;
use common::tree;

/// Operations between two comparisons.
const CHAPTER: usize = 250;
/// Longest that the nodes may take to be equal again after the last fault of a chapter.
const CALM: Duration = Duration::from_secs(30);
const ROOTS: [&str; 2] = ["one", "two"];

/// What was done to the nodes besides changing files.
#[derive(Debug, Default)]
struct Faults {
    cuts: usize,
    active_kills: usize,
    standby_kills: usize,
}

struct Run {
    name: &'static str,
    seed: u64,
    pair: Pair,
    ground: Option<Ground>,
    random: Random,
    history: History,
    faults: Faults,
    /// Operation before which the link is mended.
    mend_at: Option<usize>,
    /// Operation before which the killed daemon is started again.
    start_at: Option<usize>,
    at: usize,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn options(watcher: &str, parent: &Path) -> Options {
    let mut options = Options::new(env!("CARGO_BIN_EXE_syncd"), env!("CARGO_BIN_EXE_syncctl"));
    options.roots = ROOTS
        .iter()
        .map(|r| ((*r).to_owned(), format!("/{r}")))
        .collect();
    options.watcher = watcher.to_owned();
    // A random history may well delete most of a small tree.
    options.sync_lines = "max_delete = \"100%\"".to_owned();
    options.parent = parent.to_owned();
    options
}

impl Run {
    fn new(name: &'static str, options: Options, ground: Option<Ground>) -> Self {
        let seed = number("OSM_SEED").unwrap_or(1);
        let pair = Pair::new(options).expect("directories and configuration");
        let roots = ROOTS.map(|r| pair.root(Side::A, r)).to_vec();
        let mut run = Self {
            name,
            seed,
            pair,
            ground,
            random: Random::new(seed ^ 0xfa17),
            history: History::new(seed, roots),
            faults: Faults::default(),
            mend_at: None,
            start_at: None,
            at: 0,
        };
        run.pair.start(Side::A).expect("syncd starts");
        let met = run.pair.wait_in_sync(CALM);
        run.check(met.map_err(|e| vec![e]));
        run
    }

    fn go(mut self, default: usize) {
        let ops = number("OSM_OPS").and_then(|n| usize::try_from(n).ok());
        let ops = ops.unwrap_or(default);
        let began = Instant::now();
        while self.at < ops {
            self.fault();
            self.history.step().expect("the trees can be listed");
            self.at += 1;
            if self.random.once_in(12) {
                // Lets the nodes work between operations, so that they meet every state a program can leave.
                std::thread::sleep(Duration::from_micros(self.random.below(20_000)));
            }
            if self.at.is_multiple_of(CHAPTER) || self.at == ops {
                self.calm();
                let same = self.compare();
                self.check(same);
            }
        }
        println!(
            "{}: seed {}, {} operations ({} done), {:?}, {:.1} s: equal",
            self.name,
            self.seed,
            ops,
            self.history.done.len(),
            self.faults,
            began.elapsed().as_secs_f64()
        );
    }

    /// Makes a fault here, if the seed says so.
    fn fault(&mut self) {
        if self.mend_at.is_some_and(|n| n <= self.at) {
            self.mend();
        }
        if self.start_at.is_some_and(|n| n <= self.at) {
            self.restart();
        }
        if !self.random.once_in(45) {
            return;
        }
        let later = self.at + usize::try_from(self.random.below(40)).unwrap_or(0);
        match self.random.below(3) {
            0 if self.mend_at.is_none() => {
                self.faults.cuts += 1;
                match &self.ground {
                    Some(ground) => ground.net.set_link(false).expect("link down"),
                    None => self.pair.cut().expect("cut"),
                }
                self.mend_at = Some(later);
            }
            1 if self.start_at.is_none() => {
                self.faults.active_kills += 1;
                self.pair.kill(Side::A);
                self.start_at = Some(later);
            }
            _ => self.kill_standby(),
        }
    }

    /// Kills whoever owns the standby.
    fn kill_standby(&mut self) {
        let lock = self.pair.dir().join("b/run/owner.lock");
        let text = fs::read_to_string(lock).unwrap_or_default();
        let pid = text
            .lines()
            .next()
            .and_then(|l| l.trim().parse::<u32>().ok());
        let Some(pid) = pid else { return };
        // The number may belong to somebody else by now; only a command line of this pair is ended.
        let line = command_line(pid);
        let mark = self.pair.dir().as_os_str().as_encoded_bytes();
        if line.windows(mark.len()).any(|w| w == mark) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id"));
            if nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok() {
                self.faults.standby_kills += 1;
            }
        }
    }

    fn mend(&mut self) {
        if self.mend_at.take().is_some() {
            match &self.ground {
                Some(ground) => ground.net.set_link(true).expect("link up"),
                None => self.pair.restore().expect("restored"),
            }
        }
    }

    fn restart(&mut self) {
        if self.start_at.take().is_some() {
            self.pair.start(Side::A).expect("syncd starts");
        }
    }

    fn calm(&mut self) {
        self.mend();
        self.restart();
        for root in ROOTS {
            // An emptied root is held back by a guard; the remedy it names is any file in it.
            let root = self.pair.root(Side::A, root);
            let names = fs::read_dir(&root).expect("a root").flatten();
            if names.into_iter().all(|e| e.file_name() == ".osm-failover") {
                fs::write(root.join("remedy"), "not empty any more").expect("a file");
            }
        }
        let settled = self
            .pair
            .wait_in_sync(CALM)
            .and_then(|()| self.pair.flush());
        self.check(settled.map_err(|e| vec![e]));
        self.history.settled().expect("the trees can be listed");
    }

    /// Whether both nodes hold the same, by the judge and by their own word, and nothing was taken for a local edit.
    fn compare(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        let all = |side| {
            let roots = self.pair.root(side, ROOTS[0]);
            tree::snapshot_together(roots.parent().expect("a parent"), &ROOTS)
        };
        let (left, right) = (all(Side::A), all(Side::B));
        wrong.extend(tree::diff(
            &left.expect("A can be read"),
            &right.expect("B can be read"),
        ));
        for root in ROOTS {
            let store = self
                .pair
                .root(Side::B, root)
                .join(".osm-failover/preserved");
            let kept = fs::read_dir(store).map_or(0, Iterator::count);
            if kept > 0 {
                wrong.push(format!("{root}: {kept} paths preserved on the standby"));
            }
        }
        let noted = self.pair.dir().join("b/state/preserved.jsonl");
        let noted = fs::read_to_string(noted).unwrap_or_default();
        wrong.extend(noted.lines().map(str::to_owned));
        let out = self
            .pair
            .syncctl(Side::A, &["verify"])
            .expect("syncctl runs");
        if !out.status.success() {
            let said = [out.stdout, out.stderr].concat();
            wrong.push(format!("verify: {}", String::from_utf8_lossy(&said).trim()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Panics with all that helps to find the cause.
    fn check(&self, result: Result<(), Vec<String>>) {
        let Err(wrong) = result else { return };
        let mut about = String::new();
        for name in names_of(&wrong).iter().take(6) {
            let lines = self.history.about(name, 2 * CHAPTER).join("\n    ");
            about += &format!("  {name}\n    {lines}\n");
        }
        let log = self.pair.log(Side::A);
        let kept = self.pair.dir().with_extension("failed.log");
        let ops = self.history.done.join("\n");
        let text = format!("{}\n\n{ops}\n\n{log}", wrong.join("\n"));
        let kept = fs::write(&kept, text).map_or(String::new(), |()| kept.display().to_string());
        if std::env::var_os("OSM_KEEP").is_some() {
            let to = self.pair.dir().with_extension("failed");
            let _ = Command::new("cp")
                .arg("-a")
                .arg(self.pair.dir())
                .arg(to)
                .status();
        }
        panic!(
            "{}: after {} operations ({:?}):\n{}\nlast operations on these paths:\n{about}log of A:\n{}\nall of it: {kept}\n\
             replay: OSM_SEED={} OSM_OPS={} cargo test --test history {}",
            self.name,
            self.at,
            self.faults,
            wrong
                .iter()
                .take(30)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n"),
            tail(&log),
            self.seed,
            self.at.max(CHAPTER),
            self.name
        );
    }
}

#[test]
fn fanotify_on_a_pipe() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: fanotify needs root");
        return;
    }
    Run::new(
        "fanotify_on_a_pipe",
        options("fanotify", &std::env::temp_dir()),
        None,
    )
    .go(1_000);
}

#[test]
fn inotify_on_a_pipe() {
    Run::new(
        "inotify_on_a_pipe",
        options("inotify", &std::env::temp_dir()),
        None,
    )
    .go(1_000);
}

/// A run between two namespaces with a real `sshd`.
fn between(name: &'static str, watcher: &str, parent: &Path) {
    let mut options = options(watcher, parent);
    if let Some(ground) = over_ssh(&mut options) {
        Run::new(name, options, Some(ground)).go(500);
    }
}

#[test]
fn fanotify_over_ssh() {
    between("fanotify_over_ssh", "fanotify", &std::env::temp_dir());
}

#[test]
fn inotify_over_ssh() {
    between("inotify_over_ssh", "inotify", &std::env::temp_dir());
}

#[test]
fn on_xfs() {
    match Image::new("mkfs.xfs", 1 << 30) {
        Ok(image) => between("on_xfs", "auto", &image.at),
        Err(why) => println!("skipped: {why}"),
    }
}

#[test]
fn on_btrfs() {
    match Image::new("mkfs.btrfs", 1 << 30) {
        Ok(image) => between("on_btrfs", "auto", &image.at),
        Err(why) => println!("skipped: {why}"),
    }
}
