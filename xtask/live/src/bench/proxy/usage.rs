//! What the processes of a cgroup, and of those below it, have used.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process;

/// Memory of some processes, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident; a page that several processes share is split among them.
    pub(crate) resident: f64,
    /// As much as each process' most was above what it has now, and that is.
    pub(crate) peak: f64,
}

/// Processor time since the cgroup was made, in seconds, the kernel's work for its processes included. Of
/// processes that have ended, too.
pub(crate) fn cpu(cgroup: &Path) -> Result<f64> {
    let stat = fs::read_to_string(cgroup.join("cpu.stat"))?;
    let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(micros.context("cpu.stat has no usage_usec")?.trim().parse::<f64>()? / 1e6)
}

/// Memory of the processes whose command line passes.
pub(crate) fn memory(cgroup: &Path, passes: impl Fn(&str) -> bool) -> Result<Memory> {
    let mut all = Memory::default();
    for pid in processes(cgroup)? {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !passes(&String::from_utf8_lossy(&line)) {
            continue;
        }
        // It may have ended since.
        let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        let own = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB"));
        let own: f64 = own.context("smaps_rollup has no Pss")?.trim().parse()?;
        let (Ok(now), Ok(most)) = (process::memory(pid, "VmRSS:"), process::memory(pid, "VmHWM:")) else {
            continue;
        };
        all.resident += own;
        all.peak += own + most.saturating_sub(now) as f64;
    }
    Ok(all)
}

fn processes(cgroup: &Path) -> Result<Vec<u32>> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let mut found: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path())?);
        }
    }
    Ok(found)
}
