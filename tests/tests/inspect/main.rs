//! Clear text where a rule wants encryption: the packet hooks stop it, on real sockets.
//!
//! * [`streams`]: TCP, of which not one byte in clear arrives, and both ends hear of it.
//! * [`order`]: TCP whose segments overtake one another.
//! * [`places`]: wherever they meet.
//! * [`reading`]: how many handshakes user space reads at once.
//! * [`datagrams`]: UDP, of which each datagram is judged; [`trains`]: also where many are one packet.
//! * [`enclosed`]: ESP and AH, whose protocol says it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod datagrams;
mod enclosed;
mod lab;
mod order;
mod places;
mod reading;
mod streams;
mod trains;
mod wire;
