//! What the guard writes into its part of a packet's mark, from the interface where the packet comes in
//! to the one where it leaves. The kernel clears the mark between namespaces, so no workload can forge
//! it; whoever is root on the host can.

use bulkhead_abi::Identity;

/// What it says. In a packet it is a [number](Mark::number) of at least eight bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(pub u32);

impl Mark {
    /// Nothing: it came in where no guard is.
    pub const NONE: Self = Self(0);
    /// From a socket of this node, whose layer has judged it.
    pub const JUDGED: Self = Self(1);
    /// From another machine.
    pub const WIRE: Self = Self(2);
    /// Without a socket of ours, from an endpoint behind this interface that is in no zone.
    pub const ROUTED: Self = Self(3);
    /// Back to an endpoint without a socket: of a flow that the guard knows, and lets pass.
    pub const BACK: Self = Self(4);

    const WORLD: Self = Self(8);
    const NODE: Self = Self(9);
    const UNKNOWN: Self = Self(10);

    /// Set where the rest is the identity of an endpoint without a socket; in a packet, the highest bit.
    const ENDPOINT: u32 = 1 << 31;

    /// From a socket whose layer left the verdict to the guard.
    #[inline(always)]
    pub const fn deferred(sender: Identity) -> Self {
        match sender {
            Identity::WORLD => Self::WORLD,
            Identity::NODE => Self::NODE,
            _ if sender.is_zoned() && sender.0 < Self::ENDPOINT => Self(sender.0),
            _ => Self::UNKNOWN,
        }
    }

    /// Without a socket of ours, from an endpoint behind this interface whose address there is of this
    /// identity.
    #[inline(always)]
    pub const fn routed(endpoint: Identity) -> Self {
        if endpoint.is_zoned() && endpoint.0 < Self::ENDPOINT {
            Self(Self::ENDPOINT | endpoint.0)
        } else {
            Self::ROUTED
        }
    }

    /// Whether it is from an endpoint without a socket, of whichever identity.
    #[inline(always)]
    pub const fn is_routed(self) -> bool {
        self.0 == Self::ROUTED.0 || self.0 & Self::ENDPOINT != 0
    }

    /// As a number up to `room`, which is all ones. An identity that does not fit is carried as unknown, and
    /// closed.
    #[inline(always)]
    pub const fn number(self, room: u32) -> u32 {
        let (below, rest) = (room >> 1, self.0 & !Self::ENDPOINT);
        let fits = if rest <= below { rest } else { Self::UNKNOWN.0 };
        if self.0 & Self::ENDPOINT != 0 { fits | (below + 1) } else { fits }
    }

    /// What a number up to `room` says.
    #[inline(always)]
    pub const fn from_number(number: u32, room: u32) -> Self {
        let below = room >> 1;
        if number > below { Self(Self::ENDPOINT | (number & below)) } else { Self(number) }
    }

    /// The sender of a packet that was left to the guard.
    #[inline(always)]
    pub const fn sender(self) -> Option<Identity> {
        match self {
            Self::WORLD => Some(Identity::WORLD),
            Self::NODE => Some(Identity::NODE),
            Self::UNKNOWN => Some(Identity::UNKNOWN),
            Self(number) if number >= Identity::FIRST && number < Self::ENDPOINT => Some(Identity(number)),
            _ => None,
        }
    }

    /// The endpoint without a socket that a packet is from, where it is in a zone.
    #[inline(always)]
    pub const fn endpoint(self) -> Option<Identity> {
        let number = self.0 & !Self::ENDPOINT;
        if self.0 & Self::ENDPOINT == 0 {
            None
        } else if number < Identity::FIRST {
            Some(Identity::UNKNOWN)
        } else {
            Some(Identity(number))
        }
    }
}
