//! The processes: one owner per node, a private socket, an orderly end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::common::node::Side;
use crate::common::steps::{
    LONG, daemon_ended, idle, in_sync, run_dir, said, start, wait_equal, wait_serve_gone,
};
use crate::options;

#[test]
fn a_second_daemon_on_a_node_is_refused() {
    let mut pair = in_sync(options!());
    let pid = pair.pid(Side::A).expect("it runs");
    let (code, text) = daemon_ended(&pair, Side::A);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains(&pid.to_string()), "{text}");
    // The first one did not notice.
    fs::write(pair.root(Side::A, "data").join("f"), "still here").expect("a file");
    wait_equal(&pair, "data");
    assert!(pair.ended(Side::A).is_none());
}

#[test]
fn the_control_socket_is_private() {
    let pair = in_sync(options!());
    for side in [Side::A, Side::B] {
        let socket = run_dir(&pair, side).join("control.sock");
        let mode = fs::metadata(&socket)
            .expect("a socket")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", socket.display());
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: another user: needs root");
        return;
    }
    let dir = pair.dir().to_owned();
    for path in [dir.clone(), dir.join("a"), dir.join("a/run")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_syncctl"))
        .arg("--config")
        .arg(pair.config())
        .args(["--node", "osm1", "status"])
        .output();
    match out {
        Ok(out) => {
            let (code, text) = said(&out);
            assert_ne!(code, 0, "{text}");
            assert!(
                !text.contains("in-sync") && !text.contains("in sync"),
                "{text}"
            );
        }
        Err(e) => println!("skipped: another user: setpriv: {e}"),
    }
}

#[test]
fn sigterm_ends_the_daemon_and_its_peer_in_good_order() {
    let mut pair = in_sync(options!());
    fs::write(pair.root(Side::A, "data").join("f"), "before the end").expect("a file");
    pair.flush().expect("flush");
    let status = pair.stop(Side::A).expect("it ran");
    assert_eq!(status.code(), Some(0), "{status}\n{}", pair.log(Side::A));
    wait_serve_gone(&pair, Side::B);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync again");
}

#[test]
fn sigterm_without_a_peer_ends_the_daemon_at_once() {
    let mut pair = idle(options!());
    pair.cut().expect("cut");
    start(&mut pair, Side::A);
    pair.wait_status(LONG, "active", |s| s["role"] == "active")
        .expect("active");
    let began = std::time::Instant::now();
    let status = pair.stop(Side::A).expect("it ran");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
