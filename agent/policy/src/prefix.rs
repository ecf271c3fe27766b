//! Address prefixes of both families in one space of 16 bytes.
//!
//! A prefix covers addresses of its own family only: `::/0` is every IPv6 address and no IPv4 one,
//! although `::ffff:0:0/96`, where IPv4 lives, lies inside it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_abi::Addr;
use serde::{Serialize, Serializer};

/// Length of the prefix that all IPv4 addresses share: `::ffff:0:0/96`.
pub const V4_BITS: u8 = 96;

/// An address prefix. The bits of `addr` beyond `len` are zero; [`Prefix::new`] sees to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    /// The network's address.
    pub addr: Addr,
    /// How many leading bits count, 0 to 128; an IPv4 `/n` is `96 + n`.
    pub len: u8,
}

impl Prefix {
    /// `::ffff:0:0/96`, every IPv4 address.
    pub const ALL_V4: Self = Self { addr: Addr::ANY_V4, len: V4_BITS };

    /// The prefix of the first `len` bits of `addr`; a `len` over 128 counts as 128.
    pub fn new(addr: Addr, len: u8) -> Self {
        let len = len.min(128);
        Self { addr: Addr::from_octets((bits(addr) & mask(len)).to_be_bytes()), len }
    }

    /// The prefix of one address.
    pub const fn host(addr: Addr) -> Self {
        Self { addr, len: 128 }
    }

    /// Whether this is an IPv4 prefix.
    pub fn is_v4(&self) -> bool {
        self.len >= V4_BITS && self.addr.is_v4()
    }

    /// Whether `addr` lies in it, family apart: this is what a longest-prefix match sees.
    pub fn covers_bits(&self, addr: Addr) -> bool {
        (bits(addr) ^ bits(self.addr)) & mask(self.len) == 0
    }

    /// Whether `other` lies in it, family apart.
    pub fn covers_prefix(&self, other: &Self) -> bool {
        self.len <= other.len && self.covers_bits(other.addr)
    }

    /// Whether the two have an address in common, family apart.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers_prefix(other) || other.covers_prefix(self)
    }

    /// The addresses that both have, as prefixes of one family; `None` if there is none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let narrower = if self.len >= other.len { self } else { other };
        (self.is_v4() == other.is_v4() && self.overlaps(other)).then_some(*narrower)
    }

    /// Whether the prefixes of `parts` together leave no address of it out.
    pub fn is_covered_by(&self, parts: &[Self]) -> bool {
        let within: Vec<Self> =
            parts.iter().filter(|part| self.intersection(part).is_some()).copied().collect();
        if within.iter().any(|part| part.covers_prefix(self)) {
            return true;
        }
        // Whatever is left lies deeper, so the halves come to an end.
        !within.is_empty()
            && self.halves().is_some_and(|halves| halves.iter().all(|h| h.is_covered_by(&within)))
    }

    /// Both halves of it, if it has more than one address.
    fn halves(&self) -> Option<[Self; 2]> {
        let len = self.len.checked_add(1).filter(|len| *len <= 128)?;
        let upper = bits(self.addr) | 1 << (128 - u32::from(len));
        Some([Self::new(self.addr, len), Self::new(Addr::from_octets(upper.to_be_bytes()), len)])
    }
}

/// The address of the standard library as 16 bytes.
pub fn from_ip(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::from_octets(v6.octets()),
    }
}

/// The standard library's address of 16 bytes; mapped addresses read as IPv4.
pub fn to_ip(addr: Addr) -> IpAddr {
    let [.., a, b, c, d] = addr.octets();
    if addr.is_v4() {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(addr.octets()))
    }
}

/// The bits of an address, the first one the most significant.
pub(crate) fn bits(addr: Addr) -> u128 {
    u128::from_be_bytes(addr.octets())
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = if self.is_v4() { self.len - V4_BITS } else { self.len };
        // A short prefix of IPv6 may end inside the mapped range and must not be printed as IPv4.
        if self.is_v4() {
            write!(f, "{}/{len}", to_ip(self.addr))
        } else {
            write!(f, "{}/{len}", Ipv6Addr::from(self.addr.octets()))
        }
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared_and_text_is_of_its_family() {
        let prefix = Prefix::new(Addr::v4([10, 1, 2, 3]), 96 + 8);
        assert_eq!(prefix.to_string(), "10.0.0.0/8");
        assert_eq!(Prefix::new(Addr::from_octets([0xfd; 16]), 16).to_string(), "fdfd::/16");
        assert_eq!(Prefix::new(Addr::ANY, 0).to_string(), "::/0");
    }

    #[test]
    fn a_prefix_covers_what_shares_its_bits() {
        let wide = Prefix::new(Addr::v4([10, 0, 0, 0]), 96 + 8);
        let narrow = Prefix::new(Addr::v4([10, 9, 0, 0]), 96 + 16);
        assert!(wide.covers_prefix(&narrow) && !narrow.covers_prefix(&wide));
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!wide.covers_bits(Addr::v4([11, 0, 0, 0])));
        assert!(Prefix::new(Addr::ANY, 0).covers_bits(Addr::from_octets([0xff; 16])));
    }

    #[test]
    fn what_two_prefixes_have_in_common_is_of_one_family() {
        let wide = Prefix::new(Addr::v4([10, 0, 0, 0]), 96 + 8);
        let narrow = Prefix::new(Addr::v4([10, 9, 0, 0]), 96 + 16);
        assert_eq!((wide.intersection(&narrow), narrow.intersection(&wide)), (Some(narrow), Some(narrow)));
        assert_eq!(narrow.intersection(&Prefix::new(Addr::v4([10, 8, 0, 0]), 96 + 16)), None);
        assert_eq!(wide.intersection(&Prefix::new(Addr::ANY, 0)), None);
    }

    #[test]
    fn parts_cover_a_prefix_together() {
        let part = |n: u8, len: u8| Prefix::new(Addr::v4([10, n, 0, 0]), 96 + len);
        let whole = part(96, 12);
        assert!(whole.is_covered_by(&[whole]) && whole.is_covered_by(&[part(0, 8)]));
        assert!(whole.is_covered_by(&[part(104, 13), part(96, 14), part(0, 16), part(100, 14)]));
        assert!(!whole.is_covered_by(&[part(104, 13), part(96, 14)]));
        assert!(!whole.is_covered_by(&[Prefix::new(Addr::ANY, 0)]), "another family");
        assert!(!whole.is_covered_by(&[]) && !Prefix::host(Addr::ANY).is_covered_by(&[whole]));
    }
}
