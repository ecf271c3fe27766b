//! Datagrams of words.

use bulkhead_abi::App;

use super::{View, piece};
use crate::inspect::{
    Payload,
    clear::{is_ldap, is_syslog},
    head::{Head, ROOM, begins, says},
};

/// How much of a datagram is looked at.
const LOOKED_AT: u32 = 64;

/// The protocol of a datagram's first words.
#[inline(always)]
pub(super) fn words(view: &View, payload: &impl Payload) -> Option<App> {
    let head = view.head;
    if begins!(head, b"M-SEARCH * HTTP/", b"NOTIFY * HTTP/1.", b"HTTP/1.1 200 OK\r") {
        return Some(App::Ssdp);
    }
    if begins!(
        head,
        b"INVITE sip",
        b"REGISTER sip",
        b"OPTIONS sip",
        b"MESSAGE sip",
        b"SUBSCRIBE sip",
        b"NOTIFY sip",
        b"ACK sip",
        b"BYE sip",
        b"CANCEL sip",
        b"PUBLISH sip",
        b"INFO sip",
        b"REFER sip",
        b"UPDATE sip",
        b"PRACK sip",
        b"SIP/2.0 "
    ) {
        return Some(App::Sip);
    }
    if is_syslog(head) {
        return Some(App::Syslog);
    }
    if is_ldap(head) {
        return Some(App::Ldap);
    }
    if begins!(head, b"\0\x01", b"\0\x02") && is_tftp(payload) {
        return Some(App::Tftp);
    }
    None
}

/// The protocol of a datagram of text that is of no other.
#[inline(always)]
pub(super) fn metrics(view: &View, payload: &impl Payload) -> Option<App> {
    if !view.head.is_text() || view.len < 4 {
        return None;
    }
    match metric(payload) {
        STATSD => Some(App::Statsd),
        GRAPHITE => Some(App::Graphite),
        _ if view.head.is_full() => Some(App::Text),
        _ => None,
    }
}

/// Whether a file is asked for (RFC 1350, 5): its name, a zero, and a mode.
#[inline(always)]
fn is_tftp(payload: &impl Payload) -> bool {
    let mut at = 2;
    for _ in 0..LOOKED_AT / ROOM {
        let name = piece(payload, at);
        let end = name.find(0);
        if end != 0 {
            let mode = piece(payload, at + end);
            return name.first(end - 1).is_text()
                && at + end > 3
                && says!(mode, b"OCTET\0", b"NETASCII\0", b"MAIL\0");
        }
        if !name.is_text() {
            return false;
        }
        at += ROOM;
    }
    false
}

const STATSD: u8 = 1;
const GRAPHITE: u8 = 2;

/// What a metric is written for: "name:1|c" or "name 1 1700000000"; 0 where this is none.
#[inline(always)]
fn metric(payload: &impl Payload) -> u8 {
    // Where the reader is: in the name, in the value, behind it.
    const NAME: u8 = 0;
    const VALUE: u8 = 3;
    const PLAIN: u8 = 4;
    const TIME: u8 = 5;
    let (mut state, mut count, mut dots) = (NAME, 0u32, 0u32);
    let mut rest = Head::default();
    for at in 0..LOOKED_AT {
        if rest.have() == 0 {
            rest = piece(payload, at);
        }
        if rest.have() == 0 {
            return 0;
        }
        let byte = rest.byte::<0>();
        rest = rest.behind(1);
        count += 1;
        state = match (state, byte) {
            (NAME, b'.') => {
                dots += 1;
                NAME
            }
            (
                NAME,
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'/' | b'#' | b'=' | b',' | b';',
            ) => NAME,
            (NAME, b':') if count > 1 => {
                count = 0;
                VALUE
            }
            (NAME, b' ') if dots != 0 => {
                count = 0;
                PLAIN
            }
            (VALUE | PLAIN, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e') => state,
            (VALUE, b'|') if count > 1 => return STATSD,
            (PLAIN, b' ') if count > 1 => {
                count = 0;
                TIME
            }
            (TIME, b'0'..=b'9') if count == 8 => return GRAPHITE,
            (TIME, b'0'..=b'9') => TIME,
            _ => return 0,
        };
    }
    0
}
