//! What a socket is for, where connections are turned into the node's proxy.
//!
//! A *turned* connection goes from a program to the *capture* listener in the program's own network
//! namespace; a *tunnel* joins two proxies; the *last hop* goes from the receiving proxy to the program
//! that the first one wanted to reach. Each of the agent's sockets is told apart by its role, which lies
//! in its socket storage: written by descriptor before the socket is bound or connected, inherited by
//! accepted sockets, out of reach of everybody else.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, Identity, Workload};

/// Port of the listener that turned connections come to.
pub const CAPTURE_PORT: u16 = 15001;
/// Port of tunnels: HBONE's.
pub const TUNNEL_PORT: u16 = 15008;

/// What a socket is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RoleKind {
    /// Nothing in particular: it is judged by the rules.
    None = 0,
    /// A program's, whose `connect` was turned to the capture listener. Only the kernel writes this.
    Turned = 1,
    /// Listens for turned connections, on [`CAPTURE_PORT`] only.
    Capture = 2,
    /// Dials [`TUNNEL_PORT`] of another workload, and nothing else.
    TunnelOut = 3,
    /// Listens for tunnels, on [`TUNNEL_PORT`] only. Anybody may knock: who may stay is told by
    /// certificates.
    TunnelIn = 4,
    /// Dials addresses of its own network namespace, and nothing else, from the client's address.
    LastHop = 5,
}

impl RoleKind {
    /// Every kind, in code order.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Turned, Self::Capture, Self::TunnelOut, Self::TunnelIn, Self::LastHop];

    /// The kind with this code; any other code is none, which grants nothing.
    #[inline(always)]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Turned,
            2 => Self::Capture,
            3 => Self::TunnelOut,
            4 => Self::TunnelIn,
            5 => Self::LastHop,
            _ => Self::None,
        }
    }
}

/// The role of one socket, in its storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketRole {
    /// Of a turned one: where the program wanted to go. Else zero.
    pub original: Addr,
    /// On whose behalf: the program that was turned, the one that a tunnel is dialled for, the one that a
    /// listener serves.
    pub workload: Workload,
    /// Of a turned one: the generation that turned it. Else zero.
    pub generation: u64,
    /// The opener's identity, for whatever opens: what its flow is counted as.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// Number of the rule that lets it.
    pub rule: u32,
    /// Of a turned one: the port that the program wanted to reach.
    pub original_port: u16,
    /// [`RoleKind`] code.
    pub kind: u8,
    /// Zero.
    pub _reserved: u8,
}

impl SocketRole {
    /// A role without anything known, as a listener has it.
    pub const fn new(kind: RoleKind) -> Self {
        Self {
            original: Addr::ANY,
            workload: Workload::UNKNOWN,
            generation: 0,
            from: Identity::WORLD,
            to: Identity::WORLD,
            rule: 0,
            original_port: 0,
            kind: kind as u8,
            _reserved: 0,
        }
    }

    /// What the socket is for.
    #[inline(always)]
    pub const fn kind(&self) -> RoleKind {
        RoleKind::from_code(self.kind)
    }
}

/// Key of a turned connection, as whoever accepts it sees the client.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TurnedKey {
    /// The client's address.
    pub addr: Addr,
    /// Network namespace cookie.
    pub netns: u64,
    /// The client's port.
    pub port: u16,
    _reserved: [u8; 6],
}

impl TurnedKey {
    /// The key of the client at `addr:port` in the namespace `netns`.
    #[inline(always)]
    pub const fn new(netns: u64, addr: Addr, port: u16) -> Self {
        Self { addr, netns, port, _reserved: [0; 6] }
    }
}

/// What is told of a turned connection. Written with its SYN, so that it is there before anybody can
/// accept; never taken away but by a newer one: only a turned connection reaches the capture listener, and
/// each writes its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TurnedValue {
    /// Where the program wanted to go.
    pub original: Addr,
    /// Whose socket it is.
    pub workload: Workload,
    /// The generation that turned it.
    pub generation: u64,
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's, as far as the opener's node can tell.
    pub to: Identity,
    /// Number of the rule that asks for it.
    pub rule: u32,
    /// The port that the program wanted to reach.
    pub port: u16,
    /// Zero.
    pub _reserved: u16,
}

const _: () = {
    assert!(size_of::<SocketRole>() == 56);
    assert!(size_of::<TurnedKey>() == 32);
    assert!(size_of::<TurnedValue>() == 56);
};
