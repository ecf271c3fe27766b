//! DTLS 1.0 to 1.3 (RFC 4347, RFC 6347, RFC 9147).

use bulkhead_abi::Class;

use super::{Said, View, memory, piece};
use crate::inspect::{
    Payload,
    head::{Head, begins},
};

/// Length of a record's header.
const HEADER: u32 = 13;
/// How many records of a datagram are looked at; what follows them is the last one's business.
const RECORDS: u32 = 8;

/// Whether a handshake begins here, or is answered.
#[inline(always)]
pub(super) fn opening(view: &View, kept: u8, from: u8) -> Said {
    // Epoch 0, and few records so far.
    let clear = is_header(view.head, view.len) && begins!(view.head.behind(3), b"\0\0\0\0\0");
    if !clear || view.head.byte::<0>() != 22 {
        let alert = clear && view.head.byte::<0>() == 21 && view.len == HEADER + 2;
        return if alert && memory::is_answer(kept, memory::DTLS, from) { known(3) } else { Said::Nothing };
    }
    let (kind, offset) =
        (view.head.byte::<13>(), view.next.byte::<3>() | view.next.byte::<4>() | view.next.byte::<5>());
    let version = view.next.byte::<10>();
    if view.len < HEADER + 12 + 3 || view.head.byte::<14>() != 0 || offset != 0 {
        return Said::Nothing;
    }
    // ClientHello, ServerHello, HelloVerifyRequest, and the version that each begins with.
    let hello = matches!(kind, 1..=3) && view.next.byte::<9>() == 0xfe && matches!(version, 0xff | 0xfd);
    if !hello {
        return Said::Nothing;
    }
    if kind == 1 {
        return Said::Begins(memory::keep(memory::DTLS, from));
    }
    if !memory::is_answer(kept, memory::DTLS, from) {
        return Said::Nothing;
    }
    // A HelloVerifyRequest says nothing about the version (RFC 6347, 4.2.1): the other end begins again.
    if kind == 3 {
        return Said::Begins(kept & 0xf0);
    }
    // DTLS 1.0 is TLS 1.1.
    known(if version == 0xff { 2 } else { 3 })
}

#[inline(always)]
fn known(version: u8) -> Said {
    Said::Is { class: Class::Dtls, memory: 0, version }
}

/// Whether a record of a handshake stands here that is in clear: of epoch 0, an alert and the change of cipher
/// among them.
#[inline(always)]
pub(super) fn is_handshake(head: Head) -> bool {
    begins!(head, b"\x14\xfe", b"\x15\xfe", b"\x16\xfe") && begins!(head.behind(3), b"\0\0")
}

/// Whether the datagram consists of records.
#[inline(always)]
pub(super) fn fits(view: &View, payload: &impl Payload) -> bool {
    if view.is_text() {
        return false;
    }
    let mut at = 0;
    for _ in 0..RECORDS {
        if at == view.len {
            return true;
        }
        let head = piece(payload, at);
        // DTLS 1.3's header of what is encrypted (RFC 9147, 4).
        if head.byte::<0>() & 0xe0 == 0x20 {
            return view.len - at >= 2 + 16;
        }
        if !is_header(head, view.len - at) {
            return false;
        }
        at += HEADER + head.u16_at::<11>();
    }
    at <= view.len
}

/// Whether a record stands here whose end is within the `left` bytes.
#[inline(always)]
fn is_header(head: Head, left: u32) -> bool {
    let kind = head.byte::<0>();
    matches!(kind, 20..=26)
        && begins!(head.behind(1), b"\xfe\xff", b"\xfe\xfd")
        && head.have() >= HEADER
        && head.u16_at::<11>() != 0
        && HEADER + head.u16_at::<11>() <= left
}
