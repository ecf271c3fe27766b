//! Flows: what a socket owns, and what the table holds for those that no socket owns.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    Addr, Identity, Inspection, Protocol,
    inspect::{Datagrams, Reading},
};

/// A workload as the kernel meets it: its cgroup, and the nearest ancestor that was in the workload
/// table when it was met. The ancestor answers for a cgroup that the agent has not seen yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Workload {
    /// Cgroup id of the socket; 0 is unknown.
    pub cgroup: u64,
    /// Cgroup id of the nearest ancestor in the table, or 0.
    pub anchor: u64,
}

impl Workload {
    /// Nobody known: the address alone tells.
    pub const UNKNOWN: Self = Self { cgroup: 0, anchor: 0 };
    /// Set in `cgroup` where the low half is not a cgroup but an [`Identity`], which the guard carried
    /// from the sender's interface: it holds whatever the address on the packet says. Cgroup ids are
    /// inode numbers of kernfs, which do not reach so far.
    pub const CARRIED: u64 = 1 << 63;

    /// Somebody of whom only the identity is known.
    #[inline(always)]
    pub const fn carried(identity: Identity) -> Self {
        Self { cgroup: Self::CARRIED | identity.0 as u64, anchor: 0 }
    }

    /// The identity that was carried here.
    #[inline(always)]
    pub const fn identity(&self) -> Option<Identity> {
        if self.cgroup & Self::CARRIED != 0 { Some(Identity(self.cgroup as u32)) } else { None }
    }

    /// Whether a cgroup, or at least an identity, is known at all.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.cgroup != 0
    }
}

/// Key of a flow, the same for both directions: the lower (address, port) stands first. ICMP echo uses
/// its identifier as both ports.
///
/// `netns` is the network namespace's cookie where an address is loopback (the same tuple may live in
/// many namespaces at once) and 0 elsewhere, so that a flow between two namespaces has one key.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowKey {
    /// The lower end's address.
    pub low: Addr,
    /// The upper end's address.
    pub high: Addr,
    /// Namespace cookie for loopback, else 0.
    pub netns: u64,
    /// The lower end's port.
    pub low_port: u16,
    /// The upper end's port.
    pub high_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    _reserved: [u8; 3],
}

impl FlowKey {
    /// A key of nothing yet.
    pub const BLANK: Self = Self {
        low: Addr::ANY,
        high: Addr::ANY,
        netns: 0,
        low_port: 0,
        high_port: 0,
        protocol: 0,
        _reserved: [0; 3],
    };

    /// The key of a packet between two ends, and whether the first one named is the lower end.
    #[inline(always)]
    pub fn new(src: (Addr, u16), dst: (Addr, u16), protocol: Protocol, netns: u64) -> (Self, bool) {
        let source_is_low = src <= dst;
        let ((low, low_port), (high, high_port)) = if source_is_low { (src, dst) } else { (dst, src) };
        let netns = if low.is_loopback() || high.is_loopback() { netns } else { 0 };
        (
            Self { low, high, netns, low_port, high_port, protocol: protocol.0, _reserved: [0; 3] },
            source_is_low,
        )
    }

    /// A digest that a [`FlowState`] carries, so that a reader notices when the kernel gave the table's
    /// element to another flow under its hands.
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        let ((a, b), (c, d)) = (self.low.words(), self.high.words());
        let ports = (u64::from(self.low_port) << 16) | u64::from(self.high_port);
        let mix = a ^ b.rotate_left(5) ^ c.rotate_left(11) ^ d.rotate_left(17) ^ ports;
        (mix as u32) ^ ((mix >> 32) as u32) ^ (u32::from(self.protocol) << 24) ^ 0x5a5a_a5a5
    }
}

/// A flow that no socket owns (UDP that is not connected, ICMP echo, packets without a socket), or the
/// hand-over of a local opener to its receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowState {
    /// Generation whose verdict holds, per [`Side`](crate::Side); 0 where that side was never judged.
    pub judged: [u64; 2],
    /// Time of the last packet, `CLOCK_MONOTONIC` nanoseconds (`bpf_ktime_get_ns`).
    pub seen: u64,
    /// Who opened it.
    pub opener: Workload,
    /// Who receives it, where a local listener told.
    pub receiver: Workload,
    /// The opener's socket (`SO_COOKIE`), 0 if unknown.
    pub cookie: u64,
    /// The opener's network namespace cookie, 0 if unknown.
    pub netns: u64,
    /// Identities that were judged.
    pub from: Identity,
    /// See `from`.
    pub to: Identity,
    /// Number of the rule that decided.
    pub rule: u32,
    /// Counter slot.
    pub slot: u32,
    /// [`Verdict`](crate::Verdict) code per side.
    pub verdict: [u8; 2],
    /// [`Reason`](crate::Reason) code of the deciding side.
    pub reason: u8,
    /// See the `FLAG_` constants.
    pub flags: u8,
    /// [`TcpState`] code; 0 for other protocols.
    pub tcp: u8,
    /// Zero.
    pub _reserved: [u8; 3],
    /// [`FlowKey::tag`] of the flow that this is.
    pub tag: u32,
    /// Zero.
    pub _reserved2: u32,
    /// What the datagrams say, of UDP. Where both ends are on this node and neither owns the flow, both
    /// ends' hooks write here.
    pub datagrams: Datagrams,
}

impl FlowState {
    /// The opener is the lower end of the key.
    pub const FLAG_OPENER_LOW: u8 = 1;
    /// A packet came back.
    pub const FLAG_REPLIED: u8 = 2;
    /// It lived before enforcement began.
    pub const FLAG_ADOPTED: u8 = 4;
    /// The receiver is on this node: its end judges both sides and counts.
    pub const FLAG_LOCAL: u8 = 8;
    /// In the guard's table: `from` was carried by the packets' mark.
    pub const FLAG_CARRIED: u8 = 16;
    /// The opener's end reads the bytes of the stream, as the receiver's does.
    pub const FLAG_READ: u8 = 32;
    /// In the guard's table: the opener is in a zone and has no socket, so what comes back is judged where
    /// it comes in.
    pub const FLAG_ROUTED: u8 = 64;
}

/// State of a TCP flow that no socket owns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TcpState {
    /// Not TCP.
    None = 0,
    /// SYN seen.
    Opening = 1,
    /// Both ends spoke.
    Established = 2,
    /// A FIN was seen.
    Closing = 3,
    /// A RST was seen, or both FINs.
    Closed = 4,
}

impl TcpState {
    /// The state with this code.
    #[inline(always)]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Opening,
            2 => Self::Established,
            3 => Self::Closing,
            4 => Self::Closed,
            _ => Self::None,
        }
    }
}

/// A flow that a full socket owns: TCP, and UDP that is connected. Kept in socket storage, freed with
/// the socket; a listening socket holds none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketFlow {
    /// Generation whose verdict this is.
    pub generation: u64,
    /// When it was opened, `CLOCK_MONOTONIC` nanoseconds.
    pub opened: u64,
    /// The other end, where it is a workload of this node.
    pub peer: Workload,
    /// The other end's address.
    pub peer_addr: Addr,
    /// This end's address.
    pub local_addr: Addr,
    /// The other end's port.
    pub peer_port: u16,
    /// This end's port; 0 until the first packet.
    pub local_port: u16,
    /// Identities, opener and receiver.
    pub from: Identity,
    /// See `from`.
    pub to: Identity,
    /// Number of the rule that decided.
    pub rule: u32,
    /// Counter slot.
    pub slot: u32,
    /// [`Verdict`](crate::Verdict) code.
    pub verdict: u8,
    /// [`Reason`](crate::Reason) code.
    pub reason: u8,
    /// See the `FLAG_` constants.
    pub flags: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// How far the bytes of a stream are looked at.
    pub reading: Reading,
    /// What its first bytes say, of TCP.
    pub inspection: Inspection,
    /// What its datagrams say, of UDP.
    pub datagrams: Datagrams,
}

impl SocketFlow {
    /// This end opened the flow.
    pub const FLAG_OPENER: u8 = 1;
    /// Both ends are on this node, and the opener's reads the bytes of the stream, too, because some are
    /// stopped. Without it the receiver's reads alone.
    pub const FLAG_READ: u8 = 2;
    /// The other end is on this node, and counts.
    pub const FLAG_LOCAL: u8 = 4;
    /// It lived before enforcement began.
    pub const FLAG_ADOPTED: u8 = 8;
    /// It goes to a virtual address: the guard judges it.
    pub const FLAG_DEFERRED: u8 = 16;
    /// A copy of what the flow table holds; `opened` is when it was made.
    pub const FLAG_TABLED: u8 = 32;
    /// Of a copy: a packet came back.
    pub const FLAG_REPLIED: u8 = 64;
    /// No flow yet: what the call decided that is about to open one. `protocol` and ports of this end are 0.
    pub const FLAG_PREPARED: u8 = 128;
}

/// What is remembered of a denied flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Denial {
    /// When it was told of.
    pub told: u64,
    /// When it was judged last, at the hook that keeps these; 0 where none does.
    pub judged: u64,
    /// The generation that judged it then.
    pub generation: u64,
    /// Cgroup id of the socket at hand.
    pub cgroup: u64,
    /// Counter slot.
    pub slot: u32,
    /// [`FlowKey::tag`] of the flow that this is.
    pub tag: u32,
    /// Which way it went: 1 if it left this end, plus 2 if this end is the lower one of the key.
    pub way: u8,
    /// Zero.
    pub _reserved: [u8; 7],
}

/// Who made a socket, and what it was bound to. A socket keeps the cgroup that it was created in, also
/// when it is passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketOwner {
    /// Its cgroup id.
    pub cgroup: u64,
    /// Its network namespace cookie.
    pub netns: u64,
    /// Under which key it is registered as a receiver; port 0 while it is not.
    pub bound: ListenerKey,
}

/// Key of a registered receiver: a socket that was bound.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct ListenerKey {
    /// Bound address; [`Addr::ANY`] or [`Addr::ANY_V4`] for every one.
    pub addr: Addr,
    /// Network namespace cookie.
    pub netns: u64,
    /// Bound port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub _reserved: [u8; 5],
}

impl ListenerKey {
    /// The key of `addr:port` in the namespace `netns`.
    #[inline(always)]
    pub const fn new(netns: u64, addr: Addr, port: u16, protocol: Protocol) -> Self {
        Self { addr, netns, port, protocol: protocol.0, _reserved: [0; 5] }
    }
}

/// Value of a registered receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Listener {
    /// Whose it is.
    pub workload: Workload,
    /// The socket (`SO_COOKIE`): only its own release takes the entry away.
    pub cookie: u64,
}

/// A socket that the agent must end (`SOCK_DESTROY`), keyed by its cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Doomed {
    /// Its network namespace cookie.
    pub netns: u64,
    /// Its own address.
    pub local: Addr,
    /// The other end's.
    pub remote: Addr,
    /// Its own port.
    pub local_port: u16,
    /// The other end's.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Reason`](crate::Reason) code.
    pub reason: u8,
    /// Zero.
    pub _reserved: [u8; 2],
}

/// A connection to a virtual address that has just been opened from this node, found by the sequence
/// number of its SYN, which address translation leaves alone: if the guard denies it, its socket is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Opening {
    /// The socket (`SO_COOKIE`).
    pub cookie: u64,
    /// What the agent is told of it.
    pub doomed: Doomed,
}

/// Key of the fragments of one packet (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification.
    pub id: u32,
    /// IP protocol number of the first fragment's transport; 0 for IPv6, where only the first tells.
    pub protocol: u8,
    /// Zero.
    pub _reserved: [u8; 3],
}

/// A packet whose first fragment was allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirstFragment {
    /// The key once more.
    pub key: FragmentKey,
    /// Generation whose verdict let it pass.
    pub generation: u64,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub seen: u64,
    /// Where the first fragment's data ends, in bytes from the start of the fragmented part: what begins
    /// before overlaps the headers that were judged.
    pub end: u32,
    /// Counter slot.
    pub slot: u32,
}

const _: () = {
    assert!(size_of::<Opening>() == 56);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FirstFragment>() == 64);
    assert!(size_of::<FlowKey>() == 48);
    assert!(size_of::<FlowState>() == 128);
    assert!(size_of::<SocketFlow>() == 224);
    assert!(size_of::<Denial>() == 48);
    assert!(size_of::<SocketOwner>() == 48);
    assert!(size_of::<ListenerKey>() == 32);
    assert!(size_of::<Listener>() == 24);
    assert!(size_of::<Doomed>() == 48);
};
