//! The cgroup2 hierarchy: where it is, what lives in it, and the numbers that the kernel knows it by.
//!
//! Groups come and go while they are read. One that vanishes under our hands is left out, as if it had
//! gone a moment earlier; every other failure is an error, so that a folder that cannot be read is never
//! taken for an empty one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mount::{self, Mount};
use crate::{Error, Result};

/// A cgroup.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cgroup {
    /// Its id, as `bpf_skb_cgroup_id` and sock_diag tell it.
    pub id: u64,
    /// Its path below the root that was asked for; empty for that root itself.
    pub path: PathBuf,
}

/// Where the cgroup2 hierarchy is mounted: `/sys/fs/cgroup` on most machines, `/sys/fs/cgroup/unified`
/// where version 1 lives beside it. A mount of the whole hierarchy is preferred to one of a part.
pub fn mount_point() -> Result<PathBuf> {
    choose(mount::list()?).ok_or(Error::NoCgroup2)
}

/// The calling process's cgroup, as a folder below the mount point (`/proc/self/cgroup`, Linux 4.5): what a
/// socket that it makes belongs to. Errors as of [`mount_point`], and of reading.
pub fn own() -> Result<PathBuf> {
    let path = Path::new("/proc/self/cgroup");
    let text = fs::read_to_string(path).map_err(Error::path("read", path))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    Ok(mount_point()?.join(own))
}

/// The id of the cgroup whose folder is `dir`. On cgroup2 that is the inode's number (Linux 5.5, 64-bit).
pub fn id(dir: &Path) -> Result<u64> {
    Ok(fs::metadata(dir).map_err(Error::path("stat", dir))?.ino())
}

/// Every cgroup at and below `root`, parents before their children.
pub fn tree(root: &Path) -> Result<Vec<Cgroup>> {
    let mut found = Vec::new();
    walk(root, &mut |path, id| {
        let path = path.strip_prefix(root).unwrap_or(path).to_owned();
        found.push(Cgroup { id, path });
        Ok(true)
    })?;
    Ok(found)
}

/// Every process at and below `root`, ascending, each once. Processes of another pid namespace, which
/// the kernel names 0, are left out. In a threaded cgroup, thread numbers are given instead.
pub fn processes(root: &Path) -> Result<Vec<u32>> {
    processes_outside(root, &BTreeSet::new())
}

/// [`processes`], but for those at and below the groups with these ids.
pub fn processes_outside(root: &Path, apart: &BTreeSet<u64>) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    walk(root, &mut |path, id| {
        if apart.contains(&id) {
            return Ok(false);
        }
        let list = path.join("cgroup.procs");
        let text = match fs::read_to_string(&list) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                fs::read_to_string(path.join("cgroup.threads"))
            }
            other => other,
        };
        match text {
            Ok(text) => {
                found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok().filter(|pid| *pid != 0)))
            }
            // A root without the file is no cgroup, and must not pass for an empty one.
            Err(error) if path != root && vanished(&error) => {}
            Err(error) => return Err(Error::path("read", &list)(error)),
        }
        Ok(true)
    })?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn choose(mounts: Vec<Mount>) -> Option<PathBuf> {
    let hierarchies = mounts.into_iter().filter(|mount| mount.kind == "cgroup2");
    hierarchies.min_by_key(|mount| mount.root != Path::new("/")).map(|mount| mount.target)
}

/// Calls `visit` with folder and id of `root` and all below it, parents first; nothing below a group for which
/// it says no.
fn walk(root: &Path, visit: &mut dyn FnMut(&Path, u64) -> Result<bool>) -> Result<()> {
    let mut waiting = Vec::new();
    if visit(root, id(root)?)? {
        waiting.push(root.to_owned());
    }
    while let Some(dir) = waiting.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if dir != root && vanished(&error) => continue,
            other => other.map_err(Error::path("readdir", &dir))?,
        };
        for entry in entries {
            let entry = match entry {
                Err(error) if vanished(&error) => break,
                other => other.map_err(Error::path("readdir", &dir))?,
            };
            let path = entry.path();
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => {
                    if visit(&path, metadata.ino())? {
                        waiting.push(path);
                    }
                }
                Ok(_) => {}
                Err(error) if vanished(&error) => {}
                Err(error) => return Err(Error::path("stat", &path)(error)),
            }
        }
    }
    Ok(())
}

/// What the kernel says of a group that was removed while its folder or file was open.
fn vanished(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::testing::{self, TestCgroup};

    #[test]
    fn the_tree_and_its_processes_are_found() {
        if !testing::root("cgroup") {
            return;
        }
        let top = TestCgroup::new("tree");
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        fs::create_dir(top.path().join("c d")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(top.path().join("a/b/cgroup.procs"), child.id().to_string()).unwrap();

        let tree = tree(top.path()).unwrap();
        let processes_below = processes(&top.path().join("a"));
        let processes_beside = processes(&top.path().join("c d"));
        child.kill().unwrap();
        child.wait().unwrap();

        let mut paths: Vec<_> = tree.iter().map(|cgroup| cgroup.path.to_str().unwrap()).collect();
        assert_eq!(paths.first(), Some(&""));
        assert!(paths.iter().position(|p| *p == "a") < paths.iter().position(|p| *p == "a/b"));
        paths.sort_unstable();
        assert_eq!(paths, ["", "a", "a/b", "c d"]);
        assert_eq!(processes_below.unwrap(), [child.id()]);
        assert_eq!(processes_beside.unwrap(), [0_u32; 0]);
        for cgroup in &tree {
            assert_eq!(cgroup.id, handle_id(&top.path().join(&cgroup.path)), "{cgroup:?}");
        }
    }

    #[test]
    fn a_mount_of_the_whole_hierarchy_is_preferred() {
        let mount = |root: &str, target: &str, kind: &str| Mount {
            root: root.into(),
            target: target.into(),
            kind: kind.to_owned(),
        };
        let part = mount("/a/b", "/part", "cgroup2");
        let mounts = [mount("/", "/v1", "cgroup"), part.clone(), mount("/", "/whole", "cgroup2")];
        assert_eq!(choose(mounts.to_vec()), Some("/whole".into()));
        assert_eq!(choose(vec![part]), Some("/part".into()));
        assert_eq!(choose(vec![mount("/", "/v1", "cgroup")]), None);
    }

    #[test]
    fn a_missing_root_is_an_error_and_not_an_empty_tree() {
        let missing = Path::new("/sys/fs/cgroup/no/such/folder");
        assert_eq!(tree(missing).unwrap_err().errno(), Some(libc::ENOENT));
        assert_eq!(processes(missing).unwrap_err().errno(), Some(libc::ENOENT));
        let no_cgroup = tempfile::tempdir().unwrap();
        assert_eq!(processes(no_cgroup.path()).unwrap_err().errno(), Some(libc::ENOENT));
    }

    /// The id as the kernel writes it into a file handle.
    fn handle_id(dir: &Path) -> u64 {
        #[repr(C)]
        struct Handle {
            bytes: u32,
            kind: i32,
            id: [u8; 8],
        }
        let mut handle = Handle { bytes: 8, kind: 0, id: [0; 8] };
        let mut mount = 0;
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).unwrap();
        // SAFETY: the handle announces the eight bytes that it has room for, and the path is terminated.
        let status = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                0,
            )
        };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
        u64::from_ne_bytes(handle.id)
    }
}
