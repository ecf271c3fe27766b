//! TCP sockets that are made in another network namespace, and what a proxy needs of them.
//!
//! In steps, because whoever has them judged by the kernel must say what they are for between the first
//! step and the next.

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::netns::NetNs;
use crate::{Error, Result};

/// A TCP socket inside `ns`, of IPv4 or IPv6, which neither blocks nor is inherited. It belongs to the
/// calling thread's cgroup, and keeps the namespace alive.
pub fn socket(ns: &NetNs, v6: bool) -> Result<OwnedFd> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    ns.run(|| {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_TCP) };
        if fd < 0 {
            return Err(Error::last("socket(SOCK_STREAM)"));
        }
        // SAFETY: the kernel just made this descriptor, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })?
}

/// Listens; on `::` for both families. EADDRINUSE where somebody does already, EPERM where a policy keeps
/// the port for others.
pub fn listen(socket: OwnedFd, at: SocketAddr, backlog: i32) -> Result<TcpListener> {
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, "setsockopt(SO_REUSEADDR)", 1)?;
    if at.is_ipv6() {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, "setsockopt(IPV6_V6ONLY)", 0)?;
    }
    bind_to(&socket, at)?;
    // SAFETY: no pointers are passed.
    if unsafe { libc::listen(socket.as_raw_fd(), backlog) } != 0 {
        return Err(Error::last("listen"));
    }
    Ok(TcpListener::from(socket))
}

/// Binds a socket that will connect to the address that it shall come from. Its port, where that is 0, is
/// chosen when it connects (IP_BIND_ADDRESS_NO_PORT, Linux 4.2), so that many may have the same.
pub fn bind(socket: BorrowedFd<'_>, from: SocketAddr) -> Result<()> {
    set(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, "setsockopt(IP_BIND_ADDRESS_NO_PORT)", 1)?;
    bind_to(&socket, from)
}

/// Lets a socket of IPv4 or IPv6 be bound to addresses that are not this host's (IP_TRANSPARENT), and marks
/// its packets. Its port is chosen when it connects, as by [`bind`]: else one address would have ports for
/// some 28,000 connections a minute, whatever their destinations. EPERM without CAP_NET_ADMIN.
pub fn make_transparent(socket: BorrowedFd<'_>, v6: bool, mark: u32) -> Result<()> {
    set(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, "setsockopt(IP_BIND_ADDRESS_NO_PORT)", 1)?;
    if v6 {
        set(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, "setsockopt(IPV6_TRANSPARENT)", 1)?;
    } else {
        set(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, "setsockopt(IP_TRANSPARENT)", 1)?;
    }
    set(&socket, libc::SOL_SOCKET, libc::SO_MARK, "setsockopt(SO_MARK)", mark.cast_signed())
}

/// Begins to connect; the socket can be written to when it has come to something. For tests and simple
/// callers.
pub fn begin_connect(socket: OwnedFd, to: SocketAddr) -> Result<TcpStream> {
    let (address, length) = address(to);
    // SAFETY: the address is as long as it says, and only read.
    let status = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    match io::Error::last_os_error() {
        _ if status == 0 => {}
        error if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        error => return Err(Error::call("connect")(error)),
    }
    Ok(TcpStream::from(socket))
}

/// The namespace's cookie of a socket (SO_NETNS_COOKIE, Linux 5.14).
pub fn netns_cookie(socket: BorrowedFd<'_>) -> Result<u64> {
    crate::netlink::netns_cookie(&socket)
}

fn bind_to(socket: &impl AsRawFd, at: SocketAddr) -> Result<()> {
    let (address, length) = address(at);
    // SAFETY: the address is as long as it says, and only read.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(Error::last("bind"));
    }
    Ok(())
}

fn set(socket: &impl AsRawFd, level: i32, option: i32, call: &'static str, value: i32) -> Result<()> {
    let length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is as long as it says, and only read.
    let status =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if status != 0 {
        return Err(Error::last(call));
    }
    Ok(())
}

/// As the kernel takes it, and how long it is.
fn address(of: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: plain numbers, for which zero is a value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let place = &raw mut storage;
    match of {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage has room for any address, and is aligned for it.
            unsafe { place.cast::<libc::sockaddr_in>().write(address) };
            (storage, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(address) };
            (storage, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}
