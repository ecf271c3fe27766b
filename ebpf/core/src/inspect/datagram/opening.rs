//! Which datagrams are of a handshake that user space reads: QUIC's Initial packets, whose keys everybody can
//! compute (RFC 9001, 5.2), and DTLS' records before encryption begins.
//!
//! Nothing is judged here, and what is told is bounded: [`MOST`] datagrams of a conversation whose class is
//! known, and before that no more than are read at all. A lost one costs the inventory a line.

use bulkhead_abi::{Class, Conversation, Inspection};

use super::{dtls, memory, piece, quic};
use crate::inspect::{Payload, head::Head};

/// One datagram that was told, in [`Conversation::memory`] of a conversation whose class is known: above what
/// QUIC keeps there.
const TOLD: u8 = quic::BOTH + 1;
/// How many are told.
const MOST: u8 = 12;

/// Whether a handshake of this class takes more than the datagrams that tell its class.
#[inline(always)]
pub(super) const fn is_long(class: Class) -> bool {
    matches!(class, Class::Quic | Class::Dtls)
}

/// Whether nothing more of the handshake can follow a datagram that begins so.
#[inline(always)]
pub(super) fn is_over(conversation: &Conversation, head: Head) -> bool {
    match Class::from_code(conversation.class) {
        Class::Quic => conversation.memory & quic::BOTH == quic::BOTH && !quic::is_initial(head),
        Class::Dtls => !dtls::is_handshake(head),
        _ => false,
    }
}

/// Nothing more is told of it.
#[inline(always)]
pub(super) fn end(conversation: &mut Conversation) {
    conversation.memory |= TOLD * MOST;
}

/// Whether the next datagram may be of an opening: only then [`is_told`] is worth asking.
#[inline(always)]
pub const fn may_be_told(conversation: &Conversation) -> bool {
    match conversation.phase {
        Inspection::FOLLOWING => {
            is_long(Class::from_code(conversation.class)) && conversation.memory < TOLD * MOST
        }
        Inspection::READING => conversation.memory & 0xc0 == memory::DTLS,
        _ => false,
    }
}

/// Whether the datagram, which was read and passes, is of an opening, and to be told: then it is counted as
/// that.
#[inline(always)]
pub fn is_told(conversation: &mut Conversation, payload: &impl Payload) -> bool {
    let head = piece(payload, 0);
    let opens = match Class::from_code(conversation.class) {
        Class::Quic => quic::is_initial(head),
        _ => dtls::is_handshake(head),
    };
    if !opens || conversation.phase != Inspection::FOLLOWING {
        return opens;
    }
    if conversation.memory >= TOLD * MOST {
        return false;
    }
    conversation.memory += TOLD;
    true
}
