//! What the active node cannot read: whoever becomes active next lacks it, knows that, and gets it once it can be read.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, flushed_equal, in_sync, is_preserved, json, unprivileged, wait_equal,
    wait_problem, wait_serve_gone, well,
};
use crate::options;

/// A was active, changed files while the link was cut and could not read them when it was to send them; then its process was
/// killed. Both stand at the same number. Whatever runs on A now may read the files, which nobody touched.
fn unread(names: &[String]) -> Option<Pair> {
    let mut pair = in_sync(unprivileged(options!())?);
    let at = |name| pair.root(Side::A, "data").join(name);
    let files: Vec<_> = names.iter().map(at).collect();
    for f in &files {
        fs::write(f, "on both").expect("a file");
    }
    flushed_equal(&pair, "data");
    pair.cut().expect("cut");
    for f in &files {
        fs::write(f, "the newest").expect("written");
    }
    pair.wait_status(LONG, "noticed", |s| s["pending"]["paths"] == names.len())
        .expect("a status");
    for f in &files {
        fs::set_permissions(f, fs::Permissions::from_mode(0o0)).expect("chmod");
    }
    pair.restore().expect("mended");
    pair.wait_status(LONG, "in vain", |s| {
        let listed = s["problems"].as_array().map_or(0, Vec::len) as u64;
        listed + s["problems_more"].as_u64().unwrap_or(0) == names.len() as u64
    })
    .expect("a status");
    pair.wait_status(LONG, "settled", |s| {
        s["peer"]["acked_sequence"] == s["sequence"] && s["peer"]["state"] != "catching-up"
    })
    .expect("a status");
    pair.kill(Side::A);
    wait_serve_gone(&pair, Side::B);
    pair.launch_plainly();
    assert_all(&pair, names, "on both");
    Some(pair)
}

fn one() -> Vec<String> {
    vec!["f".to_owned()]
}

fn assert_all(pair: &Pair, names: &[String], content: &str) {
    for name in names {
        let found = fs::read_to_string(pair.root(Side::B, "data").join(name));
        assert_eq!(found.expect("a file"), content, "{name}");
    }
}

#[test]
fn the_next_active_node_takes_what_its_peer_could_not_read() {
    let Some(pair) = unread(&one()) else { return };
    activate(&pair, Side::B);
    assert_all(&pair, &one(), "the newest");
    wait_equal(&pair, "data");
}

/// More than the settlement can name, and than the peer remembers one by one.
#[test]
fn everything_is_compared_where_too_much_could_not_be_read() {
    let names: Vec<_> = (0..300).map(|n| format!("f{n}")).collect();
    let Some(pair) = unread(&names) else { return };
    activate(&pair, Side::B);
    assert_all(&pair, &names, "the newest");
    wait_equal(&pair, "data");
}

#[test]
fn a_resync_brings_what_could_not_be_read() {
    let Some(pair) = unread(&one()) else { return };
    well(&pair, Side::B, &["resync"]);
    assert_all(&pair, &one(), "the newest");
    wait_equal(&pair, "data");
}

#[test]
fn an_activation_without_the_peer_tells_what_this_node_never_got() {
    let Some(pair) = unread(&one()) else { return };
    pair.cut().expect("cut");
    activate(&pair, Side::B);
    let status = json(&pair, Side::B, &["status"]);
    let how = status["activation"].as_str().expect("a sentence");
    assert!(how.contains("data:f"), "{how}");
    let f = pair.root(Side::B, "data").join("f");
    fs::write(&f, "written later").expect("written");
    pair.restore().expect("mended");
    wait_equal(&pair, "data");
    assert!(is_preserved(&pair, Side::A, "data", b"the newest"));
    assert_eq!(fs::read(&f).expect("a file"), b"written later");
}

/// Nobody could be told of it, and the next process of the node does not know that there was anything.
#[test]
fn what_could_not_be_read_before_a_stop_without_a_peer_is_looked_for() {
    let Some(options) = unprivileged(options!()) else {
        return;
    };
    let mut pair = in_sync(options);
    pair.cut().expect("cut");
    // Made beside the root, where nobody looks into it before it cannot be.
    let new = pair.dir().join("new");
    fs::create_dir(&new).expect("a directory");
    fs::write(new.join("f"), "the newest").expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o0)).expect("chmod");
    let root = pair.root(Side::A, "data");
    fs::rename(&new, root.join("d")).expect("renamed");
    wait_problem(&mut pair, "data:d", true);
    json(&pair, Side::A, &["deactivate"]);
    pair.launch_plainly();
    pair.restore().expect("mended");
    activate(&pair, Side::B);
    assert_all(&pair, &["d/f".to_owned()], "the newest");
    wait_equal(&pair, "data");
}
