//! Bytes that nobody wrote: every decoder of the product is fed what a mutator makes of the corpus in `fuzz/corpus`.
//!
//! The mutator is the same for a given seed, so every run does the same: `OSM_FUZZ_SEED` gives another one, `OSM_FUZZ_SECONDS`
//! more time. A failing input is printed with the command that replays it. `make fuzz` looks longer, and where it is led.

#[allow(dead_code, unreachable_pub)]
#[path = "common/random.rs"]
mod random;
#[allow(unreachable_pub)]
#[path = "fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use random::Random;
use targets::{TARGETS, Taker};

/// Most memory that one input may take beyond what was in use before, in bytes.
const MOST: usize = 200 * 1024 * 1024;
/// Inputs to each target where the time suffices.
const ROUNDS: u32 = 200_000;
/// Inputs to each target however long they take.
const FEWEST: u32 = 100;
/// Longest input the mutator makes.
const LONGEST: usize = 8192;

/// Counts what is in use.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those of this call.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn below(random: &mut Random, n: usize) -> usize {
    usize::try_from(random.below(n as u64)).unwrap_or(0)
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    const TELLING: [u8; 10] = [0, 1, 2, 0x7f, 0x80, 0xff, 0xfe, b'/', b'.', b'"'];
    for _ in 0..=below(random, 6) {
        let at = below(random, input.len());
        let end = (at + 1 + below(random, 16)).min(input.len());
        match below(random, 8) {
            0 if at < input.len() => input[at] ^= 1 << below(random, 8),
            1 if at < input.len() => input[at] = TELLING[below(random, TELLING.len())],
            2 if at < end => drop(input.drain(at..end)),
            3 => input.insert(at, TELLING[below(random, TELLING.len())]),
            4 if at < end => {
                let piece = input[at..end].to_vec();
                let times = 1 + below(random, 40);
                input.splice(at..at, piece.repeat(times));
            }
            5 if at < end => input[at..end].fill(0xff),
            6 => input.truncate(at),
            _ => {
                let other = &corpus[below(random, corpus.len())];
                let from = below(random, other.len());
                let to = (from + below(random, 64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|f| f.expect("an entry").path())
        .collect();
    files.sort();
    let read = |p: &std::path::PathBuf| fs::read(p).expect("a seed");
    let seeds: Vec<_> = files.iter().map(read).collect();
    assert!(!seeds.is_empty(), "{} holds no seed", dir.display());
    seeds
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// One input; panics with it and the way to see it again where the target fails or takes too much.
fn feed((name, take): Taker, input: &[u8]) {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = catch_unwind(|| take(input));
    let took = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(
        done.is_ok() && took <= MOST,
        "{name}: {} with {took} bytes of memory\nreplay: OSM_FUZZ_TARGET={name} OSM_FUZZ_INPUT={} cargo test --test fuzz replay -- --ignored",
        if done.is_ok() { "done" } else { "it panicked" },
        hex(input)
    );
}

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).map_or(or, |v| v.parse().expect("a number"))
}

/// All in one test: the count of memory is that of the process.
#[test]
fn no_bytes_do_harm() {
    let seed = number("OSM_FUZZ_SEED", 1);
    let time = Duration::from_millis(number("OSM_FUZZ_SECONDS", 9) * 1000)
        / u32::try_from(TARGETS.len()).expect("a few");
    for target in TARGETS {
        let seeds = corpus(target.0);
        for input in &seeds {
            feed(target, input);
        }
        let mut random = Random::new(seed);
        let (began, mut rounds) = (Instant::now(), 0);
        while rounds <= FEWEST || (rounds < ROUNDS && began.elapsed() < time) {
            let mut input = seeds[below(&mut random, seeds.len())].clone();
            mutate(&mut input, &seeds, &mut random);
            feed(target, &input);
            rounds += 1;
        }
        println!("{}: {rounds} inputs of seed {seed}", target.0);
        assert!(rounds > FEWEST, "{}: {rounds} inputs only", target.0);
    }
}

/// Feeds `OSM_FUZZ_INPUT` (hexadecimal) to `OSM_FUZZ_TARGET`.
#[test]
#[ignore = "replays one input"]
fn replay() {
    let var = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let (name, text) = (var("OSM_FUZZ_TARGET"), var("OSM_FUZZ_INPUT"));
    let target = TARGETS.iter().find(|(n, _)| *n == name);
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal");
    let input: Vec<u8> = (0..text.len() / 2).map(|i| byte(2 * i)).collect();
    feed(*target.expect("a target of this name"), &input);
}
