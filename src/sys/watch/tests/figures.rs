//! Figures, not promises: run with `--ignored --nocapture` to see what watching costs here.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::super::*;
use super::bench::make_root;

#[derive(Default)]
struct Count {
    events: AtomicU64,
    overflows: AtomicU64,
    cookie: AtomicU64,
}

impl Sink for Count {
    fn note(&self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            self.events.fetch_add(1, Ordering::Relaxed);
            match event {
                Event::Overflow => drop(self.overflows.fetch_add(1, Ordering::Relaxed)),
                Event::Cookie(n) => drop(self.cookie.fetch_max(n, Ordering::Release)),
                _ => {}
            }
        }
    }
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .expect("there");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse().expect("a number")
}

fn cpu_ms() -> u128 {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let ms = usage.tv_sec * 1000 + usage.tv_nsec / 1_000_000;
    u128::try_from(ms).expect("positive")
}

fn settle(dir: &Path, count: &Count, n: u64) {
    fs::write(dir.join(".osm-failover/cookies").join(n.to_string()), b"").expect("written");
    let begin = Instant::now();
    while count.cookie.load(Ordering::Acquire) < n {
        assert!(begin.elapsed().as_secs() < 120, "the cookie did not come");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn figures(choice: Choice, dir: &Path, dirs: usize) {
    let count = Arc::new(Count::default());
    let root = WatchRoot {
        id: RootId(0),
        path: dir.to_path_buf(),
        only: None,
    };
    let (rss, begin) = (resident_kib(), Instant::now());
    let started = start(choice, vec![root], Arc::new(|_, _| false), count.clone());
    let Ok((watcher, why)) = started else {
        return println!("skipped: {choice:?}");
    };
    println!(
        "{why}: {dirs} directories: started in {:?}, {} watched, {} KiB more resident",
        begin.elapsed(),
        watcher.directories(),
        resident_kib().saturating_sub(rss)
    );
    let (cpu, begin) = (cpu_ms(), Instant::now());
    for i in 0..100_000 {
        let file = dir.join(format!("d{}/f{i}", i % 100));
        fs::write(&file, b"x").expect("written");
        fs::rename(&file, file.with_extension("r")).expect("renamed");
    }
    let wrote = begin.elapsed();
    settle(dir, &count, 1);
    let (n, lost) = (
        count.events.swap(0, Ordering::Relaxed),
        count.overflows.load(Ordering::Relaxed),
    );
    println!(
        "  100,000 files written and renamed in {wrote:?}, settled {:?}: {n} events, {lost} overflows, \
         {} ms CPU of both sides",
        begin.elapsed(),
        cpu_ms() - cpu
    );
    let (cpu, begin) = (cpu_ms(), Instant::now());
    for i in 100..10_100.min(dirs) {
        fs::remove_dir(dir.join(format!("d{i}"))).expect("removed");
    }
    let removed = begin.elapsed();
    settle(dir, &count, 2);
    println!(
        "  up to 10,000 directories removed in {removed:?}, settled {:?}: {} overflows, {} ms CPU of both sides",
        begin.elapsed(),
        count.overflows.load(Ordering::Relaxed) - lost,
        cpu_ms() - cpu
    );
}

#[test]
#[ignore = "figures, not promises"]
fn what_watching_costs() {
    for dirs in [6_000, 12_000, 100_000] {
        for choice in [Choice::Inotify, Choice::Fanotify] {
            let tmp = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
            let dir = tmp.path().join("root");
            make_root(&dir);
            for i in 0..dirs {
                fs::create_dir(dir.join(format!("d{i}"))).expect("made");
            }
            figures(choice, &dir, dirs);
        }
    }
}
