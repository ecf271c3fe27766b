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
    let name = c_path("bpf(BPF_OBJ_GET)", path)?;
    let mut attributes = Attributes { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path is a C string that lives until the call is over, and the answer is a descriptor.
    unsafe { bpf::descriptor(bpf::OBJ_GET, "bpf(BPF_OBJ_GET)", &mut attributes) }
}

/// Pins the map, program or link `object` at `path` (BPF_OBJ_PIN, Linux 4.4). EEXIST if something is
/// there; EPERM where that is no BPF file system.
pub fn make(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let name = c_path("bpf(BPF_OBJ_PIN)", path)?;
    let mut attributes = Attributes { path: name.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the path is a C string that lives until the call is over.
    unsafe { bpf::call(bpf::OBJ_PIN, "bpf(BPF_OBJ_PIN)", &mut attributes) }?;
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
