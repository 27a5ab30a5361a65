//! Random histories of two nodes against a plain model of what may be where: files change on the active node and behind its
//! back, the link is cut, programs are killed, clocks jump, a disk is lost, and a confused cluster manager activates and
//! deactivates nodes in any order.
//!
//! What a flush acknowledged is never lost but on a lost disk, nothing is torn, whatever nobody took away is in a tree or
//! preserved, and both nodes are equal in the end. `OSM_SEED=N cargo test --test model` replays a history,
//! `OSM_HISTORIES=N` tries seeds 1 to N.

mod common;

#[path = "model/versions.rs"]
mod versions;
#[path = "model/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use common::steps::is_slow;
use world::World;

/// Steps of one history.
const STEPS: u64 = 16;
/// Histories after each of which it is told how far they are.
const TOLD: u64 = 100;
/// Histories at a time.
const AT_A_TIME: usize = 6;

fn seeds() -> std::ops::RangeInclusive<u64> {
    let number = |name| std::env::var(name).ok().and_then(|s| s.parse().ok());
    match (number("OSM_SEED"), number("OSM_HISTORIES")) {
        (Some(seed), _) => seed..=seed,
        (None, Some(many)) => 1..=many,
        (None, None) if is_slow() => 1..=500,
        (None, None) => 1..=20,
    }
}

/// What gives programs a clock of their own, made by the C compiler that building needs anyway.
fn shim(dir: &Path) -> Option<PathBuf> {
    let made = dir.join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/clock.c");
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([made.as_os_str(), source.as_ref()])
        .status();
    if done.is_ok_and(|s| s.success()) {
        return Some(made);
    }
    println!("clocks do not jump: cc is missing, or failed");
    None
}

#[test]
fn no_history_loses_what_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let shim = shim(dir.path());
    let (next, last) = (AtomicU64::new(*seeds().start()), *seeds().end());
    let failed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        return;
                    }
                    if seed % TOLD == 0 {
                        let failed = failed.load(Ordering::Relaxed);
                        eprintln!("{seed} of {last} begun, {failed} failed");
                    }
                    let done = catch_unwind(AssertUnwindSafe(|| {
                        let mut world = World::new(seed, shim.as_deref());
                        for _ in 0..STEPS {
                            world.step();
                        }
                        world.settle();
                    }));
                    if done.is_err() {
                        eprintln!("OSM_SEED={seed} cargo test --test model");
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (failed, tried) = (failed.into_inner(), last - seeds().start() + 1);
    println!("{tried} histories, {failed} violations");
    assert_eq!(failed, 0, "of {tried} histories");
}
