//! What is looked through: the PROXY protocol's header, and HTTP CONNECT with its answer.
//!
//! Behind them an opening begins afresh. They are themselves clear text, so that where clear text is
//! stopped they pass only as what they are, and only up to a length.

use bulkhead_abi::{App, Class, Inspection, Reason};

use super::{
    Cursor, Payload,
    codes::{code, mark, mode},
    head::{Head, begins, may_begin},
    ruling::{conclude, is_strict, refuse},
    stream::{ahead, consume, hand_over, restart, side, side_mut},
};

/// The longest header of version 1.
const LONGEST_LINE: u16 = 107;
/// The longest rest of a header of version 2 that is looked through where clear text is stopped.
const LONGEST_REST: u32 = 1024;
/// The longest request, and the longest answer, that is looked through.
const LONGEST_HEADERS: u16 = 2048;

/// Whether an opener's first bytes may yet be something that is looked through.
#[inline(always)]
pub(super) fn may_wrap(inspection: &Inspection, head: Head) -> bool {
    inspection.flags & Inspection::FLAG_TUNNELLED == 0
        && (may_begin!(
            head,
            b"PROXY TCP4 ",
            b"PROXY TCP6 ",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x20",
            b"\r\n\r\n\0\r\nQUIT\n\x21"
        ) || (may_begin!(head, b"CONNECT ") && head.byte::<8>() != b'{'))
}

/// Begins to look through an opener's first bytes, if they are something of the kind.
#[inline(always)]
pub(super) fn begin(inspection: &mut Inspection, head: Head) -> u32 {
    if inspection.flags & Inspection::FLAG_TUNNELLED != 0 {
        return code::LOOK;
    }
    let strict = is_strict(inspection);
    let [opener, receiver] = &mut inspection.streams;
    if begins!(head, b"PROXY TCP4 ", b"PROXY TCP6 ") {
        restart(opener, 11);
        hand_over(opener, mode::PROXY);
    } else if begins!(head, b"PROXY UNKNOWN\r\n") {
        restart(opener, 15);
    } else if begins!(head, b"\r\n\r\n\0\r\nQUIT\n\x20", b"\r\n\r\n\0\r\nQUIT\n\x21") && head.is_full() {
        let rest = head.u16_at::<14>();
        if strict && rest > LONGEST_REST {
            return refuse(inspection, Reason::ClearText).code();
        }
        restart(opener, 16 + rest);
    } else if begins!(head, b"CONNECT ") && head.have() > 8 && head.byte::<8>() != b'{' {
        hand_over(opener, mode::HEADERS);
        opener.header = [0; 8];
        receiver.marks |= mark::OWES;
        if receiver.state == mode::SKIP {
            // An answer before this one is over, however long it was said to be, and it was not all.
            (inspection.class, inspection.app) = (Class::Unknown as u8, App::Unknown as u8);
            (receiver.start, receiver.record, receiver.have) = (receiver.next, receiver.next, 0);
            receiver.state = mode::OPENING;
        }
    } else {
        return code::LOOK;
    }
    inspection.flags |= Inspection::FLAG_TUNNELLED;
    code::AGAIN
}

/// The longest answer of a proxy that wants to know who asks.
const LONGEST_ANSWER: u32 = 1 << 20;

/// Judges the beginning of the answer to a CONNECT: a success is looked through, anything else is HTTP. Where
/// nothing is stopped, whoever was asked for a password may ask again (RFC 9110, 11.7.1).
#[inline(always)]
pub(super) fn answer(inspection: &mut Inspection, head: Head) -> u32 {
    let [_, receiver] = &mut inspection.streams;
    let success = begins!(head, b"HTTP/1.1 2", b"HTTP/1.0 2");
    if success {
        hand_over(receiver, mode::HEADERS);
        receiver.header = [0; 8];
        return code::AGAIN;
    }
    if may_begin!(head, b"HTTP/1.1 2", b"HTTP/1.0 2") {
        return code::END;
    }
    if begins!(head, b"HTTP/1.") && head.have() < 10 {
        return code::END;
    }
    if !is_strict(inspection) && may_begin!(head, b"HTTP/1.1 407", b"HTTP/1.0 407") {
        if head.have() < 12 {
            return code::END;
        }
        let [_, receiver] = &mut inspection.streams;
        receiver.marks &= !mark::OWES;
        restart(receiver, LONGEST_ANSWER);
        (inspection.class, inspection.app) = (Class::Clear as u8, App::Http1 as u8);
        inspection.flags &= !Inspection::FLAG_TUNNELLED;
        return code::AGAIN;
    }
    if is_strict(inspection) || begins!(head, b"HTTP/1.") {
        return conclude(inspection, Class::Clear, App::Http1);
    }
    conclude(inspection, Class::Unknown, App::Unknown)
}

/// Reads on in what is looked through.
#[inline(always)]
pub fn wrapping(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let strict = is_strict(inspection);
    let sender = cursor.sender;
    let own = side_mut(inspection, sender);
    let line = own.state == mode::PROXY;
    let piece = ahead(payload, own, cursor);
    let end = if line { piece.find(b'\n') } else { blank_line(&mut own.header, piece) };
    let piece = if end == 0 { piece } else { piece.first(end) };
    consume(own, cursor, piece.have());
    own.spent = own.spent.saturating_add(piece.have() as u16);
    let longest = if line { LONGEST_LINE - 11 } else { LONGEST_HEADERS };
    let wrong =
        piece.have() == 0 || own.spent > longest || if line { !is_address(piece) } else { !piece.is_text() };
    if wrong {
        if strict {
            return refuse(inspection, Reason::ClearText).code();
        }
        let app = if line { App::Text } else { App::Http1 };
        return conclude(inspection, Class::Clear, app);
    }
    if end != 0 {
        own.state = mode::OPENING;
        own.marks &= !mark::OWES;
        // What a reader has left of the kept bytes is the opening's beginning.
        if own.marks & mark::REPLAY == 0 {
            own.have = 0;
            own.start = own.next;
        }
        own.marks &= !mark::REPLAY;
        if side(inspection, sender).have != 0 {
            return code::JUDGE;
        }
    }
    code::AGAIN
}

/// Where the empty line ends that ends the headers, counted from 1; 0 where it does not. `seen` keeps the
/// last bytes from one piece to the next.
#[inline(always)]
fn blank_line(seen: &mut [u8; 8], piece: Head) -> u32 {
    let before = u64::from_be_bytes(*seen) as u32;
    *seen = u64::from(piece.last(before)).to_be_bytes();
    piece.blank_line(before)
}

/// Whether only addresses and ports stand here, and the end of the line.
#[inline(always)]
fn is_address(piece: Head) -> bool {
    piece.is_of_addresses()
}
