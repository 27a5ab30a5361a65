//! A large file whose transfer is cut off goes on where it was.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use osm_failover::decide::growth::READ_WHOLE;

use crate::common::kinds::noise;
use crate::common::node::{Pair, Side, signal};
use crate::common::steps::{
    LONG, activate, deactivate, edit_config, flushed_equal, idle, json, start, until,
    wait_serve_gone,
};
use crate::common::tree;
use crate::options;

/// Length of the file in bytes, and how much of it has arrived when the link is cut.
const SIZE: usize = 64 << 20;
const ARRIVED: u64 = 40 << 20;

/// A pair whose link takes a second or two for the file.
fn slow() -> Pair {
    let pair = idle(options!());
    edit_config(&pair, |text| {
        text.replace(
            "[sync]",
            "[sync]\ncompression = \"never\"\nbandwidth_limit = \"32MiB/s\"",
        )
    });
    pair
}

/// Puts the file in A's tree at once: written there, its first part could be sent before the rest is there.
fn put(pair: &Pair, bytes: &[u8]) -> PathBuf {
    let (new, file) = (
        pair.dir().join("new"),
        pair.root(Side::A, "data").join("large"),
    );
    fs::write(&new, bytes).expect("a file");
    fs::rename(&new, &file).expect("renamed");
    file
}

/// What lies in B's staging area.
fn staged(pair: &Pair) -> Vec<PathBuf> {
    let dir = pair.root(Side::B, "data").join(".osm-failover/staging");
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    names.map(|e| e.path()).collect()
}

/// Cuts the link once a large part of the file is on B.
fn cut_in_the_middle(pair: &Pair) {
    let arrived = || {
        let mut sizes = staged(pair).into_iter().filter_map(|p| p.metadata().ok());
        sizes.any(|m| m.len() >= ARRIVED)
    };
    assert!(until(LONG, arrived), "{:?}", staged(pair));
    pair.cut().expect("cut");
    assert!(!pair.root(Side::B, "data").join("large").exists());
}

/// Bytes A sent in the session that goes on, once B has everything.
fn sent_after(pair: &mut Pair) -> u64 {
    pair.restore().expect("mended");
    pair.wait_in_sync(LONG).expect("in sync again");
    flushed_equal(pair, "data");
    assert_eq!(staged(pair), Vec::<PathBuf>::new());
    let status = json(pair, Side::A, &["status", "--json"]);
    status["totals"]["sent_bytes"].as_u64().expect("a number")
}

#[test]
fn a_new_large_file_that_was_cut_off_goes_on_where_it_was() {
    let mut pair = slow();
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    put(&pair, &noise(SIZE, 1));
    cut_in_the_middle(&pair);
    let sent = sent_after(&mut pair);
    assert!(sent < (SIZE as u64 - ARRIVED) + (2 << 20), "{sent}");
}

#[test]
fn a_first_sync_that_was_cut_off_goes_on_where_it_was() {
    let mut pair = slow();
    put(&pair, &noise(SIZE, 2));
    start(&mut pair, Side::A);
    cut_in_the_middle(&pair);
    let sent = sent_after(&mut pair);
    assert!(sent < (SIZE as u64 - ARRIVED) + (2 << 20), "{sent}");
}

#[test]
fn what_changed_before_a_transfer_goes_on_arrives_as_it_is_now() {
    let mut pair = slow();
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let first = noise(SIZE, 3);
    put(&pair, &first);
    cut_in_the_middle(&pair);
    // Bytes in front move everything that arrived; others in the middle and at the end differ.
    let mut changed = noise(1 << 20, 4);
    changed.extend_from_slice(&first[..SIZE - (8 << 20)]);
    changed[20 << 20..21 << 20].fill(7);
    put(&pair, &changed);
    sent_after(&mut pair);
}

#[test]
fn what_arrived_of_a_file_that_is_gone_is_removed() {
    let mut pair = slow();
    // A root that is found empty is held.
    fs::write(pair.root(Side::A, "data").join("stays"), "x").expect("a file");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let file = put(&pair, &noise(SIZE, 5));
    cut_in_the_middle(&pair);
    fs::remove_file(&file).expect("removed");
    pair.restore().expect("mended");
    pair.wait_in_sync(LONG).expect("in sync again");
    flushed_equal(&pair, "data");
    pair.stop(Side::A);
    wait_serve_gone(&pair, Side::B);
    // The node that becomes active has no use for it.
    activate(&pair, Side::B);
    assert_eq!(staged(&pair), Vec::<PathBuf>::new());
    deactivate(&pair, Side::B);
    tree::assert_equal(&pair.root(Side::A, "data"), &pair.root(Side::B, "data"));
}

#[test]
fn a_file_that_is_changed_while_it_is_sent_is_never_torn() {
    let mut pair = slow();
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let first = noise(SIZE, 6);
    let file = put(&pair, &first);
    let arrived = || {
        let mut sizes = staged(&pair).into_iter().filter_map(|p| p.metadata().ok());
        sizes.any(|m| m.len() >= 8 << 20)
    };
    assert!(until(LONG, arrived), "{:?}", staged(&pair));
    // What was sent already, and what was not.
    let mut second = first.clone();
    let writer = fs::File::options().write(true).open(&file).expect("opened");
    for at in [1 << 20, SIZE - (1 << 20)] {
        second[at..at + 4096].fill(9);
        writer
            .write_all_at(&second[at..at + 4096], at as u64)
            .expect("written");
    }
    drop(writer);
    let there = pair.root(Side::B, "data").join("large");
    assert!(until(LONG, || there.exists()));
    let seen = fs::read(&there).expect("read");
    assert!(seen == first || seen == second, "torn");
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    assert!(fs::read(&there).expect("read") == second);
}

/// A hole is hashed by the receiver when it hears of it, so a message names no more than a gibibyte of it.
#[test]
fn a_file_with_holes_longer_than_one_message_names_arrives() {
    let mut pair = idle(options!());
    let new = pair.dir().join("new");
    let file = fs::File::create(&new).expect("a file");
    let (middle, size) = ((5u64 << 28) + 4096 * 3, 5u64 << 29);
    file.write_all_at(b"in the middle", middle).expect("bytes");
    file.set_len(size).expect("a hole at the end");
    let there = pair.root(Side::A, "data").join("holes");
    fs::rename(&new, there).expect("renamed");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG * 3).expect("in sync");
    let came = fs::File::open(pair.root(Side::B, "data").join("holes")).expect("it is there");
    let seen = came.metadata().expect("its length");
    assert_eq!(seen.len(), size);
    assert!(seen.blocks() < 1000, "{} blocks", seen.blocks());
    let mut bytes = [0; 13];
    came.read_exact_at(&mut bytes, middle).expect("bytes");
    assert_eq!(&bytes, b"in the middle");
}

/// Length in bytes of a file that is to grow.
const LENGTH: u64 = 2 << 20;

/// Two nodes in step that have such a file, and A's.
fn with_large() -> (Pair, PathBuf) {
    let mut pair = idle(options!());
    let file = put(&pair, &noise(usize::try_from(LENGTH).expect("small"), 8));
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    (pair, file)
}

/// Writes inside the file and behind its end before A looks at it again; returns when B's has grown.
fn write_inside_and_behind(pair: &Pair, file: &Path) {
    let length = file.metadata().expect("there").len();
    let daemon = pair.pid(Side::A).expect("running");
    signal(daemon, Signal::SIGSTOP);
    let writer = fs::File::options().write(true).open(file).expect("opened");
    // Neither in the first nor in the last block, and other bytes each time.
    let inside = noise(100, length);
    writer.write_all_at(&inside, LENGTH / 2).expect("written");
    writer.write_all_at(b"behind", length).expect("written");
    drop(writer);
    signal(daemon, Signal::SIGCONT);
    let there = pair.root(Side::B, "data").join("large");
    let grown = || there.metadata().is_ok_and(|m| m.len() > length);
    assert!(until(LONG, grown));
}

/// Has the file grow often enough to be known for that.
fn grow(pair: &Pair, file: &Path) {
    for _ in 0..READ_WHOLE {
        let mut writer = fs::File::options().append(true).open(file).expect("opened");
        writer.write_all(b"one more line\n").expect("written");
        drop(writer);
        flushed_equal(pair, "data");
    }
}

fn is_equal_now(pair: &Pair) -> bool {
    let read = |side| fs::read(pair.root(side, "data").join("large")).expect("read");
    read(Side::A) == read(Side::B)
}

/// A database grows and is written to inside in one moment: it is not a log.
#[test]
fn a_file_that_grew_and_was_written_inside_is_never_torn() {
    let (pair, file) = with_large();
    for _ in 0..3 {
        write_inside_and_behind(&pair, &file);
        assert!(is_equal_now(&pair));
    }
}

/// Of a file that is known to only grow the end is sent at once, and the file is read whole a little later. One that did more
/// is not taken for such a file again.
#[test]
fn a_file_that_was_written_inside_after_all_is_read_whole_from_then_on() {
    let (pair, file) = with_large();
    grow(&pair, &file);
    write_inside_and_behind(&pair, &file);
    assert!(!is_equal_now(&pair), "it was read whole at once");
    flushed_equal(&pair, "data");
    for _ in 0..2 {
        write_inside_and_behind(&pair, &file);
        assert!(is_equal_now(&pair));
    }
}

/// A crash before it was read whole must not make what was read of it count for the whole.
#[test]
fn what_was_written_inside_a_file_that_grew_outlasts_a_crash() {
    let (mut pair, file) = with_large();
    grow(&pair, &file);
    write_inside_and_behind(&pair, &file);
    pair.kill(Side::A);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync again");
    flushed_equal(&pair, "data");
}

/// Of what was appended, too, only the data is written on the standby.
#[test]
fn a_file_that_grows_by_a_hole_gets_a_hole() {
    let (pair, file) = with_large();
    let writer = fs::File::options().write(true).open(&file).expect("opened");
    writer
        .write_all_at(b"far behind", 16 << 20)
        .expect("written");
    drop(writer);
    // Holes are compared as well.
    flushed_equal(&pair, "data");
}
