//! What whoever opened the flow says first.

use bulkhead_abi::App;

use super::{Found, binary, text};
use crate::inspect::head::{Head, begins, says};

/// What may turn to TLS.
#[inline(always)]
pub(super) fn dialogue(head: Head, _other: Head) -> Found {
    if begins!(head, b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x08\x04\xd2\x16\x30") {
        return Found::Dialogue(App::Postgresql);
    }
    if is_ldap_start_tls(head) {
        return Found::Dialogue(App::Ldap);
    }
    if is_rdp(head) {
        return Found::Dialogue(App::Rdp);
    }
    if begins!(head, b"AMQP\x02\x01\0\0") {
        return Found::Dialogue(App::Amqp);
    }
    if is_prelogin(head) {
        return Found::Dialogue(App::Tds);
    }
    if says!(head, b"EHLO ", b"HELO ", b"LHLO ") {
        return Found::Dialogue(App::Smtp);
    }
    if begins!(head, b"<stream:stream ", b"<?xml version=") {
        return Found::Dialogue(App::Xmpp);
    }
    Found::Nothing
}

/// Protocols of numbers.
#[inline(always)]
pub(super) fn binary(head: Head, _other: Head) -> Found {
    Found::clear(binary::request(head))
}

/// More of them.
#[inline(always)]
pub(super) fn late_binary(head: Head, _other: Head) -> Found {
    Found::clear(binary::late_request(head))
}

/// Protocols of words.
#[inline(always)]
pub(super) fn text(head: Head, _other: Head) -> Found {
    Found::clear(text::request(head))
}

/// Protocols of words that the answer may put right.
#[inline(always)]
pub(super) fn likely(head: Head, other: Head) -> Found {
    match text::likely_request(head) {
        Some(_) if text::is_redis_answer(other) => Found::Likely(App::Redis),
        Some(app) => Found::Likely(app),
        None => Found::Nothing,
    }
}

/// What takes both to tell.
#[inline(always)]
pub(super) fn both(head: Head, other: Head) -> Found {
    Found::clear(paired(head, other))
}

/// Protocols whose first message is too short to be told without its answer.
#[inline(always)]
pub(super) fn paired(head: Head, other: Head) -> Option<App> {
    // RFC 1928, 3: version, how many methods, the methods; the answer names one of them, or none.
    let methods = u32::from(head.byte::<1>());
    if begins!(head, b"\x05")
        && methods >= 1
        && head.have() == methods + 2
        && other.have() >= 2
        && begins!(other, b"\x05\0", b"\x05\x01", b"\x05\x02", b"\x05\xff")
    {
        return Some(App::Socks);
    }
    if begins!(head, b"\x04\x01", b"\x04\x02")
        && head.have() >= 9
        && other.have() >= 8
        && begins!(other, b"\0\x5a", b"\0\x5b", b"\0\x5c", b"\0\x5d")
    {
        return Some(App::Socks);
    }
    if binary::is_telnet_command(head) && binary::is_telnet_command(other) {
        return Some(App::Telnet);
    }
    None
}

/// LDAP's StartTLS request (RFC 4511, 4.14), with its lengths in one byte or in five.
#[inline(always)]
fn is_ldap_start_tls(head: Head) -> bool {
    (begins!(head, b"\x30\x1d\x02\x01") && begins!(head.behind(5), b"\x77\x18\x80\x161.3.6.1"))
        || (begins!(head, b"\x30\x84\0\0\0")
            && begins!(head.behind(6), b"\x02\x01")
            && begins!(head.behind(9), b"\x77\x84\0\0\0")
            && head.byte::<15>() == 0x80)
}

/// RDP's connection request: TPKT, X.224, and a cookie or what it negotiates (MS-RDPBCGR, 2.2.1.1). Without
/// them it could be of another protocol over ISO transport.
#[inline(always)]
fn is_rdp(head: Head) -> bool {
    let negotiates = begins!(head.behind(11), b"\x01")
        && head.byte::<12>() & !NEGOTIATION_FLAGS == 0
        && begins!(head.behind(13), b"\x08\0");
    begins!(head, b"\x03\0")
        && begins!(head.behind(5), b"\xe0\0\0\0\0\0")
        && (negotiates || begins!(head.behind(11), b"Cooki"))
}

/// What a request may set: restricted administration, redirected authentication, a number to correlate by.
pub(in crate::inspect) const NEGOTIATION_FLAGS: u8 = 0x0b;

/// The message before a login to Microsoft SQL Server that negotiates encryption (MS-TDS, 2.2.6.5): its
/// header, and the first option, the version.
#[inline(always)]
fn is_prelogin(head: Head) -> bool {
    begins!(head, b"\x12\x01\0")
        && begins!(head.behind(8), b"\0\0")
        && head.have() >= 13
        && begins!(head.behind(11), b"\0\x06")
}
