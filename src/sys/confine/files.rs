//! Files, network and other processes: what Landlock lets a process reach.

use std::io;
use std::os::fd::AsFd;

use landlock::{
    Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::{FileType, fstat};

use crate::decide::confine::{NEWEST, OLDEST, Place};

/// The version of Landlock that this kernel has; 0 where it has none, or is not asked to use it.
#[must_use]
pub fn abi() -> u32 {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the call looks at no memory and makes nothing; it returns a number.
    let found = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(found).unwrap_or(0)
}

/// From now on only these places are reached, no network, and no process but this one.
pub(super) fn only(places: &[Place], abi: u32) -> io::Result<()> {
    if abi < OLDEST {
        let why = match abi {
            0 => "this kernel has no Landlock, or it is switched off".to_owned(),
            _ => format!(
                "this kernel has version {abi} of Landlock, which moves no file from one directory to another"
            ),
        };
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|r| r.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|r| r.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    for place in places {
        rules = allow(rules, place)?;
    }
    let status = rules.restrict_self().map_err(io::Error::other)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(io::Error::other("Landlock put nothing into force")),
        // What it lacks is told by its version.
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

/// One more place; one that is not there cannot be reached, and whoever wants it says so.
fn allow(rules: RulesetCreated, place: &Place) -> io::Result<RulesetCreated> {
    let Ok(at) = PathFd::new(&place.path) else {
        tracing::debug!(
            "{} is not there and will not be reached",
            place.path.display()
        );
        return Ok(rules);
    };
    let mode = fstat(at.as_fd())?.st_mode;
    let mut rights = place.grant.rights();
    if FileType::from_raw_mode(mode) != FileType::Directory {
        rights &= AccessFs::from_file(NEWEST);
    }
    rules
        .add_rule(PathBeneath::new(at, rights))
        .map_err(io::Error::other)
}
