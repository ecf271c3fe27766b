//! The numbers that one namespace has for others ("nsid").

use std::os::fd::AsRawFd;

use zerocopy::FromBytes;

use super::NetNs;
use crate::netlink::{self, Socket};
use crate::{Error, Result};

/// Tells which number a namespace has for another. The kernel gives one as soon as something leads from
/// one into the other, and uses it in what it tells of interfaces. Keeps its namespace alive.
#[derive(Debug)]
pub struct Numbers(Socket);

impl Numbers {
    /// The numbers that `ns` has.
    pub fn open(ns: &NetNs) -> Result<Self> {
        Ok(Self(Socket::open(ns, libc::NETLINK_ROUTE)?))
    }

    /// The number of `other`, if it has one (RTM_GETNSID, Linux 4.0).
    pub fn of(&mut self, other: &NetNs) -> Result<Option<i32>> {
        const CALL: &str = "netlink(RTM_GETNSID)";
        // <linux/net_namespace.h>
        const NETNSA_NSID: u16 = 1;
        const NETNSA_FD: u16 = 3;
        // `struct rtgenmsg`, and what aligns it.
        let mut request = vec![0; 4];
        netlink::push_attribute(&mut request, NETNSA_FD, &other.file.as_raw_fd().to_ne_bytes());
        self.0.ask(CALL, libc::RTM_GETNSID, &request, |payload| {
            for attribute in netlink::attributes(payload.get(4..).unwrap_or_default()) {
                if let (NETNSA_NSID, value) = attribute? {
                    // -1 where it has none.
                    return Ok(i32::read_from_bytes(value).ok().filter(|number| *number >= 0));
                }
            }
            Err(Error::Malformed { what: "the number of a network namespace" })
        })
    }
}
