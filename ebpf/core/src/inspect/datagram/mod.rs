//! UDP: datagram by datagram.

use bulkhead_abi::Conversation;

use super::{Payload, Ruling};

/// Reads a datagram's payload, and rules on it. `sender` is 0 for the opener, 1 for the receiver.
#[inline(always)]
pub fn datagram(_conversation: &mut Conversation, _sender: u8, _payload: &impl Payload) -> Ruling {
    Ruling::Pass
}
