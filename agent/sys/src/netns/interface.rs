//! The interfaces of a namespace.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::netlink::{self, Socket};
use crate::{Error, Result};

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name; may change.
    pub name: String,
    /// Whether its packets begin with an Ethernet header.
    pub ethernet: bool,
    /// Whether it is loopback.
    pub loopback: bool,
    /// Whether it is set up.
    pub up: bool,
    /// The other end, if it is one of a pair of virtual interfaces (veth).
    pub peer: Option<Peer>,
}

/// The other end of a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Peer {
    /// Its number in its own namespace.
    pub index: u32,
    /// Its namespace, by the number that this one has for it ([`Numbers`](super::Numbers)); `None` if it is
    /// the same.
    pub namespace: Option<i32>,
}

/// RTM_GETLINK (any kernel); IFLA_LINK_NETNSID is of Linux 4.0.
pub(super) fn list(socket: &mut Socket) -> Result<Vec<Interface>> {
    let mut request =
        Header { family: 0, pad: 0, kind: 0, index: 0, flags: 0, change: 0 }.as_bytes().to_vec();
    // The counters of each interface are long, and nobody asks (Linux 4.4).
    const SKIP_STATS: u32 = 1 << 3;
    netlink::push_attribute(&mut request, libc::IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    socket.dump("netlink(RTM_GETLINK)", libc::RTM_GETLINK, &request, parse)
}

/// `struct ifinfomsg`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    family: u8,
    pad: u8,
    kind: u16,
    index: u32,
    flags: u32,
    change: u32,
}

/// An RTM_NEWLINK or RTM_DELLINK message. `None` for one that tells of a bridge's port and not of an
/// interface.
pub(crate) fn parse(payload: &[u8]) -> Result<Option<Interface>> {
    const MALFORMED: Error = Error::Malformed { what: "an interface" };
    let (header, rest) = Header::read_from_prefix(payload).map_err(|_| MALFORMED)?;
    if i32::from(header.family) != libc::AF_UNSPEC {
        return Ok(None);
    }
    let (mut name, mut link, mut namespace, mut veth) = (None, None, None, false);
    for attribute in netlink::attributes(rest) {
        match attribute? {
            (libc::IFLA_IFNAME, value) => name = Some(text(value).ok_or(MALFORMED)?),
            (libc::IFLA_LINK, value) => link = u32::read_from_bytes(value).ok(),
            (libc::IFLA_LINK_NETNSID, value) => namespace = i32::read_from_bytes(value).ok(),
            (libc::IFLA_LINKINFO, value) => {
                for attribute in netlink::attributes(value) {
                    let (kind, value) = attribute?;
                    veth |= kind == libc::IFLA_INFO_KIND && text(value) == Some("veth");
                }
            }
            _ => {}
        }
    }
    let flag = |flag: libc::c_int| header.flags & flag as u32 != 0;
    Ok(Some(Interface {
        index: header.index,
        name: name.ok_or(MALFORMED)?.to_owned(),
        ethernet: header.kind == libc::ARPHRD_ETHER,
        loopback: flag(libc::IFF_LOOPBACK),
        up: flag(libc::IFF_UP),
        // The number is 0 where the other end is out of sight.
        peer: link.filter(|index| veth && *index != 0).map(|index| Peer { index, namespace }),
    }))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::netns::Numbers;
    use crate::testing;

    #[test]
    fn pairs_lead_to_the_namespace_of_their_other_end() {
        if !testing::root("netns interfaces") {
            return;
        }
        let [here, there] = [testing::netns(), testing::netns()];
        let mut numbers = Numbers::open(&here).unwrap();
        assert_eq!(numbers.of(&there).unwrap(), None, "nothing leads there yet");
        testing::ip(&here, "link add name near type veth peer name far");
        testing::ip(&here, "link add name inner type veth peer name other");
        testing::ip(&here, "link set far up");
        testing::ip(&here, &format!("link set far netns {}", there.path()));

        let interfaces = here.interfaces().unwrap();
        let found = |name: &str| interfaces.iter().find(|found| found.name == name).unwrap().clone();
        let far = there.interfaces().unwrap().into_iter().find(|found| found.name == "far").unwrap();
        let near = found("near");
        let number = numbers.of(&there).unwrap();
        assert!(number.is_some());
        assert_eq!(near.peer, Some(Peer { index: far.index, namespace: number }));
        assert_eq!(far.peer.unwrap().index, near.index);
        assert!(near.ethernet && !near.loopback && !near.up);
        let inner = Peer { index: found("other").index, namespace: None };
        assert_eq!(found("inner").peer, Some(inner), "in the same namespace");
        let lo = found("lo");
        assert!(lo.loopback && lo.up && lo.peer.is_none() && !lo.ethernet);
        assert_eq!(numbers.of(&here).unwrap(), None);

        let survey = here.survey().unwrap();
        assert_eq!((survey.cookie, survey.interfaces.len()), (here.cookie().unwrap(), interfaces.len()));
        assert_eq!(survey.addresses, here.addresses().unwrap());
    }

    #[test]
    fn what_is_told_of_bridge_ports_is_passed_over() {
        let header = |family| Header { family, pad: 0, kind: 1, index: 7, flags: 0, change: 0 };
        assert_eq!(parse(header(7).as_bytes()).unwrap(), None);
        assert!(parse(header(0).as_bytes()).is_err(), "no name");
        assert!(parse(&[0; 8]).is_err(), "cut short");
    }
}
