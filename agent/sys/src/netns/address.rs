//! The addresses of a namespace's interfaces.

use bulkhead_abi::Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::netlink::{self, Socket};
use crate::{Error, Result};

/// An address that an interface has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InterfaceAddress {
    /// The address.
    pub addr: Addr,
    /// Its prefix's length in bits of the 16 bytes: 96 more than written where the address is IPv4.
    pub prefix_len: u8,
    /// The interface's number in its namespace.
    pub interface: u32,
}

/// RTM_GETADDR for both families (any kernel).
pub(super) fn list(socket: &mut Socket) -> Result<Vec<InterfaceAddress>> {
    let request = Header { family: 0, prefix_len: 0, flags: 0, scope: 0, interface: 0 };
    socket.dump("netlink(RTM_GETADDR)", libc::RTM_GETADDR, request.as_bytes(), parse)
}

/// `struct ifaddrmsg`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    family: u8,
    prefix_len: u8,
    flags: u8,
    scope: u8,
    interface: u32,
}

fn parse(payload: &[u8]) -> Result<Option<InterfaceAddress>> {
    const MALFORMED: Error = Error::Malformed { what: "an interface's address" };
    let (header, rest) = Header::read_from_prefix(payload).map_err(|_| MALFORMED)?;
    let (mut local, mut address) = (None, None);
    for attribute in netlink::attributes(rest) {
        match attribute? {
            (libc::IFA_LOCAL, value) => local = Some(value),
            (libc::IFA_ADDRESS, value) => address = Some(value),
            _ => {}
        }
    }
    // On a point-to-point interface IFA_ADDRESS is the other end's.
    let bytes = local.or(address).ok_or(MALFORMED)?;
    let (addr, offset) = match i32::from(header.family) {
        libc::AF_INET => (Addr::v4(bytes.try_into().map_err(|_| MALFORMED)?), 96),
        libc::AF_INET6 => (Addr::from_octets(bytes.try_into().map_err(|_| MALFORMED)?), 0),
        _ => return Ok(None),
    };
    let prefix_len = header.prefix_len.checked_add(offset).filter(|len| *len <= 128).ok_or(MALFORMED)?;
    Ok(Some(InterfaceAddress { addr, prefix_len, interface: header.interface }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing;

    #[test]
    fn all_addresses_of_both_families_are_found() {
        if !testing::root("netns addresses") {
            return;
        }
        let ns = testing::netns();
        testing::ip(&ns, "link add name veth-a type veth peer name veth-b");
        testing::ip(&ns, "addr add 10.9.8.7/24 dev veth-a");
        testing::ip(&ns, "addr add 10.1.1.1 peer 10.1.1.2/32 dev veth-b");
        testing::ip(&ns, "addr add fd00:1::9/64 dev veth-b nodad");
        let ipv6 = |last: u8, head: [u8; 4]| {
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(head).for_each(|(to, from)| *to = from);
            let [.., to] = &mut bytes;
            *to = last;
            Addr::from_octets(bytes)
        };
        let mut found: Vec<_> =
            ns.addresses().unwrap().into_iter().map(|found| (found.addr, found.prefix_len)).collect();
        found.sort_unstable();
        let mut expected = vec![
            (Addr::v4([127, 0, 0, 1]), 96 + 8),
            (Addr::v4([10, 9, 8, 7]), 96 + 24),
            (Addr::v4([10, 1, 1, 1]), 96 + 32),
            (ipv6(1, [0; 4]), 128),
            (ipv6(9, [0xfd, 0, 0, 1]), 64),
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
        let interfaces: std::collections::BTreeSet<_> =
            ns.addresses().unwrap().into_iter().map(|found| found.interface).collect();
        assert_eq!(interfaces.len(), 3);
    }

    #[test]
    fn broken_answers_are_refused() {
        let header = Header { family: 2, prefix_len: 33, flags: 0, scope: 0, interface: 1 };
        let mut message = header.as_bytes().to_vec();
        assert!(parse(&message).is_err(), "no address");
        netlink::push_attribute(&mut message, libc::IFA_LOCAL, &[1, 2, 3, 4]);
        assert!(parse(&message).is_err(), "prefix too long");
        assert!(parse(&[2, 8]).is_err(), "cut short");
    }
}
