//! Which of its addresses a namespace sends from, where that is not told by there being one only.

use bulkhead_abi::Addr;
use zerocopy::{FromBytes, IntoBytes};

use super::rtmsg::Header;
use crate::netlink::{self, Socket};
use crate::{Error, Result};

/// The addresses that its default routes are taken from, IPv4 and IPv6. One without such a route, or whose
/// route cannot be asked for, has none.
pub(super) fn sources(socket: &mut Socket) -> Vec<Addr> {
    // Addresses of documentation (RFC 5737, RFC 3849), which nobody has a route of his own for.
    let outside = [(libc::AF_INET, &[192, 0, 2, 1][..]), (libc::AF_INET6, &OUTSIDE_V6)];
    outside.into_iter().filter_map(|(family, addr)| source(socket, family, addr).ok().flatten()).collect()
}

const OUTSIDE_V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// RTM_GETROUTE for one destination (any kernel). ENETUNREACH where there is no route.
fn source(socket: &mut Socket, family: libc::c_int, to: &[u8]) -> Result<Option<Addr>> {
    let header = Header { family: family as u8, dst_len: (to.len() * 8) as u8, ..Header::default() };
    let mut request = header.as_bytes().to_vec();
    netlink::push_attribute(&mut request, libc::RTA_DST, to);
    socket.ask("netlink(RTM_GETROUTE)", libc::RTM_GETROUTE, &request, parse)
}

fn parse(payload: &[u8]) -> Result<Option<Addr>> {
    const MALFORMED: Error = Error::Malformed { what: "a route" };
    let (header, rest) = Header::read_from_prefix(payload).map_err(|_| MALFORMED)?;
    if header.kind != libc::RTN_UNICAST {
        return Ok(None);
    }
    for attribute in netlink::attributes(rest) {
        if let (libc::RTA_PREFSRC, value) = attribute? {
            return match i32::from(header.family) {
                libc::AF_INET => Ok(Some(Addr::v4(value.try_into().map_err(|_| MALFORMED)?))),
                _ => Ok(Some(Addr::from_octets(value.try_into().map_err(|_| MALFORMED)?))),
            };
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::testing;

    #[test]
    fn the_default_routes_say_where_from() {
        if !testing::root("netns routes") {
            return;
        }
        let ns = testing::netns();
        assert_eq!(ns.survey().unwrap().sources, []);
        testing::ip(&ns, "link add name veth-a type veth peer name veth-b");
        for interface in ["veth-a", "veth-b"] {
            testing::ip(&ns, &format!("link set {interface} up"));
        }
        testing::ip(&ns, "addr add 10.1.1.1/24 dev veth-b");
        testing::ip(&ns, "addr add 10.9.8.7/24 dev veth-a");
        testing::ip(&ns, "addr add fd00:1::9/64 dev veth-a nodad");
        testing::ip(&ns, "addr add fd00:2::9/64 dev veth-b nodad");
        assert_eq!(ns.survey().unwrap().sources, [], "no default route");
        testing::ip(&ns, "route add default via 10.9.8.1");
        testing::ip(&ns, "-6 route add default via fd00:1::1");
        let v6 = Addr::from_octets([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(ns.survey().unwrap().sources, [Addr::v4([10, 9, 8, 7]), v6]);
    }

    #[test]
    fn broken_answers_are_refused() {
        let header = Header { family: 2, kind: libc::RTN_UNICAST, ..Header::default() };
        let mut message = header.as_bytes().to_vec();
        assert_eq!(parse(&message).unwrap(), None);
        netlink::push_attribute(&mut message, libc::RTA_PREFSRC, &[1, 2, 3]);
        assert!(parse(&message).is_err());
        assert!(parse(&[2, 8]).is_err(), "cut short");
    }
}
