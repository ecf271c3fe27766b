//! Waiting for a condition, and saying so when a test cannot run.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until `condition` holds; fails with `what` when it still does not after `limit`.
///
/// ```
/// # use std::time::Duration;
/// # use bulkhead_tests::harness::wait_until;
/// wait_until(Duration::from_secs(1), "the sky is up", || true).unwrap();
/// assert!(wait_until(Duration::from_millis(1), "pigs fly", || false).is_err());
/// ```
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if condition() {
            return Ok(());
        }
        if started.elapsed() >= limit {
            bail!("after {limit:?} still not: {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Whether this process may do what kernel tests do.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test that cannot run must fail instead of being skipped: in CI.
#[must_use]
pub fn must_run() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Leaves the test when this process is not root: SKIPPED on a developer's machine, failed in CI.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::harness::is_root() {
            assert!(!$crate::harness::must_run(), "this test needs root, and CI=true says that it must run");
            eprintln!("SKIPPED: this test needs root");
            return;
        }
    };
}
