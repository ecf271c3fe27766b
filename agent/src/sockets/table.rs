//! Clearing the flow tables, those of the guard, too: of what has expired, which only makes room, since
//! the kernel takes no notice of it; of flows of addresses that changed hands; and of datagrams' flows
//! that were allowed to somebody who is in another zone by now.
//!
//! Reading a table takes time, in which programs go on: a tuple that was found to have expired may be
//! another flow's when its turn to be removed comes, whose answer is under way. So nothing is removed but
//! what is over at that moment, too.
//!
//! A new generation needs no help: the kernel judges again by itself. But a workload that comes to be
//! known is no new generation, and what it had opened by then was judged by what it inherited.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bulkhead_abi::{
    Addr, FlowKey, FlowState, Identity, Protocol, Side, Verdict, Workload, flow::FirstFragment,
};
use bulkhead_core::{
    endpoint,
    judge::{self, Question, Sides},
    tables::Policy,
    track,
};
use bulkhead_sys::sock_diag::{Diag, Query};

use super::namespaces::Namespaces;
use crate::datapath::{DatapathError, Reader};

/// Removes flows that have expired, and those of streams when their sockets are gone. How many there
/// were.
pub(super) fn clear(reader: &Reader, namespaces: &mut Namespaces) -> Result<usize, DatapathError> {
    let now = bulkhead_sys::clock::monotonic_ns();
    let over = |key: &FlowKey, flow: &FlowState| is_over(key, flow, now);
    let (mut gone, mut held) = (Vec::new(), Vec::new());
    let flows = reader.flows()?;
    let count = flows.len();
    for (key, flow) in flows.into_iter().filter(|(key, flow)| over(key, flow)) {
        if is_held(&key, &flow) { &mut held } else { &mut gone }.push(key);
    }
    if !held.is_empty() {
        let alive = tuples(namespaces)?;
        gone.extend(held.into_iter().filter(|key| !alive.contains(key)));
    }
    let sockets = reader.sockets();
    let maps = sockets.maps();
    maps.flows.remove_if(&gone, over)?;
    let transit = maps.transit.entries()?.into_iter().filter(|(key, flow)| over(key, flow));
    maps.transit.remove_if(&transit.map(|(key, _)| key).collect::<Vec<_>>(), over)?;
    let late = |first: &FirstFragment| now.saturating_sub(first.seen) > FRAGMENTS.as_nanos() as u64;
    let fragments = maps.fragments.entries()?.into_iter().filter(|(_, first)| late(first));
    let fragments: Vec<_> = fragments.map(|(key, _)| key).collect();
    maps.fragments.remove_if(&fragments, |_, first| late(first))?;
    Ok(count)
}

/// Takes out datagrams' flows that were judged by the live generation between others than their ends are
/// now, and that would be denied now. Streams are ended by their sockets.
pub(super) fn forget_denied(reader: &Reader) -> Result<usize, DatapathError> {
    let policy = Policy::live(reader);
    let mut known = HashMap::new();
    let mut resolve = |workload: &Workload, addr: &Addr| {
        *known.entry((*workload, *addr)).or_insert_with(|| endpoint::resolve(&policy, workload, addr))
    };
    let mut is_denied = |key: &FlowKey, flow: &FlowState| {
        if key.protocol == Protocol::TCP.0
            || flow.tag != key.tag()
            || !flow.judged.contains(&policy.generation())
        {
            return false;
        }
        let (low, high) = ((key.low, key.low_port), (key.high, key.high_port));
        let opener_is_low = flow.flags & FlowState::FLAG_OPENER_LOW != 0;
        let (opener, receiver) = if opener_is_low { (low, high) } else { (high, low) };
        let (from, to) = (resolve(&flow.opener, &opener.0), resolve(&flow.receiver, &receiver.0));
        // What goes to a virtual address is the guard's to judge.
        if (from, to) == (flow.from, flow.to) || to == Identity::VIRTUAL {
            return false;
        }
        let side = if flow.opener.is_known() { Side::Egress } else { Side::Ingress };
        let protocol = Protocol(key.protocol);
        let port = match protocol {
            Protocol::ICMP => 8 << 8,
            Protocol::ICMPV6 => 128 << 8,
            _ => receiver.1,
        };
        let both = flow.opener.is_known() && flow.receiver.is_known();
        let sides = if both { Sides::Both } else { Sides::One(side) };
        let question = Question { from, to, protocol, port, sides };
        let host = flow.netns != 0 && flow.netns == policy.control.host_netns;
        judge::judge(&policy, &question, || host.then_some(side)).verdict == Verdict::Deny
            // A commit in between rewrites what was read; it makes the kernel judge all of them again.
            && reader.generation() == policy.generation()
    };
    let flows = reader.flows()?.into_iter().filter(|(key, flow)| is_denied(key, flow));
    let denied: Vec<FlowKey> = flows.map(|(key, _)| key).collect();
    reader.sockets().maps().flows.remove_if(&denied, is_denied)
}

/// Removes flows with an end at one of these addresses, which are not whose they were: who comes next is
/// judged as himself. How many there were.
pub(super) fn forget(reader: &Reader, left: &HashSet<Addr>) -> Result<usize, DatapathError> {
    let (sockets, mut forgotten) = (reader.sockets(), 0);
    for table in [&sockets.maps().flows, &sockets.maps().transit] {
        let gone: HashMap<FlowKey, FlowState> = table
            .entries()?
            .into_iter()
            .filter(|(key, _)| left.contains(&key.low) || left.contains(&key.high))
            .collect();
        let keys: Vec<FlowKey> = gone.keys().copied().collect();
        // Another socket's is that of who came next.
        let opener = |flow: &FlowState| (flow.cookie, flow.netns);
        forgotten += table
            .remove_if(&keys, |key, flow| gone.get(key).is_some_and(|gone| opener(gone) == opener(flow)))?;
    }
    Ok(forgotten)
}

/// Whether nothing is to be seen of it any more, or only at its sockets. What a program is just making is
/// all zeroes, and not over: taken out, it would take the flow's own answer with it.
fn is_over(key: &FlowKey, flow: &FlowState, now: u64) -> bool {
    let expired = track::is_expired(flow, now, Protocol(key.protocol));
    flow.seen != 0 && (expired || flow.flags & FlowState::FLAG_ADOPTED != 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_is_just_making_is_not_over() {
        const HOUR: u64 = 3600 * 1_000_000_000;
        let end = |last, port| (Addr::v4([10, 0, 0, last]), port);
        let (key, _) = FlowKey::new(end(1, 40_000), end(2, 53), Protocol::UDP, 0);
        let (blank, now) = (FlowState::default(), 10 * HOUR);
        assert!(!is_over(&key, &blank, now), "made this moment, though it seems never to have been seen");
        assert!(!is_over(&key, &FlowState { seen: now, ..blank }, now));
        assert!(!is_over(&key, &FlowState { seen: now + 1, ..blank }, now), "made after the clock was read");
        assert!(is_over(&key, &FlowState { seen: now - HOUR, ..blank }, now));
        let adopted = FlowState { seen: now, flags: FlowState::FLAG_ADOPTED, ..blank };
        assert!(is_over(&key, &adopted, now), "it lives as long as its sockets");
    }
}
