//! Sockets by number, and how they are made. All are non-blocking; waiting is done by poll.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_tests::harness::protocol::{Answer, Cause, Kind, Serve, SocketInfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RawProtocol, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind,
    connect as dial, getpeername, getsockname, ipproto, listen, sendto, socket_with, sockopt,
};

use crate::micros;
use crate::serve::{self, Counting, TICK};

/// Why a call failed, and how much of it was done by then.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) cause: Cause,
    pub(crate) done: u64,
}

impl Fault {
    pub(crate) fn timeout() -> Fault {
        Fault { cause: Cause::Timeout, done: 0 }
    }

    pub(crate) fn closed() -> Fault {
        Fault { cause: Cause::Closed, done: 0 }
    }

    pub(crate) fn wrong(why: impl Into<String>) -> Fault {
        Fault { cause: Cause::Wrong(why.into()), done: 0 }
    }

    pub(crate) fn after(self, done: u64) -> Fault {
        Fault { done, ..self }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault { cause: Cause::Os(errno.raw_os_error()), done: 0 }
    }
}

/// One socket.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: Kind,
    /// What its server has seen, when it has one.
    pub(crate) served: Arc<Counting>,
}

/// All sockets of this peer.
#[derive(Default, Debug)]
pub(crate) struct Sockets {
    open: Mutex<HashMap<u64, Arc<Socket>>>,
    next: AtomicU64,
}

impl Sockets {
    pub(crate) fn get(&self, number: u64) -> Result<Arc<Socket>, Fault> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&number).cloned().ok_or_else(|| Fault::wrong(format!("there is no socket {number}")))
    }

    pub(crate) fn listen(
        &self,
        kind: Kind,
        at: SocketAddr,
        serve: Serve,
        started: Instant,
    ) -> Result<Answer, Fault> {
        let fd = make(kind, at.is_ipv6())?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        bind(&fd, &at)?;
        if is_stream(kind) {
            listen(&fd, 4096)?;
        }
        let answer = self.keep(fd, kind, started)?;
        if serve != Serve::Hold
            && let Answer::Socket(info) = &answer
        {
            serve::start(self.get(info.socket)?, serve);
        }
        Ok(answer)
    }

    pub(crate) fn open(
        &self,
        kind: Kind,
        at: Option<SocketAddr>,
        v6: bool,
        started: Instant,
    ) -> Result<Answer, Fault> {
        let v6 = v6 || at.is_some_and(|at| at.is_ipv6());
        let fd = make(kind, v6)?;
        if let Some(at) = at {
            bind(&fd, &in_family(at, v6))?;
        }
        self.keep(fd, kind, started)
    }

    /// Connects a socket that has a number already.
    pub(crate) fn dial(
        &self,
        number: u64,
        to: SocketAddr,
        deadline: Instant,
        started: Instant,
    ) -> Result<Answer, Fault> {
        let socket = self.get(number)?;
        let v6 = getsockname(&socket.fd)?.address_family() == AddressFamily::INET6;
        finish_connect(&socket.fd, dial(&socket.fd, &in_family(to, v6)), deadline)?;
        Ok(Answer::Socket(info(number, &socket.fd, started)?))
    }

    pub(crate) fn accept(&self, listener: u64, deadline: Instant, started: Instant) -> Result<Answer, Fault> {
        let kind = self.get(listener)?.kind;
        let fd = self.take(listener, deadline)?;
        self.keep(fd, kind, started)
    }

    /// The next connection of a listener, which gets no number. The wait ends when it is closed.
    pub(crate) fn take(&self, listener: u64, deadline: Instant) -> Result<OwnedFd, Fault> {
        let listener = self.get(listener)?;
        loop {
            match rustix::net::accept_with(&listener.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(fd) => return Ok(fd),
                Err(Errno::AGAIN) if listener.served.is_stopped() => return Err(Fault::closed()),
                Err(Errno::AGAIN) => {
                    let waited = wait(&listener.fd, PollFlags::IN, deadline.min(Instant::now() + TICK));
                    if Instant::now() >= deadline {
                        waited?;
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Gives a socket a number.
    pub(crate) fn keep(&self, fd: OwnedFd, kind: Kind, started: Instant) -> Result<Answer, Fault> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let info = info(number, &fd, started)?;
        self.insert(number, fd, kind);
        Ok(Answer::Socket(info))
    }

    fn insert(&self, number: u64, fd: OwnedFd, kind: Kind) {
        let socket = Arc::new(Socket { fd, kind, served: Arc::default() });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(number, socket);
    }

    /// Gives a packet socket a number.
    pub(crate) fn keep_packet(
        &self,
        fd: bulkhead_sys::Result<OwnedFd>,
        started: Instant,
    ) -> Result<Answer, Fault> {
        let fd = fd.map_err(|error| Fault::wrong(error.to_string()))?;
        let info = SocketInfo {
            socket: self.next.fetch_add(1, Ordering::Relaxed),
            local: SocketAddr::new(any(false), 0),
            peer: None,
            cookie: sockopt::socket_cookie(&fd)?,
            elapsed_us: micros(started.elapsed()),
        };
        self.insert(info.socket, fd, Kind::Packet);
        Ok(Answer::Socket(info))
    }

    pub(crate) fn close(&self, number: u64, reset: bool) -> Result<(), Fault> {
        let socket = self.get(number)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        socket.served.stop();
        if reset {
            sockopt::set_socket_linger(&socket.fd, Some(Duration::ZERO))?;
        }
        Ok(())
    }
}

/// A socket that is connected, or the reason why not.
pub(crate) fn connect(
    kind: Kind,
    to: SocketAddr,
    from: Option<SocketAddr>,
    v6: bool,
    fast_open: Option<&[u8]>,
    deadline: Instant,
) -> Result<OwnedFd, Fault> {
    let v6 = v6 || to.is_ipv6();
    let fd = make(kind, v6)?;
    if let Some(from) = from {
        sockopt::set_socket_reuseaddr(&fd, true)?;
        bind(&fd, &in_family(from, v6))?;
    }
    let to = in_family(to, v6);
    let begun = match fast_open {
        // MSG_FASTOPEN: the connect is the send's.
        Some(data) => sendto(&fd, data, SendFlags::from_bits_retain(0x2000_0000), &to).map(drop),
        None => dial(&fd, &to),
    };
    finish_connect(&fd, begun, deadline)?;
    Ok(fd)
}

/// Waits for a connect that has `begun`.
fn finish_connect(fd: &OwnedFd, begun: rustix::io::Result<()>, deadline: Instant) -> Result<(), Fault> {
    match begun {
        Ok(()) => return Ok(()),
        Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    wait(fd, PollFlags::OUT, deadline)?;
    sockopt::socket_error(fd)??;
    Ok(())
}

/// What a test is told of a socket.
fn info(number: u64, fd: &OwnedFd, started: Instant) -> Result<SocketInfo, Fault> {
    Ok(SocketInfo {
        socket: number,
        local: address(getsockname(fd)?)?,
        peer: getpeername(fd).ok().flatten().and_then(|peer| address(peer).ok()),
        cookie: sockopt::socket_cookie(fd)?,
        elapsed_us: micros(started.elapsed()),
    })
}

/// Waits until one of `events`, an error or a hang-up is there.
pub(crate) fn wait(fd: impl AsFd, events: PollFlags, deadline: Instant) -> Result<(), Fault> {
    let fd = fd.as_fd();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&fd, events)], Some(&limit)) {
            Ok(0) if left.is_zero() => return Err(Fault::timeout()),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// As an address for a socket of this family: an IPv4 address becomes a mapped one.
pub(crate) fn in_family(address: SocketAddr, v6: bool) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v6 => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        other => other,
    }
}

/// An address of the kernel's as one of ours.
pub(crate) fn address(any: SocketAddrAny) -> Result<SocketAddr, Fault> {
    if let Ok(v4) = SocketAddrV4::try_from(any.clone()) {
        return Ok(v4.into());
    }
    SocketAddrV6::try_from(any).map(Into::into).map_err(|_| Fault::wrong("a socket without an IP address"))
}

pub(crate) fn is_stream(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp | Kind::Mptcp)
}

/// The address that stands for all.
pub(crate) fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() }
}

/// A new socket.
pub(crate) fn make(kind: Kind, v6: bool) -> Result<OwnedFd, Fault> {
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let (socket_type, protocol) = match kind {
        Kind::Tcp => (SocketType::STREAM, ipproto::TCP),
        Kind::Mptcp => (SocketType::STREAM, ipproto::MPTCP),
        Kind::Udp => (SocketType::DGRAM, ipproto::UDP),
        Kind::Ping if v6 => (SocketType::DGRAM, ipproto::ICMPV6),
        Kind::Ping => (SocketType::DGRAM, ipproto::ICMP),
        Kind::Packet => return Err(Fault::wrong("packet sockets have calls of their own")),
        Kind::Raw(number) => {
            let number = RawProtocol::new(number.into())
                .ok_or_else(|| Fault::wrong("protocol 0 has no raw socket"))?;
            (SocketType::RAW, Protocol::from_raw(number))
        }
    };
    let fd = socket_with(family, socket_type, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(protocol))?;
    if kind == Kind::Tcp {
        sockopt::set_tcp_nodelay(&fd, true)?;
    }
    if matches!(kind, Kind::Udp | Kind::Raw(_)) {
        sockopt::set_socket_broadcast(&fd, true)?;
    }
    Ok(fd)
}
