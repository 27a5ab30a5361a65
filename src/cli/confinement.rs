//! What `syncctl check` says of the confinement of receivers: what the kernel and the mounts of this host leave open.

use std::path::PathBuf;

use rustix::thread::{CapabilitySet, capabilities};

use super::check::Check;
use crate::config::Config;
use crate::decide::confine::lacks;
use crate::sys::confine::{abi, are_shared};

const TITLE: &str = "receiver";

/// How far `syncd serve` can be confined on this node.
pub(super) fn check(config: &Config, node: usize) -> Check {
    let count = config.roots.len();
    let roots: Vec<PathBuf> = (0..count).map(|i| config.root_path(node, i)).collect();
    let roots: Vec<_> = roots.iter().map(PathBuf::as_path).collect();
    let makes_devices =
        capabilities(None).is_ok_and(|has| has.permitted.contains(CapabilitySet::MKNOD));
    let devices = match makes_devices {
        true => are_shared(&roots).map_err(|e| e.to_string()),
        false => Ok(()),
    };
    told(abi(), devices)
}

fn told(abi: u32, devices: Result<(), String>) -> Check {
    let mut open: Vec<String> = lacks(abi).into_iter().map(str::to_owned).collect();
    let mut remedies = Vec::new();
    if !open.is_empty() {
        remedies.push("a kernel of 6.12 or later with Landlock switched on (lsm=landlock,...)");
    }
    if let Err(why) = devices {
        open.push(format!(
            "it could open a device that it makes in a root: {why}"
        ));
        remedies.push("share the mounts at boot, as systemd does");
    }
    if open.is_empty() {
        let message = format!("syncd serve is confined to its roots and state (Landlock {abi})");
        return Check::ok(TITLE, message);
    }
    let message = format!(
        "Landlock {abi}: if syncd serve were broken into {}",
        open.join("; ")
    );
    Check::warn(TITLE, message, remedies.join("; "))
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    #[test]
    fn what_is_left_open_is_told() {
        assert_eq!(told(7, Ok(())).state, State::Ok);
        let old = told(0, Ok(()));
        assert_eq!(old.state, State::Warn);
        assert!(old.message.contains("outside of its roots"), "{old:?}");
        assert!(old.remedy.contains("6.12"), "{old:?}");
        let private = told(7, Err("the mount / is not shared".into()));
        assert_eq!(private.state, State::Warn);
        assert!(private.message.contains("device"), "{private:?}");
        assert!(!private.remedy.contains("kernel"), "{private:?}");
    }
}
