//! Flows that sockets own, read out of the sockets themselves (sock_diag), in every network namespace
//! that a guarded process is in.

use std::os::fd::BorrowedFd;

use bulkhead_abi::{Protocol, Reason, SocketFlow, Verdict};
use bulkhead_policy::prefix::to_ip;
use bulkhead_sys::netns::{self, NetNs};
use bulkhead_sys::sock_diag::{Diag, Query, Socket, State};
use zerocopy::FromBytes;

use super::snapshot::Snapshot;
use super::views::{cgroup_name, protocol_name};
use crate::control::protocol::FlowView;
use crate::explain::rule_by_number;

/// Every TCP flow that a socket below `cgroup_root` owns. The kernel tells no storage of UDP sockets
/// this way, so connected UDP is not among them.
pub(super) fn list(
    cgroup_root: &std::path::Path,
    storage: BorrowedFd<'_>,
    snapshot: &Snapshot,
) -> Result<Vec<FlowView>, bulkhead_sys::Error> {
    let processes = bulkhead_sys::cgroup::processes(cgroup_root)?;
    let mut namespaces = netns::discover(processes)?.namespaces;
    if namespaces.is_empty() {
        namespaces.push(NetNs::current()?);
    }
    let storages = [storage];
    let listening = State::LISTEN.bit() | State::CLOSE.bit();
    let query =
        Query { states: Query::ANY_STATE & !listening, storages: &storages, ..Query::all(Protocol::TCP) };
    let mut flows = Vec::new();
    for namespace in &namespaces {
        for socket in Diag::open(namespace)?.dump(&query)? {
            flows.extend(view(&socket, snapshot));
        }
    }
    Ok(flows)
}

fn view(socket: &Socket, snapshot: &Snapshot) -> Option<FlowView> {
    let (_, bytes) = socket.storages.first()?;
    let flow = SocketFlow::read_from_bytes(bytes).ok()?;
    let opener = flow.flags & SocketFlow::FLAG_OPENER != 0;
    let own = (socket.local, socket.local_port, socket.cgroup);
    let peer_cgroup = Some(flow.peer.cgroup).filter(|cgroup| *cgroup != 0);
    let peer = (socket.remote, socket.remote_port, peer_cgroup);
    let (src, dst) = if opener { (own, peer) } else { (peer, own) };
    Some(FlowView {
        from: snapshot.labels.get(flow.from).to_string(),
        to: snapshot.labels.get(flow.to).to_string(),
        src: to_ip(src.0).to_string(),
        src_port: src.1,
        dst: to_ip(dst.0).to_string(),
        dst_port: dst.1,
        protocol: protocol_name(flow.protocol),
        src_cgroup: src.2.and_then(|cgroup| cgroup_name(snapshot, cgroup)),
        dst_cgroup: dst.2.and_then(|cgroup| cgroup_name(snapshot, cgroup)),
        verdict: Verdict::from_code(flow.verdict).as_str().to_owned(),
        reason: Reason::from_code(flow.reason).as_str().to_owned(),
        rule: snapshot.image.as_deref().and_then(|image| rule_by_number(image, flow.rule)),
        generation: flow.generation,
        held_by: if opener { "opener's socket" } else { "receiver's socket" }.to_owned(),
    })
}
