//! Addresses and protocol numbers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
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
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// `::`, which is also how a socket that is bound to every address of both families is written.
    pub const ANY: Self = Self([0; 16]);
    /// `::ffff:0.0.0.0`: bound to every IPv4 address.
    pub const ANY_V4: Self = Self::v4([0; 4]);

    /// The IPv4 address `octets` in its mapped form.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [head @ .., _, _, _, _] = &self.0;
        *head == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }

    /// 127.0.0.0/8 or ::1.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return matches!(self.0, [.., 127, _, _, _]);
        }
        self.0 == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    }

    /// `::` or `0.0.0.0`.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        *self == Self::ANY || *self == Self::ANY_V4
    }
}

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// DCCP.
    pub const DCCP: Self = Self(33);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    /// Whether the first four bytes of its header are the source and destination port.
    #[inline(always)]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::DCCP | Self::SCTP | Self::UDPLITE)
    }

    /// ICMP of either family.
    #[inline(always)]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }

    /// Whether Bulkhead knows the protocol well enough that a default denial of it is plain
    /// [`Reason::Default`](crate::Reason::Default); all others are denied as
    /// [`Reason::UnknownProtocol`](crate::Reason::UnknownProtocol).
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.has_ports() || self.is_icmp()
    }
}
