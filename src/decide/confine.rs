//! What a confined receiver may do: which files it reaches and how, which capabilities it keeps, and what a kernel that
//! does not know all of it leaves open.
//!
//! Tables, for `sys::confine` to put into force. Nothing here may be run, anywhere: a receiver runs no program.

use std::path::PathBuf;

use landlock::{ABI, Access, AccessFs, BitFlags, make_bitflags};
use rustix::thread::CapabilitySet;

/// Newest version of Landlock that the tables are about.
pub const NEWEST: ABI = ABI::V6;
/// Oldest version that is used: before it no file can be moved from one directory to another.
pub const OLDEST: u32 = 2;

/// What may be done with the files below a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// A root: anything that replication does.
    Root,
    /// The state directory: files, and no link, pipe or device that the next process of this node would follow or wait for.
    State,
    /// The directory of the figures for Prometheus: one file is replaced.
    Figures,
    /// A file that is read.
    Read,
}

impl Grant {
    /// The rights of Landlock that it stands for.
    #[must_use]
    pub fn rights(self) -> BitFlags<AccessFs> {
        match self {
            // Sockets and devices that stand in a root are moved aside before something takes their place.
            Self::Root => {
                AccessFs::from_all(NEWEST) & !make_bitflags!(AccessFs::{Execute | IoctlDev})
            }
            Self::State => make_bitflags!(AccessFs::{
                ReadFile | ReadDir | WriteFile | Truncate | MakeReg | RemoveFile
            }),
            Self::Figures => make_bitflags!(AccessFs::{
                ReadFile | WriteFile | Truncate | MakeReg | RemoveFile
            }),
            Self::Read => make_bitflags!(AccessFs::{ReadFile}),
        }
    }
}

/// A place that a receiver reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// A directory, with everything below it, or a file.
    pub path: PathBuf,
    /// What may be done there.
    pub grant: Grant,
}

/// Files that are read besides: an identity of this boot, by which the redo journal tells a crash from a power cut, and the
/// time zone of the system log.
pub const READ: [&str; 2] = ["/proc/sys/kernel/random/boot_id", "/etc/localtime"];

/// The capabilities that a receiver keeps where it has them, each for the one thing it is for.
#[must_use]
pub fn kept() -> CapabilitySet {
    // Owners; files that root itself may not open, and what the owner alone may change of them; setgid bits of other
    // groups' files; devices; the attribute security.capability.
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::MKNOD
        | CapabilitySet::SETFCAP
        // The attributes trusted.* and those of security modules; quotas, which the sender's host has judged already.
        | CapabilitySet::SYS_ADMIN
        | CapabilitySet::MAC_ADMIN
        | CapabilitySet::SYS_RESOURCE
        // Whether somebody has a file open for writing that is about to be replaced.
        | CapabilitySet::LEASE
}

/// What a kernel with this version of Landlock (0 for none) does not keep a receiver from, in words.
#[must_use]
pub fn lacks(abi: u32) -> Vec<&'static str> {
    if abi < OLDEST {
        return vec!["it could reach files outside of its roots and state"];
    }
    let since = [
        (3, "it could cut off files outside of its roots"),
        (5, "it could control devices that it opened"),
        (6, "it could signal other processes"),
    ];
    since
        .into_iter()
        .filter(|(known, _)| abi < *known)
        .map(|(_, what)| what)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTS: [Grant; 4] = [Grant::Root, Grant::State, Grant::Figures, Grant::Read];

    #[test]
    fn nothing_may_be_run_and_no_device_controlled() {
        for grant in GRANTS {
            let never = make_bitflags!(AccessFs::{Execute | IoctlDev});
            assert!(!grant.rights().intersects(never), "{grant:?}");
        }
    }

    #[test]
    fn only_in_roots_is_there_anything_but_files() {
        let odd =
            make_bitflags!(AccessFs::{MakeSym | MakeFifo | MakeChar | MakeBlock | MakeDir | Refer});
        for grant in GRANTS {
            let has = grant.rights().intersects(odd);
            assert_eq!(has, grant == Grant::Root, "{grant:?}");
        }
        assert!(Grant::Root.rights().contains(odd));
    }

    #[test]
    fn powers_over_the_host_are_not_kept() {
        for gone in [
            CapabilitySet::SYS_PTRACE,
            CapabilitySet::SYS_MODULE,
            CapabilitySet::SYS_RAWIO,
            CapabilitySet::SYS_BOOT,
            CapabilitySet::SYS_CHROOT,
            CapabilitySet::NET_ADMIN,
            CapabilitySet::NET_RAW,
            CapabilitySet::KILL,
            CapabilitySet::SETUID,
            CapabilitySet::SETGID,
            CapabilitySet::SETPCAP,
            CapabilitySet::DAC_READ_SEARCH,
            CapabilitySet::BPF,
        ] {
            assert!(!kept().intersects(gone), "{gone:?}");
        }
    }

    #[test]
    fn an_older_kernel_leaves_more_open() {
        let counts: Vec<usize> = (0..8).map(|abi| lacks(abi).len()).collect();
        assert_eq!(counts, [1, 1, 3, 2, 2, 1, 0, 0]);
        assert_eq!(lacks(0), lacks(1), "the first version is of no use");
    }
}
