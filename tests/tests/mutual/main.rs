//! Mutual TLS from end to end: programs that have none, two agents that have, and a wire between them.
//!
//! * [`programs`]: real programs, and what they and a capture of the wire see.
//! * [`expiry`]: certificates that end while connections live.
//! * [`idle`]: connections that say nothing for long.
//! * [`refusals`]: peers that cannot prove who they are, or may not.
//! * [`around`]: ways around the proxy.
//! * [`sources`]: certificates of files and of a Workload API, replaced under load.
//! * [`operating`]: limits that change, and a node that is taken away.
//! * [`strangers`]: HTTP/2 and TLS of others, as clients and as servers.
//! * [`scanners`]: what OpenSSL, GnuTLS and sslyze find out about the tunnels' port.
//! * [`outages`]: agents and proxies that die under load, and certificates that are replaced under it.
//!
//! `lab` has the nodes, `wire` the capture, `storm` many connections, `peers` what is spoken to the tunnel's
//! port.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod around;
mod expiry;
mod idle;
mod lab;
mod operating;
mod outages;
mod peers;
mod programs;
mod refusals;
mod scanners;
mod servers;
mod sources;
mod storm;
mod strangers;
mod wire;

/// Leaves the test when a program that it needs is not there: SKIPPED on a developer's machine, failed in
/// CI.
#[macro_export]
macro_rules! require_python {
    () => {
        bulkhead_tests::require_agent!();
        if std::env::var_os("BULKHEAD_PYTHON").is_none() {
            assert!(
                !bulkhead_tests::harness::must_run(),
                "BULKHEAD_PYTHON is not set, and CI=true says that this must run"
            );
            eprintln!("SKIPPED: this test needs other programs: run `cargo xtask test`");
            return;
        }
    };
}
