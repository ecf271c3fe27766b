//! The sockets of a network namespace: listing them, and ending one.
//!
//! Both go through sock_diag on a netlink socket that a [`Diag`] holds inside the namespace, and which
//! keeps that alive: make one, use it, drop it.
//!
//! A listing is no snapshot: a socket that is made or closed meanwhile may be in it or not, and a socket
//! that changes its state may be in it twice. What is there all the time is listed.

mod wire;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::BorrowedFd;
use std::slice;

use bulkhead_abi::{Addr, Protocol};

use crate::netlink::Socket as Netlink;
use crate::netns::NetNs;
use crate::{Error, Result};

const DUMP: &str = "netlink(SOCK_DIAG_BY_FAMILY)";
const DESTROY: &str = "netlink(SOCK_DESTROY)";

/// Address family of a socket. One of [`Family::V6`] may well speak IPv4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Family {
    /// AF_INET.
    V4 = libc::AF_INET as u8,
    /// AF_INET6.
    V6 = libc::AF_INET6 as u8,
}

/// State of a socket, in TCP's numbers. UDP knows [`State::ESTABLISHED`] (connected) and
/// [`State::CLOSE`] (not connected).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct State(pub u8);

impl State {
    /// Connected.
    pub const ESTABLISHED: Self = Self(1);
    /// Connecting.
    pub const SYN_SENT: Self = Self(2);
    /// A request that a listener has not yet accepted the handshake of; no full socket.
    pub const SYN_RECEIVED: Self = Self(3);
    /// What is left of a closed connection; no full socket.
    pub const TIME_WAIT: Self = Self(6);
    /// Not connected.
    pub const CLOSE: Self = Self(7);
    /// Accepting connections.
    pub const LISTEN: Self = Self(10);

    /// Its bit in [`Query::states`].
    pub const fn bit(self) -> u32 {
        1 << self.0
    }
}

/// Which sockets are asked for, and what about them.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// TCP, UDP, UDP-Lite, or SCTP (with its first addresses only).
    pub protocol: Protocol,
    /// A bit for each [`State`]; [`Query::ANY_STATE`] for all.
    pub states: u32,
    /// Whether [`Socket::traffic`] is wanted (TCP). Locks each socket for a moment.
    pub traffic: bool,
    /// Socket storage maps whose values are wanted, each once (Linux 5.7; CAP_BPF). TCP only: the kernel
    /// (6.18) tells no storage of UDP sockets here.
    pub storages: &'a [BorrowedFd<'a>],
}

impl Query<'_> {
    /// For [`Query::states`].
    pub const ANY_STATE: u32 = u32::MAX;

    /// Every socket of `protocol`, without extras.
    pub const fn all(protocol: Protocol) -> Self {
        Self { protocol, states: Self::ANY_STATE, traffic: false, storages: &[] }
    }
}

/// A socket as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    /// AF_INET or AF_INET6.
    pub family: Family,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub state: State,
    /// Its own address. [`Addr::ANY`] on a socket of [`Family::V6`] takes IPv4 too, unless `v6only`.
    pub local: Addr,
    /// The other end's, or the unspecified one of the same kind as `local`.
    pub remote: Addr,
    /// Its own port.
    pub local_port: u16,
    /// The other end's, or 0.
    pub remote_port: u16,
    /// The interface that it is bound to, or 0.
    pub interface: u32,
    /// SO_COOKIE: unique on the machine as long as it runs.
    pub cookie: u64,
    /// The number in `socket:[1234]`; 0 where no program holds it.
    pub inode: u32,
    /// Who made it.
    pub uid: u32,
    /// The cgroup that it was made in (Linux 5.7); `None` where it is no full socket.
    pub cgroup: Option<u64>,
    /// IPV6_V6ONLY; told while listening or not connected only, else false.
    pub v6only: bool,
    /// Where asked for.
    pub traffic: Option<Traffic>,
    /// The values of the storage maps that were asked for and that hold one for this socket:
    /// (map id, bytes).
    pub storages: Vec<(u32, Vec<u8>)>,
}

/// What a TCP socket sent and received so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Payload bytes sent, retransmissions included (Linux 4.19; 0 before).
    pub sent: u64,
    /// Payload bytes received.
    pub received: u64,
    /// Milliseconds since payload was last sent.
    pub since_sent: u32,
    /// Milliseconds since payload was last received.
    pub since_received: u32,
}

/// One socket to be ended. The cookie says which; the rest is how the kernel finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its protocol.
    pub protocol: Protocol,
    /// SO_COOKIE.
    pub cookie: u64,
    /// Its own address.
    pub local: Addr,
    /// The other end's; unspecified where it has none.
    pub remote: Addr,
    /// Its own port.
    pub local_port: u16,
    /// The other end's, or 0.
    pub remote_port: u16,
    /// The interface that it is bound to, or 0 for none or unknown.
    pub interface: u32,
}

impl From<&Socket> for Target {
    fn from(socket: &Socket) -> Self {
        Self {
            protocol: socket.protocol,
            cookie: socket.cookie,
            local: socket.local,
            remote: socket.remote,
            local_port: socket.local_port,
            remote_port: socket.remote_port,
            interface: socket.interface,
        }
    }
}

/// What became of a [`Target`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a socket that could not be reached goes on"]
pub enum Destroyed {
    /// It was ended by this call. Its program gets ECONNABORTED; a TCP peer gets a reset.
    Now,
    /// There is no socket with this cookie and these addresses (any more).
    Gone,
    /// It lives, but others share its address and port (SO_REUSEPORT), and the kernel, which looks by
    /// those, always found another one.
    Shadowed,
}

/// A view of one namespace's sockets.
#[derive(Debug)]
pub struct Diag {
    netlink: Netlink,
}

impl Diag {
    /// Opens `ns` for looking. Errors as for [`NetNs::run`] and of socket(2).
    pub fn open(ns: &NetNs) -> Result<Self> {
        Ok(Self { netlink: Netlink::open(ns, libc::NETLINK_SOCK_DIAG)? })
    }

    /// The sockets that `query` asks for, of both families. Linux 4.2 without storages and cgroups.
    ///
    /// Errors: [`Error::NoDiagnostics`]; EPERM for storages without CAP_BPF, EEXIST for a map that is
    /// named twice, EINVAL for a descriptor that is no socket storage map.
    pub fn dump(&mut self, query: &Query<'_>) -> Result<Vec<Socket>> {
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            let request = wire::dump(query, family);
            let parse = |payload: &[u8]| wire::parse(payload, query.protocol);
            match self.netlink.dump(DUMP, wire::SOCK_DIAG_BY_FAMILY, &request, parse) {
                Ok(sockets) => found.extend(sockets),
                Err(error) if error.errno() == Some(libc::ENOENT) => {
                    return Err(Error::NoDiagnostics { protocol: query.protocol });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Ends the socket that `target` names (SOCK_DESTROY, Linux 4.5 for TCP, 4.9 for UDP; CAP_NET_ADMIN in
    /// the namespace). The kernel looks the socket up by its addresses and compares the cookie: a socket
    /// with another cookie is never touched. A UDP socket stays open, and is no longer connected; one that
    /// had been connected to `target.remote` and is connected to nobody by now is ended as well.
    ///
    /// Errors: EOPNOTSUPP where the kernel was built without CONFIG_INET_DIAG_DESTROY or the protocol (SCTP)
    /// has no such thing; EINVAL for the cookie `u64::MAX`, which the kernel would take for "any".
    pub fn destroy(&mut self, target: &Target) -> Result<Destroyed> {
        self.destroy_all(slice::from_ref(target)).pop().unwrap_or(Ok(Destroyed::Gone))
    }

    /// [`Diag::destroy`] for many, with an answer for each in their order; an error of one stops none. A
    /// socket that is not found at once costs a listing of the namespace's sockets: one for all of them.
    pub fn destroy_all(&mut self, targets: &[Target]) -> Vec<Result<Destroyed>> {
        let first: Vec<_> = targets.iter().map(|target| self.try_destroy(target)).collect();
        // ENOENT may also mean that it is bound to an interface we did not name, or that another socket
        // with its address was found first.
        let mut listing = Listing::default();
        let second: Vec<_> = targets
            .iter()
            .zip(first)
            .map(|(target, ended)| {
                if ended? {
                    return Ok(Some(Destroyed::Now));
                }
                let Some(target) = self.locate(target, &mut listing)? else {
                    return Ok(Some(Destroyed::Gone));
                };
                let ended = self.try_destroy(&target)? || self.destroy_shared(&target)?;
                Ok(ended.then_some(Destroyed::Now))
            })
            .collect();
        let mut listing = Listing::default();
        targets
            .iter()
            .zip(second)
            .map(|(target, answer)| match answer? {
                Some(answer) => Ok(answer),
                None if self.locate(target, &mut listing)?.is_some() => Ok(Destroyed::Shadowed),
                None => Ok(Destroyed::Gone),
            })
            .collect()
    }

    fn try_destroy(&mut self, target: &Target) -> Result<bool> {
        if target.cookie == wire::NO_COOKIE {
            return Err(Error::from_errno(DESTROY, libc::EINVAL));
        }
        match self.netlink.request(DESTROY, wire::SOCK_DESTROY, &wire::destroy(target)) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where a group of sockets shares address and port, the kernel chooses by a hash over both ends. As
    /// ours has no other end, any may be named until the hash leads to it.
    fn destroy_shared(&mut self, target: &Target) -> Result<bool> {
        if target.remote_port != 0 {
            return Ok(false);
        }
        for remote_port in 1..=1024 {
            if self.try_destroy(&Target { remote_port, ..*target })? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `target` as it stands now, if its flow is still the same: a socket that meanwhile talks to somebody
    /// else, or to nobody, is not meant.
    fn locate(&mut self, target: &Target, listing: &mut Listing) -> Result<Option<Target>> {
        let sockets = match listing.entry(target.protocol) {
            Entry::Occupied(sockets) => sockets.into_mut(),
            Entry::Vacant(vacant) => {
                let states = Query::ANY_STATE & !State::TIME_WAIT.bit();
                let sockets = self.dump(&Query { states, ..Query::all(target.protocol) })?;
                let by_cookie = sockets.iter().map(|socket| (socket.cookie, Target::from(socket)));
                vacant.insert(by_cookie.collect())
            }
        };
        let same_peer = |found: &&Target| {
            found.remote_port == target.remote_port
                && (found.remote == target.remote
                    || found.remote.is_unspecified() && target.remote.is_unspecified())
        };
        Ok(sockets.get(&target.cookie).filter(same_peer).copied())
    }
}

/// Every socket of the protocols that were asked for so far, by cookie.
type Listing = HashMap<Protocol, HashMap<u64, Target>>;

#[cfg(test)]
mod tests;
