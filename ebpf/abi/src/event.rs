//! What the kernel tells the daemon as it happens. Events may be lost; counters are not.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, Identity, Workload};

/// What an [`Event`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EventKind {
    /// A flow was denied, or would have been.
    Verdict = 1,
    /// A socket was bound: its namespace's addresses may be new.
    Bound = 2,
    /// Sockets wait to be ended.
    Doomed = 3,
    /// A socket was made in a namespace that the daemon has not told of.
    Namespace = 4,
    /// A flow's class is known; `verdict` and `reason` say what comes of it.
    Classified = 5,
}

impl EventKind {
    /// The kind with this code, if any.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Verdict),
            2 => Some(Self::Bound),
            3 => Some(Self::Doomed),
            4 => Some(Self::Namespace),
            5 => Some(Self::Classified),
            _ => None,
        }
    }
}

/// One record of the event ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time: u64,
    /// Generation of the policy that decided.
    pub generation: u64,
    /// Network namespace cookie of the socket at hand, 0 if unknown.
    pub netns: u64,
    /// The socket's cookie, 0 if none.
    pub cookie: u64,
    /// The workload at hand.
    pub workload: Workload,
    /// The opener's address.
    pub src: Addr,
    /// The receiver's.
    pub dst: Addr,
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// Number of the rule that decided, 0 where none did.
    pub rule: u32,
    /// Process at hand (in the initial pid namespace), for [`EventKind::Bound`] and
    /// [`EventKind::Namespace`]; else 0.
    pub pid: u32,
    /// The opener's port.
    pub src_port: u16,
    /// The receiver's.
    pub dst_port: u16,
    /// [`EventKind`] code.
    pub kind: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Verdict`](crate::Verdict) code.
    pub verdict: u8,
    /// [`Reason`](crate::Reason) code.
    pub reason: u8,
    /// [`Class`](crate::Class) code, for [`EventKind::Classified`] and denials by it.
    pub class: u8,
    /// [`App`](crate::App) code, likewise.
    pub app: u8,
    /// [`Tls`](crate::Tls) code of the rule's level, likewise.
    pub level: u8,
    /// Zero.
    pub _reserved: [u8; 5],
}

const _: () = assert!(size_of::<Event>() == 112);
