//! Names of maps and programs: the same in the kernel crate, the loader, the pins and the tests.

macro_rules! names {
    ($($(#[$doc:meta])* $ident:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $ident: &str = $name;)*
        /// Every map.
        pub const MAPS: &[&str] = &[$($name),*];
    };
}

/// Version of the maps' layout: raised whenever a key, a value, a capacity or a map changes, so that
/// programs never meet tables of another shape.
pub const LAYOUT: &str = "6";

names! {
    /// [`Control`](crate::Control), one entry, memory-mapped.
    CONTROL = "CONTROL";
    /// Prefix → [`PrefixValue`](crate::tables::PrefixValue).
    PREFIXES = "PREFIXES";
    /// Cgroup id → [`WorkloadValue`](crate::tables::WorkloadValue).
    WORKLOADS = "WORKLOADS";
    /// (by cgroup, by address) → [`UnionValue`](crate::tables::UnionValue).
    UNIONS = "UNIONS";
    /// Identity → [`IdentityValue`](crate::tables::IdentityValue).
    IDENTITIES = "IDENTITIES";
    /// (from, to) → [`PairValue`](crate::tables::PairValue).
    PAIRS = "PAIRS";
    /// [`RuleKey`](crate::RuleKey) prefix → [`Cell`](crate::Cell).
    RULES = "RULES";
    /// [`FailsafeKey`](crate::tables::FailsafeKey) → packets.
    FAILSAFE = "FAILSAFE";
    /// [`FlowKey`](crate::FlowKey) → [`FlowState`](crate::FlowState).
    FLOWS = "FLOWS";
    /// One flow of zeroes.
    BLANK_FLOW = "BLANK_FLOW";
    /// What a remembered denial begins as.
    BLANK_DENIAL = "BLANK_DENIAL";
    /// [`FlowKey`](crate::FlowKey) → [`FlowState`](crate::FlowState) of what the guard judges.
    TRANSIT = "TRANSIT";
    /// One word: not 0 since a flow is in [`TRANSIT`] whose opener is in a zone and has no socket.
    ROUTES = "ROUTES";
    /// [`FragmentKey`](crate::flow::FragmentKey) → [`FirstFragment`](crate::flow::FirstFragment).
    FRAGMENTS = "FRAGMENTS";
    /// Sequence number of a SYN → [`Opening`](crate::flow::Opening).
    OPENINGS = "OPENINGS";
    /// Interface index → [`Interface`](crate::tables::Interface).
    INTERFACES = "INTERFACES";
    /// Flows that were denied lately.
    DENIED = "DENIED";
    /// Socket → [`SocketFlow`](crate::SocketFlow).
    SOCKET_FLOWS = "SOCKET_FLOWS";
    /// Socket → [`Ahead`](crate::inspect::Ahead): only of those where something came before its turn.
    SOCKET_AHEAD = "SOCKET_AHEAD";
    /// Socket → [`SocketOwner`](crate::SocketOwner).
    SOCKET_OWNERS = "SOCKET_OWNERS";
    /// Socket → its network namespace's cookie; used only where programs cannot ask for it.
    SOCKET_NETNS = "SOCKET_NETNS";
    /// [`ListenerKey`](crate::ListenerKey) → [`Listener`](crate::flow::Listener).
    LISTENERS = "LISTENERS";
    /// Address → [`LocalAddress`](crate::LocalAddress).
    LOCALS = "LOCALS";
    /// Network namespace cookie → [`Home`](crate::tables::Home).
    HOMES = "HOMES";
    /// [`CounterKey`](crate::CounterKey) → [`SlotOwner`](crate::SlotOwner).
    SLOTS = "SLOTS";
    /// One word: how many counter slots were handed out.
    SLOTS_USED = "SLOTS_USED";
    /// Slot → [`Counter`](crate::Counter), per CPU.
    COUNTERS = "COUNTERS";
    /// [`CounterKey`](crate::CounterKey) → [`Counter`](crate::Counter) of flows that were ended before a
    /// packet of theirs could be denied: written by the agent alone, and counted together with
    /// [`COUNTERS`].
    ENDED = "ENDED";
    /// Socket cookie → [`Doomed`](crate::flow::Doomed).
    DOOMED = "DOOMED";
    /// Ring of [`Event`](crate::Event)s.
    EVENTS = "EVENTS";
    /// [`ClassKey`](crate::inspect::ClassKey) → [`ClassCount`](crate::inspect::ClassCount).
    CLASSES = "CLASSES";
    /// Ring of [`Piece`](crate::inspect::Piece)s.
    PIECES = "PIECES";
    /// Socket → [`SocketRole`](crate::SocketRole).
    SOCKET_ROLES = "SOCKET_ROLES";
    /// [`TurnedKey`](crate::TurnedKey) → [`TurnedValue`](crate::TurnedValue).
    TURNED = "TURNED";
    /// Losses, per CPU: see [`Loss`].
    LOST = "LOST";
}

/// Index into [`LOST`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Loss {
    /// Events that the ring had no room for.
    Events = 0,
    /// Sockets that could not be put on the list of those to be ended.
    Doomed = 1,
    /// Listeners that could not be registered.
    Listeners = 2,
    /// Flows counted in slot 0, because every slot was taken.
    Slots = 3,
    /// Pieces of handshakes that the ring had no room for.
    Pieces = 4,
    /// Flows whose class was not counted, because the table was full.
    Classes = 5,
}

impl Loss {
    /// Every kind of loss, in index order.
    pub const ALL: [Self; 6] =
        [Self::Events, Self::Doomed, Self::Listeners, Self::Slots, Self::Pieces, Self::Classes];

    /// The word used as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Doomed => "doomed",
            Self::Listeners => "listeners",
            Self::Slots => "counter-slots",
            Self::Pieces => "handshake-pieces",
            Self::Classes => "class-counters",
        }
    }
}

/// The guard's programs, on interfaces (`sched_cls`): what comes in by one, and what leaves by it.
pub const GUARD_PROGRAMS: [&str; 2] = ["guard_ingress", "guard_egress"];

/// Programs at the cgroup root, by the kernel's name of their hook.
pub const PROGRAMS: [&str; 10] = [
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "post_bind4",
    "post_bind6",
    "sock_create",
    "sock_release",
    "skb_ingress",
    "skb_egress",
];
