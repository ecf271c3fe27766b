//! One more datagram of the flow that its socket has seen last: the common case of UDP.
//!
//! A connected socket owns its flow; any other keeps a copy of what the table holds of the flow that it
//! met last ([`remember`]). The next datagram is compared with that by its first bytes alone: no parsing,
//! no hash. The copy holds for a second, then the table is asked again, so that an entry in use never
//! looks silent; it holds for one generation, and only where there is nothing left to note down but the
//! packet. Whatever is not plain (options, fragments, lengths that do not fit) goes the long way, so
//! this can only find what the long way would have found.

use bulkhead_abi::{Direction, FlowState, Protocol, SocketFlow, Verdict};

use super::{Hook, Slot, Socket, State};
use crate::packet;

/// How long a copy holds, in nanoseconds: a small part of the shortest lifetime of a tabled flow.
const COPY: u64 = 1_000_000_000;

/// The counter slot of the flow that the socket at hand has seen last (`owned`), if this packet is one
/// more of it and passes.
#[inline(always)]
pub fn again<H: Hook>(
    hook: &H,
    owned: &impl Slot<SocketFlow>,
    generation: u64,
    direction: Direction,
) -> Option<u32> {
    let leaves = direction == Direction::Egress;
    let made =
        owned.read(|flow| if holds(hook, flow, generation, leaves) { Some(flow.opened) } else { None })?;
    let (source, destination) = packet::plain_datagram(hook)?;
    let (local, remote) = if leaves { (source, destination) } else { (destination, source) };
    let slot = owned.read(|flow| {
        let same = (flow.local_addr, flow.local_port) == local && (flow.peer_addr, flow.peer_port) == remote;
        if same { Some(flow.slot) } else { None }
    })?;
    // Another processor may have written to it meanwhile.
    hook.barrier();
    let unchanged = owned.read(|flow| flow.generation == generation && flow.opened == made);
    if unchanged { Some(slot) } else { None }
}

#[inline(always)]
fn holds<H: Hook>(hook: &H, flow: &SocketFlow, generation: u64, leaves: bool) -> bool {
    // What is still read is read the long way.
    if flow.protocol != Protocol::UDP.0
        || flow.datagrams.reading.settled == 0
        || flow.generation != generation
        || !Verdict::from_code(flow.verdict).passes()
    {
        return false;
    }
    if flow.flags & SocketFlow::FLAG_TABLED == 0 {
        return hook.is_connected();
    }
    let replies = (flow.flags & SocketFlow::FLAG_OPENER != 0) != leaves;
    let unheard = replies && flow.flags & SocketFlow::FLAG_REPLIED == 0;
    !unheard && hook.coarse_now().saturating_sub(flow.opened) <= COPY
}

/// Copies what the table holds of a flow that passes to the socket at hand.
#[inline(always)]
pub(super) fn remember<H: Hook>(hook: &H, state: &State, tabled: &FlowState, opener: bool, counter: u32) {
    if state.protocol != Protocol::UDP
        || state.socket != Socket::Other
        || tabled.datagrams.reading.settled == 0
    {
        return;
    }
    let Some(slot) = hook.own() else { return };
    slot.update(|flow| {
        // Whoever reads on another processor looks at the generation before and after.
        flow.generation = 0;
        hook.barrier();
        flow.opened = tabled.seen;
        flow.peer = if opener { tabled.receiver } else { tabled.opener };
        (flow.local_addr, flow.local_port) = (*state.local().addr, state.local().port);
        (flow.peer_addr, flow.peer_port) = (*state.remote().addr, state.remote().port);
        (flow.from, flow.to, flow.rule) = (tabled.from, tabled.to, tabled.rule);
        (flow.verdict, flow.reason) = (Verdict::Allow as u8, tabled.reason);
        flow.slot = counter;
        flow.datagrams.reading.settled = 1;
        flow.protocol = state.protocol.0;
        flow.flags = SocketFlow::FLAG_TABLED;
        if opener {
            flow.flags |= SocketFlow::FLAG_OPENER;
        }
        if tabled.flags & FlowState::FLAG_REPLIED != 0 {
            flow.flags |= SocketFlow::FLAG_REPLIED;
        }
        hook.barrier();
        flow.generation = state.control.generation;
    });
}
