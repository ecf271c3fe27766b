//! The way back to an endpoint without a socket: to a machine behind a tap, say. The guard judged its flow
//! where it left, after its address was translated, and knows it by that tuple; an answer has it only where
//! it comes in. So it is looked at there, and its mark says so where it leaves.
//!
//! Which way it fails: what is not found here is judged where it leaves, as if there were no translation.

use bulkhead_abi::{FlowState, Reason, Verdict};

use super::{Guard, Mark, Network};
use crate::{
    packet::Kind,
    track::{Outcome, Slot, State},
};

/// A packet that may come in, and perhaps is on the way back.
#[inline(always)]
pub(super) fn back<G: Guard>(guard: &G, state: &mut State) -> Verdict {
    if guard.network() != Network::Ip {
        return Verdict::Allow;
    }
    // Whoever was asked before may have read something else into it.
    guard.on_prepare(state);
    let outcome = match state.kind {
        Kind::IcmpError => guard.on_icmp_error(state),
        Kind::Malformed(Reason::Fragment) => guard.on_fragment_back(state),
        Kind::Malformed(_) | Kind::Discovery => Outcome::Untracked,
        _ => flow(guard, state),
    };
    let Outcome::Verdict(verdict) = outcome else { return Verdict::Allow };
    if verdict.passes() {
        guard.set_mark(Mark::BACK);
    }
    verdict
}

/// A packet of one flow.
#[inline(always)]
pub(super) fn flow<G: Guard>(guard: &G, state: &State) -> Outcome {
    if guard.on_is_back(state) { guard.on_transit(state) } else { Outcome::Untracked }
}

/// Whether a packet goes to the opener of a flow of the guard's that has no socket.
#[inline(always)]
pub fn is_back<G: Guard>(guard: &G, state: &State) -> bool {
    let local_is_low = state.local_is_low();
    let is_back = |flow: &FlowState| {
        let opener_is_low = flow.flags & FlowState::FLAG_OPENER_LOW != 0;
        flow.flags & FlowState::FLAG_ROUTED != 0 && opener_is_low != local_is_low
    };
    guard.transit(&state.key).is_some_and(|slot| slot.read(is_back))
}
