//! What the receiver of the flow says first, unasked or as an answer.

use bulkhead_abi::App;

use super::{Found, binary, opener::paired, text};
use crate::inspect::head::{Head, begins};

/// What may turn to TLS.
#[inline(always)]
pub(super) fn dialogue(other: Head, head: Head) -> Found {
    if begins!(head, b"220 ", b"220-") && head.first(6).is_text() {
        return Found::Dialogue(App::Unknown);
    }
    if other.have() == 0 && begins!(head, b"+OK ", b"+OK\r\n") {
        return Found::Dialogue(App::Pop3);
    }
    if begins!(head, b"* OK ") {
        return Found::Dialogue(App::Imap);
    }
    if begins!(head, b"INFO {") {
        return Found::Dialogue(App::Nats);
    }
    if is_greeting(head) {
        return Found::Dialogue(App::Mysql);
    }
    if begins!(head, b"* PREAUTH ") {
        return Found::Clear(App::Imap);
    }
    Found::Nothing
}

/// Protocols of words.
#[inline(always)]
pub(super) fn text(_other: Head, head: Head) -> Found {
    Found::clear(text::answer(head))
}

/// Protocols of numbers.
#[inline(always)]
pub(super) fn binary(_other: Head, head: Head) -> Found {
    Found::clear(binary::answer(head))
}

/// What takes both to tell, and what is text at all.
#[inline(always)]
pub(super) fn both(other: Head, head: Head) -> Found {
    if other.have() != 0 && text::is_redis_answer(head) && other.is_text() {
        return Found::Clear(App::Redis);
    }
    match paired(other, head) {
        Some(app) => Found::Clear(app),
        None if text::is_some_text(head) => Found::Likely(App::Text),
        None => Found::Nothing,
    }
}

/// MySQL's greeting: length, number 0, protocol 10, and the server's version.
#[inline(always)]
fn is_greeting(head: Head) -> bool {
    head.have() >= 8
        && head.byte::<1>() <= 1
        && begins!(head.behind(2), b"\0\0\x0a")
        && head.byte::<5>().is_ascii_digit()
        && matches!(head.byte::<6>(), b'.' | b'0'..=b'9')
        && head.behind(6).first(2).is_text()
}
