//! What the crate promises, over real sockets and with real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod again;
mod authority;
mod common;
mod hidden;
mod peers;
mod revocation;
mod source;
mod strangers;
#[cfg(feature = "workload-api")]
mod workload;
