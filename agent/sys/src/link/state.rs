//! How an attached program is: what runs, where, and making the link anew.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Result, bpf};

/// A link as the kernel tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    /// The link's number, never used twice while the machine runs.
    pub id: u32,
    /// The number of the program that it runs.
    pub program: u32,
    /// What it hangs on.
    pub target: Target,
}

/// What a link hangs on. `attach` is the kernel's `bpf_attach_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A cgroup, by its id.
    Cgroup {
        /// 0 for a link that was detached, or whose cgroup is gone.
        cgroup: u64,
        /// The hook.
        attach: u32,
    },
    /// Anything else; for interfaces see [`super::tcx`].
    Other,
}

/// Looks at the link behind `link` (BPF_OBJ_GET_INFO_BY_FD for links, Linux 5.8). EINVAL or EBADF if
/// there is no BPF object behind it.
pub fn info(link: BorrowedFd<'_>) -> Result<LinkInfo> {
    const CGROUP: u32 = 3;
    /// `struct bpf_link_info`, with the member of its union that matters here.
    #[derive(FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        _padding: u32,
        cgroup: u64,
        attach: u32,
        _rest: u32,
    }
    let Info { kind, id, program, cgroup, attach, .. } = bpf::info(link)?;
    let target = if kind == CGROUP { Target::Cgroup { cgroup, attach } } else { Target::Other };
    Ok(LinkInfo { id, program, target })
}

/// Attaches `program` to the cgroup whose folder is open as `cgroup`, at the hook `attach`
/// (BPF_LINK_CREATE, Linux 5.7; CAP_NET_ADMIN). All programs of a hook run, and any may deny.
///
/// Errors: EBADF or ENOENT if the cgroup is gone, EINVAL for a program of another hook.
pub fn create_on_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach: u32) -> Result<OwnedFd> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Attributes {
        program: i32,
        target: i32,
        attach: u32,
        flags: u32,
    }
    let mut attributes =
        Attributes { program: program.as_raw_fd(), target: cgroup.as_raw_fd(), attach, flags: 0 };
    // SAFETY: the attributes hold no addresses, and the answer is a descriptor.
    unsafe { bpf::descriptor(bpf::LINK_CREATE, "bpf(BPF_LINK_CREATE)", &mut attributes) }
}

/// Opens the program with this number (BPF_PROG_GET_FD_BY_ID, Linux 4.13; CAP_SYS_ADMIN). ENOENT if there
/// is none.
pub fn program(id: u32) -> Result<OwnedFd> {
    let mut attributes = [id, 0, 0];
    // SAFETY: the attributes hold no addresses, and the answer is a descriptor.
    unsafe { bpf::descriptor(bpf::PROG_GET_FD_BY_ID, "bpf(BPF_PROG_GET_FD_BY_ID)", &mut attributes) }
}
