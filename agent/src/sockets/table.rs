//! Clearing the flow table. The kernel takes no notice of expired flows, so this only makes room.

use std::collections::HashSet;

use bulkhead_abi::{FlowKey, FlowState, Protocol};
use bulkhead_core::track;
use bulkhead_sys::sock_diag::{Diag, Query};

use super::namespaces::Namespaces;
use crate::datapath::{DatapathError, Reader};

/// Removes flows that have expired, and those of streams when their sockets are gone.
pub(super) fn clear(reader: &Reader, namespaces: &mut Namespaces) -> Result<(), DatapathError> {
    let now = bulkhead_sys::clock::monotonic_ns();
    let (mut gone, mut held) = (Vec::new(), Vec::new());
    for (key, flow) in reader.flows()? {
        let expired = track::is_expired(&flow, now, Protocol(key.protocol));
        if is_held(&key, &flow) && (expired || flow.flags & FlowState::FLAG_ADOPTED != 0) {
            held.push(key);
        } else if expired {
            gone.push(key);
        }
    }
    if !held.is_empty() {
        let alive = tuples(namespaces)?;
        gone.extend(held.into_iter().filter(|key| !alive.contains(key)));
    }
    reader.sockets().maps().flows.remove_all(&gone)?;
    Ok(())
}

/// Whether it lives as long as its sockets, however long they are silent: one that was adopted, and one
/// that a stream's receiver has not taken over yet, as it does with the first bytes.
fn is_held(key: &FlowKey, flow: &FlowState) -> bool {
    let handed = key.protocol == Protocol::TCP.0 && flow.flags & FlowState::FLAG_LOCAL != 0;
    handed || flow.flags & FlowState::FLAG_ADOPTED != 0
}

/// The keys of every connected socket.
fn tuples(namespaces: &mut Namespaces) -> Result<HashSet<FlowKey>, DatapathError> {
    let mut keys = HashSet::new();
    for (netns, ns) in namespaces.open_all()? {
        let mut diag = Diag::open(&ns)?;
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for socket in diag.dump(&Query::all(protocol))? {
                let (local, remote) =
                    ((socket.local, socket.local_port), (socket.remote, socket.remote_port));
                keys.insert(FlowKey::new(local, remote, protocol, netns).0);
            }
        }
    }
    Ok(keys)
}
