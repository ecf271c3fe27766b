//! WireGuard: four messages, each with its type in a little-endian word and a length of its own.

use bulkhead_abi::Class;

use super::{Said, View, memory, piece};
use crate::inspect::{Payload, head::begins};

const INITIATION: u32 = 148;
const RESPONSE: u32 = 92;
const COOKIE: u32 = 64;
/// Header, and an empty packet's tag.
const TRANSPORT: u32 = 32;

/// Whether a handshake begins here, or is answered.
#[inline(always)]
pub(super) fn opening(view: &View, kept: u8, from: u8, payload: &impl Payload) -> Said {
    let known = Said::Is { class: Class::WireGuard, memory: 0, version: 0 };
    if is_initiation(view) {
        // The second check is zero unless the server is under load.
        let unloaded = piece(payload, INITIATION - 16);
        return if unloaded.have() == 16 && unloaded.is_zero() {
            known
        } else {
            Said::Begins(memory::keep(memory::WIREGUARD, from))
        };
    }
    let answers = memory::is_answer(kept, memory::WIREGUARD, from);
    if answers && (is_response(view) || is_cookie(view)) { known } else { Said::Nothing }
}

/// Whether this is one of its messages.
#[inline(always)]
pub(super) fn fits(view: &View) -> bool {
    is_initiation(view) || is_response(view) || is_cookie(view) || is_transport(view)
}

#[inline(always)]
fn is_initiation(view: &View) -> bool {
    view.len == INITIATION && begins!(view.head, b"\x01\0\0\0")
}

#[inline(always)]
fn is_response(view: &View) -> bool {
    view.len == RESPONSE && begins!(view.head, b"\x02\0\0\0")
}

#[inline(always)]
fn is_cookie(view: &View) -> bool {
    view.len == COOKIE && begins!(view.head, b"\x03\0\0\0")
}

#[inline(always)]
fn is_transport(view: &View) -> bool {
    view.len >= TRANSPORT && view.len & 15 == 0 && begins!(view.head, b"\x04\0\0\0")
}
