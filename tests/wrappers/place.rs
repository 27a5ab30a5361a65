//! What `make install` puts in place finds its programs where they are.

use std::fs;
use std::path::Path;
use std::process::Command;

use walkdir::WalkDir;

use crate::common::steps::said;
use crate::{file, have, programs};

#[test]
fn what_is_installed_elsewhere_looks_for_its_programs_there() {
    if !have("make", "make") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let at = |path: &str| dir.path().join(path);
    let variable = |name: &str, value: &Path| format!("{name}={}", value.display());
    // The programs of this build take the place of those that would be built first.
    let out = Command::new("make")
        .args(["--old-file=build", "install", "PREFIX=/opt/osm"])
        .args([
            variable("DESTDIR", dir.path()),
            variable("BIN", &programs()),
        ])
        .current_dir(file(""))
        .output();
    let (code, text) = said(&out.expect("make runs"));
    assert_eq!(code, 0, "{text}");
    for there in [
        "opt/osm/bin/syncd",
        "opt/osm/bin/syncctl",
        "opt/osm/share/doc/osm-failover/README.md",
        "opt/osm/share/doc/osm-failover/docs/install.md",
        "opt/osm/share/man/man1/syncctl.1",
        "opt/osm/share/man/man1/syncctl-activate.1",
        "opt/osm/share/man/man1/syncd.1",
        "etc/osm-failover/config.toml.example",
    ] {
        assert!(at(there).is_file(), "{there}");
    }
    for (which, says) in [
        (
            "lib/systemd/system/osm-failover.service",
            "ExecStart=/opt/osm/bin/syncd\n",
        ),
        (
            "lib/systemd/system/osm-failover-resync.service",
            "ExecStart=/opt/osm/bin/syncctl",
        ),
        ("etc/init.d/osm-failover", ":/opt/osm/bin:"),
        ("etc/init.d/osm-failover-resync", ":/opt/osm/bin:"),
        ("usr/lib/ocf/resource.d/osm/osm-failover", ":/opt/osm/bin\n"),
        (
            "opt/osm/lib/osm-failover/keepalived-notify",
            ":/opt/osm/bin:",
        ),
    ] {
        let text = fs::read_to_string(at(which)).expect("installed");
        assert!(text.contains(says), "{which}: {text}");
    }
    for scripts in ["lib", "etc/init.d", "usr/lib", "opt/osm/lib"] {
        for entry in WalkDir::new(at(scripts)).into_iter().flatten() {
            if entry.file_type().is_file() {
                let text = fs::read_to_string(entry.path()).expect("a text");
                assert!(!text.contains("/usr/local"), "{}", entry.path().display());
            }
        }
    }
}
