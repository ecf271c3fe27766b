//! What the crate promises, over loopback: programs at both ends, two proxies or one and a peer made by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod carry;
mod common;
mod frames;
mod limits;
mod live;
mod pool;
mod refuse;
mod strangers;
