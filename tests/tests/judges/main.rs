//! Three judges of the same flows must agree: the readable oracle, the host build of the kernel's
//! decisions over the compiled image, and the kernel programs themselves (`BPF_PROG_TEST_RUN`). Then real
//! sockets are held against the oracle.
//!
//! Cases are generated, and the same in every run: `BULKHEAD_SEED` sets another seed, `BULKHEAD_POLICIES`
//! another number of policies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod cases;
mod chamber;
mod conversation;
mod guard;
mod mangled;
mod policy;
mod sockets;
mod three;
mod twice;

use std::sync::Mutex;

/// The tests move this process between cgroups, so they take turns.
static ALONE: Mutex<()> = Mutex::new(());

/// A number from the environment.
fn told(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Leaves the test when there is nothing to run: SKIPPED on a developer's machine, failed in CI.
macro_rules! require_programs {
    () => {
        bulkhead_tests::require_root!();
        if bulkhead_datapath::embedded().is_none() {
            assert!(!bulkhead_tests::harness::must_run(), "no kernel programs: run `cargo xtask test`");
            eprintln!("SKIPPED: this test needs kernel programs: run `cargo xtask test`");
            return;
        }
        let _alone = crate::ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    };
}
pub(crate) use require_programs;
