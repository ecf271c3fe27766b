//! Datagrams of words.

use bulkhead_abi::App;

use super::{View, piece};
use crate::inspect::{
    Payload,
    clear::{is_ldap, is_sip_request, is_syslog},
    head::{ROOM, begins, says},
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
    if is_sip_request(head) || begins!(head, b"SIP/2.0 ") {
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

/// What a metric is written for: "name:1|c" or "name 1 1700000000"; something else where this is none.
#[inline(always)]
fn metric(payload: &impl Payload) -> u8 {
    let mut state = NAME;
    for part in 0..LOOKED_AT / ROOM {
        let mut rest = piece(payload, part * ROOM);
        for _ in 0..ROOM {
            // Behind the end there are zeros, which no metric has in it.
            let kind = KINDS.get(usize::from(rest.byte::<0>())).copied().unwrap_or(OTHER);
            // Added: of two numbers that it does not know, an old verifier (Linux 6.1) follows a sum, and no "or".
            let index = (usize::from(state) << 4) + usize::from(kind);
            state = NEXT.get(index & 511).copied().unwrap_or(NONE);
            rest = rest.behind(1);
        }
    }
    state
}

// Where the reader of a metric is. Read from a table, not branched on: see `head`.
/// It is none.
const NONE: u8 = 0;
/// It is one of StatsD.
const STATSD: u8 = 1;
/// It is one of Graphite.
const GRAPHITE: u8 = 2;
/// Before the name.
const NAME: u8 = 3;
/// In a name without a dot.
const PLAIN: u8 = 4;
/// In a name with one.
const DOTTED: u8 = 5;
/// Before a value of StatsD, and in it.
const VALUE: u8 = 6;
/// Before one of Graphite, and in it.
const NUMBER: u8 = 8;
/// Before the eight digits of a time that tell it, and behind so many of them.
const TIME: u8 = 10;

// What a byte is.
const OTHER: u8 = 0;
const DIGIT: u8 = 1;
const DOT: u8 = 2;
/// `-` and `e`, in names and in numbers.
const BOTH: u8 = 3;
/// Only in names.
const LETTER: u8 = 4;
/// Only in numbers.
const PLUS: u8 = 5;
const COLON: u8 = 6;
const PIPE: u8 = 7;
const SPACE: u8 = 8;

static KINDS: [u8; 256] = {
    let mut table = [OTHER; 256];
    let (mut rest, mut byte) = (table.as_mut_slice(), 0u8);
    while let [first, behind @ ..] = rest {
        *first = match byte {
            b'0'..=b'9' => DIGIT,
            b'.' => DOT,
            b'-' | b'e' => BOTH,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'/' | b'#' | b'=' | b',' | b';' => LETTER,
            b'+' => PLUS,
            b':' => COLON,
            b'|' => PIPE,
            b' ' => SPACE,
            _ => OTHER,
        };
        byte = byte.wrapping_add(1);
        rest = behind;
    }
    table
};

/// By state and kind: the next state.
static NEXT: [u8; 512] = {
    let mut table = [NONE; 512];
    let (mut rest, mut index) = (table.as_mut_slice(), 0u16);
    while let [first, behind @ ..] = rest {
        let (state, kind) = ((index >> 4) as u8, (index & 15) as u8);
        let in_name = matches!(kind, DIGIT | BOTH | LETTER);
        let in_number = matches!(kind, DIGIT | DOT | BOTH | PLUS);
        *first = match (state, kind) {
            (STATSD | GRAPHITE, _) => state,
            (NAME | PLAIN, _) if in_name => PLAIN,
            (NAME | PLAIN | DOTTED, DOT) => DOTTED,
            (DOTTED, _) if in_name => DOTTED,
            (PLAIN | DOTTED, COLON) => VALUE,
            (DOTTED, SPACE) => NUMBER,
            (VALUE | 7, _) if in_number => 7,
            // Several at once.
            (7, COLON) => VALUE,
            (7, PIPE) => STATSD,
            (NUMBER | 9, _) if in_number => 9,
            (9, SPACE) => TIME,
            (17, DIGIT) => GRAPHITE,
            (TIME..=16, DIGIT) => state + 1,
            _ => NONE,
        };
        index = index.wrapping_add(1);
        rest = behind;
    }
    table
};
