//! Capabilities: what is not kept goes from every set, the bounding set included.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::decide::confine::kept;

/// No program gives this process more than it has.
pub(super) fn none_new() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Keeps of what this process has what a receiver needs, and nothing for any program.
pub(super) fn only_kept() -> io::Result<()> {
    let have = capabilities(None)?;
    let keep = have.permitted & kept();
    // Last of all SETPCAP goes, which is needed for this. Who has not got it runs no program that could gain any.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if !keep.contains(one) && capability_is_in_bounding_set(one).unwrap_or(false) {
                remove_capability_from_bounding_set(one)?;
            }
        }
    }
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}
