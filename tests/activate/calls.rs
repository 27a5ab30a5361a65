//! Calls that come twice, at the same time, at the wrong time, or to a process that does not answer.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, activate, ctl, deactivate, edit_config, idle, json, signal, until, wait_peer, well,
};
use crate::options;

fn role(pair: &Pair, side: Side) -> String {
    let status = pair.status_of(side).expect("a status");
    status["role"].as_str().expect("a role").to_owned()
}

fn spawn(pair: &Pair, args: &[&str]) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_syncctl"))
        .arg("--config")
        .arg(pair.config())
        .args(["--node", "osm1"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("syncctl runs")
}

#[test]
fn both_may_be_called_twice() {
    let pair = idle(options!());
    for _ in 0..2 {
        let (code, text) = ctl(&pair, Side::A, &["deactivate"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("was not active"), "{text}");
    }
    activate(&pair, Side::A);
    let first = pair.daemon(Side::A).expect("it runs");
    let text = well(&pair, Side::A, &["activate"]);
    assert!(text.contains("active already"), "{text}");
    assert_eq!(pair.daemon(Side::A), Some(first));
    deactivate(&pair, Side::A);
    assert_eq!(pair.daemon(Side::A), None);
    deactivate(&pair, Side::A);
}

/// A script goes on at once, and a person types fast.
#[test]
fn what_needs_the_peer_waits_until_it_is_met() {
    let pair = idle(options!());
    for command in ["resync", "verify"] {
        activate(&pair, Side::A);
        let (code, text) = ctl(&pair, Side::A, &[command]);
        // A comparison may still have to wait for the peer to be in step.
        assert!(!text.contains("not connected yet"), "{command}: {text}");
        assert!(code == 0 || command == "verify", "{command}: {text}");
        deactivate(&pair, Side::A);
    }
    pair.cut().expect("cut");
    activate(&pair, Side::A);
    let (code, text) = ctl(&pair, Side::A, &["resync"]);
    assert_eq!(code, 4, "{text}");
    deactivate(&pair, Side::A);
}

/// The last attempt to reach the peer tells nothing of a link that was mended after it.
#[test]
fn who_mended_the_link_is_not_told_that_it_is_cut() {
    let mut pair = idle(options!());
    pair.cut().expect("cut");
    activate(&pair, Side::A);
    // The pauses between attempts are the longest ones then.
    let tried = || pair.log(Side::A).matches("the link is cut").count() >= 8;
    assert!(until(LONG, tried), "{}", pair.log(Side::A));
    wait_peer(&mut pair, "unreachable", "the link is cut");
    pair.restore().expect("mended");
    let text = well(&pair, Side::A, &["resync"]);
    assert!(text.contains("up to date"), "{text}");
    deactivate(&pair, Side::A);
}

#[test]
fn many_at_once_come_to_one() {
    let pair = idle(options!());
    for _ in 0..3 {
        let log = pair.daemon_log(Side::A);
        let calls: Vec<_> = (0..5)
            .map(|_| spawn(&pair, &["activate", "--log", &log]))
            .collect();
        for call in calls {
            let out = call.wait_with_output().expect("it ends");
            assert!(out.status.success(), "{out:?}\n{}", pair.log(Side::A));
        }
        assert_eq!(role(&pair, Side::A), "active");
        let calls: Vec<_> = (0..5).map(|_| spawn(&pair, &["deactivate"])).collect();
        for call in calls {
            let out = call.wait_with_output().expect("it ends");
            assert!(out.status.success(), "{out:?}");
            assert_eq!(
                pair.daemon(Side::A),
                None,
                "nothing runs once it has returned"
            );
        }
    }
}

#[test]
fn a_stop_in_the_middle_of_a_start_stops_it() {
    let pair = idle(options!());
    // The peer never answers, so the activation waits for it.
    edit_config(&pair, |t| {
        t.replacen("command = ", "command = [\"sleep\", \"1000\"]\n# ", 2)
            + "\n[activation]\nactivate_timeout = \"60s\"\n"
    });
    for kill in [false, true] {
        let log = pair.daemon_log(Side::A);
        let mut start = spawn(&pair, &["activate", "--log", &log]);
        assert!(until(LONG, || pair.daemon(Side::A).is_some()));
        if kill {
            start.kill().expect("killed");
        }
        let begun = Instant::now();
        well(&pair, Side::A, &["deactivate"]);
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(pair.daemon(Side::A), None);
        let end = start.wait().expect("it ends");
        assert!(!end.success());
    }
}

#[test]
fn a_process_that_hangs_is_ended() {
    let pair = idle(options!());
    activate(&pair, Side::A);
    let pid = pair.daemon(Side::A).expect("it runs");
    signal(i32::try_from(pid).expect("a pid"), "STOP");
    let (code, text) = ctl(&pair, Side::A, &["deactivate", "--timeout", "1s"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("did not answer"), "{text}");
    assert_eq!(pair.daemon(Side::A), None);
    activate(&pair, Side::A);
}

/// Connects and goes until the kernel would have a further one wait.
fn fill_queue(path: &Path) {
    let to = UnixAddr::new(path).expect("an address");
    loop {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
        match connect(socket.as_raw_fd(), &to) {
            Ok(()) => {}
            Err(Errno::EAGAIN) => return,
            Err(e) => panic!("{}: {e}", path.display()),
        }
    }
}

/// Monitors go on asking a process that hangs, and each connection stays in its queue. Once that is full the kernel has whoever
/// connects wait.
#[test]
fn a_process_that_hangs_with_a_full_queue_is_ended() {
    let pair = idle(options!());
    activate(&pair, Side::A);
    let pid = pair.daemon(Side::A).expect("it runs");
    signal(i32::try_from(pid).expect("a pid"), "STOP");
    fill_queue(&pair.home(Side::A).join("run/control.sock"));
    let (code, text) = ctl(&pair, Side::A, &["deactivate", "--timeout", "1s"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("did not answer"), "{text}");
    assert_eq!(pair.daemon(Side::A), None);
    activate(&pair, Side::A);
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let pair = idle(options!());
    let root = pair.root(Side::A, "data");
    fs::remove_dir_all(&root).expect("removed");
    let (code, text) = ctl(&pair, Side::A, &["activate", "--log", "/dev/null"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&root.display().to_string()), "{text}");
    assert!(text.contains("hint:"), "{text}");
    fs::create_dir(&root).expect("mended");
    activate(&pair, Side::A);
    deactivate(&pair, Side::A);
    edit_config(&pair, |t| t.replace("[cluster]", "[clutser]"));
    let (code, text) = ctl(&pair, Side::A, &["activate"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("clutser"), "{text}");
}

/// Whoever stops a node writes to the last moment, and the next process does not look for what this one was told of and did
/// not look at.
#[test]
fn what_was_changed_just_before_a_stop_without_a_peer_is_taken_over() {
    // Where there is no time to look at all of it, the end is one as in a crash.
    let ways = [("inotify", "30s"), ("auto", "30s"), ("auto", "1ms")];
    for (watcher, timeout) in ways {
        let mut options = options!();
        options.watcher = watcher.into();
        let mut pair = idle(options);
        activate(&pair, Side::A);
        fs::write(pair.root(Side::A, "data").join("always"), "there").expect("a file");
        pair.wait_in_sync(LONG).expect("in sync");
        pair.flush().expect("flushed");
        pair.cut().expect("cut");
        wait_peer(&mut pair, "unreachable", "the link is cut");
        for n in 0..300 {
            let dir = pair.root(Side::A, "data").join(format!("d{n}/e/f"));
            fs::create_dir_all(&dir).expect("directories");
            fs::write(dir.join("g"), n.to_string()).expect("a file");
        }
        let done = json(&pair, Side::A, &["deactivate", "--timeout", timeout]);
        let left = done["left"]["paths"].as_u64();
        assert!(left >= Some(1200) || timeout == "1ms", "{done}");
        pair.restore().expect("mended");
        activate(&pair, Side::B);
        for n in 0..300 {
            let at = pair.root(Side::B, "data").join(format!("d{n}/e/f/g"));
            let found = fs::read_to_string(at).ok();
            assert_eq!(found, Some(n.to_string()), "{watcher} {timeout}");
        }
        deactivate(&pair, Side::B);
    }
}

#[test]
fn a_stop_without_a_peer_does_not_wait_for_it() {
    let mut pair = idle(options!());
    activate(&pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    pair.cut().expect("cut");
    fs::write(pair.root(Side::A, "data").join("left"), "behind").expect("a file");
    let begun = Instant::now();
    let left = deactivate(&pair, Side::A);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert!(left["paths"].as_u64() >= Some(1), "{left}");
    assert!(
        left["why"].as_str().is_some_and(|w| !w.is_empty()),
        "{left}"
    );
    // What was left is sent by the next activation.
    pair.restore().expect("mended");
    activate(&pair, Side::A);
    let there = pair.root(Side::B, "data").join("left");
    assert!(until(LONG, || there.exists()), "{}", pair.log(Side::A));
}
