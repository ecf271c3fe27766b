//! QUIC (RFC 8999, RFC 9000, RFC 9369).

use bulkhead_abi::Class;

use super::{Said, View};
use crate::inspect::head::{Head, begins};

/// The least that a datagram with a client's Initial packet measures (RFC 9000, 14.1).
const INITIAL: u32 = 1200;
/// The least that a packet measures whose header is protected: a sample is taken behind it.
const LEAST: u32 = 21;

/// Whether a client's first flight begins here.
#[inline(always)]
pub(super) fn opening(view: &View) -> Said {
    if view.len < INITIAL || !is_long(view) {
        return Said::Nothing;
    }
    let destination = view.head.byte::<5>();
    // 8 bytes at least, so that nobody guesses them (RFC 9000, 7.2).
    if !is_initial(view.head) || !(8..=20).contains(&destination) || !is_version(view) {
        return Said::Nothing;
    }
    Said::Is { class: Class::Quic, memory: 1, version: 0 }
}

/// Whether an Initial packet stands here, of what has a long header (RFC 9000, 17.2.2; RFC 9369, 3.2).
#[inline(always)]
pub(super) fn is_initial(head: Head) -> bool {
    let kind = (head.byte::<0>() >> 4) & 3;
    let initial = if begins!(head.behind(1), b"\x6b\x33\x43\xcf") { 1 } else { 0 };
    head.byte::<0>() & 0x80 != 0 && kind == initial
}

/// Who has sent long headers, of what is kept.
pub(super) const BOTH: u8 = 3;

/// Whether this is a packet of a connection that has begun; `seen` keeps who has sent long headers.
#[inline(always)]
pub(super) fn fits(view: &View, seen: &mut u8, from: u8) -> bool {
    if view.head.byte::<0>() & 0x80 != 0 {
        let negotiates = begins!(view.head.behind(1), b"\0\0\0\0");
        *seen |= from;
        return (negotiates && view.len >= 7) || (is_long(view) && is_version(view));
    }
    // The fixed bit may be greased (RFC 9287).
    *seen & BOTH == BOTH && view.len >= LEAST && !view.is_text()
}

/// A long header: its form, and identifiers of a length that there is.
#[inline(always)]
fn is_long(view: &View) -> bool {
    view.head.byte::<0>() & 0x80 != 0 && view.len >= LEAST && view.head.byte::<5>() <= 20
}

/// Versions 1 and 2, and the drafts on the way to 1 that were deployed.
#[inline(always)]
fn is_version(view: &View) -> bool {
    begins!(view.head.behind(1), b"\0\0\0\x01", b"\x6b\x33\x43\xcf")
        || (begins!(view.head.behind(1), b"\xff\0\0")
            && view.head.byte::<4>() >= 0x17
            && view.head.byte::<4>() <= 0x22)
}
