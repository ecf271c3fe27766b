//! What a `connect` decided, kept at the socket for the SYN that it sends.
//!
//! The call asks the rules with the addresses that the connection will have, as far as they can be told
//! before; a moment later its SYN asks the same. Where the SYN is as was expected (both addresses, the
//! port, the generation), the answer is taken over. Only an allow is kept, so this can save work and
//! grant nothing; a connection that another program turned elsewhere is judged as what it became.

use bulkhead_abi::{Addr, Reason, SocketFlow, Verdict, Workload};

use super::{Hook, Slot, Socket, State};
use crate::{judge::Decision, report::NO_SLOT};

/// What was decided, if anything was.
pub(super) struct Prepared {
    pub(super) stands: bool,
    pub(super) peer: Workload,
    pub(super) decision: Decision,
}

impl Prepared {
    /// Nothing.
    pub(super) const NONE: Self = Self { stands: false, peer: Workload::UNKNOWN, decision: Decision::CLOSED };
}

/// Keeps a call's decision at its socket.
#[inline(always)]
pub(crate) fn keep(
    place: &impl Slot<SocketFlow>,
    generation: u64,
    source: Addr,
    (target, port): (Addr, u16),
    peer: &Workload,
    decision: &Decision,
) {
    if decision.verdict != Verdict::Allow || matches!(decision.reason, Reason::Failsafe | Reason::Virtual) {
        return;
    }
    place.update(|flow| {
        flow.opened = 0;
        flow.peer = *peer;
        (flow.local_addr, flow.local_port) = (source, 0);
        (flow.peer_addr, flow.peer_port) = (target, port);
        (flow.from, flow.to, flow.rule) = (decision.from, decision.to, decision.rule);
        (flow.verdict, flow.reason) = (decision.verdict as u8, decision.reason as u8);
        flow.slot = NO_SLOT;
        flow.protocol = 0;
        flow.flags = SocketFlow::FLAG_OPENER | SocketFlow::FLAG_PREPARED;
        flow.generation = generation;
    });
}

/// What was kept for this SYN.
#[inline(always)]
pub(super) fn read<H: Hook>(hook: &H, state: &State) -> Prepared {
    let mut prepared = Prepared::NONE;
    let opens = state.socket == Socket::Opening && state.segment().is_some_and(|segment| segment.opens);
    if opens && let Some(slot) = hook.owned() {
        slot.read(|flow| {
            prepared.stands = flow.flags & SocketFlow::FLAG_PREPARED != 0
                && flow.generation == state.control.generation
                && (flow.peer_addr, flow.peer_port) == (*state.remote().addr, state.remote().port)
                && flow.local_addr == *state.local().addr;
            prepared.peer = flow.peer;
            prepared.decision = Decision {
                verdict: Verdict::Allow,
                reason: Reason::from_code(flow.reason),
                rule: flow.rule,
                from: flow.from,
                to: flow.to,
            };
        });
    }
    prepared
}
