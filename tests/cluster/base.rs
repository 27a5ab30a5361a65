//! The root file system that all nodes share: Debian with every cluster manager, made once and kept in `target`.
//!
//! It stays the same until the list of packages changes. `OSM_CLUSTER_BASE` names another directory to keep it in,
//! `OSM_CLUSTER_MIRROR` another mirror.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::shell::run;

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
/// What is in it, apart from what is essential in Debian.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,iproute2,iputils-ping,procps,heartbeat,pacemaker,\
    pacemaker-cli-utils,corosync,pcs,resource-agents,keepalived,apache2,wget,libxml2-utils,openssh-server,\
    openssh-client,iptables,nftables,conntrack,net-tools,acl,attr,libcap2-bin";
/// Units that a scenario starts where it wants them, and timers that would disturb it.
const DISABLED: [&str; 14] = [
    "apache2",
    "apache-htcacheclean",
    "corosync",
    "heartbeat",
    "keepalived",
    "logd",
    "pacemaker",
    "pcsd",
    "pcsd-ruby",
    "e2scrub_reap",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
];

/// The directory, made if it is not there.
///
/// # Errors
/// Why it cannot be made, as a reason to skip.
pub fn base() -> Result<PathBuf, String> {
    let kept = std::env::var_os("OSM_CLUSTER_BASE").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster"),
        PathBuf::from,
    );
    let said = |e: std::io::Error| format!("{}: {e}", kept.display());
    fs::create_dir_all(&kept).map_err(said)?;
    let id = blake3::hash(format!("{SUITE} {PACKAGES}").as_bytes()).to_hex();
    let dir = kept.join(format!("base-{}", &id[..8]));
    // Two runs at once make it once.
    let lock = File::create(kept.join("lock")).map_err(said)?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| said(e.into()))?;
    if !dir.exists() {
        make(&dir)?;
    }
    Ok(dir)
}

fn make(dir: &Path) -> Result<(), String> {
    let new = dir.with_extension("new");
    if new.exists() {
        run("rm", &["-rf", "--one-file-system", &text(&new)])?;
    }
    let mirror = std::env::var("OSM_CLUSTER_MIRROR").unwrap_or_else(|_| MIRROR.to_owned());
    println!("making the nodes' root file system in {}", dir.display());
    run(
        "mmdebstrap",
        &[
            "--quiet",
            "--variant=minbase",
            &format!("--include={PACKAGES}"),
            SUITE,
            &text(&new),
            &mirror,
        ],
    )?;
    let root = format!("--root={}", new.display());
    for unit in DISABLED {
        run("systemctl", &["--quiet", &root, "disable", unit])?;
    }
    fs::rename(&new, dir).map_err(|e| format!("{}: {e}", dir.display()))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
