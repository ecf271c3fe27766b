//! Framing that is followed: TLS records after a hello, and the packets of an SSH key exchange until they
//! are encrypted.
//!
//! Only headers are read; what is between them is not looked at. A header that cannot be one, at a place
//! where one must be, is clear text behind a handshake.

use bulkhead_abi::{App, Class, Inspection, Reason, inspect::Stream};

use super::{
    Cursor, Payload,
    codes::{code, mark, mode},
    head::{Head, ROOM},
    ruling::{conclude, is_strict, refuse},
    stream::{ahead, consume, position, side, side_mut},
    tls,
};

/// How many records one step goes over.
pub(super) const AT_ONCE: u32 = 16;

/// Follows a direction's TLS records.
#[inline(always)]
pub fn records(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let own = side_mut(inspection, cursor.sender);
    let said = follow(payload, own, cursor, 5);
    followed(inspection, cursor.sender, said)
}

/// Follows a direction's SSH packets.
#[inline(always)]
pub fn packets(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let own = side_mut(inspection, cursor.sender);
    let said = follow(payload, own, cursor, 6);
    followed(inspection, cursor.sender, said)
}

/// Goes to the end of a direction's SSH identification.
#[inline(always)]
pub fn ident(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let own = side_mut(inspection, cursor.sender);
    let said = identification(payload, own, cursor);
    followed(inspection, cursor.sender, said)
}

#[inline(always)]
fn followed(inspection: &mut Inspection, sender: u32, said: Said) -> u32 {
    match said {
        Said::Fine => {}
        Said::Wrong => return broken(inspection, sender),
    }
    if seems_endless(inspection, sender) {
        return refuse(inspection, Reason::Unclassified).code();
    }
    if is_sealed(inspection) {
        inspection.phase = Inspection::DONE;
    }
    code::AGAIN
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Fine,
    Wrong,
}

/// Goes to the next header, of `size` bytes, and over it.
#[inline(always)]
fn follow(payload: &impl Payload, own: &mut Stream, cursor: &mut Cursor, size: u32) -> Said {
    let left = if own.marks & mark::REPLAY != 0 { u32::from(own.have) } else { cursor.len - cursor.at };
    let inside = own.record.wrapping_sub(position(own));
    if own.header_have == 0 && inside >> 31 == 0 && inside != 0 {
        if inside >= left {
            consume(own, cursor, left);
            return Said::Fine;
        }
        consume(own, cursor, inside);
    } else if left == 0 {
        return Said::Fine;
    }
    let have = u32::from(own.header_have);
    let at = position(own).wrapping_sub(have);
    let piece = ahead(payload, own, cursor).first(size - have);
    if piece.have() == 0 {
        return Said::Wrong;
    }
    consume(own, cursor, piece.have());
    let header = header(own).with(piece);
    let fits = if size == 5 { tls::is_record(header) } else { is_packet(own, header) };
    keep(own, header);
    if !fits {
        return Said::Wrong;
    }
    if header.have() < size {
        return Said::Fine;
    }
    own.header_have = 0;
    if size == 5 {
        let len = tls::record_len(header);
        (own.record, own.spent) = (at.wrapping_add(len), len as u16);
        return Said::Fine;
    }
    own.record = at.wrapping_add(4 + header.u32_at::<0>());
    own.turns = header.byte::<5>();
    if own.turns == NEWKEYS {
        own.state = mode::FREE;
    }
    Said::Fine
}

/// What is kept of a header that came in pieces.
#[inline(always)]
fn header(own: &Stream) -> Head {
    let [a, b, c, d, e, f, g, h] = own.header;
    Head::new([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0], own.header_have.into())
}

#[inline(always)]
fn keep(own: &mut Stream, header: Head) {
    own.header = header.u64_at::<0>().to_be_bytes();
    own.header_have = header.have() as u8;
}

/// SSH's message that everything behind it is encrypted (RFC 4253, 7.3).
const NEWKEYS: u8 = 21;
/// The longest packet that an implementation must take, and what the larger key exchanges add.
const LONGEST_PACKET: u32 = 40_000;

/// Whether this, as far as it is there, is the beginning of a packet of a key exchange (RFC 4253, 6): its
/// length, that of its padding, and its message. The first one is KEXINIT.
#[inline(always)]
fn is_packet(own: &Stream, header: Head) -> bool {
    let (have, len) = (header.have(), header.u32_at::<0>());
    if header.byte::<0>() != 0 || (have > 3 && !(12..=LONGEST_PACKET).contains(&len)) {
        return false;
    }
    if have > 4 && header.byte::<4>() < 4 {
        return false;
    }
    let kind = header.byte::<5>();
    have < 6 || if own.turns == 0 { kind == 20 } else { matches!(kind, 1..=4 | 20 | NEWKEYS | 30..=49) }
}

/// The longest identification (RFC 4253, 4.2).
const LONGEST_LINE: u16 = 255;

/// Reads to the end of the line.
#[inline(always)]
fn identification(payload: &impl Payload, own: &mut Stream, cursor: &mut Cursor) -> Said {
    let piece = ahead(payload, own, cursor);
    let end = piece.find(b'\n');
    let piece = if end == 0 { piece } else { piece.first(end) };
    consume(own, cursor, piece.have());
    own.spent = own.spent.saturating_add(piece.have() as u16);
    if piece.have() == 0 || !piece.is_text() || own.spent > LONGEST_LINE {
        return Said::Wrong;
    }
    if end != 0 {
        own.state = mode::PACKETS;
        own.record = position(own);
        own.header_have = 0;
        own.turns = 0;
    }
    Said::Fine
}

/// What may be said before the other end has answered a ClientHello: it, and a server's allowance of early
/// data.
const UNANSWERED: u32 = 1 << 17;

/// Whether a direction looks like TLS, and nobody answers.
#[inline(always)]
fn seems_endless(inspection: &Inspection, sender: u32) -> bool {
    let own = side(inspection, sender);
    is_strict(inspection)
        && inspection.phase == Inspection::READING
        && own.state == mode::RECORDS
        && own.next.wrapping_sub(own.start) > UNANSWERED
}

/// Whether both ends have come to where all is encrypted and nothing can be followed.
#[inline(always)]
fn is_sealed(inspection: &Inspection) -> bool {
    let [opener, receiver] = &inspection.streams;
    inspection.phase == Inspection::FOLLOWING && opener.state == mode::FREE && receiver.state == mode::FREE
}

/// There is no header where one must be.
#[inline(always)]
fn broken(inspection: &mut Inspection, sender: u32) -> u32 {
    if is_strict(inspection) {
        inspection.class = Class::Clear as u8;
        return refuse(inspection, Reason::ClearText).code();
    }
    // It has to be told again, if it was told.
    inspection.flags &= !Inspection::FLAG_TOLD;
    let header = header(side(inspection, sender));
    let was_known = inspection.class == Class::Tls as u8;
    let app = App::from_code(inspection.app);
    let class =
        if was_known || (header.is_text() && header.have() >= 5) { Class::Clear } else { Class::Unknown };
    conclude(inspection, class, app)
}

const _: () = assert!(ROOM >= 8);
