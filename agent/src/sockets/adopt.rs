//! What lived before enforcement began.
//!
//! The programs know who opened a connection because they saw it open. Of those that are older, the
//! sockets tell: one whose own port is listened on was accepted, any other was opened. That is written
//! into the flow table, where the first packet finds it. Receivers that were bound before are
//! registered, too. A wrong guess can only make a connection be judged in the other direction.

use std::collections::{HashMap, HashSet};

use bulkhead_abi::{
    FlowKey, FlowState, ListenerKey, Protocol, Workload,
    flow::{Listener, TcpState},
};
use bulkhead_core::{endpoint, tables::Policy};
use bulkhead_sys::sock_diag::{Diag, Query, Socket, State};

use super::namespaces::Namespaces;
use crate::datapath::{DatapathError, Reader};

/// What was adopted.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    /// Connections.
    pub(super) connections: usize,
    /// Receivers.
    pub(super) early: Vec<Early>,
}

/// A receiver that the kernel programs did not see being bound, and will not see being released.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    key: ListenerKey,
    cookie: u64,
}

/// Adopts the sockets of every namespace.
pub(super) fn adopt(reader: &Reader, namespaces: &mut Namespaces) -> Result<Adopted, DatapathError> {
    let mut adopted = Adopted::default();
    let mut streams = Vec::new();
    let cgroups = namespaces.cgroups()?;
    for (netns, ns) in namespaces.open_all()? {
        let mut diag = Diag::open(&ns)?;
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for socket in diag.dump(&Query::all(protocol))? {
                if !socket.cgroup.is_some_and(|cgroup| cgroups.contains(&cgroup)) {
                    continue;
                }
                if is_receiver(&socket) {
                    adopted.early.extend(register(reader, netns, &socket)?);
                } else if socket.state != State::TIME_WAIT && socket.remote_port != 0 {
                    streams.push((netns, socket));
                }
            }
        }
    }
    adopted.connections = adopt_connections(reader, &streams, &adopted.early)?;
    Ok(adopted)
}

/// Unregisters those whose sockets are gone.
pub(super) fn prune(reader: &Reader, namespaces: &mut Namespaces, early: &mut Vec<Early>) {
    let Ok(all) = namespaces.open_all() else { return };
    let mut alive = HashSet::new();
    for (_, ns) in &all {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            match Diag::open(ns).and_then(|mut diag| diag.dump(&Query::all(protocol))) {
                Ok(sockets) => alive.extend(sockets.into_iter().map(|socket| socket.cookie)),
                // Blind: what cannot be seen is not taken for gone.
                Err(_) => return,
            }
        }
    }
    let sockets = reader.sockets();
    let listeners = &sockets.maps().listeners;
    early.retain(|receiver| {
        if alive.contains(&receiver.cookie) {
            return true;
        }
        let ours = matches!(listeners.get(&receiver.key), Ok(Some(found)) if found.cookie == receiver.cookie);
        if ours && let Err(error) = listeners.remove_all(&[receiver.key]) {
            tracing::warn!(%error, "cannot unregister a receiver that is gone");
            return true;
        }
        false
    });
}

fn is_receiver(socket: &Socket) -> bool {
    socket.local_port != 0
        && match socket.protocol {
            Protocol::TCP => socket.state == State::LISTEN,
            _ => socket.state == State::CLOSE,
        }
}

fn register(reader: &Reader, netns: u64, socket: &Socket) -> Result<Option<Early>, DatapathError> {
    let Some(cgroup) = socket.cgroup else { return Ok(None) };
    let key = ListenerKey::new(netns, socket.local, socket.local_port, socket.protocol);
    let listener = Listener { workload: Workload { cgroup, anchor: cgroup }, cookie: socket.cookie };
    let new = reader.sockets().maps().listeners.add(&key, &listener)?;
    Ok(new.then_some(Early { key, cookie: socket.cookie }))
}

fn adopt_connections(
    reader: &Reader,
    streams: &[(u64, Socket)],
    early: &[Early],
) -> Result<usize, DatapathError> {
    let listened: HashSet<(u64, u16, u8)> =
        early.iter().map(|receiver| (receiver.key.netns, receiver.key.port, receiver.key.protocol)).collect();
    let policy = Policy::live(reader);
    let mut flows: HashMap<FlowKey, FlowState> = HashMap::new();
    for (netns, socket) in streams {
        let (local, remote) = ((socket.local, socket.local_port), (socket.remote, socket.remote_port));
        let (key, local_is_low) = FlowKey::new(local, remote, socket.protocol, *netns);
        let accepted = listened.contains(&(*netns, socket.local_port, socket.protocol.0));
        let cgroup = socket.cgroup.unwrap_or(0);
        let workload = Workload { cgroup, anchor: cgroup };
        let flow = flows.entry(key).or_insert_with(|| FlowState {
            seen: bulkhead_sys::clock::monotonic_ns(),
            flags: FlowState::FLAG_ADOPTED,
            tcp: if socket.protocol == Protocol::TCP { TcpState::Established as u8 } else { 0 },
            tag: key.tag(),
            slot: bulkhead_core::report::NO_SLOT,
            ..FlowState::default()
        });
        if accepted {
            flow.receiver = workload;
        } else {
            flow.opener = workload;
            (flow.cookie, flow.netns) = (socket.cookie, *netns);
            // A server's datagram socket is not connected, so it is found as the kernel would find it.
            if socket.protocol == Protocol::UDP && !flow.receiver.is_known() {
                flow.receiver =
                    endpoint::receiver(&policy, *netns, &socket.remote, socket.remote_port, socket.protocol);
                if flow.receiver.is_known() {
                    flow.flags |= FlowState::FLAG_LOCAL;
                }
            }
        }
        if local_is_low != accepted {
            flow.flags |= FlowState::FLAG_OPENER_LOW;
        }
    }
    let flows: Vec<(FlowKey, FlowState)> = flows.into_iter().collect();
    reader.sockets().maps().flows.set_all(&flows)?;
    Ok(flows.len())
}
