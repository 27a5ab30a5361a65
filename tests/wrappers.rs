//! The wrappers as cluster managers call them: their exit codes and words, and what the checkers of their kind say.
//!
//! What needs a running systemd or a cluster manager is in `tests/cluster`.
#![allow(unreachable_pub)]

mod common;

#[path = "wrappers/checkers.rs"]
mod checkers;
#[path = "wrappers/lsb.rs"]
mod lsb;
#[path = "wrappers/notify.rs"]
mod notify;
#[path = "wrappers/place.rs"]
mod place;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::node::{Options, Pair, Side};

/// A file of the project.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A directory that holds the programs of this build.
fn programs() -> PathBuf {
    let syncctl = Path::new(env!("CARGO_BIN_EXE_syncctl"));
    syncctl.parent().expect("a directory").to_owned()
}

/// Two nodes, nothing runs.
fn pair() -> Pair {
    let options = Options::new(env!("CARGO_BIN_EXE_syncd"), env!("CARGO_BIN_EXE_syncctl"));
    common::steps::idle(options)
}

/// A command with as little around it as a cluster manager gives, for osm1 of a pair.
fn bare(program: &str, pair: &Pair) -> Command {
    let mut c = Command::new(program);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs().display());
    c.env_clear().env("PATH", path).stdin(Stdio::null());
    c.env("OSM_CONFIG", pair.config()).env("OSM_NODE", "osm1");
    c
}

/// Whether a program is there; says that the test was skipped if not.
fn have(program: &str, package: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$1\" >/dev/null", "sh", program])
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .status();
    let found = found.is_ok_and(|s| s.success());
    if !found {
        println!("skipped: {program} is not here (Debian package {package})");
    }
    found
}

/// The role that osm1 gives itself.
fn role(pair: &Pair) -> String {
    let status = pair.status_of(Side::A).expect("a status");
    status["role"].as_str().expect("a role").to_owned()
}
