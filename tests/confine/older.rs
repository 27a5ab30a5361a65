//! Kernels that know less: a receiver goes on with what there is, and says what is left open.

use std::collections::BTreeMap;
use std::fs;

use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

use super::apart;
use crate::common::node::Side;
use crate::common::steps::idle;
use crate::options;

/// Has this process meet a kernel that does not know a system call.
fn without(call: libc::c_long) {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a known processor");
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, arch).expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("in force");
}

#[test]
fn a_kernel_without_landlock_is_told_of() {
    if apart::is_done_alone() {
        return;
    }
    let pair = idle(options!());
    let outside = pair.dir().join("outside");
    fs::write(&outside, "x").expect("a file");
    let root = pair.root(Side::B, "data");
    let tried = apart::start(|log| {
        without(libc::SYS_landlock_create_ruleset);
        let confined = apart::confine(&pair.config());
        log.note("lacks", &confined.lacks.join("; "));
        log.note("version", &confined.abi.to_string());
        log.tried("outside", fs::read(&outside));
        log.tried("inside", fs::write(root.join("f"), "x"));
        log.tried("run", std::process::Command::new("true").spawn());
    });
    let lines = tried.lines();
    assert!(
        lines[0].contains("outside of its roots") && lines[0].contains("no Landlock"),
        "{lines:#?}"
    );
    assert_eq!(lines[1..4], ["version: 0", "outside: done", "inside: done"]);
    assert!(
        lines[4].contains("not permitted"),
        "the rest is in force: {lines:#?}"
    );
}

/// Whoever is not root has no capability to lose, and is confined all the same.
#[test]
fn a_user_is_confined_too() {
    if apart::is_done_alone() {
        return;
    }
    let pair = idle(options!());
    let tried = apart::start(|log| {
        if rustix::process::geteuid().is_root() {
            for side in ["a", "b"] {
                let all = walkdir::WalkDir::new(pair.dir().join(side));
                for at in all.into_iter().flatten() {
                    std::os::unix::fs::chown(at.path(), Some(65534), Some(65534)).expect("given");
                }
            }
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(pair.dir(), open).expect("opened");
            let nobody = nix::unistd::Uid::from_raw(65534);
            nix::unistd::setuid(nobody).expect("nobody");
        }
        let confined = apart::confine(&pair.config());
        log.note("lacks", &confined.lacks.join("; "));
        log.tried("outside", fs::read("/etc/passwd"));
        log.tried(
            "inside",
            fs::write(pair.root(Side::B, "data").join("f"), "x"),
        );
    });
    let lines = tried.lines();
    assert!(lines[1].contains("Permission denied"), "{lines:#?}");
    assert_eq!(lines[2], "inside: done");
    if osm_failover::sys::confine::abi() >= 6 {
        assert_eq!(lines[0], "lacks: ");
    }
}
