//! Being told when interfaces and addresses change: of one namespace, and of every other that something
//! leads into.
//!
//! One socket for all (NETLINK_LISTEN_ALL_NSID, Linux 4.2, CAP_NET_BROADCAST): one inside each namespace
//! would keep that alive. News may be lost when many come at once; that is told, too.

use std::mem;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::{Messages, Socket};
use crate::netns::{Interface, NetNs};
use crate::{Error, Result};

const CALL: &str = "recvmsg(NETLINK_ROUTE)";
/// Datagrams taken at once, so that whoever waits gets a turn.
const BATCH: usize = 256;
/// Room for news that nobody has read yet.
const ROOM: libc::c_int = 4 << 20;

/// Something changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// An interface of the namespace is new, or is now like this.
    Interface(Interface),
    /// An interface of the namespace is gone, or went to another namespace.
    Gone(u32),
    /// An address of the namespace came or went.
    Address,
    /// An interface or an address of another namespace changed; by the number that this one has for it.
    Elsewhere(i32),
    /// Something was not told: look at everything.
    Lost,
}

/// A subscription.
#[derive(Debug)]
pub struct Monitor(Socket);

impl Monitor {
    /// Subscribes. What happens from now on is told.
    pub fn open(ns: &NetNs) -> Result<Self> {
        // <linux/rtnetlink.h>: links, addresses of both families.
        const GROUPS: u32 = 0x1 | 0x10 | 0x100;
        const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
        let monitor = Self(Socket::open(ns, libc::NETLINK_ROUTE)?);
        // Where there is less room, more is lost, and told.
        let _ = monitor.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM, "setsockopt(SO_RCVBUFFORCE)");
        monitor.set(libc::SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1, "setsockopt(NETLINK_LISTEN_ALL_NSID)")?;
        let mut address = super::zeroed_address();
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = GROUPS;
        // SAFETY: the address is valid for the length given, and is only read.
        let status = unsafe {
            libc::bind(
                monitor.0.fd.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if status != 0 {
            return Err(Error::last("bind(NETLINK_ROUTE)"));
        }
        Ok(monitor)
    }

    /// What changed, in order; waits for something until `timeout` is over.
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + timeout;
        let mut changes = Vec::new();
        for _ in 0..BATCH {
            match self.receive() {
                Ok((length, namespace)) => self.read(length, namespace, &mut changes)?,
                Err(error) => match error.errno() {
                    Some(libc::EAGAIN) if !changes.is_empty() => break,
                    Some(libc::EAGAIN) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        if left.is_zero() || !self.poll(left)? {
                            break;
                        }
                    }
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => changes.push(Change::Lost),
                    _ => return Err(error),
                },
            }
        }
        Ok(changes)
    }

    fn read(&self, length: usize, namespace: Option<i32>, changes: &mut Vec<Change>) -> Result<()> {
        for message in Messages(self.0.buffer.get(..length).unwrap_or_default()) {
            let message = message?;
            let kind = message.header.kind;
            if let Some(namespace) = namespace {
                if changes.last() != Some(&Change::Elsewhere(namespace)) {
                    changes.push(Change::Elsewhere(namespace));
                }
            } else if kind == libc::RTM_NEWLINK || kind == libc::RTM_DELLINK {
                let Some(interface) = crate::netns::parse_interface(message.payload)? else { continue };
                changes.push(match kind {
                    libc::RTM_NEWLINK => Change::Interface(interface),
                    _ => Change::Gone(interface.index),
                });
            } else {
                changes.push(Change::Address);
            }
        }
        Ok(())
    }

    /// The next datagram's length in the buffer, and the number of the namespace that it is about.
    fn receive(&mut self) -> Result<(usize, Option<i32>)> {
        #[repr(C, align(8))]
        struct Control([u8; 128]);
        const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;
        let mut control = Control([0; 128]);
        let mut sender = super::zeroed_address();
        let mut vector =
            libc::iovec { iov_base: self.0.buffer.as_mut_ptr().cast(), iov_len: self.0.buffer.len() };
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_name = (&raw mut sender).cast();
        header.msg_namelen = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len();
        // SAFETY: every pointer in the header has room for the length beside it.
        let length = unsafe { libc::recvmsg(self.0.fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        let Ok(length) = usize::try_from(length) else {
            return Err(Error::last(CALL));
        };
        // Cut short, or not from the kernel: as if it had been lost.
        if header.msg_flags & libc::MSG_TRUNC != 0 || sender.nl_pid != 0 {
            return Err(Error::from_errno(CALL, libc::ENOBUFS));
        }
        let mut namespace = None;
        // SAFETY: the header is as recvmsg left it, and the control bytes live.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        while !next.is_null() {
            // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR answer with null or a whole header in the control bytes.
            let found = unsafe { next.read_unaligned() };
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_NETLINK, NETLINK_LISTEN_ALL_NSID) {
                // SAFETY: the kernel puts an int into this one.
                namespace = Some(unsafe { libc::CMSG_DATA(next).cast::<i32>().read_unaligned() });
            }
            // SAFETY: as above.
            next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
        }
        Ok((length, namespace))
    }

    /// Whether there is something to read before `timeout` is over.
    fn poll(&self, timeout: Duration) -> Result<bool> {
        let mut poll = libc::pollfd { fd: self.0.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let millis = timeout.as_millis().clamp(1, i32::MAX as u128) as libc::c_int;
        // SAFETY: one entry, which lives.
        let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
        match ready {
            0 => Ok(false),
            1.. => Ok(true),
            _ => match Error::last("poll") {
                error if error.errno() == Some(libc::EINTR) => Ok(true),
                error => Err(error),
            },
        }
    }

    fn set(
        &self,
        level: libc::c_int,
        option: libc::c_int,
        value: libc::c_int,
        call: &'static str,
    ) -> Result<()> {
        // SAFETY: the value is valid for the length given, and is only read.
        let status = unsafe {
            libc::setsockopt(
                self.0.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if status != 0 { Err(Error::last(call)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::netns::Numbers;
    use crate::testing;

    /// Waits until `wanted` answers something.
    fn wait_for<T>(monitor: &mut Monitor, mut wanted: impl FnMut(&Change) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            for change in monitor.wait(Duration::from_millis(100)).unwrap() {
                if let Some(found) = wanted(&change) {
                    return found;
                }
            }
        }
        panic!("nothing was told");
    }

    #[test]
    fn changes_here_and_behind_pairs_are_told() {
        if !testing::root("netlink monitor") {
            return;
        }
        let [here, there] = [testing::netns(), testing::netns()];
        let mut monitor = Monitor::open(&here).unwrap();
        assert_eq!(monitor.wait(Duration::from_millis(1)).unwrap(), []);
        testing::ip(&here, "link add name near type veth peer name far");
        let named = |wanted: &'static str| {
            move |change: &Change| match change {
                Change::Interface(interface) if interface.name == wanted => Some(interface.index),
                _ => None,
            }
        };
        let near = wait_for(&mut monitor, named("near"));
        let far = here.interfaces().unwrap().into_iter().find(|found| found.name == "far").unwrap();
        testing::ip(&here, &format!("link set far netns {}", there.path()));
        wait_for(&mut monitor, |change| (*change == Change::Gone(far.index)).then_some(()));

        let number = Numbers::open(&here).unwrap().of(&there).unwrap().unwrap();
        while !monitor.wait(Duration::from_millis(50)).unwrap().is_empty() {}
        testing::ip(&there, "addr add 10.9.8.7/24 dev far");
        wait_for(&mut monitor, |change| (*change == Change::Elsewhere(number)).then_some(()));
        testing::ip(&here, "addr add 10.9.8.6/24 dev near");
        wait_for(&mut monitor, |change| (*change == Change::Address).then_some(()));
        testing::ip(&here, "link set near name other");
        assert_eq!(wait_for(&mut monitor, named("other")), near);
        testing::ip(&here, "link delete other");
        wait_for(&mut monitor, |change| (*change == Change::Gone(near)).then_some(()));
    }
}
