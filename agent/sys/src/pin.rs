//! Pinned objects: maps, programs and links in a BPF file system.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{Immutable, IntoBytes};

use crate::{Error, Result, bpf};

/// Opens what is pinned at `path` (BPF_OBJ_GET, Linux 4.4). ENOENT if nothing is; EPERM without CAP_BPF.
pub fn open(path: &Path) -> Result<OwnedFd> {
    get(path, 0)
}

/// Opens the map that is pinned at `path` for reading only (BPF_F_RDONLY, Linux 4.15): whoever gets the
/// descriptor changes nothing with it.
pub fn open_to_read(path: &Path) -> Result<OwnedFd> {
    const BPF_F_RDONLY: u32 = 1 << 3;
    get(path, BPF_F_RDONLY)
}

fn get(path: &Path, flags: u32) -> Result<OwnedFd> {
    let name = c_path("bpf(BPF_OBJ_GET)", path)?;
    let mut attributes = Attributes { path: name.as_ptr() as u64, fd: 0, flags };
    // SAFETY: the path is a C string that lives until the call is over, and the answer is a descriptor.
    unsafe { bpf::descriptor(bpf::OBJ_GET, "bpf(BPF_OBJ_GET)", &mut attributes) }
}

/// Pins the map, program or link `object` at `path`, readable by its owner alone (BPF_OBJ_PIN, Linux
/// 4.4). EEXIST if something is there; EPERM where that is no BPF file system.
pub fn make(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    const CALL: &str = "bpf(BPF_OBJ_PIN)";
    let name = c_path(CALL, path)?;
    let mut attributes = Attributes { path: name.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the path is a C string that lives until the call is over.
    unsafe { bpf::call(bpf::OBJ_PIN, CALL, &mut attributes) }.map_err(|error| match error {
        Error::Call { source, .. } => Error::path(CALL, path)(source),
        other => other,
    })?;
    Ok(())
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Attributes {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(call: &'static str, path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::path(call, path)(io::Error::from_raw_os_error(libc::EINVAL)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::bpf::NewMap;
    use crate::{mount, testing};

    #[test]
    fn what_is_pinned_is_found_there_and_private() {
        if !testing::root("pins") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        testing::in_own_mount_namespace(|| {
            let shape = NewMap { kind: 1, key_size: 4, value_size: 4, max_entries: 1, ..Default::default() };
            let map = shape.create().unwrap();
            let path = dir.path().join("map");
            assert_eq!(make(map.as_fd(), &path).unwrap_err().errno(), Some(libc::EPERM), "no bpffs");
            assert!(!mount::is_bpffs(dir.path()).unwrap());

            mount::ensure("bpf", dir.path()).unwrap();
            assert!(mount::is_bpffs(dir.path()).unwrap());
            assert_eq!(mount::bpffs_of(&path).unwrap().as_deref(), Some(dir.path()));
            make(map.as_fd(), &path).unwrap();
            assert_eq!(make(map.as_fd(), &path).unwrap_err().errno(), Some(libc::EEXIST));
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let [ours, theirs] = [map, open(&path).unwrap()].map(|fd| {
                let [_, id]: [u32; 2] = bpf::info(fd.as_fd()).unwrap();
                id
            });
            assert_eq!(ours, theirs);
        });
        assert_eq!(mount::bpffs_of(&dir.path().join("map")).unwrap(), None);
    }
}
