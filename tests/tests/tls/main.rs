//! Levels of encryption, with real programs and with their bytes.
//!
//! * [`programs`]: pairs of real programs under every level: what passes, what is stopped, what it is
//!   called.
//! * [`splits`]: their bytes, cut everywhere.
//! * [`behind`]: clear text behind a handshake.
//! * [`core`]: the same bytes, read without the kernel.
//! * [`evasions`]: ways around it, each found and stopped.
//! * [`vectors`]: every flow of the corpus, by IPv4 and IPv6.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod behind;
mod core;
mod evasions;
mod programs;
mod record;
mod speakers;
mod splits;
mod stage;
mod takes;
mod vectors;

/// Leaves the test when a program that it needs is not there: SKIPPED on a developer's machine, failed in
/// CI.
#[macro_export]
macro_rules! require_speakers {
    () => {{
        bulkhead_tests::require_agent!();
        match $crate::speakers::Kit::new().unwrap() {
            Some(kit) => kit,
            None => {
                assert!(
                    !bulkhead_tests::harness::must_run(),
                    "BULKHEAD_PYTHON is not set, and CI=true says that this must run"
                );
                eprintln!("SKIPPED: this test needs other programs: run `cargo xtask test`");
                return;
            }
        }
    }};
}
