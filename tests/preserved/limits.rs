//! What is kept for long enough goes: by hand, by age, by size; and nothing else goes with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, ctl, edit_config, flushed_equal, in_sync, json, start, state, until,
};
use crate::options;
use crate::{id, list, one};

/// Versions preserved on B, and how many days ago.
const AGES: [(&str, u64); 4] = [("old", 40), ("older", 10), ("recent", 2), ("new", 0)];
/// Bytes of each.
const SIZE: usize = 10_000;

/// Four edits of B were moved aside, and made as old as [`AGES`] says; nothing runs any more.
fn preserved_long_ago() -> Pair {
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for (name, _) in AGES {
        fs::write(a.join(name), "as replicated").expect("a file");
    }
    flushed_equal(&pair, "data");
    for (name, _) in AGES {
        fs::write(b.join(name), vec![7; SIZE]).expect("an edit");
        fs::write(a.join(name), "changed on the active node").expect("written");
        flushed_equal(&pair, "data");
    }
    stop(&mut pair);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let now = u64::try_from(now.as_millis()).expect("fits");
    let file = state(&pair, Side::B).join("preserved.jsonl");
    let notes = fs::read_to_string(&file).expect("the notes");
    let aged = notes.lines().map(|line| {
        let mut note: Value = serde_json::from_str(line).expect("a note");
        let age = AGES.iter().find(|(name, _)| note["path"] == *name);
        note["time"] = (now - age.expect("one of them").1 * 24 * 3600 * 1000).into();
        note.to_string() + "\n"
    });
    let aged: String = aged.collect();
    fs::write(&file, aged).expect("the notes");
    assert_eq!(
        paths(&pair),
        ["old", "older", "recent", "new"],
        "oldest first"
    );
    pair
}

/// As where the clock has gone steadily since the day before.
fn watched_for_a_day(clock: &Path) {
    let noted = fs::read(clock).expect("the clock");
    let mut noted: Value = serde_json::from_slice(&noted).expect("JSON");
    noted["steady"] = (24 * 3600).into();
    fs::write(clock, noted.to_string()).expect("noted");
}

fn stop(pair: &mut Pair) {
    pair.stop(Side::A);
    let gone = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["role"] == "stopped")
    });
    assert!(gone, "syncd serve still runs");
}

/// The paths of what is preserved on B.
fn paths(pair: &Pair) -> Vec<String> {
    let path = |i: &Value| i["path"].as_str().unwrap_or("?").to_owned();
    list(pair, Side::B).iter().map(path).collect()
}

/// Files in B's preserved directory, and notes of them.
fn left(pair: &Pair) -> (usize, usize) {
    let dir = pair.root(Side::B, "data").join(".osm-failover/preserved");
    let notes = fs::read_to_string(state(pair, Side::B).join("preserved.jsonl"));
    let files = fs::read_dir(dir).expect("listed").count();
    (files, notes.expect("the notes").lines().count())
}

#[test]
fn a_purge_by_hand() {
    let pair = preserved_long_ago();
    let done = json(
        &pair,
        Side::B,
        &["preserved", "purge", "--older-than", "30"],
    );
    assert_eq!((&done["purged"], &done["bytes"]), (&1.into(), &SIZE.into()));
    assert_eq!(paths(&pair), ["older", "recent", "new"]);
    let (code, said) = ctl(&pair, Side::B, &["preserved", "purge", "17-s1"]);
    assert!(code == 1 && said.contains("17-s1"), "{code}: {said}");
    let item = one(&list(&pair, Side::B), "recent");
    let (code, said) = ctl(&pair, Side::B, &["preserved", "purge", id(&item)]);
    assert!(
        code == 0 && said.contains("1 version removed"),
        "{code}: {said}"
    );
    assert_eq!(paths(&pair), ["older", "new"]);
    assert_eq!(left(&pair), (2, 2), "the notes of what is gone are gone");
    // What no note tells of is listed all the same, whatever its name, and goes with the rest; what a link in it leads to
    // does not.
    let dir = pair.root(Side::B, "data").join(".osm-failover/preserved");
    let victim = pair.dir().join("victim");
    fs::create_dir_all(dir.join("stray\n/deep")).expect("directories");
    fs::create_dir(&victim).expect("a directory");
    fs::write(victim.join("stays"), "x").expect("a file");
    fs::write(dir.join("stray\n/deep/file"), vec![1; 700]).expect("a file");
    symlink(&victim, dir.join("stray\n/deep/link")).expect("a link");
    symlink(&victim, dir.join("link")).expect("a link");
    let items = list(&pair, Side::B);
    let stray = items
        .iter()
        .find(|i| i["id"] == "stray\\n")
        .expect("listed");
    assert_eq!(
        (&stray["kind"], &stray["path"]),
        (&"directory".into(), &Value::Null)
    );
    assert!(stray["size"].as_u64() >= Some(700), "{stray}");
    let (code, said) = ctl(&pair, Side::B, &["preserved", "purge", "--all"]);
    assert!(
        code == 0 && said.contains("4 versions removed"),
        "{code}: {said}"
    );
    assert_eq!(left(&pair), (0, 0));
    assert!(victim.join("stays").exists(), "a link was followed");
    assert_eq!(list(&pair, Side::B), Vec::<Value>::new());
}

#[test]
fn age_and_size_are_enforced_by_the_process_that_owns_the_node() {
    let mut pair = preserved_long_ago();
    let set = |pair: &Pair, what: &str| {
        edit_config(pair, |t| {
            t.replace(
                "durability = \"fsync\"\n",
                &format!("durability = \"fsync\"\n{what}\n"),
            )
        });
    };
    set(&pair, "preserve_days = 5");
    // A clock that nobody has watched for a day may have been set wrong.
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let clock = state(&pair, Side::B).join("clock.json");
    assert!(until(LONG, || clock.exists()), "{}", pair.log(Side::A));
    // Whoever looked has done what it was about to do.
    stop(&mut pair);
    assert_eq!(paths(&pair), ["old", "older", "recent", "new"]);
    watched_for_a_day(&clock);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let gone = until(LONG, || paths(&pair) == ["recent", "new"]);
    assert!(gone, "{:?}\n{}", paths(&pair), pair.log(Side::B));
    assert!(until(LONG, || left(&pair) == (2, 2)), "{:?}", left(&pair));
    let told = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["preserved"]["items"] == 2)
    });
    assert!(told, "{:?}", pair.status_of(Side::B));
    // The oldest goes where they take too much; what is of today stays although it alone takes more.
    stop(&mut pair);
    set(&pair, &format!("preserve_size = \"{}B\"", SIZE - 1));
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let gone = until(LONG, || paths(&pair) == ["new"]);
    assert!(gone, "{:?}", paths(&pair));
    let told = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["preserved"]["items"] == 1)
    });
    assert!(told, "{:?}", pair.status_of(Side::B));
    // A purge by hand beside the process shows in its status, too.
    let (code, said) = ctl(&pair, Side::B, &["preserved", "purge", "--all"]);
    assert_eq!(code, 0, "{said}");
    let told = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["preserved"]["items"] == 0)
    });
    assert!(told, "{:?}", pair.status_of(Side::B));
}
