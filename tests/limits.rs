//! Trees of shapes that nobody wants: very deep, very wide, very long. Each is replicated like any other, within memory that
//! does not depend on it.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use osm_failover::model::path::MAX_PATH;
use rustix::fs::{AtFlags, Mode, OFlags};

use common::node::{Options, Pair, Side};
use common::steps::{Immutable, ctl, idle, in_sync, is_root, is_slow, must, start, until, well};

/// Time for anything here, and with `make limits`.
const PATIENCE: [Duration; 2] = [Duration::from_secs(120), Duration::from_secs(3600)];
/// Most memory that a process may have held at any time, in KiB.
const MOST_MEMORY: u64 = 256 * 1024;

/// The peak of a process' resident memory, in KiB.
fn peak(pid: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let number = line.and_then(|l| l.trim().split(' ').next());
    number.and_then(|n| n.parse().ok()).expect("a number")
}

/// Neither process of the session held more memory than is allowed.
fn memory_is_bounded(pair: &Pair) {
    let serve = fs::read_to_string(pair.dir().join("serve-b.pid")).expect("a pid");
    let daemon = pair.pid(Side::A).expect("running").to_string();
    for (what, pid) in [("active", daemon.as_str()), ("standby", serve.trim())] {
        let peak = peak(pid);
        println!("{what}: {} MiB at most", peak / 1024);
        assert!(peak < MOST_MEMORY, "{what}: {peak} KiB");
    }
}

/// What `find` tells of a tree, in order; paths may be as long as they like.
fn listing(dir: &Path) -> Vec<String> {
    let out = Command::new("find")
        .args([
            ".",
            "-mindepth",
            "1",
            "-name",
            ".osm-failover",
            "-prune",
            "-o",
        ])
        .args(["-printf", "%d %y %m %s %T@ %f\\n"])
        .current_dir(dir)
        .output()
        .expect("find");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8(out.stdout).expect("names");
    // How long a directory is says nothing.
    let sized = text.lines().map(|l| match l.split(' ').nth(1) {
        Some("d") => l
            .split(' ')
            .enumerate()
            .filter(|(i, _)| *i != 3)
            .map(|(_, w)| w)
            .collect::<Vec<_>>()
            .join(" "),
        _ => l.to_owned(),
    });
    let mut lines: Vec<String> = sized.collect();
    lines.sort_unstable();
    lines
}

fn patience() -> Duration {
    PATIENCE[usize::from(std::env::var("OSM_LIMITS").is_ok())]
}

/// How far to go: with every `make test`, in continuous integration, with `make limits`.
fn extent(quick: u32, slow: u32, all: u32) -> u32 {
    if std::env::var("OSM_LIMITS").is_ok() {
        all
    } else if is_slow() {
        slow
    } else {
        quick
    }
}

/// Both trees are equal, by `find` and by what they say themselves.
fn assert_same(pair: &Pair) {
    let timeout = format!("{}s", patience().as_secs());
    well(pair, Side::A, &["flush", "--timeout", &timeout]);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let (ours, theirs) = (listing(&a), listing(&b));
    assert_eq!(ours.len(), theirs.len());
    let other = ours.iter().zip(&theirs).find(|(o, t)| o != t);
    assert_eq!(other, None);
    well(pair, Side::A, &["verify"]);
}

/// Makes directories of one name `levels` deep; the last one, open.
fn dig(top: &Path, name: &str, levels: u32) -> OwnedFd {
    let dir = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(top, dir, Mode::empty()).expect("the root");
    for _ in 0..levels {
        rustix::fs::mkdirat(&at, name, Mode::from_bits_truncate(0o755)).expect("a directory");
        at = rustix::fs::openat(&at, name, dir, Mode::empty()).expect("a directory");
    }
    at
}

fn write_in(dir: &OwnedFd, name: &str, bytes: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::APPEND;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_bits_truncate(0o644));
    fs::File::from(file.expect("a file"))
        .write_all(bytes)
        .expect("written");
}

/// Directories, one in the other, up to ten thousand. Each path is walked from its root, so the work is the square of that.
#[test]
fn a_tree_of_thousands_of_levels_is_like_any_other() {
    let levels = extent(300, 1000, 10_000);
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("keep"), "so that the root is never empty").expect("a file");
    let bottom = dig(&a, "d", levels);
    write_in(&bottom, "at the bottom", b"first");
    assert_same(&pair);
    write_in(&bottom, "at the bottom", b", second");
    assert_same(&pair);
    // What comes with a scan of everything.
    pair.kill(Side::A);
    fs::rename(a.join("d"), a.join("renamed")).expect("renamed");
    write_in(&bottom, "at the bottom", b", third");
    start(&mut pair, Side::A);
    pair.wait_in_sync(patience()).expect("in sync again");
    assert_same(&pair);
    drop(bottom);
    must("rm", &["-rf", &a.join("renamed").display().to_string()]);
    assert_same(&pair);
    assert!(!b.join("renamed").exists());
    memory_is_bounded(&pair);
}

/// Files in one directory, up to a million.
#[test]
fn a_directory_of_a_million_files_is_like_any_other() {
    let files = extent(3_000, 50_000, 1_000_000);
    let mut pair = idle(options!());
    let dir = pair.root(Side::A, "data").join("wide");
    fs::create_dir(&dir).expect("a directory");
    for n in 0..files {
        fs::write(dir.join(format!("file {n}")), n.to_le_bytes()).expect("a file");
    }
    start(&mut pair, Side::A);
    pair.wait_in_sync(patience()).expect("in sync");
    assert_same(&pair);
    // One change costs what it costs elsewhere, and the directory may move.
    fs::write(dir.join("file 7"), "changed").expect("written");
    assert_same(&pair);
    fs::rename(&dir, dir.with_file_name("moved")).expect("renamed");
    assert_same(&pair);
    memory_is_bounded(&pair);
}

/// Single files that go while the standby is away, from directories that stay.
#[test]
fn any_number_of_files_goes_from_directories_that_stay() {
    let files = extent(3_000, 110_000, 2_500_000);
    let mut pair = idle(Options {
        sync_lines: "max_delete = \"100%\"".to_owned(),
        ..options!()
    });
    let a = pair.root(Side::A, "data");
    let at = |n: u32| a.join(format!("dir {}/file {n}", n % 7));
    (0..7).for_each(|n| fs::create_dir(a.join(format!("dir {n}"))).expect("a directory"));
    for n in 0..files {
        fs::write(at(n), "").expect("a file");
    }
    start(&mut pair, Side::A);
    pair.wait_in_sync(patience()).expect("in sync");
    pair.cut().expect("cut");
    for n in (0..files).filter(|n| n % 1000 != 0) {
        fs::remove_file(at(n)).expect("removed");
    }
    fs::write(a.join("dir 0/new"), "comes before they go").expect("written");
    pair.restore().expect("mended");
    pair.wait_in_sync(patience()).expect("in sync again");
    assert_same(&pair);
    assert_eq!(listing(&a).len(), 7 + (files as usize).div_ceil(1000) + 1);
    memory_is_bounded(&pair);
}

/// Whoever compares is told of every difference, however many there are and however slowly they are read. What is not mended
/// at once is counted, and mended by the next comparison.
#[test]
fn any_number_of_differences_is_told() {
    let files = extent(5_000, 30_000, 1_000_000);
    let mut pair = idle(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for dir in 0..7 {
        fs::create_dir(a.join(format!("dir {dir}"))).expect("a directory");
    }
    for n in 0..files {
        fs::write(a.join(format!("dir {}/file {n}", n % 7)), "").expect("a file");
    }
    start(&mut pair, Side::A);
    pair.wait_in_sync(patience()).expect("in sync");
    for dir in 0..7 {
        let dir = b.join(format!("dir {dir}"));
        must("chmod", &["-R", "g+w", &dir.display().to_string()]);
    }
    let wanted = u64::from(files) + 7;
    let mut asked = Command::new(env!("CARGO_BIN_EXE_syncctl"));
    asked.arg("--config").arg(pair.config());
    asked.args(["--node", "osm1", "--json", "verify"]);
    let mut asked = asked.stdout(Stdio::piped()).spawn().expect("syncctl");
    let mut lines = BufReader::new(asked.stdout.take().expect("piped")).lines();
    lines.next().expect("a line").expect("read");
    // Nobody reads for a while: what is not taken is not found yet, and everything else goes on.
    fs::write(a.join("meanwhile"), "changed").expect("written");
    let there = || b.join("meanwhile").exists();
    assert!(until(patience(), there));
    let lines: Vec<_> = lines.map(|l| l.expect("read")).collect();
    assert_eq!(asked.wait().expect("it ends").code(), Some(1));
    assert_eq!(
        lines.len() as u64,
        wanted,
        "with the last line, without the first"
    );
    let last: serde_json::Value =
        serde_json::from_str(lines.last().expect("a line")).expect("JSON");
    assert_eq!(last["done"]["differences"], wanted, "{last}");
    let left = last["done"]["message"]
        .as_str()
        .is_some_and(|m| m.contains("run it again"));
    well(&pair, Side::A, &["flush", "--timeout", "1h"]);
    let (code, text) = ctl(&pair, Side::A, &["verify"]);
    assert!(code == 0 || left, "{last}: {text}");
    well(&pair, Side::A, &["flush", "--timeout", "1h"]);
    well(&pair, Side::A, &["verify"]);
    assert_same(&pair);
    memory_is_bounded(&pair);
}

/// A file with a hole of up to a hundred gibibytes: nothing of that is sent, and it takes no room.
#[test]
fn a_file_of_a_hundred_gibibytes_is_like_any_other() {
    let length = u64::from(extent(1, 5, 100)) << 30;
    let mut pair = idle(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let image = fs::File::create(a.join("image")).expect("a file");
    image.set_len(length).expect("a hole");
    image
        .write_all_at(b"in the middle", length / 2)
        .expect("written");
    start(&mut pair, Side::A);
    // Other files do not wait for it.
    fs::write(a.join("small"), "in between").expect("a file");
    pair.wait_in_sync(patience()).expect("in sync");
    assert_same(&pair);
    image
        .write_all_at(b"near the end", length - 5000)
        .expect("written");
    drop(image);
    assert_same(&pair);
    let there = b.join("image").metadata().expect("it is there");
    assert!(there.blocks() < 2000, "{} blocks", there.blocks());
    memory_is_bounded(&pair);
}

/// Files in a directory of the standby to which nobody may write.
const REFUSED: usize = 300;
/// How long it is looked at, and tries within that: after 2, 4 and 8 s, and the first.
const LOOKED_AT: Duration = Duration::from_secs(16);
const TRIES: u64 = 4;

/// What the standby cannot take is told all the time, tried again less and less often, and does not fill the log.
#[test]
fn what_fails_all_the_time_costs_little() {
    if !is_root("a directory that nobody may write to") {
        return;
    }
    let mut pair = idle(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for root in [&a, &b] {
        fs::create_dir(root.join("d")).expect("a directory");
    }
    let Some(refuses) = Immutable::new(&b.join("d")) else {
        return;
    };
    start(&mut pair, Side::A);
    pair.wait_in_sync(patience()).expect("in sync");
    for n in 0..REFUSED {
        fs::write(a.join(format!("d/f{n}")), "x").expect("a file");
    }
    let told = |pair: &Pair| {
        let status = pair.status().expect("a status");
        let problems = status["problems"].as_array().expect("problems").clone();
        let files = problems
            .into_iter()
            .filter(|p| p["operation"] == "put it in place on osm2");
        let since: Vec<_> = files
            .map(|p| (p["path"].to_string(), p["since"].as_u64()))
            .collect();
        (
            since,
            status["totals"]["operations"].as_u64().expect("a number"),
        )
    };
    assert!(until(patience(), || told(&pair).0.len() > 90));
    let (first, before) = told(&pair);
    let begun = Instant::now();
    while begun.elapsed() < LOOKED_AT {
        let (now, _) = told(&pair);
        assert!(now.len() > 90, "{} are told", now.len());
        let known = now.iter().find(|(path, _)| *path == first[0].0);
        assert_eq!(known, Some(&first[0]));
    }
    let done = told(&pair).1 - before;
    // With their directory, and another one where a file comes by itself.
    assert!(done <= TRIES * 2 * REFUSED as u64, "{done} operations");
    let log = pair.log(Side::A);
    assert!(log.lines().count() < 30, "{log}");
    drop(refuses);
    assert_same(&pair);
    assert_eq!(told(&pair).0, []);
}

/// Files that each process may have open.
const OPEN: u64 = 64;

/// Many files, many large ones, directories in one another: none of it takes a descriptor each.
#[test]
fn few_open_files_are_enough() {
    let mut options = options!();
    options.launcher = ["prlimit", &format!("--nofile={OPEN}")]
        .map(str::to_owned)
        .to_vec();
    let mut pair = idle(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    drop(dig(&a, "d", 150));
    for d in 0..150 {
        let dir = a.join(format!("dir {d}"));
        fs::create_dir(&dir).expect("a directory");
        for n in 0..4 {
            fs::write(dir.join(format!("small {n}")), "x").expect("a file");
        }
        fs::write(dir.join("large"), vec![7; 200_000]).expect("a file");
    }
    start(&mut pair, Side::A);
    pair.wait_in_sync(patience()).expect("in sync");
    let serve = fs::read_to_string(pair.dir().join("serve-b.pid")).expect("a pid");
    for pid in [
        serve.trim(),
        &pair.pid(Side::A).expect("running").to_string(),
    ] {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let line = limits.lines().find(|l| l.starts_with("Max open files"));
        let most = line
            .and_then(|l| l.split_whitespace().nth(3))
            .and_then(|n| n.parse().ok());
        assert_eq!(most, Some(OPEN), "{limits}");
    }
    assert_same(&pair);
    for d in 0..150 {
        let dir = a.join(format!("dir {d}"));
        fs::write(dir.join("large"), vec![8; 250_000]).expect("a file");
        fs::rename(dir.join("small 1"), dir.join("renamed")).expect("renamed");
        fs::remove_file(dir.join("small 2")).expect("removed");
    }
    assert_same(&pair);
    assert_eq!(
        pair.status().expect("a status")["problems"],
        serde_json::json!([])
    );
    assert!(b.join("dir 149/renamed").exists());
}

/// A path that is longer than can be told to the peer is a problem of its own.
#[test]
fn what_lies_too_deep_is_told_and_stops_nothing() {
    let pair = in_sync(options!());
    let a = pair.root(Side::A, "data");
    let (name, levels) = ("d".repeat(200), u32::try_from(MAX_PATH / 201).expect("few"));
    let last = dig(&a, &name, levels);
    let too_deep = "so deep that no path leads there";
    write_in(&last, &format!("{too_deep}{}", "!".repeat(150)), b"x");
    write_in(&last, "f", b"just within");
    fs::write(a.join("beside"), "x").expect("a file");
    let problems = || pair.status().expect("a status")["problems"].to_string();
    assert!(
        until(patience(), || problems().contains(too_deep)),
        "{}",
        problems()
    );
    let there = pair.root(Side::B, "data");
    assert!(until(patience(), || there.join("beside").exists()));
    let found = || {
        Command::new("find")
            .args([".", "-name", "f"])
            .current_dir(&there)
            .output()
    };
    assert!(until(patience(), || !found()
        .expect("find")
        .stdout
        .is_empty()));
    rustix::fs::unlinkat(
        &last,
        format!("{too_deep}{}", "!".repeat(150)),
        AtFlags::empty(),
    )
    .expect("removed");
    assert!(until(patience(), || problems() == "[]"), "{}", problems());
    assert_same(&pair);
}
