//! Clearing the flow tables, those of the guard, too. The kernel takes no notice of expired flows, so this only makes room.

use std::collections::HashSet;
use std::time::Duration;

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
    let sockets = reader.sockets();
    let maps = sockets.maps();
    maps.flows.remove_all(&gone)?;
    let transit = maps.transit.entries()?.into_iter();
    let expired = transit.filter(|(key, flow)| track::is_expired(flow, now, Protocol(key.protocol)));
    maps.transit.remove_all(&expired.map(|(key, _)| key).collect::<Vec<_>>())?;
    let fragments = maps.fragments.entries()?.into_iter();
    let late = fragments.filter(|(_, first)| now.saturating_sub(first.seen) > FRAGMENTS.as_nanos() as u64);
    maps.fragments.remove_all(&late.map(|(key, _)| key).collect::<Vec<_>>())?;
    Ok(())
}

/// How long the fragments of a packet are waited for; Linux gives up as soon.
const FRAGMENTS: Duration = Duration::from_secs(30);

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
