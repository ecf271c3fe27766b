//! Addresses and protocol numbers.

use core::{cmp::Ordering, fmt};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
///
/// Two words in memory, so that programs move and compare it in two steps: the verifier walks every
/// turn of a loop over bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Addr([u64; 2]);

impl Addr {
    /// `::`, which is also how a socket that is bound to every address of both families is written.
    pub const ANY: Self = Self([0; 2]);
    /// `::ffff:0.0.0.0`: bound to every IPv4 address.
    pub const ANY_V4: Self = Self::v4([0; 4]);

    /// The IPv4 address `octets` in its mapped form.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Whether this is an IPv4 address in its mapped form.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let (high, low) = self.words();
        high == 0 && low >> 32 == 0xffff
    }

    /// 127.0.0.0/8 or ::1.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        let (high, low) = self.words();
        high == 0 && (low == 1 || low >> 24 == 0x00ff_ff7f)
    }

    /// `::` or `0.0.0.0`.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let (high, low) = self.words();
        high == 0 && (low == 0 || low == 0xffff << 32)
    }

    /// The address with these bytes, in network order.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])])
    }

    /// The address with these two halves, each as it lies in memory.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// Its bytes, in network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        let [high, low] = self.0;
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (high.to_ne_bytes(), low.to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The upper and the lower half as numbers.
    #[inline(always)]
    pub const fn words(&self) -> (u64, u64) {
        let [high, low] = self.0;
        (u64::from_be(high), u64::from_be(low))
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Addr({})", core::net::Ipv6Addr::from(self.octets()))
    }
}

impl Ord for Addr {
    #[inline(always)]
    fn cmp(&self, other: &Self) -> Ordering {
        self.words().cmp(&other.words())
    }
}

impl PartialOrd for Addr {
    #[inline(always)]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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
    /// ESP, what IPsec encrypts (RFC 4303).
    pub const ESP: Self = Self(50);
    /// AH, what IPsec only signs (RFC 4302).
    pub const AH: Self = Self(51);
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
