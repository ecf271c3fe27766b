//! Too little memory for some processes, for a while: a limit at what they use now.
//!
//! With cgroup v2's controller that is `memory.high`: they are slowed down until what they used is given
//! back. Where the controller is still in a hierarchy of version 1, it is a limit with the OOM killer off:
//! they wait where they ask for more, and system calls fail with ENOMEM.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A group of processes whose memory can be limited; removed with its value.
#[derive(Debug)]
pub(crate) struct Pressure {
    folder: PathBuf,
    /// The file of the limit, of what is used, and what lifts the limit.
    limit: &'static str,
    used: &'static str,
    none: &'static str,
    /// Whether the folder is ours.
    own: bool,
}

impl Pressure {
    /// For the processes of `cgroup` (cgroup v2) now, and the children that they have later.
    pub(crate) fn new(cgroup: &Path) -> Result<Pressure> {
        if cgroup.join("memory.high").exists() {
            let folder = cgroup.to_path_buf();
            return Ok(Pressure {
                folder,
                limit: "memory.high",
                used: "memory.current",
                none: "max",
                own: false,
            });
        }
        let name =
            cgroup.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy().into_owned());
        let name = name.collect::<Vec<_>>().join("-of-");
        let folder = mount()?.join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let pressure = Pressure {
            folder,
            limit: "memory.limit_in_bytes",
            used: "memory.usage_in_bytes",
            none: "-1",
            own: true,
        };
        fs::write(pressure.folder.join("memory.oom_control"), "1")?;
        pressure.take(cgroup)?;
        Ok(pressure)
    }

    /// Takes in who has come since.
    pub(crate) fn take(&self, cgroup: &Path) -> Result<()> {
        if self.own {
            for pid in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
                // It may have ended.
                let _ = fs::write(self.folder.join("cgroup.procs"), pid);
            }
        }
        Ok(())
    }

    /// From now on they may use what they use now, in KiB, and no more.
    pub(crate) fn squeeze(&self) -> Result<u64> {
        let used: u64 = fs::read_to_string(self.folder.join(self.used))?.trim().parse()?;
        fs::write(self.folder.join(self.limit), used.to_string())?;
        Ok(used / 1024)
    }

    /// As much as they want.
    pub(crate) fn release(&self) -> Result<()> {
        fs::write(self.folder.join(self.limit), self.none).context("a limit of memory cannot be lifted")
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        let _ = self.release();
        if self.own {
            // Whoever still runs goes back to where it came from, or the folder stays.
            if let (Some(parent), Ok(pids)) =
                (self.folder.parent(), fs::read_to_string(self.folder.join("cgroup.procs")))
            {
                for pid in pids.lines() {
                    let _ = fs::write(parent.join("cgroup.procs"), pid);
                }
            }
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Where the memory controller's hierarchy of version 1 is, at the place of this process.
fn mount() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let found = table.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_it =
            filesystem.starts_with("cgroup ") && filesystem.split([' ', ',']).any(|word| word == "memory");
        is_it.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    });
    found.context("no memory controller: neither in cgroup2 (memory.high) nor in a hierarchy of its own")
}
