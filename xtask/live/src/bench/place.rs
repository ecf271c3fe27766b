//! Where an end of a measurement runs.
//!
//! A socket takes the cgroup of the process that makes it, so an end is a process of its own: this very
//! program, started again with a hidden command, which goes to its place first.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};

/// Goes into a cgroup and a network namespace. Before there is any other thread or socket.
pub(crate) fn take(cgroup: &Path, netns: &Path) -> Result<()> {
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("cannot join {}", cgroup.display()))?;
    let netns = File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// Keeps this thread, and those that it starts, to some processors.
pub(crate) fn keep_to(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("there are no processors {cpus:?}"))
}
