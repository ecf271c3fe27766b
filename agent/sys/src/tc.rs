//! Programs on an interface by traffic control: filters of a `clsact` queueing discipline (Linux 4.5), for
//! kernels without TCX.
//!
//! A filter needs nobody to keep it: it stays until it is deleted, or the interface is. It is found again
//! by its name. Interfaces are meant by their number in the namespace that the [`Tc`] was opened in.

use std::os::fd::{AsRawFd, BorrowedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::netlink::{self, Socket};
use crate::netns::NetNs;
use crate::{Error, Result};

pub use crate::link::tcx::Hook;

const MALFORMED: Error = Error::Malformed { what: "a filter or a queueing discipline" };
const CLSACT: &[u8] = b"clsact\0";
const BPF: &[u8] = b"bpf\0";
/// ETH_P_ALL, in network order as the kernel takes it.
const ALL: u32 = 0x0003_u16.to_be() as u32;
/// TC_H_CLSACT.
const CLSACT_PARENT: u32 = 0xffff_fff1;
// <linux/rtnetlink.h> and <linux/pkt_cls.h>
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const DIRECT_ACTION: u32 = 1;
/// Longest name of a filter, with the zero at its end (CLS_BPF_NAME_LEN).
const NAME_MAX: usize = 256;

/// A BPF filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Its name.
    pub name: String,
    /// Its program's number.
    pub program: u32,
    /// Its place: filters of lower numbers see a packet first.
    pub priority: u16,
    /// Its number among those of the same priority.
    pub handle: u32,
}

/// The traffic control of a namespace. Keeps that alive.
#[derive(Debug)]
pub struct Tc(Socket);

impl Tc {
    /// The traffic control of `ns`.
    pub fn open(ns: &NetNs) -> Result<Self> {
        Ok(Self(Socket::open(ns, libc::NETLINK_ROUTE)?))
    }

    /// The interfaces that have a `clsact`.
    pub fn clsacts(&mut self) -> Result<Vec<u32>> {
        let request = Header::default();
        self.0.dump("netlink(RTM_GETQDISC)", libc::RTM_GETQDISC, request.as_bytes(), |payload| {
            let (header, rest) = Header::read_from_prefix(payload).map_err(|_| MALFORMED)?;
            Ok(is_kind(rest, CLSACT)?.then_some(header.interface))
        })
    }

    /// Gives `interface` a `clsact`; whether it had none.
    ///
    /// Errors: ENODEV without such an interface.
    pub fn add_clsact(&mut self, interface: u32) -> Result<bool> {
        let mut request = clsact(interface).as_bytes().to_vec();
        netlink::push_attribute(&mut request, TCA_KIND, CLSACT);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match self.0.request_with("netlink(RTM_NEWQDISC)", libc::RTM_NEWQDISC, flags, &request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the `clsact` of `interface` away, with all filters in it.
    pub fn remove_clsact(&mut self, interface: u32) -> Result<()> {
        let mut request = clsact(interface).as_bytes().to_vec();
        netlink::push_attribute(&mut request, TCA_KIND, CLSACT);
        self.0.request("netlink(RTM_DELQDISC)", libc::RTM_DELQDISC, &request)
    }

    /// The BPF filters of one direction, and how many others there are.
    pub fn filters(&mut self, interface: u32, hook: Hook) -> Result<(Vec<Filter>, usize)> {
        let request = Header { interface, parent: parent(hook), ..Header::default() };
        let call = "netlink(RTM_GETTFILTER)";
        let all = self.0.dump(call, libc::RTM_GETTFILTER, request.as_bytes(), parse)?;
        let count = all.len();
        let ours: Vec<Filter> = all.into_iter().flatten().collect();
        let others = count - ours.len();
        Ok((ours, others))
    }

    /// Puts `program` (`sched_cls`) into a filter whose answer is the verdict. With `handle`, into the filter
    /// that has it, with no moment without a program; else into a new one.
    ///
    /// Errors: ENOENT without a `clsact`, EINVAL if filters of another kind have this priority.
    pub fn set_filter(
        &mut self,
        interface: u32,
        hook: Hook,
        (priority, handle): (u16, Option<u32>),
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<()> {
        let call = "netlink(RTM_NEWTFILTER)";
        if name.len() >= NAME_MAX {
            return Err(Error::from_errno(call, libc::ENAMETOOLONG));
        }
        let mut options = Vec::new();
        netlink::push_attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
        netlink::push_attribute(&mut options, TCA_BPF_NAME, &[name.as_bytes(), &[0]].concat());
        netlink::push_attribute(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
        let mut request = filter(interface, hook, priority, handle.unwrap_or(0)).as_bytes().to_vec();
        netlink::push_attribute(&mut request, TCA_KIND, BPF);
        netlink::push_attribute(&mut request, TCA_OPTIONS, &options);
        let flags = if handle.is_some() { 0 } else { libc::NLM_F_EXCL };
        self.0.request_with(call, libc::RTM_NEWTFILTER, libc::NLM_F_CREATE | flags, &request)
    }

    /// Deletes a filter.
    pub fn remove_filter(&mut self, interface: u32, hook: Hook, found: &Filter) -> Result<()> {
        let mut request = filter(interface, hook, found.priority, found.handle).as_bytes().to_vec();
        netlink::push_attribute(&mut request, TCA_KIND, BPF);
        self.0.request("netlink(RTM_DELTFILTER)", libc::RTM_DELTFILTER, &request)
    }
}

/// `struct tcmsg`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    family: u8,
    pad: [u8; 3],
    interface: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

fn clsact(interface: u32) -> Header {
    Header { interface, handle: CLSACT_PARENT & 0xffff_0000, parent: CLSACT_PARENT, ..Header::default() }
}

fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => 0xffff_fff2,
        Hook::Egress => 0xffff_fff3,
    }
}

fn filter(interface: u32, hook: Hook, priority: u16, handle: u32) -> Header {
    let info = u32::from(priority) << 16 | ALL;
    Header { interface, handle, parent: parent(hook), info, ..Header::default() }
}

/// A filter; `None` inside for one of another kind, or for the head of those of one priority.
fn parse(payload: &[u8]) -> Result<Option<Option<Filter>>> {
    let (header, rest) = Header::read_from_prefix(payload).map_err(|_| MALFORMED)?;
    if header.handle == 0 {
        return Ok(None);
    }
    if !is_kind(rest, BPF)? {
        return Ok(Some(None));
    }
    let (mut name, mut program) = (String::new(), 0);
    for attribute in netlink::attributes(rest) {
        let (TCA_OPTIONS, options) = attribute? else { continue };
        for option in netlink::attributes(options) {
            match option? {
                (TCA_BPF_NAME, value) => {
                    name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
                }
                (TCA_BPF_ID, value) => program = u32::read_from_bytes(value).map_err(|_| MALFORMED)?,
                _ => {}
            }
        }
    }
    let priority = (header.info >> 16) as u16;
    Ok(Some(Some(Filter { name, program, priority, handle: header.handle })))
}

fn is_kind(attributes: &[u8], wanted: &[u8]) -> Result<bool> {
    for attribute in netlink::attributes(attributes) {
        if let (TCA_KIND, kind) = attribute? {
            return Ok(kind == wanted);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::AsFd;

    use super::*;
    use crate::link::tests::{classifier, id};
    use crate::testing;

    #[test]
    fn filters_are_found_by_name_exchanged_and_removed() {
        if !testing::root("clsact") {
            return;
        }
        let ns = testing::netns();
        testing::ip(&ns, "link add name near type veth peer name far");
        let near = ns.interfaces().unwrap().into_iter().find(|found| found.name == "near").unwrap().index;
        let mut tc = Tc::open(&ns).unwrap();
        let [ours, successor, other] = [classifier(), classifier(), classifier()];
        assert_eq!(tc.clsacts().unwrap(), []);
        assert!(tc.add_clsact(near).unwrap());
        assert!(!tc.add_clsact(near).unwrap(), "it has one");
        assert_eq!(tc.clsacts().unwrap(), [near]);

        for hook in [Hook::Ingress, Hook::Egress] {
            assert_eq!(tc.filters(near, hook).unwrap(), (vec![], 0));
            tc.set_filter(near, hook, (7, None), "ours", ours.as_fd()).unwrap();
            tc.set_filter(near, hook, (9, None), "other", other.as_fd()).unwrap();
            let find = |tc: &mut Tc| {
                let (found, others) = tc.filters(near, hook).unwrap();
                assert_eq!(others, 0);
                found.into_iter().find(|found| found.name == "ours")
            };
            let found = find(&mut tc).unwrap();
            assert_eq!((found.program, found.priority), (id(&ours), 7));
            tc.set_filter(near, hook, (7, Some(found.handle)), "ours", successor.as_fd()).unwrap();
            let after = find(&mut tc).unwrap();
            assert_eq!(after, Filter { program: id(&successor), ..found });
            tc.remove_filter(near, hook, &after).unwrap();
            assert_eq!(find(&mut tc), None);
            let (left, _) = tc.filters(near, hook).unwrap();
            assert_eq!(left.iter().map(|left| &*left.name).collect::<Vec<_>>(), ["other"]);
        }
        tc.remove_clsact(near).unwrap();
        assert_eq!(tc.clsacts().unwrap(), []);
    }
}
