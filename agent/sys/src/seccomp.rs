//! Filtering a thread's system calls.

use crate::{Error, Result};

/// One step of a filter (`struct sock_filter`).
pub use libc::sock_filter as Instruction;

/// Lets `filter` judge every system call of the calling thread from now on, and of all threads that it
/// makes (seccomp(2), Linux 4.14). Several filters add up, and the strictest answer counts. With `log`,
/// what this one does not allow is told to the kernel's log. It cannot be taken off again.
///
/// Errors: EACCES unless the thread may gain no new privileges (or has CAP_SYS_ADMIN), EINVAL for a
/// filter that is none, or where the kernel has no filters.
pub fn install(filter: &[Instruction], log: bool) -> Result<()> {
    let flags = if log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len())
            .map_err(|_| Error::from_errno("seccomp(SECCOMP_SET_MODE_FILTER)", libc::EINVAL))?,
        // The kernel only reads.
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` leads to as many steps as it says, and the kernel copies them before it returns.
    let status =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if status != 0 {
        return Err(Error::last("seccomp(SECCOMP_SET_MODE_FILTER)"));
    }
    Ok(())
}
