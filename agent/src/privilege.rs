//! What the agent must be allowed to do, checked before anything is touched.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Capabilities by number (capabilities(7)). CAP_SYS_ADMIN includes the other two of BPF.
const NEEDED: [(u32, &str, &str); 3] = [
    (21, "CAP_SYS_ADMIN", "to look into network namespaces"),
    (12, "CAP_NET_ADMIN", "to attach to cgroups and end sockets"),
    (19, "CAP_SYS_PTRACE", "to find the namespaces of other users' processes"),
];

/// What is missing.
#[derive(Debug, thiserror::Error)]
#[error("missing privilege: {missing}; run this as root, in the initial user namespace")]
pub struct PrivilegeError {
    missing: String,
}

/// Whether this process may load programs, attach them and look into namespaces.
pub fn check() -> Result<(), PrivilegeError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    check_status(&status)
}

/// The user that this process acts as.
pub fn user() -> std::io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

fn check_status(status: &str) -> Result<(), PrivilegeError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(number, ..)| effective & (1 << number) == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(PrivilegeError { missing: missing.join(", ") }) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(check_status("CapEff:\t000001ffffffffff\n").is_ok());
        let error = check_status("CapEff:\t0000000000201000\n").unwrap_err().to_string();
        assert!(error.contains("CAP_SYS_PTRACE") && !error.contains("CAP_NET_ADMIN"), "{error}");
        assert!(check_status("").unwrap_err().to_string().contains("CAP_SYS_ADMIN"));
    }
}
