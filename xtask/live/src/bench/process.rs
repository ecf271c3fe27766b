//! What the kernel tells of a process' memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A line of a process' memory, in KiB.
pub(crate) fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.with_context(|| format!("/proc/{pid}/status has no {field}"))?.parse()?)
}

/// Memory of all BPF maps that a process holds, in KiB, and how many they are.
pub(crate) fn map_memory(pid: u32) -> Result<(u64, usize)> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo"))? {
        // A descriptor may be closed while they are listed.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok((maps.values().sum::<u64>() / 1024, maps.len()))
}
