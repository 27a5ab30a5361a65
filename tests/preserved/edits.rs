//! Edits made on the standby: listed by their exact names, put elsewhere with everything that belongs to them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, Mount, ctl, flushed_equal, has_problem, in_sync, is_root, preserved, state, until,
    wait_problem,
};
use crate::common::tree::{Facts, snapshot};
use crate::options;
use crate::{at, id, list, one};

/// Names of the files that are edited: a plain one, one that is no text, one in a directory that goes.
const NAMES: [&[u8]; 3] = [b"plain", b"new\nline \xff\x1b[31m", b"d/gone"];

/// Facts of one file below a directory.
fn facts(dir: &Path, name: &[u8]) -> Facts {
    let mut all = snapshot(dir).expect("a tree");
    all.remove(name).expect("it is there")
}

/// A pair in sync on which [`NAMES`] were edited on the standby, and then changed or deleted on the active node; what the
/// edits were.
fn edited() -> (Pair, Vec<Facts>) {
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::create_dir(a.join("d")).expect("a directory");
    for name in NAMES {
        fs::write(at(&a, name), "as replicated").expect("a file");
    }
    flushed_equal(&pair, "data");
    let mut edits = Vec::new();
    for (i, name) in (1u64..).zip(NAMES) {
        let file = at(&b, name);
        fs::write(&file, vec![b'e'; 1000 * name.len()]).expect("an edit");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("a mode");
        let value = format!("note {i}");
        rustix::fs::setxattr(
            &file,
            "user.note",
            value.as_bytes(),
            rustix::fs::XattrFlags::empty(),
        )
        .expect("an attribute");
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000 + i, 123_456_789);
        let open = fs::File::options().write(true).open(&file).expect("a file");
        open.set_modified(time).expect("a time");
        edits.push(facts(&b, name));
    }
    fs::write(at(&a, NAMES[0]), "changed on the active node").expect("written");
    fs::write(at(&a, NAMES[1]), "changed on the active node").expect("written");
    fs::remove_dir_all(a.join("d")).expect("removed");
    flushed_equal(&pair, "data");
    pair.wait_in_sync(LONG).expect("in sync");
    (pair, edits)
}

#[test]
fn edits_are_listed_and_shown() {
    let (pair, edits) = edited();
    let items = list(&pair, Side::B);
    assert_eq!(items.len(), 3, "{items:?}");
    for ((name, edit), escaped) in
        NAMES
            .iter()
            .zip(&edits)
            .zip(["plain", "new\\nline \\xff\\u{1b}[31m", "d/gone"])
    {
        let item = one(&items, escaped);
        let told = ["root", "origin", "kind"].map(|k| item[k].as_str().expect("a word"));
        assert_eq!(told, ["data", "edit", "file"], "{item}");
        assert_eq!(item["size"], edit.size, "{item}");
        let reason = item["reason"].as_str().expect("a reason");
        assert!(reason.contains("changed here"), "{reason}");
        let deleted = reason.contains("deleted on the active node");
        assert_eq!(deleted, *name == b"d/gone", "{reason}");
        let (code, shown) = ctl(&pair, Side::B, &["preserved", "show", id(&item)]);
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("mode 0640"), "{shown}");
        let there = shown
            .lines()
            .find(|l| l.contains("there now"))
            .expect("a line");
        assert_eq!(there.contains("nothing"), deleted, "{shown}");
        assert_eq!(there.contains("file, 26 B"), !deleted, "{shown}");
    }
    let (code, text) = ctl(&pair, Side::B, &["preserved", "list"]);
    assert!(code == 0 && text.contains("3 versions"), "{text}");
    assert!(
        !text.contains('\x1b'),
        "escape sequences reach the terminal"
    );
    assert!(
        list(&pair, Side::A).is_empty(),
        "nothing on the active node"
    );
    let counted = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["preserved"]["items"] == 3)
    });
    let bytes: u64 = edits.iter().map(|f| f.size).sum();
    let status = pair.status_of(Side::B).expect("status");
    assert!(counted && status["preserved"]["bytes"] == bytes, "{status}");
    assert!(status["preserved"]["oldest"].as_u64() > Some(0), "{status}");
    let (code, text) = ctl(&pair, Side::B, &["preserved", "show", "17-s1"]);
    assert!(
        code == 1 && text.contains("no preserved version 17-s1"),
        "{text}"
    );
}

#[test]
fn a_standby_takes_nothing_back_into_its_roots() {
    let (mut pair, _) = edited();
    let b = pair.root(Side::B, "data");
    let before = snapshot(&b).expect("a tree");
    let items = list(&pair, Side::B);
    let into = b.join("new name").display().to_string();
    let around = pair.dir().join("around");
    symlink(&b, &around).expect("a link");
    let around = around.join("new name").display().to_string();
    let item = id(&items[0]);
    for running in [true, false] {
        for (args, hint) in [
            (&["preserved", "restore", item][..], "--to"),
            (&["preserved", "restore", item, "--to", &into], "--to"),
            (&["preserved", "restore", item, "--to", &around], "--to"),
        ] {
            let (code, said) = ctl(&pair, Side::B, args);
            assert_eq!(code, 6, "{args:?}: {said}");
            let role = if running { "is standby" } else { "is stopped" };
            assert!(said.contains(role) && said.contains(hint), "{said}");
        }
        let now = snapshot(&b).expect("a tree");
        assert_eq!(before, now);
        assert_eq!(list(&pair, Side::B), items);
        pair.stop(Side::A);
        let gone = until(LONG, || {
            pair.status_of(Side::B)
                .is_ok_and(|s| s["role"] == "stopped")
        });
        assert!(gone, "syncd serve still runs");
        let status = pair.status_of(Side::B).expect("status");
        assert_eq!(status["preserved"]["items"], 3, "{status}");
    }
}

#[test]
fn what_is_put_elsewhere_is_equal_in_everything() {
    let (pair, edits) = edited();
    let items = list(&pair, Side::B);
    let out = pair.dir().join("out");
    fs::create_dir(&out).expect("a directory");
    let item = one(&items, "plain");
    let to = out.join("plain").display().to_string();
    // Where something stands already, nothing is overwritten.
    fs::write(&to, "mine").expect("a file");
    let args = ["preserved", "restore", id(&item), "--to", &to];
    let (code, said) = ctl(&pair, Side::B, &args);
    assert!(
        code == 6 && said.contains("is there already"),
        "{code}: {said}"
    );
    assert_eq!(fs::read(&to).expect("read"), b"mine");
    fs::remove_file(&to).expect("removed");
    let (code, said) = ctl(&pair, Side::B, &args);
    assert_eq!(code, 0, "{said}");
    assert_eq!(facts(&out, b"plain"), edits[0]);
    // A directory means a name in it; the name is the one it had, byte for byte.
    let odd = one(&items, "new\\nline \\xff\\u{1b}[31m");
    let to = out.display().to_string();
    let (code, said) = ctl(
        &pair,
        Side::B,
        &["preserved", "restore", id(&odd), "--to", &to],
    );
    assert_eq!(code, 0, "{said}");
    assert_eq!(facts(&out, NAMES[1]), edits[1]);
    assert_eq!(list(&pair, Side::B).len(), 1);
    let private = pair.root(Side::B, "data").join(".osm-failover/preserved/x");
    let private = private.display().to_string();
    let last = one(&list(&pair, Side::B), "d/gone");
    let (code, said) = ctl(
        &pair,
        Side::B,
        &["preserved", "restore", id(&last), "--to", &private],
    );
    assert!(
        code == 6 && said.contains("its own files"),
        "{code}: {said}"
    );
    let again = ctl(
        &pair,
        Side::B,
        &["preserved", "restore", id(&item), "--to", "/tmp"],
    );
    assert!(
        again.0 == 1 && again.1.contains("no preserved version"),
        "{again:?}"
    );
    if !is_root("what_is_put_elsewhere_is_equal_in_everything, on another file system") {
        return;
    }
    let elsewhere = pair.dir().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let _mount = Mount::tmpfs(&elsewhere, "8m");
    let to = elsewhere.join("back").display().to_string();
    let (code, said) = ctl(
        &pair,
        Side::B,
        &["preserved", "restore", id(&last), "--to", &to],
    );
    assert_eq!(code, 0, "{said}");
    assert_eq!(facts(&elsewhere, b"back"), edits[2]);
    assert_eq!(fs::read_dir(&elsewhere).expect("listed").count(), 1);
    assert!(list(&pair, Side::B).is_empty());
    assert!(preserved(&pair, Side::B, "data").is_empty());
}

#[test]
fn where_preserving_fails_nothing_is_overwritten() {
    let mut pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    for name in ["edited", "deleted", "other"] {
        fs::write(a.join(name), "as replicated").expect("a file");
    }
    flushed_equal(&pair, "data");
    // The notes cannot be written, as with a full disk.
    let notes = state(&pair, Side::B).join("preserved.jsonl");
    fs::create_dir(&notes).expect("in the way");
    for name in ["edited", "deleted"] {
        fs::write(b.join(name), "edited on the standby").expect("an edit");
    }
    fs::write(a.join("edited"), "changed on the active node").expect("written");
    fs::remove_file(a.join("deleted")).expect("removed");
    fs::write(a.join("other"), "goes on").expect("written");
    wait_problem(&mut pair, "data:edited", true);
    wait_problem(&mut pair, "data:deleted", true);
    let status = pair.status().expect("status");
    assert!(
        status.to_string().contains("preserve the local version"),
        "{status}"
    );
    assert!(until(LONG, || fs::read(b.join("other"))
        .is_ok_and(|c| c == b"goes on")));
    for name in ["edited", "deleted"] {
        assert_eq!(
            fs::read(b.join(name)).expect("read"),
            b"edited on the standby"
        );
    }
    fs::remove_dir(&notes).expect("removed");
    pair.wait_status(LONG, "mended", |s| {
        !has_problem(s, "data:edited") && !has_problem(s, "data:deleted")
    })
    .expect("tried again");
    flushed_equal(&pair, "data");
    assert_eq!(list(&pair, Side::B).len(), 2);
}

/// Versions are moved aside while others are purged: none loses its note.
#[test]
fn a_purge_beside_a_busy_receiver_drops_no_other_note() {
    let pair = in_sync(options!());
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let name = |i: usize| format!("f{i}");
    for i in 0..60 {
        fs::write(a.join(name(i)), "as replicated").expect("a file");
    }
    flushed_equal(&pair, "data");
    for i in 0..60 {
        fs::write(b.join(name(i)), format!("edit {i}")).expect("an edit");
    }
    // Each of these purges writes the notes anew.
    let script = format!(
        "for i in $(seq 30); do {ctl} preserved list --json | grep -o '\"id\": \"[^\"]*' | head -n1 | cut -c8- | \
         xargs -r {ctl} preserved purge || exit 1; done",
        ctl = format_args!(
            "{} --config {} --node osm2",
            env!("CARGO_BIN_EXE_syncctl"),
            pair.config().display()
        )
    );
    let mut purges = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh runs");
    for i in 0..60 {
        fs::write(a.join(name(i)), format!("changed {i}")).expect("written");
        pair.flush().expect("flushed");
    }
    let ended = purges.wait().expect("it ends");
    assert!(ended.success(), "{ended}");
    flushed_equal(&pair, "data");
    let items = list(&pair, Side::B);
    assert!((30..60).contains(&items.len()), "{} are left", items.len());
    for i in &items {
        assert_eq!(i["origin"], "edit", "a version without its note: {i}");
    }
}
