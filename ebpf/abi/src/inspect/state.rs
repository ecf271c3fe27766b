//! What is kept of a flow while its bytes are read.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Accept;
#[cfg(doc)]
use crate::{App, Class, Demand, Tls};

/// What has been read of one direction of a flow's opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stream {
    /// The first bytes of the opening; of a STARTTLS dialogue, those of the line at hand.
    pub bytes: [u8; 16],
    /// TCP sequence number of `bytes[0]`.
    pub start: u32,
    /// Sequence number of the first byte that was not read yet.
    pub next: u32,
    /// Where TLS records are followed: sequence number of the next record's header.
    pub record: u32,
    /// How many of `bytes` are there.
    pub have: u8,
    /// What is being read; `bulkhead_core::inspect` gives the codes. 0: nothing was seen yet.
    pub state: u8,
    /// How many bytes of the next record's header are in `header`.
    pub header_have: u8,
    /// Of a STARTTLS dialogue: how many commands this end gave, or how many it answered.
    pub turns: u8,
    /// The first bytes of a record's header that came in pieces.
    pub header: [u8; 8],
    /// How many bytes of a dialogue, or of a header that is looked through, were read; of TLS records how long
    /// the last one was, header and all.
    pub spent: u16,
    /// How many segments came while something before them was missing.
    pub gaps: u8,
    /// What is known of this direction; `bulkhead_core::inspect` gives the bits.
    pub marks: u8,
}

/// What is being found out about a flow, from both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Inspection {
    /// By who sends: the opener, the receiver.
    pub streams: [Stream; 2],
    /// What the rule accepts.
    pub accept: Accept,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// The lowest TLS version, see [`Demand::floor`].
    pub floor: u8,
    /// [`Class`] code.
    pub class: u8,
    /// [`App`] code.
    pub app: u8,
    /// [`Inspection::FRESH`] and the others.
    pub phase: u8,
    /// See the `FLAG_` constants.
    pub flags: u8,
}

impl Inspection {
    /// Phase: nothing was looked at yet; the rule's demand is not known yet either.
    pub const FRESH: u8 = 0;
    /// Phase: openings are being read.
    pub const READING: u8 = 1;
    /// Phase: the class is known, TLS records are followed.
    pub const FOLLOWING: u8 = 2;
    /// Phase: nothing is left to look at.
    pub const DONE: u8 = 3;
    /// Phase: something contradicted what is accepted; nothing passes any more.
    pub const REFUSED: u8 = 4;

    /// It was not seen from its beginning.
    pub const FLAG_MIDSTREAM: u8 = 1;
    /// Its class was counted and told.
    pub const FLAG_TOLD: u8 = 2;
    /// It turned from clear text to TLS by STARTTLS.
    pub const FLAG_UPGRADED: u8 = 4;
    /// A PROXY protocol header or an HTTP CONNECT was looked through.
    pub const FLAG_TUNNELLED: u8 = 8;
    /// It is known where the opener's direction begins; of the receiver's, twice this.
    pub const FLAG_BEGUN: u8 = 16;
    /// STARTTLS was asked for, and the answer is not complete.
    pub const FLAG_ASKED: u8 = 64;
    /// Segments that come in went on ahead of their turn: see [`Ahead`].
    pub const FLAG_AHEAD: u8 = 128;
}

/// A stretch of TLS records that went on while bytes before it were missing, and what is claimed of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Early {
    /// Sequence number of its first byte.
    pub start: u32,
    /// Sequence number of the first byte behind it; `start` where there is none.
    pub end: u32,
    /// Where the first record's header in it stands, if one does.
    pub first: u32,
    /// Where the next header behind it stands; `start` where no header stands in it.
    pub next: u32,
    /// Its first bytes.
    pub head: [u8; 4],
}

/// What went on ahead of its turn at a socket, in no order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ahead {
    /// The stretches.
    pub spans: [Early; Ahead::SPANS],
}

impl Ahead {
    /// How many stretches there may be at once.
    pub const SPANS: usize = 32;
}

/// What is being found out about a flow of datagrams (UDP).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Conversation {
    /// What the rule accepts.
    pub accept: Accept,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// The lowest TLS version, see [`Demand::floor`].
    pub floor: u8,
    /// [`Class`] code.
    pub class: u8,
    /// [`App`] code.
    pub app: u8,
    /// [`Inspection::FRESH`] and the others; of a conversation that was refused, `memory` is the reason.
    pub phase: u8,
    /// What is kept of the datagrams so far; `bulkhead_core::inspect` gives the meaning.
    pub memory: u8,
}

/// How far the bytes of a flow are looked at, and what was told of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reading {
    /// Generation whose rules were asked how the flow is to be encrypted, 0 before.
    pub asked: u64,
    /// Of a stream: not zero while a hook reads a segment of it.
    pub lock: u32,
    /// Not zero: its bytes are not looked at, or not any more.
    pub settled: u8,
    /// [`Tls`] code of the level that the rule asks for. What is acted on is less where node or zones only
    /// report.
    pub level: u8,
    /// [`Reason`](crate::Reason) code of why the flow would have been refused, where node or zones only
    /// report; 0 where it would not.
    pub audited: u8,
    /// One more than the [`Class`] code that was counted and told last, 0 before.
    pub told: u8,
}

/// What a flow keeps of the datagrams that were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Datagrams {
    /// How far.
    pub reading: Reading,
    /// What they say.
    pub conversation: Conversation,
}

const _: () = {
    assert!(size_of::<Stream>() == 44);
    assert!(size_of::<Inspection>() == 96);
    assert!(size_of::<Ahead>() == 20 * Ahead::SPANS);
    assert!(size_of::<Conversation>() == 8);
    assert!(size_of::<Reading>() == 16);
    assert!(size_of::<Datagrams>() == 24);
};
