//! The numbers that readers and [`super::stream`] tell one another by: no enums, since they are kept in
//! tables, or returned by functions that the kernel verifies by themselves.

#[cfg(doc)]
use super::Ruling;

/// What a direction is in.
pub(super) mod mode {
    /// Nothing was seen.
    pub(in crate::inspect) const UNSEEN: u8 = 0;
    /// The first bytes are collected.
    pub(in crate::inspect) const OPENING: u8 = 1;
    /// A message up to `record`; an opening follows.
    pub(in crate::inspect) const SKIP: u8 = 2;
    /// A PROXY protocol header of version 1; an opening follows.
    pub(in crate::inspect) const PROXY: u8 = 3;
    /// An HTTP CONNECT, or its answer; an opening follows.
    pub(in crate::inspect) const HEADERS: u8 = 4;
    /// A STARTTLS dialogue of lines.
    pub(in crate::inspect) const LINES: u8 = 5;
    /// TLS records.
    pub(in crate::inspect) const RECORDS: u8 = 6;
    /// The rest of an SSH identification.
    pub(in crate::inspect) const IDENT: u8 = 7;
    /// SSH packets, until they are encrypted.
    pub(in crate::inspect) const PACKETS: u8 = 8;
    /// Nothing is left to look at.
    pub(in crate::inspect) const FREE: u8 = 9;
}

/// What is known of a direction.
pub(super) mod mark {
    /// It began with a ClientHello.
    pub(in crate::inspect) const CLIENT: u8 = 1;
    /// It began with a ServerHello, or with an alert.
    pub(in crate::inspect) const SERVER: u8 = 2;
    /// It began with an SSH identification.
    pub(in crate::inspect) const SSH: u8 = 4;
    /// Its part of a STARTTLS dialogue is over: nothing but TLS makes sense now.
    pub(in crate::inspect) const INNER: u8 = 8;
    /// What is kept was not read by the reader of the direction's state yet.
    pub(in crate::inspect) const REPLAY: u8 = 16;
    /// The line at hand is complete.
    pub(in crate::inspect) const ENDED: u8 = 32;
    /// It owes the answer to an HTTP CONNECT.
    pub(in crate::inspect) const OWES: u8 = 64;
    /// It cannot be anything that is accepted.
    pub(in crate::inspect) const ODD: u8 = 128;
}

/// What a reader says: how [`segment`](super::stream::segment) goes on. Everything else is a [`Ruling::code`].
pub(super) mod code {
    /// Read on.
    pub(in crate::inspect) const AGAIN: u32 = 0x1_0000;
    /// The segment was read.
    pub(in crate::inspect) const END: u32 = 0x1_0001;
    /// There is more of an opening: judge it.
    pub(in crate::inspect) const JUDGE: u32 = 0x1_0002;
    /// It may be clear text.
    pub(in crate::inspect) const LOOK: u32 = 0x1_0003;
    /// There is more of a line.
    pub(in crate::inspect) const LINE: u32 = 0x1_0004;
}
