//! When memory that was freed goes back to the kernel.

/// Keeps up to `bytes` of freed memory at the end of the heap, and takes pieces of up to that size from the
/// heap. What is larger, or beyond it, goes back to the kernel at once, as before; whether the C library has
/// such a setting.
///
/// glibc alone keeps 128 KiB. Who takes and frees a few buffers of that size for each piece of a stream gives
/// the pages back each time, and finds them again as page faults. Any kernel; to be called before other
/// threads are there, since glibc reads these without a lock.
pub fn keep_freed(bytes: usize) -> bool {
    set(bytes)
}

#[cfg(target_env = "gnu")]
fn set(bytes: usize) -> bool {
    let Ok(bytes) = libc::c_int::try_from(bytes) else { return false };
    let both = [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD];
    // SAFETY: takes two numbers and touches the allocator's own settings alone.
    both.into_iter().all(|what| unsafe { libc::mallopt(what, bytes) } == 1)
}

#[cfg(not(target_env = "gnu"))]
fn set(_: usize) -> bool {
    false
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::hint::black_box;

    /// Page faults of this thread that needed no disk.
    fn faults() -> i64 {
        // SAFETY: all zeroes is a valid `rusage`.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a valid place to write to.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        usage.ru_minflt
    }

    /// What it costs to take two pieces of a stream and to free them, a hundred times.
    fn churn() -> i64 {
        let before = faults();
        for _ in 0..100 {
            let one = black_box(vec![1_u8; 100 << 10]);
            let other = black_box(vec![1_u8; 100 << 10]);
            drop((one, other));
        }
        faults() - before
    }

    #[test]
    fn memory_that_is_used_again_and_again_is_not_found_again_each_time() {
        assert!(super::keep_freed(8 << 20));
        churn();
        // One for each page would be 5,000.
        let found = churn();
        assert!(found < 500, "{found} page faults");
    }
}
