//! The test helpers themselves: the judge sees every kind of difference, and what it calls equal is equal.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::kinds::{self, Place};
use common::netns::{End, NetPair, sshd_in};
use common::node::{Options, Pair, Side};
use common::tree;

fn copy(from: &Path, to: &Path) {
    // Without the window rsync leaves a time alone that agrees to the second.
    let status = Command::new("rsync")
        .args(["-aHAXS", "--delete", "--modify-window=-1"])
        .arg(from.join(""))
        .arg(to)
        .status()
        .expect("rsync runs");
    assert!(status.success(), "rsync: {status}");
}

#[test]
fn the_judge_sees_each_kind_of_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = rustix::process::geteuid().is_root();
    let mut blind = Vec::new();
    for (n, kind) in kinds::all().iter().enumerate() {
        if kind.root_only && !root {
            println!("skipped: {}: needs root", kind.name);
            continue;
        }
        let home = dir.path().join(n.to_string());
        let place = Place::make(&home.join("one"), &home.join("two"), n).expect("a place");
        (kind.prepare)(&place).expect("prepared");
        let before = tree::snapshot(&home).expect("snapshot");
        let held = (kind.change)(&place).expect("changed");
        let after = tree::snapshot(&home).expect("snapshot");
        drop(held);
        if tree::diff(&before, &after).is_empty() || tree::diff(&after, &before).is_empty() {
            blind.push(kind.name);
        }
        assert!(tree::diff(&after, &after.clone()).is_empty());
    }
    assert!(blind.is_empty(), "unnoticed: {blind:?}");
}

#[test]
fn kinds_have_different_names() {
    let all = kinds::all();
    let names: BTreeSet<_> = all.iter().map(|k| k.name).collect();
    assert_eq!(names.len(), all.len());
}

#[test]
fn the_judge_names_the_fact() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for d in [&a, &b] {
        fs::create_dir(d).expect("mkdir");
        fs::write(d.join("f"), "text").expect("write");
    }
    copy(&a, &b);
    tree::assert_equal(&a, &b);
    let differences = || {
        let (left, right) = (tree::snapshot(&a), tree::snapshot(&b));
        tree::diff(&left.expect("a"), &right.expect("b")).join("\n")
    };
    fs::set_permissions(b.join("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(differences(), "f: mode 0644 and 0600");
    fs::set_permissions(b.join("f"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let time = fs::metadata(a.join("f")).and_then(|m| m.modified());
    fs::write(b.join("f"), "tEXt").expect("write");
    let file = fs::File::options().write(true).open(b.join("f"));
    file.expect("open")
        .set_modified(time.expect("time"))
        .expect("utimes");
    assert_eq!(differences(), "f: content one and another");
    fs::remove_file(b.join("f")).expect("unlink");
    copy(&a, &b);
    assert_eq!(differences(), "");
    fs::create_dir(b.join(".osm-failover")).expect("mkdir");
    let told = differences();
    assert!(!told.contains("osm-failover"), "{told}");
}

#[test]
fn a_copy_by_rsync_is_equal() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let mut all = kinds::all();
    let deep = all.pop().expect("35 kinds");
    let root = rustix::process::geteuid().is_root();
    for (n, kind) in all.iter().enumerate().filter(|(_, k)| root || !k.root_only) {
        let place = Place::make(&a.join("one"), &a.join("two"), n).expect("a place");
        (kind.prepare)(&place).expect("prepared");
        (kind.change)(&place).expect("changed");
    }
    copy(&a, &b);
    tree::assert_equal(&a, &b);
    // What no other tool copies is at least read, and missed on the other side.
    let place = Place::make(&a.join("one"), &a.join("two"), 99).expect("a place");
    (deep.change)(&place).expect("changed");
    let (left, right) = (tree::snapshot(&a), tree::snapshot(&b));
    let d = tree::diff(&left.expect("a"), &right.expect("b"));
    assert!(
        d.iter().any(|l| l.contains("file only in the first")),
        "{d:?}"
    );
}

#[test]
fn two_namespaces_talk_over_ssh_and_leave_nothing() {
    let net = match NetPair::new() {
        Ok(net) => net,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let names = [net.name(End::A).to_owned(), net.name(End::B).to_owned()];
    let dir = tempfile::tempdir().expect("a directory");
    let sshd = sshd_in(&net, dir.path(), &[], "").expect("sshd listens");
    let before = sshd.wire_bytes().expect("counters");
    let out = net
        .command(End::A, "ssh")
        .arg("-F")
        .arg(&sshd.ssh_config)
        .args([&sshd.address.to_string(), "echo", "over there"])
        .output()
        .expect("ssh runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "over there\n");
    assert_eq!(sshd.accepted(), 1);
    assert!(sshd.wire_bytes().expect("counters") > before + 1000);
    net.set_link(false).expect("link down");
    net.set_link(true).expect("link up");
    drop(sshd);
    drop(net);
    for name in names {
        assert!(!Path::new("/run/netns").join(name).exists());
    }
}

/// A program that only speaks the part of `syncctl` and `syncd` that the helper uses.
fn pretender(dir: &Path) -> (String, String) {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).expect("script");
        path.display().to_string()
    };
    (
        write("syncd", "#!/bin/sh\nexec sleep 600\n"),
        write(
            "syncctl",
            "#!/bin/sh\necho '{\"peer\":{\"state\":\"in-sync\"},\"pending\":{\"paths\":0}}'\n",
        ),
    )
}

#[test]
fn a_pair_starts_notices_an_end_and_cuts_its_link() {
    let dir = tempfile::tempdir().expect("a directory");
    let (syncd, syncctl) = pretender(dir.path());
    let mut options = Options::new(&syncd, &syncctl);
    options.parent = dir.path().to_owned();
    options.launcher = vec!["sh".to_owned()];
    let mut pair = Pair::new(options).expect("a pair");
    let text = fs::read_to_string(pair.config()).expect("configuration");
    let parsed: toml::Table = text.parse().expect("TOML");
    assert_eq!(parsed["node"].as_array().map(Vec::len), Some(2));
    assert!(pair.root(Side::B, "data").is_dir());

    let wrapper = parsed["node"][1]["command"][1].as_str().expect("command");
    pair.cut().expect("cut");
    let refused = Command::new("sh").arg(wrapper).output().expect("runs");
    assert_eq!(refused.status.code(), Some(255));
    pair.restore().expect("restored");
    let mut session = Command::new("sh")
        .arg(wrapper)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let pid = dir.path().join(pair.dir()).join("serve-b.pid");
    while fs::read_to_string(&pid).unwrap_or_default().trim() != session.id().to_string() {
        std::thread::sleep(Duration::from_millis(1));
    }
    pair.cut().expect("cut");
    assert!(!session.wait().expect("ends").success());

    pair.start(Side::A).expect("starts");
    let until = Duration::from_secs(10);
    pair.wait_in_sync(until).expect("the pretender is in sync");
    pair.wait_status(Duration::ZERO, "diverged", |s| {
        s["peer"]["state"] == "diverged"
    })
    .expect_err("never diverged");
}
