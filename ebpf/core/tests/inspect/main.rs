//! First bytes: what they say, however they are cut, and what passes before they contradict a rule.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod ahead;
mod anything;
mod datagrams;
mod encrypted;
mod evasions;
mod flows;
mod talk;
mod truth;
