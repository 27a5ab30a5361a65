//! Comparing everything: after silent damage, with a lost index, on a tree that was filled by other means, interrupted.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use crate::common::disk::Image;
use crate::common::kinds::noise;
use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, ctl, flushed_equal, idle, in_sync, is_preserved, json, lose_index, noted, preserved,
    start, until, wait_equal, well,
};
use crate::common::tree;
use crate::options;

fn filled(files: u64, size: usize) -> Pair {
    let pair = in_sync(options!());
    fill(&pair.root(Side::A, "data"), files, size);
    flushed_equal(&pair, "data");
    pair
}

fn fill(root: &Path, files: u64, size: usize) {
    fs::create_dir_all(root.join("d")).expect("a directory");
    for i in 0..files {
        fs::write(root.join(format!("d/f{i}")), noise(size, i + 1)).expect("a file");
    }
}

/// Changes bytes of a file; length and modification time stay.
fn damage(file: &Path) {
    let time = fs::metadata(file)
        .expect("a file")
        .modified()
        .expect("a time");
    let mut f = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .expect("a file");
    f.write_all(b"DAMAGED").expect("written");
    f.set_modified(time).expect("the time as before");
}

#[test]
fn verify_finds_and_mends_silent_damage() {
    let pair = filled(20, 5000);
    let b = pair.root(Side::B, "data");
    damage(&b.join("d/f7"));
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("d/f7"), "{said}");
    wait_equal(&pair, "data");
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert_eq!(code, 0, "{said}");
}

/// Neither time nor size tells of it, nor anything else that is not the content.
#[test]
fn verify_finds_bits_that_rotted() {
    let image = match Image::new("mkfs.ext4", 128 << 20) {
        Ok(image) => image,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut options = options!();
    options.parent.clone_from(&image.at);
    let pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fill(&a, 20, 5000);
    flushed_equal(&pair, "data");
    for (side, name) in [(&b, "d/f7"), (&a, "d/f8")] {
        let before = fs::read(side.join(name)).expect("a file");
        let stamp = |m: fs::Metadata| (m.ctime(), m.ctime_nsec(), m.ino());
        let stood = stamp(fs::metadata(side.join(name)).expect("a file"));
        image.rot(&side.join(name)).expect("a bit goes bad");
        assert_ne!(fs::read(side.join(name)).expect("a file"), before);
        assert_eq!(stamp(fs::metadata(side.join(name)).expect("a file")), stood);
        let (code, said) = ctl(&pair, Side::A, &["verify"]);
        assert!(code != 0 && said.contains(name), "{said}");
        // What the active node has is what counts, as nobody can tell which one is good.
        wait_equal(&pair, "data");
    }
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_resync_by_checksum_mends_silent_damage() {
    let mut pair = filled(20, 5000);
    let b = pair.root(Side::B, "data");
    pair.stop(Side::A);
    let gone = until(LONG, || {
        ctl(&pair, Side::B, &["status"]).0 != 0 || idle_status(&pair)
    });
    assert!(gone, "syncd serve still runs");
    damage(&b.join("d/f7"));
    let (code, said) = ctl(&pair, Side::B, &["resync", "--full", "--checksum"]);
    assert_eq!(code, 0, "{said}");
    tree::assert_equal(&pair.root(Side::A, "data"), &b);
    damage(&b.join("d/f8"));
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let (code, said) = ctl(&pair, Side::A, &["resync", "--checksum"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = ctl(&pair, Side::A, &["verify"]);
    assert!(code == 0 || said.contains("d/f8"), "{code}: {said}");
    wait_equal(&pair, "data");
}

fn idle_status(pair: &Pair) -> bool {
    pair.status_of(Side::B)
        .is_ok_and(|s| s["role"] == "stopped")
}

#[test]
fn a_resync_of_equal_nodes_has_nothing_to_do() {
    let mut pair = filled(5, 100);
    for args in [&["resync"][..], &["resync", "--full"]] {
        let (code, said) = ctl(&pair, Side::A, args);
        assert_eq!(code, 0, "{args:?} on the active node: {said}");
    }
    let (code, said) = ctl(&pair, Side::B, &["resync"]);
    assert_eq!(code, 0, "on the standby: {said}");
    pair.stop(Side::A);
    assert!(until(LONG, || idle_status(&pair)), "syncd serve still runs");
    for side in [Side::A, Side::B] {
        for args in [&["resync"][..], &["resync", "--dry-run"]] {
            let (code, said) = ctl(&pair, side, args);
            assert_eq!(code, 0, "{args:?} with nobody active: {said}");
        }
    }
    wait_equal(&pair, "data");
}

#[test]
fn a_lost_index_on_the_standby_sends_no_contents_again() {
    let mut pair = filled(100, 50_000);
    pair.stop(Side::A);
    assert!(until(LONG, || idle_status(&pair)), "syncd serve still runs");
    lose_index(&pair, Side::B);
    fs::write(pair.root(Side::A, "data").join("new"), "one change").expect("a file");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    let totals = pair.status().expect("status")["totals"].clone();
    let sent = totals["sent_bytes"].as_u64().expect("a number");
    assert!(
        sent > 0 && sent < 200_000,
        "5 MB of contents, sent again: {totals}"
    );
    assert!(preserved(&pair, Side::B, "data").is_empty());
}

/// The node that is ahead can be asked as well, and a dry run tells without doing.
#[test]
fn a_resync_on_the_node_that_is_ahead_sends() {
    let mut pair = filled(3, 100);
    pair.cut().expect("cut");
    pair.wait_status(LONG, "alone", |s| s["peer"]["state"] == "unreachable")
        .expect("alone");
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("more"), "one more file").expect("a file");
    fs::remove_file(a.join("d/f0")).expect("removed");
    pair.wait_status(LONG, "noting it", |s| s["epoch"].as_u64() >= Some(2))
        .expect("an epoch of A");
    pair.stop(Side::A);
    pair.restore().expect("mended");
    assert!(until(LONG, || idle_status(&pair)), "syncd serve still runs");
    let before = tree::snapshot(&b).expect("B can be read");
    let report = json(&pair, Side::A, &["resync", "--dry-run"])["resync"].clone();
    let told = ["direction", "puts", "deletes"].map(|k| report[k].to_string());
    // The new file, and the time of the directory that lost one.
    assert_eq!(told, ["\"send\"", "2", "1"], "{report}");
    let now = tree::snapshot(&b).expect("B can be read");
    assert_eq!(tree::diff(&before, &now), Vec::<String>::new());
    assert!(until(LONG, || idle_status(&pair)), "syncd serve still runs");
    let report = json(&pair, Side::A, &["resync"])["resync"].clone();
    assert_eq!(report["direction"], "send", "{report}");
    tree::assert_equal(&a, &b);
}

/// What both held from the start is not written anew, and counts as replicated once it was compared: deleting it later
/// preserves nothing.
#[test]
fn what_was_equal_from_the_start_is_deleted_like_all_else() {
    let mut pair = idle(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fill(&a, 20, 5_000);
    fs::write(a.join("d/f20"), noise(3 << 20, 99)).expect("a large file");
    let copied = Command::new("cp")
        .args(["-a", "--"])
        .arg(a.join("d"))
        .arg(&b)
        .status();
    assert!(copied.expect("cp runs").success());
    let inodes = || -> Vec<u64> {
        let found = (0..=20).map(|i| fs::metadata(b.join(format!("d/f{i}"))));
        found.map(|m| m.expect("a file").ino()).collect()
    };
    let held = inodes();
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    // The same files still: what is the same is compared and not sent.
    assert_eq!(inodes(), held);
    let totals = pair.status_of(Side::A).expect("a status")["totals"].clone();
    assert_eq!(totals["content_bytes"], 0, "{totals}");
    fs::write(a.join("stays"), "so that the root is not empty").expect("a file");
    flushed_equal(&pair, "data");
    fs::remove_dir_all(a.join("d")).expect("removed");
    flushed_equal(&pair, "data");
    assert!(preserved(&pair, Side::B, "data").is_empty());
}

#[test]
fn what_a_fresh_standby_held_is_preserved() {
    let mut pair = idle(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fill(&a, 10, 2000);
    let status = Command::new("cp")
        .args(["-a"])
        .arg(a.join("d"))
        .arg(&b)
        .status();
    assert!(status.is_ok_and(|s| s.success()));
    fs::write(b.join("d/f3"), "another f3").expect("a file");
    fs::write(b.join("stray"), "only on the standby").expect("a file");
    let old = SystemTime::UNIX_EPOCH;
    let f4 = fs::File::options()
        .write(true)
        .open(b.join("d/f4"))
        .expect("a file");
    f4.set_modified(old).expect("another time");
    drop(f4);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    wait_equal(&pair, "data");
    assert!(is_preserved(&pair, Side::B, "data", b"another f3"));
    assert!(is_preserved(&pair, Side::B, "data", b"only on the standby"));
    assert!(preserved(&pair, Side::A, "data").is_empty());
}

#[test]
fn an_interrupted_resync_goes_on() {
    let mut pair = filled(3, 100);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    pair.cut().expect("cut");
    fill(&a, 400, 100_000);
    let all = until(
        LONG,
        noted(&pair, Side::A, |s| s["sequence"].as_u64() > Some(400)),
    );
    assert!(all, "{:?}", pair.status_of(Side::A));
    pair.stop(Side::A);
    pair.restore().expect("mended");
    let mut kills = 0;
    for _ in 0..3 {
        let have = || fs::read_dir(b.join("d")).map_or(0, Iterator::count);
        let before = have();
        let mut child = Command::new(env!("CARGO_BIN_EXE_syncctl"))
            .arg("--config")
            .arg(pair.config())
            .args(["--node", "osm2", "resync"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("syncctl runs");
        let middle = until(LONG, || {
            have() > before || child.try_wait().is_ok_and(|s| s.is_some())
        });
        assert!(middle, "the resync does not begin");
        kills += i32::from(child.try_wait().expect("a child").is_none());
        let _ = child.kill();
        let _ = child.wait();
    }
    println!("killed {kills} times in the middle");
    let mut last = String::new();
    // The other end of a killed session may hold its node for a moment.
    let done = until(LONG, || {
        let (code, said) = ctl(&pair, Side::B, &["resync"]);
        last = said;
        code == 0
    });
    assert!(done, "{last}");
    tree::assert_equal(&a, &b);
    assert!(preserved(&pair, Side::B, "data").is_empty());
    let again = json(&pair, Side::B, &["resync"]);
    assert_eq!(again["resync"]["puts"], 0, "{again}");
}

#[test]
fn a_dry_run_on_the_active_node_tells_what_it_is_about_to_send() {
    let mut pair = in_sync(options!());
    fs::write(pair.root(Side::A, "data").join("f"), "x").expect("a file");
    flushed_equal(&pair, "data");
    let report = json(&pair, Side::A, &["resync", "--dry-run"])["resync"].clone();
    assert_eq!(report["direction"], "none", "{report}");
    well(&pair, Side::A, &["pause"]);
    fs::write(pair.root(Side::A, "data").join("g"), vec![1; 5000]).expect("a file");
    pair.wait_status(LONG, "noting the change", |s| {
        s["pending"]["paths"].as_u64() >= Some(1)
    })
    .expect("pending");
    let text = well(&pair, Side::A, &["resync", "--dry-run"]);
    assert!(text.contains("would send"), "{text}");
    let report = json(&pair, Side::A, &["resync", "--dry-run"])["resync"].clone();
    assert_eq!(report["direction"], "send", "{report}");
    assert!(report["puts"].as_u64() >= Some(1), "{report}");
    // What a comparison would find, nobody knows before it is made.
    let (code, text) = ctl(&pair, Side::A, &["resync", "--full", "--dry-run"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("syncctl diff"), "{text}");
    well(&pair, Side::A, &["resume"]);
    pair.wait_in_sync(LONG).expect("in sync");
    assert!(pair.root(Side::B, "data").join("g").exists());
}

#[test]
fn a_standby_that_has_just_begun_says_where_it_stands() {
    let mut pair = in_sync(options!());
    fs::write(pair.root(Side::A, "data").join("f"), "replicated").expect("a file");
    flushed_equal(&pair, "data");
    let at = |pair: &Pair, side| {
        let status = pair.status_of(side).expect("status");
        (status["epoch"].clone(), status["sequence"].clone())
    };
    let there = at(&pair, Side::A);
    pair.kill_serve(Side::B);
    let again = || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["role"] == "standby")
    };
    assert!(until(LONG, again), "a new session");
    assert_eq!(at(&pair, Side::B), there);
    pair.wait_in_sync(LONG).expect("in sync");
}
