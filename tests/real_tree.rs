//! Trees as they are found in the field: a git repository at work, and a Debian system that installs a package.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::node::Side;
use common::steps::{Mount, flushed_equal, idle, in_sync, is_root, is_slow, must, start};

fn git(dir: &Path, args: &[&str]) {
    let at = dir.display().to_string();
    let mut all = vec![
        "-C",
        &at,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "-c",
        "gc.auto=0",
    ];
    all.extend(args);
    must("git", &all);
}

#[test]
fn a_git_repository_at_work_stays_equal() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let has_git = Command::new("git")
        .arg("-C")
        .arg(here)
        .args(["rev-parse", "HEAD"])
        .output();
    if !has_git.is_ok_and(|o| o.status.success()) {
        println!("skipped: a git repository: needs git and this repository's history");
        return;
    }
    let pair = in_sync(options!());
    let repo: PathBuf = pair.root(Side::A, "data").join("repo");
    let (from, to) = (here.display().to_string(), repo.display().to_string());
    must("git", &["clone", "-q", "--no-hardlinks", &from, &to]);
    flushed_equal(&pair, "data");
    for i in 0..5 {
        fs::write(repo.join(format!("note {i}")), format!("note {i}\n")).expect("a file");
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-q", "-m", &format!("note {i}")]);
    }
    flushed_equal(&pair, "data");
    git(&repo, &["checkout", "-q", "HEAD~7"]);
    git(&repo, &["checkout", "-q", "-b", "other", "HEAD~3"]);
    flushed_equal(&pair, "data");
    git(&repo, &["checkout", "-q", "-"]);
    git(&repo, &["gc", "-q", "--prune=now"]);
    git(&repo, &["checkout", "-q", "other"]);
    flushed_equal(&pair, "data");
    let copy = pair
        .root(Side::B, "data")
        .join("repo")
        .display()
        .to_string();
    must(
        "git",
        &[
            "-c",
            "safe.directory=*",
            "-C",
            &copy,
            "fsck",
            "--no-progress",
        ],
    );
}

#[test]
fn a_debian_system_that_installs_a_package_stays_equal() {
    let name = "a Debian system";
    if !is_slow() {
        println!("skipped: {name}: set OSM_SLOW=1");
        return;
    }
    let has = Command::new("mmdebstrap")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !is_root(name) || !has.is_ok_and(|s| s.success()) {
        println!("skipped: {name}: needs root and mmdebstrap");
        return;
    }
    let mut pair = idle(options!());
    let a = pair.root(Side::A, "data");
    let at = a.display().to_string();
    // A release, a mirror or options of the place, as OSM_DEBIAN="stable http://deb.debian.org/debian".
    let suite = std::env::var("OSM_DEBIAN").unwrap_or_else(|_| "stable".to_owned());
    let mut words = suite.split_whitespace();
    let mut args = vec![
        "--quiet",
        "--variant=minbase",
        // A mirror that stands still, or a clock that does not, is nothing this test is about.
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
        words.next().unwrap_or("stable"),
        &at,
    ];
    args.extend(words);
    let made = Command::new("mmdebstrap").args(&args).output();
    let made = made.expect("mmdebstrap runs");
    if !made.status.success() {
        let why = String::from_utf8_lossy(&made.stderr);
        println!("skipped: {name}: no system could be made: {}", why.trim());
        return;
    }
    start(&mut pair, Side::A);
    pair.wait_in_sync(Duration::from_secs(300))
        .expect("in sync");
    flushed_equal(&pair, "data");
    let proc = Mount::tmpfs(&a.join("run"), "8m");
    drop(proc);
    let _ = fs::copy("/etc/resolv.conf", a.join("etc/resolv.conf"));
    let quiet = "export DEBIAN_FRONTEND=noninteractive; apt-get -q update && apt-get install -y -q --no-install-recommends hello";
    must("chroot", &[&at, "sh", "-c", quiet]);
    flushed_equal(&pair, "data");
    must("chroot", &[&at, "dpkg", "--purge", "hello"]);
    flushed_equal(&pair, "data");
}
