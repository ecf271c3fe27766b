//! What programs and operators see of a denial: how soon a call fails and with what, which counter and
//! which line of the log tell of it, and what becomes of connections that lose their right or that are
//! older than the agent.
//!
//! Times that the product promises are measured up to three times and the best one counts, because
//! the machine may be busy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod at_once;
mod idle;
mod lab;
mod later;
mod older;
