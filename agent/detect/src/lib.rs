//! What is made of what the kernel saw: pure state machines and parsers, fed with bytes, events and
//! counters, with the time handed in. Nothing here knows a map, a socket or a clock.
//!
//! * [`findings`] says what somebody should look at.
//! * [`hello`] reads the opening of an encrypted flow: versions, ciphers, names, groups, certificates.
//! * [`http2`] tells gRPC from other HTTP/2 in clear.
//! * [`inventory`] keeps what was read by zone edge, in bounded memory.
//!
//! Everything here reads bytes that strangers chose: nothing panics, nothing grows without a bound, and
//! what is not understood is absent from the result, never guessed.

#![forbid(unsafe_code)]

pub mod calendar;
pub mod findings;
pub mod hello;
pub mod http2;
pub mod inventory;
