//! What is said to others: keepalived's notify script, and systemd's notification socket.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::node::{Pair, Side};
use crate::common::steps::{LONG, signal, until};
use crate::{bare, file, pair, role};

fn notify(pair: &Pair, args: &[&str]) -> Command {
    let mut c = bare("dash", pair);
    c.arg(file("keepalived/notify.sh")).args(args);
    c.env("OSM_KEEPALIVED_STATE", pair.dir().join("keepalived"));
    c.stdout(Stdio::null()).stderr(Stdio::null());
    c
}

fn change(state: &str) -> [&str; 4] {
    ["INSTANCE", "osm", state, "100"]
}

#[test]
fn a_master_is_active_and_nothing_else_is() {
    let pair = pair();
    for (state, expected) in [
        ("BACKUP", "stopped"),
        ("MASTER", "active"),
        ("MASTER", "active"),
        ("FAULT", "stopped"),
        ("MASTER", "active"),
        ("STOP", "stopped"),
        ("STOP", "stopped"),
    ] {
        let status = notify(&pair, &change(state)).status().expect("dash runs");
        assert!(status.success(), "{state}");
        assert_eq!(role(&pair), expected, "{state}");
    }
    for args in [&["INSTANCE", "osm", "DELETED"][..], &[]] {
        let status = notify(&pair, args).status().expect("dash runs");
        assert_eq!(status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn the_last_change_wins() {
    let pair = pair();
    // keepalived starts them one after the other and waits for none.
    for last in ["BACKUP", "MASTER", "BACKUP"] {
        let first = if last == "MASTER" { "BACKUP" } else { "MASTER" };
        let mut calls = Vec::new();
        let noted = pair.dir().join("keepalived");
        // What the round before noted last must not pass for what the first call of this one notes.
        std::fs::write(&noted, "").expect("nothing is noted");
        for state in [first, last, first, last] {
            calls.push(notify(&pair, &change(state)).spawn().expect("dash runs"));
            let is_noted = || std::fs::read_to_string(&noted).is_ok_and(|t| t.trim() == state);
            assert!(until(LONG, is_noted), "{state} was not noted");
        }
        for mut call in calls {
            assert!(call.wait().expect("it ends").success());
        }
        let expected = if last == "MASTER" {
            "active"
        } else {
            "stopped"
        };
        assert_eq!(role(&pair), expected, "after {last}");
    }
}

/// What systemd would be told within a time, or until `enough`.
fn told(socket: &UnixDatagram, limit: Duration, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
    let until = Instant::now() + limit;
    let mut all = Vec::new();
    let mut buffer = [0u8; 4096];
    while !enough(&all) && Instant::now() < until {
        if let Ok(n) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]);
            all.extend(text.lines().map(str::to_owned));
        }
    }
    all
}

#[test]
fn systemd_is_told_of_start_life_and_end() {
    let pair = pair();
    let path = pair.dir().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a time limit");
    let mut daemon = bare(env!("CARGO_BIN_EXE_syncd"), &pair)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("syncd runs");
    let signs = |all: &[String]| all.iter().filter(|l| *l == "WATCHDOG=1").count();
    let ready = |all: &[String]| all.contains(&"READY=1".to_owned());
    let began = told(&socket, LONG, ready);
    assert!(ready(&began), "{began:?}");
    // Nothing happens on this node, and it says all the same that it lives, four times in each period.
    let since = Instant::now();
    let idle = told(&socket, LONG, |all| signs(all) >= 12);
    assert!(signs(&idle) >= 12, "{idle:?}");
    let each = since.elapsed() / 12;
    assert!(
        each > Duration::from_millis(50) && each < Duration::from_millis(400),
        "{each:?}"
    );
    signal(i32::try_from(daemon.id()).expect("a process id"), "TERM");
    let ended = told(&socket, LONG, |all| all.contains(&"STOPPING=1".to_owned()));
    assert!(ended.contains(&"STOPPING=1".to_owned()), "{ended:?}");
    assert!(daemon.wait().expect("it ends").success());
    assert_eq!(role(&pair), "stopped");
    assert_eq!(pair.daemon(Side::A), None);
}
