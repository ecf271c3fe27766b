//! Clearing the flow table. The kernel takes no notice of expired flows, so this only makes room.

use std::collections::HashSet;

use bulkhead_abi::{FlowKey, FlowState, Protocol};
use bulkhead_core::track;
use bulkhead_sys::sock_diag::{Diag, Query};

use super::namespaces::Namespaces;
use crate::datapath::{DatapathError, Reader};

/// Removes flows that have expired, and adopted ones whose sockets are gone.
pub(super) fn clear(reader: &Reader, namespaces: &mut Namespaces) -> Result<(), DatapathError> {
    let now = bulkhead_sys::clock::monotonic_ns();
    let flows = reader.flows()?;
    let mut gone: Vec<FlowKey> = flows
        .iter()
        .filter(|(key, flow)| track::is_expired(flow, now, Protocol(key.protocol)))
        .map(|(key, _)| *key)
        .collect();
    let adopted: Vec<FlowKey> = flows
        .iter()
        .filter(|(_, flow)| flow.flags & FlowState::FLAG_ADOPTED != 0)
        .map(|(key, _)| *key)
        .collect();
    if !adopted.is_empty() {
        let alive = tuples(namespaces)?;
        gone.extend(adopted.into_iter().filter(|key| !alive.contains(key)));
    }
    reader.sockets().maps().flows.remove_all(&gone)?;
    Ok(())
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
