//! The listeners in the workloads' namespaces, made here and served by the proxy.
//!
//! This side keeps a descriptor of each, so that a connection that comes while the proxy is being started
//! again waits in the listener's queue instead of being reset. A listener keeps its namespace alive, so
//! both listeners go as soon as nobody lives in it any more.
//!
//! Which way it fails: where a listener cannot be made, connections that would have to be turned there are
//! refused by the kernel (`no-proxy`), never let through in clear.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_abi::role::{CAPTURE_PORT, RoleKind, SocketRole, TUNNEL_PORT};
use bulkhead_sys::stream;

use crate::datapath::Reader;
use crate::proxy::places::Place;
use crate::proxy::wire::Kind;

/// Connections that may wait to be accepted; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The listeners that are open, by namespace and kind.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: BTreeMap<(u64, Kind), OwnedFd>,
    /// Where they could not be made, and was told of.
    failed: BTreeSet<(u64, Kind)>,
}

/// What has to be told to the proxy.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Opened.
    pub(super) opened: Vec<(u64, Kind)>,
    /// Closed.
    pub(super) closed: BTreeSet<u64>,
}

impl Listeners {
    /// A listener that a proxy held already when this agent came.
    pub(super) fn adopt(&mut self, place: u64, kind: Kind, listener: OwnedFd) {
        self.open.insert((place, kind), listener);
    }

    /// All of them.
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, Kind, &OwnedFd)> {
        self.open.iter().map(|(&(place, kind), listener)| (place, kind, listener))
    }

    /// One of them.
    pub(super) fn get(&self, place: u64, kind: Kind) -> Option<&OwnedFd> {
        self.open.get(&(place, kind))
    }

    /// Namespaces that have both.
    pub(super) fn proxied(&self) -> BTreeSet<u64> {
        let has = |place, kind| self.open.contains_key(&(place, kind));
        let places = self.open.keys().map(|(place, _)| *place);
        places.filter(|&place| has(place, Kind::Capture) && has(place, Kind::Tunnel)).collect()
    }

    /// Whether a namespace is to be tried again.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Opens and closes until there are listeners in just the `wanted` namespaces.
    pub(super) fn follow(&mut self, wanted: &BTreeMap<u64, Place>, reader: &Reader) -> News {
        let mut news = News::default();
        self.open.retain(|(place, _), _| {
            let stays = wanted.contains_key(place);
            if !stays {
                news.closed.insert(*place);
            }
            stays
        });
        self.failed.retain(|(place, _)| wanted.contains_key(place));
        for (&cookie, place) in wanted {
            for kind in [Kind::Capture, Kind::Tunnel] {
                if self.open.contains_key(&(cookie, kind)) {
                    continue;
                }
                match open(cookie, place, kind, reader) {
                    Ok(listener) => {
                        self.failed.remove(&(cookie, kind));
                        self.open.insert((cookie, kind), listener);
                        news.opened.push((cookie, kind));
                    }
                    Err(error) if self.failed.insert((cookie, kind)) => {
                        tracing::warn!(
                            netns = cookie,
                            pid = place.pid,
                            port = port(kind),
                            %error,
                            "cannot listen in a workload's namespace: its connections under tls = \"mutual\" \
                             are refused; is the port taken? It is tried again"
                        );
                    }
                    Err(_) => {}
                }
            }
        }
        news
    }
}

const fn port(kind: Kind) -> u16 {
    match kind {
        Kind::Capture => CAPTURE_PORT,
        Kind::Tunnel => TUNNEL_PORT,
    }
}

fn open(cookie: u64, place: &Place, kind: Kind, reader: &Reader) -> io::Result<OwnedFd> {
    let ns = super::enter(cookie, place.pid)?;
    // A kernel without IPv6 has one of IPv4 only.
    let (listener, any) = match stream::socket(&ns, true) {
        Ok(listener) => (listener, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        Err(_) => {
            let listener = stream::socket(&ns, false).map_err(io::Error::other)?;
            (listener, IpAddr::from(Ipv4Addr::UNSPECIFIED))
        }
    };
    let role = match kind {
        Kind::Capture => RoleKind::Capture,
        Kind::Tunnel => RoleKind::TunnelIn,
    };
    // Before it is bound: the kernel gives these ports to nobody else.
    reader.sockets().assign_role(listener.as_fd(), &SocketRole::new(role)).map_err(io::Error::other)?;
    let listening = stream::listen(listener, SocketAddr::new(any, port(kind)), BACKLOG);
    Ok(listening.map_err(io::Error::other)?.into())
}
