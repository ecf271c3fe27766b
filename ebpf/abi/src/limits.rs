//! Capacities of the maps, in entries. A policy that does not fit is refused whole; a flow that does
//! not fit is denied. Flow-table capacity can be set when the maps are first made.

/// Address prefixes.
pub const PREFIXES: u32 = 262_144;
/// Cgroups that belong to a zone.
pub const WORKLOADS: u32 = 65_536;
/// Pairs of a cgroup's and an address's identity that together make a third.
pub const UNIONS: u32 = 262_144;
/// Identities and identity classes.
pub const IDENTITIES: u32 = 262_144;
/// Pairs of identities or identity classes that have a ruleset.
pub const PAIRS: u32 = 1_048_576;
/// Entries of all rulesets together.
pub const RULES: u32 = 1_048_576;
/// Flows that no socket owns, and hand-overs in progress.
pub const FLOWS: u32 = 65_536;
/// Flows that the guard judges: forwarded ones, and those to virtual addresses.
pub const TRANSIT: u32 = 65_536;
/// Connections to virtual addresses that are being opened.
pub const OPENINGS: u32 = 4_096;
/// Packets whose fragments are under way.
pub const FRAGMENTS: u32 = 8_192;
/// Interfaces that the guard sits on.
pub const INTERFACES: u32 = 16_384;
/// Denied flows that are remembered, so that a retransmission is not counted as a new flow.
pub const DENIED: u32 = 16_384;
/// Listening sockets.
pub const LISTENERS: u32 = 65_536;
/// Addresses of this node's network namespaces.
pub const LOCALS: u32 = 65_536;
/// Network namespaces of this node.
pub const HOMES: u32 = 16_384;
/// Distinct (from, to, verdict, reason) that are counted apart.
pub const COUNTERS: u32 = 16_384;
/// Sockets waiting to be ended by the agent.
pub const DOOMED: u32 = 16_384;
/// Bytes of the event ring.
pub const EVENTS: u32 = 1 << 20;
/// Distinct (from, to, class, protocol, level, verdict) that are counted apart.
pub const CLASSES: u32 = 16_384;
/// Bytes of the ring of opening bytes.
pub const PIECES: u32 = 1 << 21;
/// Connections that were turned into the proxy lately.
pub const TURNED: u32 = 65_536;
/// How long, in nanoseconds, a flow of one kind (a [`ClassKey`](crate::inspect::ClassKey)) is told of
/// but once: all are counted.
pub const CLASS_SILENCE: u64 = 1_000_000_000;
/// Failsafe ports.
pub const FAILSAFE: u32 = 256;
/// How many levels of cgroup are searched for the nearest one that is in a zone.
pub const CGROUP_DEPTH: u32 = 16;
/// A chain of as many IPv6 extension headers as this is not followed to its end, and denied.
pub const EXTENSION_HEADERS: u32 = 8;
