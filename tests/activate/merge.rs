//! Both nodes wrote while they were apart, and `split_brain = "merge-disjoint"`: what was changed on one of them only ends
//! up on both, and where a path was changed on both nothing happens.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use crate::common::kinds::noise;
use crate::common::node::{Options, Pair, Side};
use crate::common::steps::{
    LONG, activate, ctl, ctl_when_free, deactivate, idle, json, preserved, until, wait_equal, well,
};
use crate::options;

fn merging() -> Options {
    let mut options = options!();
    options.tables = "[activation]\nsplit_brain = \"merge-disjoint\"\n".into();
    options
}

fn put(root: &Path, name: &str, text: &str) {
    let at = root.join(name);
    fs::create_dir_all(at.parent().expect("a directory")).expect("directories");
    fs::write(at, text).expect("a file");
}

fn read(pair: &Pair, side: Side, name: &str) -> Option<String> {
    fs::read_to_string(pair.root(side, "data").join(name)).ok()
}

fn state(pair: &Pair, side: Side) -> String {
    let status = pair.status_of(side).expect("a status");
    status["peer"]["state"].as_str().unwrap_or("").to_owned()
}

fn reason(pair: &Pair, side: Side) -> String {
    let status = pair.status_of(side).expect("a status");
    status["peer"]["reason"].as_str().unwrap_or("").to_owned()
}

/// What both hold before they part.
fn shared(root: &Path) {
    for name in [
        "a", "b", "c", "d/e/f", "d/e/g", "d/h", "old/x", "old/y", "gone/z",
    ] {
        put(root, name, &format!("shared {name}"));
    }
    fs::hard_link(root.join("c"), root.join("c2")).expect("a further name");
    symlink("a", root.join("link")).expect("a link");
}

/// Both nodes active without a link after they held the same, each changing its own copy; the link is still cut, B is
/// active and A is not.
fn apart(options: Options, on_a: impl Fn(&Path), on_b: impl Fn(&Path)) -> Pair {
    let pair = parted(options);
    on_a(&pair.root(Side::A, "data"));
    on_b(&pair.root(Side::B, "data"));
    deactivate(&pair, Side::A);
    noted(&pair, Side::B);
    pair
}

/// Both nodes active without a link after they held the same.
fn parted(options: Options) -> Pair {
    let mut pair = idle(options);
    activate(&pair, Side::A);
    shared(&pair.root(Side::A, "data"));
    pair.wait_in_sync(LONG).expect("in sync");
    pair.flush().expect("flushed");
    pair.cut().expect("cut");
    activate(&pair, Side::B);
    pair
}

/// Everything changed on a node is in its index, though it cannot be sent.
fn noted(pair: &Pair, side: Side) {
    let (code, text) = ctl(pair, side, &["flush", "--timeout", "1s"]);
    assert_ne!(code, 0, "{text}");
}

/// B, which is active, says that A holds the same; then both trees are the same, and nothing had to make way.
fn merged(pair: &Pair) {
    let in_sync = until(LONG, || state(pair, Side::B) == "in-sync");
    assert!(in_sync, "{}\n{}", pair.log(Side::B), reason(pair, Side::B));
    wait_equal(pair, "data");
    for side in [Side::A, Side::B] {
        assert_eq!(preserved(pair, side, "data"), [], "{}", side.name());
    }
    let heads = [Side::A, Side::B].map(|s| pair.status_of(s).expect("a status")["epoch"].clone());
    assert_eq!(heads[0], heads[1]);
}

fn halted(pair: &Pair, parts: &[&str]) {
    for side in [Side::B, Side::A] {
        if side == Side::A {
            let (code, text) = ctl_when_free(pair, Side::A, &["resync"]);
            assert_eq!(code, 5, "{text}");
            parts
                .iter()
                .for_each(|p| assert!(text.contains(p), "{p}: {text}"));
            continue;
        }
        let told = until(LONG, || state(pair, side) == "diverged");
        assert!(told, "{}", pair.log(side));
        let text = reason(pair, side);
        parts
            .iter()
            .for_each(|p| assert!(text.contains(p), "{p}: {text}"));
        let (code, text) = ctl(pair, side, &["status"]);
        assert_eq!(code, 5, "{text}");
    }
}

fn many_kinds_on_a(root: &Path) {
    put(root, "a", "changed on A");
    put(root, "d/new on A", "made on A");
    put(root, "made/by/A", "made on A");
    fs::rename(root.join("old"), root.join("new")).expect("renamed");
    fs::remove_dir_all(root.join("gone")).expect("removed");
    fs::remove_file(root.join("link")).expect("removed");
    symlink("b", root.join("link")).expect("a link");
    fs::hard_link(root.join("d/h"), root.join("d/h2")).expect("a further name");
    put(root, "large", &"a".repeat(3_000_000));
}

fn many_kinds_on_b(root: &Path) {
    put(root, "b", "changed on B");
    put(root, "d/new on B", "made on B");
    put(root, "made/by/B", "made on B");
    fs::remove_file(root.join("d/e/f")).expect("removed");
    fs::rename(root.join("d/e/g"), root.join("d/g")).expect("renamed");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(root.join("c"), mode).expect("a mode");
    put(root, "c", "changed on B under both names");
}

#[test]
fn what_only_one_node_changed_is_on_both() {
    let pair = apart(merging(), many_kinds_on_a, many_kinds_on_b);
    pair.restore().expect("mended");
    merged(&pair);
    for (name, text) in [
        ("a", Some("changed on A")),
        ("b", Some("changed on B")),
        ("made/by/A", Some("made on A")),
        ("made/by/B", Some("made on B")),
        ("new/x", Some("shared old/x")),
        ("old/x", None),
        ("gone/z", None),
        ("d/e/f", None),
        ("d/g", Some("shared d/e/g")),
        ("c2", Some("changed on B under both names")),
        ("link", Some("changed on B")),
        ("d/h2", Some("shared d/h")),
    ] {
        assert_eq!(read(&pair, Side::B, name).as_deref(), text, "{name}");
    }
    // From here on the other one is an ordinary standby.
    put(&pair.root(Side::B, "data"), "later", "and on it goes");
    wait_equal(&pair, "data");
    deactivate(&pair, Side::B);
    activate(&pair, Side::A);
    put(&pair.root(Side::A, "data"), "a", "the other way round");
    wait_equal(&pair, "data");
    assert_eq!(
        read(&pair, Side::B, "a").as_deref(),
        Some("the other way round")
    );
}

#[test]
fn the_standby_may_be_the_one_that_calls() {
    let pair = apart(merging(), many_kinds_on_a, many_kinds_on_b);
    pair.restore().expect("mended");
    let report = json(&pair, Side::A, &["resync"]);
    assert_eq!(report["resync"]["problems"], 0, "{report}");
    merged(&pair);
}

#[test]
fn nobody_needs_to_be_active() {
    for caller in [Side::A, Side::B] {
        let pair = apart(merging(), many_kinds_on_a, many_kinds_on_b);
        deactivate(&pair, Side::B);
        pair.restore().expect("mended");
        let text = well(&pair, caller, &["resync"]);
        assert!(text.contains("both sides' changes"), "{text}");
        // Who took in gave numbers to what it took, but is not active by that. The called one notes it at its end.
        for side in [Side::A, Side::B] {
            let epochs = crate::common::steps::state(&pair, side).join("epochs.json");
            let read = || fs::read_to_string(&epochs).expect("a history");
            let inactive = until(LONG, || read().contains("\"active\": false"));
            assert!(inactive, "{}: {}", side.name(), read());
        }
        wait_equal(&pair, "data");
        assert_eq!(read(&pair, Side::B, "a").as_deref(), Some("changed on A"));
        assert_eq!(read(&pair, Side::A, "b").as_deref(), Some("changed on B"));
        let text = well(&pair, Side::A, &["resync"]);
        assert!(text.contains("same"), "{text}");
        for side in [Side::A, Side::B] {
            assert_eq!(preserved(&pair, side, "data"), [], "{}", side.name());
        }
    }
}

#[test]
fn a_path_changed_on_both_halts_everything() {
    let change = |text: &'static str| move |root: &Path| put(root, "a", text);
    let only_a = |root: &Path| {
        change("on A")(root);
        put(root, "made by A", "alone");
    };
    let pair = apart(merging(), only_a, change("on B"));
    pair.restore().expect("mended");
    halted(&pair, &["data:a", "syncctl resolve"]);
    assert_eq!(read(&pair, Side::A, "a").as_deref(), Some("on A"));
    assert_eq!(read(&pair, Side::B, "a").as_deref(), Some("on B"));
    assert_eq!(
        read(&pair, Side::B, "made by A"),
        None,
        "nothing was taken in"
    );
    // A person decides as without a policy.
    let text = well(&pair, Side::B, &["resolve", "--keep", "local", "--dry-run"]);
    assert!(text.contains("data:made by A"), "{text}");
    well(&pair, Side::B, &["resolve", "--keep", "local"]);
    wait_equal(&pair, "data");
    assert_eq!(read(&pair, Side::A, "a").as_deref(), Some("on B"));
    assert_eq!(preserved(&pair, Side::A, "data").len(), 2);
}

#[test]
fn what_was_removed_on_one_node_and_changed_on_the_other_collides() {
    type Change = fn(&Path);
    let cases: [(&str, Change, Change); 7] = [
        (
            "a directory removed, a file in it changed",
            |r| fs::remove_dir_all(r.join("d")).expect("removed"),
            |r| put(r, "d/e/f", "changed"),
        ),
        (
            "a file in it changed, the directory removed",
            |r| put(r, "d/e/f", "changed"),
            |r| fs::remove_dir_all(r.join("d")).expect("removed"),
        ),
        (
            "a directory renamed, a file made in it",
            |r| fs::rename(r.join("old"), r.join("new")).expect("renamed"),
            |r| put(r, "old/z", "made"),
        ),
        (
            "a file made in it, the directory renamed and made anew",
            |r| put(r, "old/z", "made"),
            |r| {
                fs::rename(r.join("old"), r.join("new")).expect("renamed");
                fs::create_dir(r.join("old")).expect("made");
            },
        ),
        (
            "a directory became a file, a file made in it",
            |r| {
                fs::remove_dir_all(r.join("gone")).expect("removed");
                put(r, "gone", "a file now");
            },
            |r| put(r, "gone/y", "made"),
        ),
        (
            "a file made in it, the directory became a file",
            |r| put(r, "gone/y", "made"),
            |r| {
                fs::remove_dir_all(r.join("gone")).expect("removed");
                put(r, "gone", "a file now");
            },
        ),
        (
            "one file changed under two names",
            |r| put(r, "c", "on A"),
            |r| put(r, "c2", "on B"),
        ),
    ];
    for (what, on_a, on_b) in cases {
        let pair = apart(merging(), on_a, on_b);
        let before = [Side::A, Side::B]
            .map(|s| crate::common::tree::snapshot(&pair.root(s, "data")).expect("it can be read"));
        pair.restore().expect("mended");
        // Looked at before its former self was found elsewhere, a directory made anew is the one that stood there: then each
        // node changed something else.
        let merged = || what.ends_with("made anew") && pair.log(Side::B).contains("took in what");
        let told = until(LONG, || merged() || state(&pair, Side::B) == "diverged");
        assert!(told, "{what}: {}", pair.log(Side::B));
        if merged() {
            wait_equal(&pair, "data");
            continue;
        }
        assert!(reason(&pair, Side::B).contains("data:"), "{what}");
        for (side, before) in [Side::A, Side::B].into_iter().zip(&before) {
            let now = crate::common::tree::snapshot(&pair.root(side, "data"));
            let found = crate::common::tree::diff(before, &now.expect("it can be read"));
            assert!(found.is_empty(), "{what}: {found:?}");
        }
    }
}

#[test]
fn large_files_of_both_nodes_are_on_both() {
    let large = |root: &Path, name: &str, seed| {
        fs::write(root.join(name), noise(20 << 20, seed)).expect("a large file");
    };
    let pair = apart(
        merging(),
        |r| large(r, "large of A", 1),
        |r| large(r, "large of B", 2),
    );
    pair.restore().expect("mended");
    merged(&pair);
    assert!(pair.root(Side::B, "data").join("large of A").exists());
}

#[test]
fn the_same_change_on_both_collides_with_nothing() {
    let both = |root: &Path| {
        fs::remove_file(root.join("b")).expect("removed");
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(root.join("d/h"), mode).expect("a mode");
    };
    let pair = apart(
        merging(),
        |r| {
            both(r);
            put(r, "on A", "A");
        },
        both,
    );
    pair.restore().expect("mended");
    merged(&pair);
    assert_eq!(read(&pair, Side::B, "on A").as_deref(), Some("A"));
}

/// The link is cut again and again while the merge is under way, and one of the two processes dies with it.
#[test]
fn a_merge_that_is_cut_goes_on_where_it_stopped() {
    let many = |side: &'static str| {
        move |root: &Path| {
            for i in 0..600 {
                put(
                    root,
                    &format!("{side}{}/{i}", i % 7),
                    &format!("{side} {i}"),
                );
            }
            put(root, &format!("large {side}"), &side.repeat(9_000_000));
        }
    };
    let remove_old = |root: &Path| fs::remove_dir_all(root.join("old")).expect("removed");
    let pair = apart(
        merging(),
        |r| {
            many("a")(r);
            remove_old(r);
        },
        many("b"),
    );
    for wait in [30, 90, 200, 400, 700] {
        pair.restore().expect("mended");
        std::thread::sleep(Duration::from_millis(wait));
        if wait % 200 == 0 {
            pair.kill_daemon(Side::B);
            activate(&pair, Side::B);
        }
        pair.cut().expect("cut");
    }
    pair.restore().expect("mended");
    merged(&pair);
    for side in [Side::A, Side::B] {
        assert_eq!(read(&pair, side, "a3/3").as_deref(), Some("a 3"));
        assert_eq!(read(&pair, side, "b3/3").as_deref(), Some("b 3"));
        assert_eq!(read(&pair, side, "old/x"), None);
    }
}

#[test]
fn what_is_written_meanwhile_is_kept() {
    let pair = apart(
        merging(),
        |r| (0..2000).for_each(|i| put(r, &format!("many/{i}"), &format!("A {i}"))),
        |r| put(r, "b", "on B"),
    );
    let root = pair.root(Side::B, "data");
    pair.restore().expect("mended");
    let mut n = 0;
    let done = until(LONG, || {
        n += 1;
        put(&root, "counter", &n.to_string());
        put(&root, &format!("meanwhile/{n}"), "written");
        state(&pair, Side::B) == "in-sync"
    });
    assert!(done, "{}", pair.log(Side::B));
    merged(&pair);
    let last = n.to_string();
    assert_eq!(read(&pair, Side::A, "counter"), Some(last));
    assert_eq!(read(&pair, Side::A, "many/1999").as_deref(), Some("A 1999"));
    assert!((1..=n).all(|i| read(&pair, Side::A, &format!("meanwhile/{i}")).is_some()));
}

#[test]
fn a_file_that_a_program_writes_to_is_not_replaced() {
    let pair = parted(merging());
    put(&pair.root(Side::A, "data"), "a", "on A");
    put(&pair.root(Side::B, "data"), "b", "on B");
    deactivate(&pair, Side::A);
    noted(&pair, Side::B);
    let held = pair.root(Side::B, "data").join("a");
    let writer = fs::OpenOptions::new().append(true).open(held);
    pair.restore().expect("mended");
    halted(&pair, &["data:a"]);
    assert_eq!(read(&pair, Side::B, "a").as_deref(), Some("shared a"));
    drop(writer.expect("opened"));
    well(&pair, Side::A, &["resync"]);
    merged(&pair);
    assert_eq!(read(&pair, Side::B, "a").as_deref(), Some("on A"));
}

#[test]
fn two_merges_one_after_the_other() {
    let pair = apart(merging(), |r| put(r, "a", "1A"), |r| put(r, "b", "1B"));
    pair.restore().expect("mended");
    merged(&pair);
    pair.cut().expect("cut");
    activate(&pair, Side::A);
    put(&pair.root(Side::A, "data"), "a", "2A");
    put(&pair.root(Side::B, "data"), "b", "2B");
    noted(&pair, Side::A);
    deactivate(&pair, Side::A);
    noted(&pair, Side::B);
    pair.restore().expect("mended");
    merged(&pair);
    assert_eq!(read(&pair, Side::B, "a").as_deref(), Some("2A"));
    assert_eq!(read(&pair, Side::A, "b").as_deref(), Some("2B"));
}

#[test]
fn too_many_deletions_wait_for_an_approval() {
    let mut options = merging();
    options.sync_lines = "max_delete = { count = 3, window = \"1s\" }\n".into();
    let pair = parted(options);
    let a = pair.root(Side::A, "data");
    // Files younger than the window come and go without anybody being asked.
    let old = until(LONG, || {
        let made = fs::metadata(pair.root(Side::B, "data").join("gone/z")).expect("a file");
        let age = made.created().ok().and_then(|t| t.elapsed().ok());
        age > Some(Duration::from_millis(2100))
    });
    assert!(old, "files of an unknown age");
    for name in ["d", "old"] {
        fs::remove_dir_all(a.join(name)).expect("removed");
    }
    let asked = until(LONG, || {
        ctl(&pair, Side::A, &["approve", "data"])
            .1
            .contains("approved")
    });
    assert!(asked, "{}", pair.log(Side::A));
    put(&pair.root(Side::B, "data"), "c", "on B");
    noted(&pair, Side::A);
    deactivate(&pair, Side::A);
    noted(&pair, Side::B);
    pair.restore().expect("mended");
    let told = until(LONG, || state(&pair, Side::B) == "halted");
    assert!(told, "{}", pair.log(Side::B));
    let why = reason(&pair, Side::B);
    assert!(why.contains("max_delete"), "{why}");
    let (code, text) = ctl_when_free(&pair, Side::A, &["resync"]);
    assert_eq!(code, 6, "{text}");
    assert!(read(&pair, Side::B, "old/x").is_some(), "{text}");
    well(&pair, Side::B, &["approve", "data"]);
    merged(&pair);
    assert_eq!(read(&pair, Side::B, "old/x"), None);
}
