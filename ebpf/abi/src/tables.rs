//! The compiled policy as the kernel holds it.
//!
//! A versioned value keeps two versions side by side, indexed by the parity of the generation: a
//! reader loads the live generation once and takes version `generation & 1`. A change writes the
//! version of the *next* generation beside the live one, then stores the generation (that one store
//! makes the policy live), waits a grace period, and copies the new version over the old. At rest both
//! are equal. Values carry their own key, so a reader can tell when the kernel gave a hash element to
//! another key under its hands.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Accept, Addr, Demand, Protocol, Reason, Tls, Verdict};

/// A number for a set of zones. `0` and `1` are built in; the others are handed out by the agent and
/// never mean another set while the maps live.
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
#[repr(transparent)]
pub struct Identity(pub u32);

impl Identity {
    /// In no zone, and not this host.
    pub const WORLD: Self = Self(0);
    /// In no zone, and this host itself.
    pub const NODE: Self = Self(1);
    /// A declared virtual address: who really receives is known only after translation, so the socket
    /// layers leave the verdict to the guard. In no zone.
    pub const VIRTUAL: Self = Self(2);
    /// Cannot be told: the tables miss the union of what cgroup and address say. Closed.
    pub const UNKNOWN: Self = Self(u32::MAX);
    /// The first number for a set of zones.
    pub const FIRST: u32 = 16;
    /// Set in the numbers of identity *classes*: identities that the rules treat alike.
    pub const CLASS: u32 = 1 << 31;

    /// As the judge reads it: a virtual address that nobody translates is like any other in no zone.
    #[inline(always)]
    pub const fn or_world(self) -> Self {
        if self.0 == Self::VIRTUAL.0 { Self::WORLD } else { self }
    }

    /// Whether any zone speaks for this endpoint.
    #[inline(always)]
    pub const fn is_zoned(self) -> bool {
        self.0 >= Self::FIRST
    }
}

/// A pair of versions of one identity: what a prefix means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PrefixValue {
    /// Indexed by the generation's parity.
    pub identity: [Identity; 2],
}

/// What the kernel needs to know of an identity, packed in one word so that it is read at once:
/// the class in the low bits (with [`Identity::CLASS`] set), and [`IdentityState::ENFORCING`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct IdentityState(pub u32);

impl IdentityState {
    /// At least one zone of the set is in enforce mode: packets that cannot be judged are denied, not
    /// merely reported.
    pub const ENFORCING: u32 = 1 << 30;

    /// State of an identity of class `class` (its number without flags).
    pub const fn new(class: u32, enforcing: bool) -> Self {
        Self(class | Identity::CLASS | if enforcing { Self::ENFORCING } else { 0 })
    }

    /// The class, as it stands in a [`PairKey`].
    #[inline(always)]
    pub const fn class(self) -> Identity {
        Identity(self.0 & !Self::ENFORCING)
    }

    /// Whether a zone of the set enforces.
    #[inline(always)]
    pub const fn is_enforcing(self) -> bool {
        self.0 & Self::ENFORCING != 0
    }
}

/// Value of the identity table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentityValue {
    /// The key once more.
    pub identity: Identity,
    /// Indexed by the generation's parity. Zero: not in that generation.
    pub state: [IdentityState; 2],
}

/// Value of the workload table: whose zones a cgroup is in. A workload that comes or goes is membership,
/// not policy: both versions are written at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WorkloadValue {
    /// The key once more.
    pub cgroup: u64,
    /// The identity that the cgroup alone gives, indexed by the generation's parity.
    pub identity: [Identity; 2],
}

/// From and to; for the union table: by cgroup and by address.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PairKey {
    /// The opener's identity or class.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
}

/// Value of the pair table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PairValue {
    /// The key once more.
    pub key: PairKey,
    /// The ruleset, indexed by the generation's parity. Zero: the pair has none in that generation.
    pub ruleset: [u32; 2],
}

/// Value of the union table. A union of two sets never changes, so there are no versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnionValue {
    /// The key once more.
    pub key: PairKey,
    /// The set that contains both.
    pub identity: Identity,
}

/// Key of a ruleset's entry in the longest-prefix trie: ruleset, protocol, port.
///
/// The port of ICMP is `type << 8 | code`; of a protocol without ports it is 0.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RuleKey {
    /// Ruleset number, network order.
    pub ruleset: [u8; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// Port, network order.
    pub port: [u8; 2],
    /// Zero; never part of a prefix.
    pub _reserved: u8,
}

impl RuleKey {
    /// Prefix length of an entry for every protocol.
    pub const RULESET_BITS: u32 = 32;
    /// Prefix length of an entry for every port of one protocol.
    pub const PROTOCOL_BITS: u32 = 40;
    /// Prefix length of an entry for one port.
    pub const PORT_BITS: u32 = 56;

    /// The key of `protocol` and `port` in `ruleset`.
    #[inline(always)]
    pub const fn new(ruleset: u32, protocol: Protocol, port: u16) -> Self {
        Self { ruleset: ruleset.to_be_bytes(), protocol: protocol.0, port: port.to_be_bytes(), _reserved: 0 }
    }
}

/// The final answer of a ruleset for one protocol and port: both sides' verdicts, with what made them.
/// The tiers, priorities and modes of the model are already worked in.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Cell {
    verdict: [u8; 2],
    reason: [u8; 2],
    tls: u8,
    floor: u8,
    accept: Accept,
    rule: [u32; 2],
}

impl Cell {
    /// Both sides' answers, `[egress, ingress]` (as [`Side`](crate::Side) counts), and how the flow is to
    /// be encrypted.
    pub const fn new(egress: SideAnswer, ingress: SideAnswer, demand: Demand) -> Self {
        Self {
            verdict: [egress.verdict as u8, ingress.verdict as u8],
            reason: [egress.reason as u8, ingress.reason as u8],
            tls: demand.level as u8,
            floor: demand.floor,
            accept: demand.accept,
            rule: [egress.rule, ingress.rule],
        }
    }

    /// An answer that denies on both sides.
    pub const CLOSED: Self = Self {
        verdict: [Verdict::Deny as u8; 2],
        reason: [Reason::Inconsistent as u8; 2],
        tls: 0,
        floor: 0,
        accept: Accept::NONE,
        rule: [0; 2],
    };

    /// The opener's side.
    #[inline(always)]
    pub const fn egress(&self) -> SideAnswer {
        let ([verdict, _], [reason, _], [rule, _]) = (self.verdict, self.reason, self.rule);
        SideAnswer { verdict: Verdict::from_code(verdict), reason: Reason::from_code(reason), rule }
    }

    /// The receiver's side.
    #[inline(always)]
    pub const fn ingress(&self) -> SideAnswer {
        let ([_, verdict], [_, reason], [_, rule]) = (self.verdict, self.reason, self.rule);
        SideAnswer { verdict: Verdict::from_code(verdict), reason: Reason::from_code(reason), rule }
    }

    /// How the flow is to be encrypted.
    #[inline(always)]
    pub const fn demand(&self) -> Demand {
        Demand { level: Tls::from_code(self.tls), accept: self.accept, floor: self.floor }
    }
}

/// What one side says of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SideAnswer {
    /// Its verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The number of the rule that decided, 0 where none did.
    pub rule: u32,
}

/// Key of a counter slot.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CounterKey {
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// [`Verdict`] code.
    pub verdict: u8,
    /// [`Reason`] code.
    pub reason: u8,
    /// Zero.
    pub _reserved: [u8; 2],
}

/// The slot of a counter key. Slot 0 takes what no longer fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotOwner {
    /// Index into the per-CPU counters.
    pub slot: u32,
}

/// One per-CPU counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// Flows that were opened (or refused).
    pub flows: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes, as in the IP packets' length.
    pub bytes: u64,
}

/// An address of one of this node's network namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LocalAddress {
    /// The key once more.
    pub addr: Addr,
    /// Cookie of the namespace that owns it (`SO_NETNS_COOKIE`, Linux 5.14).
    pub netns: u64,
}

/// The addresses that a namespace's sockets send from, so that a connecting socket's address is known before
/// the route is. Where there are several of a family, it is only likely.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Home {
    /// The one IPv4 address, or of several the likely one ([`Home::FLAG_SEVERAL_V4`]), or `::`.
    pub v4: Addr,
    /// The same of global IPv6 addresses.
    pub v6: Addr,
    /// See the `FLAG_` constants.
    pub flags: u64,
}

impl Home {
    /// Every way out of the namespace passes the guard, so a verdict may be left to it.
    pub const FLAG_GUARDED: u64 = 1;
    /// The proxy listens in the namespace, so that connections may be turned to it.
    pub const FLAG_PROXIED: u64 = 2;
    /// The namespace has several IPv4 addresses: `v4` is the one that its default route is taken from.
    pub const FLAG_SEVERAL_V4: u64 = 4;
    /// The same of IPv6.
    pub const FLAG_SEVERAL_V6: u64 = 8;
}

/// An interface that the guard sits on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Interface {
    /// Cookie of the network namespace at the far end of a veth; 0 where there is none, or it is not
    /// known (yet).
    pub netns: u64,
    /// See the `FLAG_` constants.
    pub flags: u64,
}

impl Interface {
    /// Other machines are behind it: their own nodes judge for them.
    pub const FLAG_WIRE: u64 = 1;
    /// Its packets begin with an Ethernet header.
    pub const FLAG_ETHERNET: u64 = 2;
}

/// What can be changed while programs run, apart from the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// The live generation. Written through a memory map, in one store.
    pub generation: u64,
    /// Cookie of the agent's own network namespace: the node itself.
    pub host_netns: u64,
    /// See the `FLAG_` constants.
    pub flags: u64,
}

impl Control {
    /// The whole node is in audit mode: nothing is denied, all is reported.
    pub const FLAG_AUDIT: u64 = 1;
    /// Enforcement has not begun: flows are tracked so that they can be adopted, nothing is denied or
    /// counted as denied.
    pub const FLAG_ADOPTING: u64 = 2;
    /// The policy has virtual addresses. Set before the first one is live, cleared after the last.
    pub const FLAG_VIRTUAL: u64 = 4;
    /// The policy has rules that want mutual TLS by the proxy. Set before the first one is live, cleared
    /// after the last.
    pub const FLAG_MUTUAL: u64 = 8;
}

/// Key of a failsafe port.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FailsafeKey {
    /// [`Side`](crate::Side) of the node: egress when the node opens, ingress when it receives.
    pub side: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// The receiver's port.
    pub port: u16,
}

const _: () = {
    assert!(size_of::<PrefixValue>() == 8);
    assert!(size_of::<IdentityValue>() == 12);
    assert!(size_of::<WorkloadValue>() == 16);
    assert!(size_of::<PairKey>() == 8);
    assert!(size_of::<PairValue>() == 16);
    assert!(size_of::<UnionValue>() == 12);
    assert!(size_of::<RuleKey>() == 8);
    assert!(size_of::<Cell>() == 16);
    assert!(size_of::<CounterKey>() == 12);
    assert!(size_of::<Counter>() == 24);
    assert!(size_of::<LocalAddress>() == 24);
    assert!(size_of::<Control>() == 24);
    assert!(size_of::<FailsafeKey>() == 4);
    assert!(size_of::<Home>() == 40);
    assert!(size_of::<Interface>() == 16);
};
