//! Attacks with ordinary sockets, or nearly: what a program may ask of its kernel. Each in three runs
//! (see `harness::threat`). The names of the tests begin with the row of the table in `docs/security.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod acts;
mod again;
mod live;
mod opening;
mod owners;
#[path = "../power/mod.rs"]
mod power;
mod pressure;
mod ring;
mod rules;
mod source;
mod tampering;
mod time;
