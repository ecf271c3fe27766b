//! The clock that kernel programs read.

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`, which stands still while the
/// machine sleeps. Any kernel; it cannot fail.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to. The call fails for unknown clocks only.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    #[test]
    fn runs_with_the_standard_librarys_clock() {
        let (ns, instant) = (super::monotonic_ns(), Instant::now());
        while instant.elapsed() < Duration::from_millis(5) {}
        let passed = super::monotonic_ns() - ns;
        assert!((5_000_000..1_000_000_000).contains(&passed), "{passed} ns");
    }
}
