//! TCP: the bytes of both directions by sequence number.

use bulkhead_abi::{Inspection, Reason};

use super::{Cursor, Payload, Ruling};

/// Tells where a direction begins: `first` is the sequence number of its first payload byte, one more than
/// that of its SYN.
#[inline(always)]
pub fn begin(_inspection: &mut Inspection, _sender: u8, _first: u32) {}

/// Reads a segment whose payload begins at sequence number `seq`, and rules on it.
#[inline(always)]
pub fn segment(_inspection: &mut Inspection, _sender: u8, _seq: u32, _payload: &impl Payload) -> Ruling {
    Ruling::Pass
}

/// Reads on from where the cursor stands. What it returns is for [`segment`] alone.
#[inline(always)]
pub fn step(_payload: &impl Payload, _inspection: &mut Inspection, _cursor: &mut Cursor) -> u32 {
    0
}

/// Where in the direction's TLS opening (its ClientHello, or its ServerHello and what follows) the byte
/// with this sequence number stands; `None` where no TLS opening was found in this direction.
#[inline(always)]
pub fn hello_offset(_inspection: &Inspection, _sender: u8, _seq: u32) -> Option<u32> {
    None
}

/// Whether the rule accepts what is known of the flow.
#[inline(always)]
pub(crate) fn accepted(_inspection: &Inspection) -> Result<(), Reason> {
    Ok(())
}

/// Ends the reading: nothing passes any more.
#[inline(always)]
pub(crate) fn refuse(inspection: &mut Inspection, reason: Reason) -> Ruling {
    inspection.phase = Inspection::REFUSED;
    let [opener, _] = &mut inspection.streams;
    opener.state = reason as u8;
    Ruling::Refuse(reason)
}
