//! Cgroups of our own in the machine's cgroup2 tree.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::names;
use super::wait::wait_until;

/// A cgroup that is removed, with everything in and below it, when this value is dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new cgroup with a unique name, directly below the cgroup2 mount.
    pub fn new(label: &str) -> Result<Cgroup> {
        Cgroup::make(mount()?.join(names::unique(label)))
    }

    /// A new cgroup with a unique name below `parent`.
    pub fn new_in(parent: &Path, label: &str) -> Result<Cgroup> {
        Cgroup::make(parent.join(names::unique(label)))
    }

    /// A new cgroup below this one, named exactly `path` (`shop/web.service` makes both levels).
    pub fn child(&self, path: &str) -> Result<Cgroup> {
        Cgroup::make(self.path.join(path))
    }

    /// The absolute path of its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id that the kernel knows it by (`bpf_get_current_cgroup_id`).
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Its path below another one, as zone files name it.
    pub fn below(&self, root: &Path) -> Result<String> {
        Ok(self.path.strip_prefix(root)?.to_string_lossy().into_owned())
    }

    /// Moves a process into it. Sockets that it has keep the cgroup they were made in.
    pub fn add(&self, pid: u32) -> Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("cannot move process {pid} into {}", self.path.display()))
    }

    fn make(path: PathBuf) -> Result<Cgroup> {
        fs::create_dir_all(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Cgroup { path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Where cgroup2 is mounted, as the kernel tells it.
pub(super) fn mount() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    find_mount(&table).context("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

fn find_mount(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next()? != "cgroup2" {
            return None;
        }
        mount.split(' ').nth(4).map(PathBuf::from)
    })
}

/// Kills what is in a cgroup and removes it and all below it. Best effort: it runs in drops.
pub(super) fn remove(path: &Path) {
    if !path.exists() {
        return;
    }
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let emptied = || {
        let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 0")
    };
    let _ = wait_until(Duration::from_secs(20), "the cgroup is empty", emptied);
    remove_folders(path);
}

fn remove_folders(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_folders(&entry.path());
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::find_mount;
    use std::path::PathBuf;

    #[test]
    fn the_mount_is_found_beside_version_1_hierarchies() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(table), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_mount("1 2 0:1 / / rw - ext4 cgroup2 rw"), None);
    }
}
