//! What the guard writes into its part of a packet's mark, from the interface where the packet comes in
//! to the one where it leaves. The kernel clears the mark between namespaces, so no workload can forge
//! it; whoever is root on the host can.

use bulkhead_abi::Identity;

/// A number of at least eight bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(pub u32);

impl Mark {
    /// Nothing: it came in where no guard is.
    pub const NONE: Self = Self(0);
    /// From a socket of this node, whose layer has judged it.
    pub const JUDGED: Self = Self(1);
    /// From another machine.
    pub const WIRE: Self = Self(2);
    /// Without a socket of ours, from an endpoint behind this interface.
    pub const ROUTED: Self = Self(3);

    const WORLD: Self = Self(8);
    const NODE: Self = Self(9);
    const UNKNOWN: Self = Self(10);

    /// From a socket whose layer left the verdict to the guard. An identity that does not fit into `room`
    /// is carried as unknown, and closed.
    #[inline(always)]
    pub const fn deferred(sender: Identity, room: u32) -> Self {
        match sender {
            Identity::WORLD => Self::WORLD,
            Identity::NODE => Self::NODE,
            _ if sender.is_zoned() && sender.0 <= room => Self(sender.0),
            _ => Self::UNKNOWN,
        }
    }

    /// The sender of a packet that was left to the guard.
    #[inline(always)]
    pub const fn sender(self) -> Option<Identity> {
        match self {
            Self::WORLD => Some(Identity::WORLD),
            Self::NODE => Some(Identity::NODE),
            Self::UNKNOWN => Some(Identity::UNKNOWN),
            Self(number) if number >= Identity::FIRST => Some(Identity(number)),
            _ => None,
        }
    }
}
