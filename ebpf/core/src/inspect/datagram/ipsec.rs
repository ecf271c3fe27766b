//! IKE and ESP in UDP (RFC 7296, RFC 2408, RFC 3948). ESP alone looks like nothing: it is told only where
//! IKE was heard before.

use bulkhead_abi::Class;

use super::{Said, View, piece};
use crate::inspect::{
    Payload,
    head::{Head, begins},
};

/// Length of IKE's header.
const HEADER: u32 = 28;

/// Whether this is IKE.
#[inline(always)]
pub(super) fn opening(view: &View, payload: &impl Payload) -> Said {
    if is_ike(view, payload) {
        Said::Is { class: Class::Ipsec, memory: 0, version: 0 }
    } else {
        Said::Nothing
    }
}

/// Whether this is IKE, ESP, or the byte that keeps an address translation alive.
#[inline(always)]
pub(super) fn fits(view: &View, payload: &impl Payload) -> bool {
    if view.len == 1 {
        return view.head.byte::<0>() == 0xff;
    }
    if is_ike(view, payload) {
        return true;
    }
    // A security parameters index that is not reserved (RFC 4303, 2.1), a number, and a tag.
    view.len >= 8 + 12 && view.head.u32_at::<0>() >= 256 && !view.is_text()
}

/// IKE's header, behind four zeros where ESP shares the port (RFC 3948, 2.2).
#[inline(always)]
fn is_ike(view: &View, payload: &impl Payload) -> bool {
    let marked = begins!(view.head, b"\0\0\0\0");
    let at = if marked { 4 } else { 0 };
    let rest = piece(payload, at + 16);
    view.len >= at + HEADER && is_rest(rest, view.len - at) && piece(payload, at).u64_at::<0>() != 0
}

/// The second half of the header: next payload, version, exchange, flags, number, length.
#[inline(always)]
fn is_rest(rest: Head, len: u32) -> bool {
    let (version, exchange, flags) = (rest.byte::<1>(), rest.byte::<2>(), rest.byte::<3>());
    let kind = match version {
        0x20 => matches!(exchange, 34..=44) && flags & 0xc7 == 0,
        0x10 => matches!(exchange, 1..=6 | 32..=34) && flags & 0xf8 == 0,
        _ => false,
    };
    kind && rest.have() >= 12 && rest.u32_at::<8>() == len
}
