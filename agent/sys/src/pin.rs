//! Pinned objects: maps, programs and links in a BPF file system.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{Immutable, IntoBytes};

use crate::{Error, Result, bpf};

/// Opens what is pinned at `path` (BPF_OBJ_GET, Linux 4.4). ENOENT if nothing is; EPERM without CAP_BPF.
pub fn open(path: &Path) -> Result<OwnedFd> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::path("bpf(BPF_OBJ_GET)", path)(io::Error::from_raw_os_error(libc::EINVAL)))?;
    let mut attributes = Attributes { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path is a C string that lives until the call is over, and the answer is a descriptor.
    unsafe { bpf::descriptor(bpf::OBJ_GET, "bpf(BPF_OBJ_GET)", &mut attributes) }
}
