//! Attacks that go round sockets, or to translated addresses, and what the guard makes of them: each in
//! three runs (see `harness::threat`). The names of the tests begin with the row of the table in
//! `docs/security.md`.
//!
//! `web` and `db` are workloads of a node and zones of their own, behind `port0` and `port1`; `outside` is
//! another machine, in no zone, behind `port2`, which is a wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod acts;
mod answers;
mod errors;
mod frames;
mod interfaces;
mod lab;
mod masqueraded;
mod routed;
mod services;
mod spoofed;
mod top;
mod translation;
mod within;
