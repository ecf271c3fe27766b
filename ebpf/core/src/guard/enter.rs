//! Where a packet comes in: who sent it, and whether it may say so.

use bulkhead_abi::{Addr, Identity, Protocol, Reason, SocketFlow, Verdict, Workload, tables::Interface};

use super::{Guard, Mark, Network, Sender, refuse_from};
use crate::{
    endpoint,
    packet::Kind,
    track::{Slot, State},
};

/// The mark of a socket's packet, where the policy has virtual addresses: judged, or left to the guard.
#[inline(always)]
pub fn stamp<G: Guard>(guard: &G, state: &mut State) -> Mark {
    let owned = guard.owned().and_then(|owned| owned.read(mark_of_stream));
    if let Some(mark) = owned
        && !(guard.is_opening() && mark != Mark::JUDGED)
    {
        return mark;
    }
    guard.on_prepare(state);
    if let Some(mark) = owned {
        // The guard sees another tuple where it leaves, and the program should hear of a denial.
        if let Some(sequence) = sequence(guard, state) {
            guard.remember_opening(state, sequence);
        }
        return mark;
    }
    let policy = state.policy(guard);
    if policy.of_address(state.remote().addr) != Identity::VIRTUAL {
        return Mark::JUDGED;
    }
    let sender = endpoint::resolve(&policy, &guard.sender_workload(), state.local().addr);
    Mark::deferred(sender.or_world())
}

/// The sequence number of a segment that opens.
#[inline(always)]
pub(super) fn sequence<G: Guard>(guard: &G, state: &State) -> Option<u32> {
    if !state.segment().is_some_and(|segment| segment.opens) {
        return None;
    }
    let mut number = [0u8; 4];
    let read = guard.load(state.transport + 4, &mut number);
    (read == 4).then_some(u32::from_be_bytes(number))
}

/// Only of a stream: another socket may send elsewhere than it is connected to.
#[inline(always)]
fn mark_of_stream(flow: &SocketFlow) -> Option<Mark> {
    if flow.protocol != Protocol::TCP.0 {
        None
    } else if flow.flags & SocketFlow::FLAG_DEFERRED != 0 {
        Some(Mark::deferred(flow.from))
    } else {
        Some(Mark::JUDGED)
    }
}

/// A packet that no socket layer has seen.
#[inline(always)]
pub fn enter<G: Guard>(guard: &G, state: &State) -> Verdict {
    let interface = guard.interface();
    if guard.sender() == Sender::Packet && !packet_socket(guard, state).passes() {
        return Verdict::Deny;
    }
    let named = guard.network() == Network::Ip && state.kind != Kind::Discovery;
    let claimed = if named { state.policy(guard).of_address(state.local().addr) } else { Identity::WORLD };
    if named
        && let Some(verdict) = forged(guard, state, &interface, claimed)
        && !verdict.passes()
    {
        return verdict;
    }
    let wire = interface.flags & Interface::FLAG_WIRE != 0;
    guard.set_mark(if wire { Mark::WIRE } else { Mark::routed(claimed) });
    Verdict::Allow
}

/// A frame of a packet socket: whoever is in a zone sends through the socket layer or not at all, so a
/// copy of an approved flow's packet does not pass either.
#[inline(always)]
pub fn packet_socket<G: Guard>(guard: &G, state: &State) -> Verdict {
    let policy = state.policy(guard);
    let own = guard.sender_workload();
    let identity = match guard.network() {
        Network::Arp => return Verdict::Allow,
        Network::Ip if state.kind == Kind::Discovery => return Verdict::Allow,
        Network::Ip => endpoint::resolve(&policy, &own, state.local().addr).or_world(),
        Network::Other => endpoint::of_workload(&policy, &own),
    };
    if !identity.is_zoned() {
        return Verdict::Allow;
    }
    let by_workload = endpoint::of_workload(&policy, &own);
    let from = if by_workload.is_zoned() { by_workload } else { identity };
    refuse_from(guard, state, Reason::PacketSocket, from, identity)
}

/// The verdict on a forged source address, of this identity; `None` where it is none. It is forged where it
/// belongs to another namespace of this node than the one behind the interface (of which nothing may be
/// known), and where nobody there has it although it means something: it is in a zone, or virtual.
#[inline(always)]
fn forged<G: Guard>(guard: &G, state: &State, interface: &Interface, claimed: Identity) -> Option<Verdict> {
    let addr = state.local().addr;
    if addr.is_unspecified() || is_link_local(addr) {
        return None;
    }
    let wire = interface.flags & Interface::FLAG_WIRE != 0;
    let forged = match guard.local(addr) {
        Some(_) if wire => true,
        Some(local) => local.netns != interface.netns,
        None => interface.netns != 0 && (claimed.is_zoned() || claimed == Identity::VIRTUAL),
    };
    if !forged {
        return None;
    }
    // An address of this node that is in no zone opens doors, too: to those who let `node` in, or whose
    // cgroup's zones the guard does not see.
    let matters = claimed.is_zoned() || guard.local(state.remote().addr).is_some();
    let judged = if claimed.is_zoned() || !matters { claimed } else { Identity::UNKNOWN };
    Some(refuse_from(guard, state, Reason::Spoofed, sender(guard, state, claimed), judged))
}

/// Who it was that forged, as far as can be told: the packet socket's workload, else whom it names.
#[inline(always)]
fn sender<G: Guard>(guard: &G, state: &State, claimed: Identity) -> Identity {
    let workload = if guard.sender() == Sender::Packet { guard.sender_workload() } else { Workload::UNKNOWN };
    let identity = endpoint::of_workload(&state.policy(guard), &workload);
    if identity.is_zoned() { identity } else { claimed.or_world() }
}

/// 169.254.0.0/16 (RFC 3927) and fe80::/10 (RFC 4291), which many interfaces have alike.
#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    let [a, b, .., v4a, v4b, _, _] = addr.octets();
    if addr.is_v4() { v4a == 169 && v4b == 254 } else { a == 0xfe && b & 0xc0 == 0x80 }
}
