//! Attacks with packets that no honest program sends: each in three runs (see `harness::threat`). The
//! names of the tests begin with the row of the table in `docs/security.md`.
//!
//! `web` and `db` are workloads of a node and zones of their own, `outside` is another machine and in no
//! zone. What `web` sends is judged as it leaves, what `outside` sends as it arrives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod addresses;
mod direction;
mod endings;
mod fragments;
mod headers;
mod icmp;
mod policy;
mod protocols;
mod runs;
mod wire;
