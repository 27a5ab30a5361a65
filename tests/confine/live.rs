//! A real `syncd serve`, looked at from outside while it works, and its hooks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use osm_failover::decide::confine::kept;

use crate::common::node::{Pair, Side};
use crate::common::steps::{self, LONG, flushed_equal, in_sync, until};
use crate::options;

/// What the kernel says of a thread: name of a line and the rest of it.
fn status(of: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(of.join("status")).expect("a running process");
    let lines = text.lines().filter_map(|l| l.split_once(':'));
    lines
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

fn set(status: &BTreeMap<String, String>, name: &str) -> u64 {
    u64::from_str_radix(&status[name], 16).expect("a set of capabilities")
}

fn serving(pair: &Pair) -> u32 {
    let pid = fs::read_to_string(pair.dir().join("serve-b.pid")).expect("a process serves");
    pid.trim().parse().expect("a number")
}

#[test]
fn every_thread_of_a_receiver_is_confined() {
    let pair = in_sync(options!());
    fs::write(pair.root(Side::A, "data").join("f"), "x").expect("a file");
    flushed_equal(&pair, "data");
    let process = Path::new("/proc").join(serving(&pair).to_string());
    let threads = fs::read_dir(process.join("task")).expect("threads");
    let threads: Vec<_> = threads.flatten().map(|t| t.path()).collect();
    assert!(threads.len() > 3, "{threads:?}");
    let own = set(&status(Path::new("/proc/self")), "CapPrm");
    for thread in threads {
        let is = status(&thread);
        assert_eq!(is["NoNewPrivs"], "1", "{is:?}");
        assert_eq!(is["Seccomp"], "2", "{is:?}");
        let wanted = own & kept().bits();
        for name in ["CapEff", "CapPrm"] {
            assert_eq!(set(&is, name), wanted, "{name}: {is:?}");
        }
        assert_eq!(set(&is, "CapInh"), 0, "{is:?}");
        assert_eq!(set(&is, "CapAmb"), 0, "{is:?}");
        if rustix::process::geteuid().is_root() {
            assert_eq!(set(&is, "CapBnd"), wanted, "{is:?}");
        }
    }
    // The active node needs all that it has.
    let active = pair.status().expect("status")["pid"].to_string();
    let is = status(&Path::new("/proc").join(active));
    assert_eq!(is["Seccomp"], "0", "{is:?}");
}

#[test]
fn a_hook_of_a_receiver_is_not_confined() {
    let desk = tempfile::tempdir().expect("a directory");
    let program = desk.path().join("hook");
    let script = "#!/bin/sh\ncat /proc/self/status > \"$0.status\"\ncp \"$OSM_PATHS_FILE\" \"$0.paths\"\n\
        head -c 1 /etc/passwd > \"$0.read\"\nmv \"$0.paths\" \"$0.done\"\n";
    steps::program(&program, script);
    let mut options = options!();
    options.tables = format!("[[hook]]\nrun = ['{}']\n", program.display());
    let pair = in_sync(options);
    fs::write(pair.root(Side::A, "data").join("f"), "x").expect("a file");
    flushed_equal(&pair, "data");
    let done = program.with_extension("done");
    assert!(until(LONG, || done.exists()), "{}", pair.log(Side::A));
    let told = fs::read_to_string(&done).expect("a list");
    assert!(told.contains("/data/f"), "{told:?}");
    assert_eq!(
        fs::read(program.with_extension("read"))
            .expect("read")
            .len(),
        1
    );
    let text = fs::read_to_string(program.with_extension("status")).expect("a status");
    let own = fs::read_to_string("/proc/self/status").expect("a status");
    for name in ["NoNewPrivs:", "Seccomp:", "CapEff:", "CapBnd:"] {
        let line = |t: &str| t.lines().find(|l| l.starts_with(name)).map(str::to_owned);
        assert_eq!(line(&text), line(&own), "as whoever started syncd serve");
    }
}

/// The process that runs hooks ends with the receiver, also where that one is killed.
#[test]
fn the_process_that_runs_hooks_ends_with_the_receiver() {
    let mut options = options!();
    options.tables = "[[hook]]\nrun = ['true']\n".into();
    let pair = in_sync(options);
    let serve = serving(&pair);
    let of = |pid: u32| {
        let children = format!("/proc/{pid}/task/{pid}/children");
        let text = fs::read_to_string(children).unwrap_or_default();
        text.split_whitespace().next().map(str::to_owned)
    };
    let Some(runner) = of(serve) else {
        println!(
            "skipped: the_process_that_runs_hooks_ends_with_the_receiver: the kernel does not list children"
        );
        return;
    };
    let at = Path::new("/proc").join(runner);
    assert_eq!(status(&at)["Name"], "syncd-hooks");
    assert_eq!(
        fs::read_link(at.join("fd/0")).expect("an open file"),
        Path::new("/dev/null"),
        "it keeps nothing of the peer's stream"
    );
    crate::common::steps::signal(i32::try_from(serve).expect("a number"), "KILL");
    assert!(until(LONG, || !at.exists()), "it still runs");
}
