//! Who an endpoint is: by its cgroup, by its address, by both.

use bulkhead_abi::{
    Addr, Identity, Protocol, Workload,
    flow::{Listener, ListenerKey},
    tables::PairKey,
};

use crate::tables::{Policy, Tables};

/// The identity of the endpoint `addr` whose workload is `workload` (or unknown).
/// [`Identity::UNKNOWN`] where the tables miss the union of both: the judge fails closed.
#[inline(always)]
pub fn resolve<T: Tables>(policy: &Policy<'_, T>, workload: &Workload, addr: &Addr) -> Identity {
    policy.tables.resolve(policy.generation(), workload, addr)
}

/// What [`resolve`] does.
#[inline(always)]
pub fn lookup<T: Tables>(policy: &Policy<'_, T>, workload: &Workload, addr: &Addr) -> Identity {
    match workload.identity() {
        // The guard has looked at who really sends; the address may have been translated since.
        Some(identity) => identity,
        None => with_address(policy, workload, policy.of_address(addr)),
    }
}

/// [`resolve`] of a workload that the guard has not told, where it is known what the address alone says.
#[inline(always)]
pub fn with_address<T: Tables>(
    policy: &Policy<'_, T>,
    workload: &Workload,
    by_address: Identity,
) -> Identity {
    join(policy, of_workload(policy, workload), by_address)
}

/// The union of what the cgroup and what the address say.
#[inline(always)]
pub fn join<T: Tables>(policy: &Policy<'_, T>, by_cgroup: Identity, by_address: Identity) -> Identity {
    if !by_cgroup.is_zoned() || by_cgroup == by_address {
        return by_address;
    }
    if !by_address.is_zoned() {
        return by_cgroup;
    }
    let key = PairKey { from: by_cgroup, to: by_address };
    match policy.tables.union(&key) {
        Some(value) => value.identity,
        None => Identity::UNKNOWN,
    }
}

/// What the cgroup alone says: the cgroup itself, else the ancestor that was nearest when it was met.
#[inline(always)]
pub fn of_workload<T: Tables>(policy: &Policy<'_, T>, workload: &Workload) -> Identity {
    if workload.cgroup != 0
        && let Some(value) = policy.tables.workload(workload.cgroup)
    {
        return policy.version(value.identity);
    }
    if workload.anchor != 0
        && let Some(value) = policy.tables.workload(workload.anchor)
    {
        return policy.version(value.identity);
    }
    Identity::WORLD
}

/// The workload on this node that receives at `addr:port`, as seen from the namespace `netns`.
///
/// Only bound sockets count: an address alone could be claimed by anyone who may configure a
/// namespace, and a claimed address must not buy another zone's rights.
#[inline(always)]
pub fn receiver<T: Tables>(
    policy: &Policy<'_, T>,
    netns: u64,
    addr: &Addr,
    port: u16,
    protocol: Protocol,
) -> Workload {
    if protocol.has_ports() { policy.tables.receiver(netns, addr, port, protocol) } else { Workload::UNKNOWN }
}

/// What [`receiver`] does.
#[inline(always)]
pub fn lookup_receiver<T: Tables>(
    tables: &T,
    netns: u64,
    addr: &Addr,
    port: u16,
    protocol: Protocol,
) -> Workload {
    let owner = if addr.is_loopback() {
        netns
    } else {
        match tables.local(addr) {
            Some(local) => local.netns,
            None => 0,
        }
    };
    if owner == 0 {
        return Workload::UNKNOWN;
    }
    match bound(tables, owner, addr, port, protocol) {
        Some(listener) => listener.workload,
        None => Workload::UNKNOWN,
    }
}

#[inline(always)]
fn bound<T: Tables>(tables: &T, netns: u64, addr: &Addr, port: u16, protocol: Protocol) -> Option<Listener> {
    let find = |at: Addr| tables.listener(&ListenerKey::new(netns, at, port, protocol));
    if let Some(listener) = find(*addr) {
        return Some(listener);
    }
    if addr.is_v4()
        && let Some(listener) = find(Addr::ANY_V4)
    {
        return Some(listener);
    }
    find(Addr::ANY)
}
