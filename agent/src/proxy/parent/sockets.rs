//! Sockets that the proxy could not make itself: in other namespaces, for other source addresses. Each has
//! a role before it is handed over, by which the kernel confines it: one for tunnels dials port 15008 and
//! nothing else, one for last hops its own namespace's addresses and nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_abi::Identity;
use bulkhead_abi::role::{RoleKind, SocketRole};
use bulkhead_sys::stream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::last_hops::MARKING;
use crate::datapath::Reader;
use crate::proxy::places::Place;
use crate::proxy::wire::{Answer, Mark, reason};

/// Most sockets in one answer.
const MOST: u8 = 32;

/// Which sockets.
pub(super) struct Wanted {
    /// The address to bind to, for tunnels; none for last hops, which are transparent.
    pub(super) bound: Option<IpAddr>,
    pub(super) ipv6: bool,
    pub(super) mark: Mark,
    pub(super) count: u8,
}

/// Sockets in `place`.
pub(super) fn make(
    place: u64,
    found: Option<&Place>,
    wanted: &Wanted,
    reader: &Reader,
) -> io::Result<Vec<OwnedFd>> {
    let ns = super::enter(place, super::known(place, found)?.pid)?;
    let all = 0..wanted.count.clamp(1, MOST);
    ns.run(|| all.map(|_| one(wanted, reader)).collect()).map_err(io::Error::other)?
}

/// Why there are none.
pub(super) fn denied(place: u64, error: &io::Error) -> Answer {
    Answer::Denied {
        reason: reason::NO_PLACE.to_owned(),
        text: format!("no socket can be had in network namespace {place}: {error}; has its workload ended?"),
        edge: None,
    }
}

fn one(wanted: &Wanted, reader: &Reader) -> io::Result<OwnedFd> {
    let Wanted { bound, ipv6, mark, .. } = *wanted;
    let kind = if bound.is_some() { RoleKind::TunnelOut } else { RoleKind::LastHop };
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    let role = SocketRole {
        from: Identity(mark.from),
        to: Identity(mark.to),
        rule: mark.rule,
        ..SocketRole::new(kind)
    };
    reader.sockets().assign_role(socket.as_fd(), &role).map_err(io::Error::other)?;
    match bound {
        Some(address) => stream::bind(socket.as_fd(), SocketAddr::new(address, 0)),
        None => stream::make_transparent(socket.as_fd(), ipv6, MARKING.mark),
    }
    .map_err(io::Error::other)?;
    Ok(socket)
}
