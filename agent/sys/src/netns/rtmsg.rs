//! The head of messages about routes and rules.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct rtmsg`, and `struct fib_rule_hdr` with an action for a type.
#[derive(Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    pub(super) family: u8,
    pub(super) dst_len: u8,
    pub(super) src_len: u8,
    pub(super) tos: u8,
    pub(super) table: u8,
    pub(super) protocol: u8,
    pub(super) scope: u8,
    pub(super) kind: u8,
    pub(super) flags: u32,
}
