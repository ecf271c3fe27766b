//! Filtering a thread's system calls.

use crate::{Error, Result};

/// One step of a filter (`struct sock_filter`).
pub use libc::sock_filter as Instruction;

/// Lets `filter` judge every system call of the calling thread from now on, and of all threads that it
/// makes; what is not allowed is also told to the kernel's log (seccomp(2), Linux 4.14). Several filters
/// add up, and the strictest answer counts. It cannot be taken off again.
///
/// Errors: EACCES unless the thread may gain no new privileges (or has CAP_SYS_ADMIN), EINVAL for a
/// filter that is none, or where the kernel has no filters.
pub fn install(filter: &[Instruction]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len())
            .map_err(|_| Error::from_errno("seccomp(SECCOMP_SET_MODE_FILTER)", libc::EINVAL))?,
        // The kernel only reads.
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` leads to as many steps as it says, and the kernel copies them before it returns.
    let status = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_LOG,
            &raw const program,
        )
    };
    if status != 0 {
        return Err(Error::last("seccomp(SECCOMP_SET_MODE_FILTER)"));
    }
    Ok(())
}
