//! The opening bytes of TLS, for user space: what hellos and certificates say is read there.
//!
//! Only the end that counts a flow tells of it. What is told is bounded: [`Piece::STREAM_BYTES`] of a
//! direction, and of a client nothing once its server has answered. A lost piece costs the inventory a
//! line, never a verdict.

use bulkhead_abi::{Inspection, SocketFlow, inspect::Piece};

use super::{Hook, reading::counts};
use crate::inspect::{Ruling, stream};

/// Bytes of an opening that user space wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Their offset in the packet.
    pub at: u32,
    /// How many they are; 0 where what the flow has kept of the direction is meant.
    pub len: u32,
    /// Where in its direction's TLS opening they begin.
    pub offset: u32,
    /// Who sends them: 0 the opener, 1 the receiver.
    pub sender: u32,
}

/// What was known before a segment was read, as bits.
#[derive(Clone, Copy)]
pub struct Before(pub u32);

impl Before {
    const OPENING: u32 = 1;
    const ANSWERED: u32 = 2;

    /// What is known now of the direction of `sender`.
    #[inline(always)]
    pub fn of(inspection: &Inspection, sender: u8) -> Self {
        let opening = if stream::hello(inspection, sender).is_known() { Self::OPENING } else { 0 };
        let answered = if crate::inspect::is_settled(inspection.phase) { Self::ANSWERED } else { 0 };
        Self(opening | answered)
    }
}

/// Tells of a segment that was read and passes, where it is of an opening; whether the next one may be,
/// too.
#[inline(always)]
pub fn tell<H: Hook>(
    hook: &H,
    flow: &SocketFlow,
    sender: u8,
    (at, len, seq): (u32, u32, u32),
    before: Before,
    ruling: u32,
) -> bool {
    if ruling != Ruling::Pass.code() || !counts(flow) {
        return false;
    }
    let hello = stream::hello(&flow.inspection, sender);
    if !hello.is_known() {
        // Not TLS, or the other direction's turn.
        return stream::hello(&flow.inspection, sender ^ 1).is_known();
    }
    if hello.is_client() && before.0 & Before::ANSWERED != 0 {
        return false;
    }
    let offset = seq.wrapping_sub(hello.start);
    if offset >= Piece::STREAM_BYTES {
        // What stands before the opening is none of it, and comes again as a retransmission only.
        return offset >> 31 != 0;
    }
    if before.0 & Before::OPENING == 0 && offset != 0 {
        hook.piece(flow, &Told { at: 0, len: 0, offset: 0, sender: sender.into() });
    }
    if len != 0 {
        let left = Piece::STREAM_BYTES - offset;
        let len = if len < left { len } else { left };
        hook.piece(flow, &Told { at, len, offset, sender: sender.into() });
    }
    true
}
