//! What the kernel programs and the daemon agree on.
//!
//! Keys, values, events, verdict codes, map names and limits: nothing that computes. Every type that
//! crosses into a map is `#[repr(C)]`, has no padding (zerocopy's `IntoBytes` refuses it at compile
//! time) and has its size asserted, so a layout change is a compile error and never a misread table.
//!
//! Addresses are always 16 bytes in network order; IPv4 is `::ffff:a.b.c.d` and `/n` is `/96+n`.
//! Ports are host-order integers in values and network-order bytes in keys that a trie compares.
#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod event;
pub mod flow;
pub mod inspect;
pub mod limits;
pub mod names;
pub mod role;
pub mod tables;
pub mod verdict;

pub use addr::{Addr, Protocol};
pub use event::{Event, EventKind};
pub use flow::{FlowKey, FlowState, ListenerKey, SocketFlow, SocketOwner, Workload};
pub use inspect::{Accept, App, Class, Conversation, Demand, Inspection};
pub use role::{RoleKind, SocketRole, TurnedKey, TurnedValue};
pub use tables::{
    Cell, Control, Counter, CounterKey, Identity, IdentityState, LocalAddress, PairKey, RuleKey, SlotOwner,
};
pub use verdict::{Direction, Reason, Side, Tls, Verdict};
