//! What the agent hears of flows: counters by class, and pieces of handshakes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, Identity};
#[cfg(doc)]
use crate::{App, Class, Demand, Tls};

/// Key of the counter of flows by class.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ClassKey {
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// [`Class`] code.
    pub class: u8,
    /// [`App`] code.
    pub app: u8,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// [`Verdict`](crate::Verdict) code of what came of it: allow, audit (it would have been stopped) or
    /// deny.
    pub verdict: u8,
}

/// Value of the counter of flows by class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClassCount {
    /// Flows.
    pub flows: u64,
    /// When one of them was told of last, `CLOCK_MONOTONIC` nanoseconds.
    pub told: u64,
}

/// One record of the ring of opening bytes: a piece of a handshake, for user space to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Piece {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time: u64,
    /// The socket at hand (`SO_COOKIE`): it and `sender` name the stream.
    pub cookie: u64,
    /// Its network namespace cookie.
    pub netns: u64,
    /// The opener's address.
    pub src: Addr,
    /// The receiver's.
    pub dst: Addr,
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// Where in its stream the piece begins: bytes since the first byte of the TLS opening. Of datagrams, where
    /// in the datagram.
    pub offset: u32,
    /// The opener's port.
    pub src_port: u16,
    /// The receiver's.
    pub dst_port: u16,
    /// How many of `bytes` count.
    pub len: u16,
    /// Who sent it: 0 the opener, 1 the receiver.
    pub sender: u8,
    /// [`App`] code of the STARTTLS dialogue that led here, or `unknown`.
    pub app: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Tls`] code of the rule's level.
    pub level: u8,
    /// See [`Demand::floor`].
    pub floor: u8,
    /// Not zero: the rest of the same datagram follows.
    pub more: u8,
    /// The bytes.
    pub bytes: [u8; Piece::BYTES],
}

impl Piece {
    /// The most that one record carries.
    pub const BYTES: usize = 1024;
    /// The most that is told of one direction.
    pub const STREAM_BYTES: u32 = 4096;
    /// The most that is told of one datagram.
    pub const DATAGRAM_BYTES: u32 = 2048;
    /// The highest floor ([`Demand::floor`]) that shows to the kernel: one above is enforced by who reads pieces.
    pub const KERNEL_FLOOR: u8 = 3;
}

const _: () = {
    assert!(size_of::<ClassKey>() == 12);
    assert!(size_of::<ClassCount>() == 16);
    assert!(size_of::<Piece>() == 80 + Piece::BYTES);
};
