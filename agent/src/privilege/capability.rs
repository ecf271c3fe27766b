//! Capabilities (capabilities(7)).

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::PrivilegeError;

/// A capability, by its number and name, and what it is needed for.
pub type Need = (CapabilitySet, &'static str, &'static str);

/// What a running agent keeps, each with the reason. CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON.
pub const KEPT: [Need; 4] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", "to look into network namespaces"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "to attach to cgroups and end sockets"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE", "to find the namespaces of other users' processes"),
    (CapabilitySet::NET_BROADCAST, "CAP_NET_BROADCAST", "to hear of interfaces in workloads' namespaces"),
];

/// Whether a process with this `/proc/…/status` has what is needed.
pub(super) fn check(status: &str) -> Result<(), PrivilegeError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<String> = KEPT
        .iter()
        .filter(|(capability, ..)| effective & capability.bits() == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError::Missing(missing.join(", "))) }
}

/// Drops everything but [`KEPT`] from all sets of the calling thread.
pub(super) fn drop_others() -> Result<(), PrivilegeError> {
    let stuck = |what| move |error: rustix::io::Errno| PrivilegeError::Stuck { what, source: error.into() };
    let kept = KEPT.iter().fold(CapabilitySet::empty(), |all, (capability, ..)| all | *capability);
    rustix::thread::clear_ambient_capability_set().map_err(stuck("ambient capabilities"))?;
    // First the bounding set: that takes a capability which goes with the others.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                rustix::thread::remove_capability_from_bounding_set(capability)
                    .map_err(stuck("capabilities of the bounding set"))?;
            }
            Ok(_) => {}
            // The kernel knows no more.
            Err(_) => break,
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(stuck("capabilities"))
}
