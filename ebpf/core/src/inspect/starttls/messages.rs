//! Dialogues of one message that asks for TLS, and of its answer.

use bulkhead_abi::{App, Class, Inspection, Reason};

use crate::inspect::{
    Cursor, Payload,
    clear::NEGOTIATION_FLAGS,
    codes::{code, mark, mode},
    head::{Head, begins, may_begin},
    ruling::{conclude, is_strict, refuse},
    stream::{advance, load, restart, side_mut},
};

/// The longest message that passes where clear text is stopped.
const LONGEST: u32 = 512;

/// How long the message is that begins so.
#[inline(always)]
pub(super) fn len(app: App, head: Head) -> u32 {
    match app {
        App::Ldap => ber_len(head),
        // TPKT (RFC 1006), and TDS's packet header (MS-TDS, 2.2.3.1).
        App::Rdp | App::Tds => head.u16_at::<2>(),
        // The low byte first, and the header's own four (MySQL's protocol, "packets").
        App::Mysql => 4 + u32::from(head.byte::<0>()) + (u32::from(head.byte::<1>()) << 8),
        _ => 8,
    }
}

/// How long a BER element of the forms that LDAP libraries write is, header and all.
#[inline(always)]
fn ber_len(head: Head) -> u32 {
    match head.byte::<1>() {
        0x81 => 3 + u32::from(head.byte::<2>()),
        0x82 => 4 + head.u16_at::<2>(),
        0x84 => 6 + head.u16_at::<4>(),
        short => 2 + u32::from(short),
    }
}

/// What the message is that a direction says in a dialogue that has begun: an answer, or MySQL's request.
#[inline(always)]
pub(in crate::inspect) fn message(inspection: &mut Inspection, sender: u32, head: Head) -> u32 {
    let app = App::from_code(inspection.app);
    if app == App::Mysql {
        return ssl_request(inspection, sender);
    }
    if sender == 0 {
        return conclude(inspection, Class::Clear, app);
    }
    let have = head.have();
    let (fits, enough) = match app {
        App::Postgresql => {
            if begins!(head, b"G") {
                if is_strict(inspection) {
                    return refuse(inspection, Reason::Unclassified).code();
                }
                return conclude(inspection, Class::Unknown, app);
            }
            (begins!(head, b"S", b"N"), true)
        }
        App::Ldap => (may_begin!(head, b"\x30"), have >= 6),
        App::Rdp => {
            let confirms = have < 6 || head.byte::<5>() == 0xd0;
            (may_begin!(head, b"\x03\x00\x00") && confirms, have >= 6)
        }
        App::Tds => (may_begin!(head, b"\x04\x01"), have >= 16),
        App::Amqp => (may_begin!(head, b"AMQP\x02\x01\x00\x00"), have >= 8),
        _ => (false, true),
    };
    let answer = if app == App::Postgresql { 1 } else { len(app, head) };
    if !fits || (enough && (answer == 0 || (is_strict(inspection) && answer > LONGEST))) {
        return conclude(inspection, Class::Clear, app);
    }
    if !enough {
        return code::END;
    }
    let [_, receiver] = &mut inspection.streams;
    restart(receiver, answer);
    receiver.marks |= mark::INNER;
    if app == App::Tds {
        receiver.header = u64::from(answer.saturating_sub(8 + encryption(head))).to_be_bytes();
    }
    inspection.flags &= !Inspection::FLAG_ASKED;
    code::AGAIN
}

/// The opener asks PostgreSQL for TLS after it was denied encryption by GSSAPI.
#[inline(always)]
pub(in crate::inspect) fn ask_again(inspection: &mut Inspection, head: Head) -> u32 {
    if head.have() < 8 {
        return code::END;
    }
    let [opener, receiver] = &mut inspection.streams;
    opener.turns = 0;
    restart(opener, 8);
    receiver.marks &= !mark::INNER;
    inspection.flags |= Inspection::FLAG_ASKED;
    code::AGAIN
}

/// MySQL's client has heard the greeting: its SSL request (a handshake response that ends before the user's
/// name), or a login in clear.
#[inline(always)]
fn ssl_request(inspection: &mut Inspection, sender: u32) -> u32 {
    let [opener, _] = &mut inspection.streams;
    let head = Head::of(opener);
    // CLIENT_SSL is bit 11.
    let asks = head.have() < 6 || head.byte::<5>() & 0x08 != 0;
    // Capabilities, the largest packet, the character set; then only zeros.
    if sender != 0 || !may_begin!(head, b"\x20\x00\x00\x01") || !asks || !head.behind(13).is_zero() {
        return conclude(inspection, Class::Clear, App::Mysql);
    }
    if head.have() < 13 {
        return code::END;
    }
    restart(opener, 36);
    opener.marks |= mark::INNER;
    code::AGAIN
}

/// What remains of LDAP's StartTLS request behind the first sixteen bytes: its object identifier.
const OID: Head = Head::text(b".4.1.1466.20037");
/// The same in the long form that Windows writes.
const LONG_OID: Head = Head::text(b"\x161.3.6.1.4.1.146");

/// Whether this may yet be LDAP's StartTLS request (RFC 4511, 4.14): message, identifier, extended request,
/// its name.
#[inline(always)]
pub(super) fn may_be_start_tls(head: Head) -> bool {
    let have = head.have();
    let short = may_begin!(head, b"\x30\x1d\x02\x01")
        && (have < 6 || begins!(head.behind(5), b"\x77"))
        && (have < 7 || may_begin!(head.behind(6), b"\x18\x80\x161.3.6.1"));
    let long = may_begin!(head, b"\x30\x84\x00\x00\x00")
        && (have < 7 || may_begin!(head.behind(6), b"\x02\x01"))
        && (have < 10 || may_begin!(head.behind(9), b"\x77\x84\x00\x00\x00"))
        && (have < 16 || head.byte::<15>() == 0x80);
    have == 0 || short || long
}

/// Whether this may yet be the connection request of RDP that asks for TLS (MS-RDPBCGR, 2.2.1.1).
#[inline(always)]
pub(super) fn may_be_rdp(head: Head) -> bool {
    let have = head.have();
    may_begin!(head, b"\x03\x00")
        && (have < 3 || head.byte::<2>() <= 1)
        && (have < 6 || begins!(head.behind(5), b"\xe0"))
        && (have < 7 || may_begin!(head.behind(6), b"\x00\x00\x00\x00\x00"))
        && (have < 12
            || may_begin!(head.behind(11), b"Cooki")
            || (head.byte::<11>() == 1
                && (have < 13 || head.byte::<12>() & !NEGOTIATION_FLAGS == 0)
                && (have < 14 || may_begin!(head.behind(13), b"\x08\x00"))))
}

/// Whether this may yet be MySQL's greeting (protocol 10).
#[inline(always)]
pub(super) fn may_be_greeting(head: Head) -> bool {
    let have = head.have();
    have < 2
        || (head.byte::<1>() <= 1
            && may_begin!(head.behind(2), b"\x00\x00\x0a")
            && (have < 6 || head.byte::<5>().is_ascii_digit()))
}

/// Goes over the rest of a message whose beginning was judged.
#[inline(always)]
pub fn skip(payload: &impl Payload, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
    let strict = is_strict(inspection);
    let app = App::from_code(inspection.app);
    let sender = cursor.sender;
    let own = side_mut(inspection, sender);
    let rest = own.record.wrapping_sub(own.next);
    let marked = u64::from_be_bytes(own.header) as u32;
    if strict && own.marks & mark::INNER != 0 && rest > LONGEST {
        return refuse(inspection, Reason::ClearText).code();
    }
    let left = cursor.len - cursor.at;
    // By pieces where the content matters.
    let count = if rest < left { rest } else { left };
    let checked = strict && sender == 0 && own.marks & mark::INNER != 0;
    let count = if checked && count > 16 { 16 } else { count };
    let told = app == App::Tds && sender != 0 && rest >= marked && rest - count < marked;
    let mut never = false;
    // Either of them: loaded in one place, because there is little room on the stack.
    if checked || told {
        let piece = load(payload, if checked { cursor.at } else { cursor.at + (rest - marked) });
        if checked && !fits(app, rest, piece.first(count)) {
            return refuse(inspection, Reason::ClearText).code();
        }
        never = told && piece.byte::<0>() == NOT_SUPPORTED;
    }
    advance(own, cursor, count);
    if count == rest {
        own.state = mode::OPENING;
    }
    if never {
        return conclude(inspection, Class::Clear, app);
    }
    code::AGAIN
}

/// A server that has no TLS to offer to the protocol's own packets (MS-TDS, 2.2.6.5).
const NOT_SUPPORTED: u8 = 2;

/// Where the answer to what precedes a login to Microsoft SQL Server says whether there will be TLS, from
/// the end of its header on: the second of its options, behind the version.
#[inline(always)]
fn encryption(head: Head) -> u32 {
    if begins!(head.behind(13), b"\x01") && head.is_full() { head.u16_at::<14>() } else { u32::MAX - 8 }
}

/// Whether this may stand `rest` bytes before the end of an opener's message.
#[inline(always)]
fn fits(app: App, rest: u32, piece: Head) -> bool {
    match app {
        App::Ldap if rest <= 15 => OID.behind(15 - rest).agrees(piece, 0),
        App::Ldap if rest <= 23 => LONG_OID.behind(23 - rest).agrees(piece, 0),
        App::Ldap => false,
        // Zeros; MariaDB has capabilities in the last four.
        App::Mysql => piece.first(rest.saturating_sub(4)).is_zero(),
        _ => true,
    }
}
