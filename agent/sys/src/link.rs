//! Attached programs: exchanging one for its successor, and measuring what they cost.

pub mod tcx;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use zerocopy::{Immutable, IntoBytes};

use crate::{Result, bpf};

pub use state::{LinkInfo, Target, create_on_cgroup, info, program};

/// Puts the program `new` into the place of the one that `link` runs, with no moment without a program
/// (BPF_LINK_UPDATE, Linux 5.7). With `old`, only if that is what runs now. The link, its pin and its
/// place among others stay.
///
/// Errors: EPERM if `old` is given and another program runs, EINVAL for a program of another type, ENOLINK
/// if the cgroup is gone.
pub fn update(link: BorrowedFd<'_>, new: BorrowedFd<'_>, old: Option<BorrowedFd<'_>>) -> Result<()> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Attributes {
        link: i32,
        new: i32,
        flags: u32,
        old: i32,
    }
    const REPLACE: u32 = 1 << 2;

    let mut attributes = Attributes {
        link: link.as_raw_fd(),
        new: new.as_raw_fd(),
        flags: if old.is_some() { REPLACE } else { 0 },
        old: old.map_or(0, |old| old.as_raw_fd()),
    };
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf::call(bpf::LINK_UPDATE, "bpf(BPF_LINK_UPDATE)", &mut attributes) }?;
    Ok(())
}

/// Takes the program off its hook, now (BPF_LINK_DETACH, Linux 5.9): closing the last descriptor and
/// removing the pin does that a moment later. The link stays, without effect.
///
/// Errors: EOPNOTSUPP for a link that cannot be detached.
pub fn detach(link: BorrowedFd<'_>) -> Result<()> {
    let mut fd = link.as_raw_fd();
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf::call(bpf::LINK_DETACH, "bpf(BPF_LINK_DETACH)", &mut fd) }?;
    Ok(())
}

/// While this lives, the kernel counts run time and runs of every BPF program on the machine, as
/// `bpf_prog_info` tells them. Counting costs some tens of nanoseconds per run.
#[derive(Debug)]
pub struct RunStats {
    fd: OwnedFd,
}

impl RunStats {
    /// Starts counting (BPF_ENABLE_STATS, Linux 5.8; CAP_SYS_ADMIN).
    pub fn enable() -> Result<Self> {
        // BPF_STATS_RUN_TIME
        let mut kind = 0_u32;
        // SAFETY: the attributes hold no addresses, and the answer is a descriptor.
        let fd = unsafe { bpf::descriptor(bpf::ENABLE_STATS, "bpf(BPF_ENABLE_STATS)", &mut kind) }?;
        Ok(Self { fd })
    }
}

impl AsFd for RunStats {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

mod state;
#[cfg(test)]
pub(crate) mod tests;
