//! Names that no other run uses, and removing what a killed run left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Begins every name that the harness gives.
const PREFIX: &str = "bh-";

/// Where `ip netns` keeps names of namespaces.
pub(super) const NETNS_FOLDER: &str = "/run/netns";

/// A name with this process' number, a running number and a label for the reader.
pub(super) fn unique(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
    format!("{PREFIX}{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes namespaces and cgroups of runs that are no more. Called by itself at the first use.
pub fn sweep() {
    for name in left_behind(Path::new(NETNS_FOLDER)) {
        let _ = Command::new("ip").args(["netns", "delete", &name]).status();
    }
    if let Ok(root) = super::cgroup::mount() {
        for name in left_behind(&root) {
            super::cgroup::remove(&root.join(name));
        }
    }
}

/// What is named in a folder by runs that are no more.
pub(super) fn left_behind(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()))
        .collect()
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{owner, unique};

    #[test]
    fn a_name_tells_its_owner() {
        assert_eq!(owner(&unique("web-1")), Some(std::process::id()));
        assert_eq!(owner("bh-x"), None);
        assert_eq!(owner("other"), None);
        assert_ne!(unique("a"), unique("a"));
    }
}
