//! Waiting until every kernel program that runs now has ended.

use std::os::fd::{AsFd, AsRawFd};

use crate::Result;
use crate::bpf::NewMap;
use crate::map::Map;

/// Waits for a grace period: every kernel program run (of those that cannot sleep: ours all) that began
/// before this call has ended when it returns.
///
/// It replaces the only entry of a throw-away map of maps. Since Linux 4.20 that waits for running
/// programs before it returns, on any number of CPUs, and the kernel's promise is just that: user space
/// may then reuse what the old entry led to. `membarrier(MEMBARRIER_CMD_GLOBAL)` waits for the same thing
/// but does nothing on a machine with one CPU online and is refused under `nohz_full`.
///
/// Takes 8 to 24 ms on a quiet machine with two CPUs, more under load. Needs CAP_BPF; errors of BPF_MAP_CREATE and
/// BPF_MAP_UPDATE_ELEM. After an error nothing has been waited for.
pub fn grace_period() -> Result<()> {
    const ARRAY: u32 = 2;
    const ARRAY_OF_MAPS: u32 = 12;
    let shape = NewMap { kind: ARRAY, key_size: 4, value_size: 4, max_entries: 1, ..Default::default() };
    let inner = shape.create()?;
    let outer = NewMap { kind: ARRAY_OF_MAPS, inner: inner.as_raw_fd(), ..shape }.create()?;
    Map::new(outer.as_fd())?.set(&[0; 4], &inner.as_raw_fd().to_ne_bytes(), 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, Instant};

    use super::*;
    use crate::testing;

    #[test]
    fn a_grace_period_takes_its_time() {
        if !testing::root("grace period") {
            return;
        }
        let begun = Instant::now();
        for _ in 0..3 {
            grace_period().unwrap();
        }
        // Making the maps alone is a matter of microseconds; expedited grace periods are, too.
        let expedited = std::fs::read_to_string("/sys/kernel/rcu_expedited").unwrap_or_default();
        let least = if expedited.trim() == "1" { Duration::ZERO } else { Duration::from_millis(3) };
        assert!(begun.elapsed() > least, "{:?}", begun.elapsed());
    }
}
