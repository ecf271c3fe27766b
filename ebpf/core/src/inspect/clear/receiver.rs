//! What the receiver of the flow says first, unasked or as an answer.

use bulkhead_abi::App;

use super::{Found, binary, opener::paired, text};
use crate::inspect::head::{Head, begins};

/// What a receiver's first bytes are, with what the opener has said so far.
#[inline(always)]
pub(in crate::inspect) fn receiver(head: Head, other: Head) -> Found {
    let first = other.have() == 0;
    if begins!(head, b"220 ", b"220-") && head.first(6).is_text() {
        return Found::Dialogue(App::Unknown);
    }
    if first && begins!(head, b"+OK ", b"+OK\r\n") {
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
    if let Some(app) = text::answer(head) {
        return Found::Clear(app);
    }
    if let Some(app) = binary::answer(head) {
        return Found::Clear(app);
    }
    if !first && text::is_redis_answer(head) && other.is_text() {
        return Found::Clear(App::Redis);
    }
    if let Some(app) = paired(other, head) {
        return Found::Clear(app);
    }
    if text::is_some_text(head) { Found::Likely(App::Text) } else { Found::Nothing }
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
