//! Listening sockets: connections in the making. Nothing is kept of them here, so a flood of them fills
//! nothing; each of their packets is judged as what it is, part of an inbound flow.

use bulkhead_abi::{FlowState, Verdict, Workload};

use super::{
    Hook, Outcome, Slot, State, Telling, Whose,
    handed::{self, Handed},
    owned::must_be_read,
};
use crate::judge::Decision;

/// A segment to or from a listening socket: SYN, SYN-ACK, the last ACK of the handshake, early data.
#[inline(always)]
pub fn listening<H: Hook>(hook: &H, state: &State) -> Outcome {
    if state.resets() {
        return Outcome::Verdict(Verdict::Allow);
    }
    let mut opener = Workload::UNKNOWN;
    let (mut cookie, mut netns) = (0, 0);
    let mut handed = Handed::NONE;
    let entry = hook.tabled(&state.key);
    if let Some(slot) = &entry {
        slot.read(|flow| {
            let remote_opened = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) != state.local_is_low();
            if remote_opened && flow.tag == state.key.tag() {
                (opener, cookie, netns) = (flow.opener, flow.cookie, flow.netns);
                handed = handed::read(flow, state.control.generation);
            }
        });
    }
    let taken = handed.is_taken(hook);
    let own = if taken { handed.receiver() } else { hook.workload_at_hand() };
    let decision = handed::decide(hook, state, &own, false, &opener, &handed);
    if decision.verdict.passes() && !state.leaves() && must_wait(hook, state, &decision) {
        return Outcome::Verdict(Verdict::Deny);
    }
    if taken {
        hook.add(handed.slot, 0, 1, u64::from(hook.len()));
        return Outcome::Verdict(Verdict::Allow);
    }
    let knocks = !state.leaves() && state.segment().is_some_and(|segment| segment.opens);
    let first = knocks || !decision.verdict.passes();
    let telling = Telling { opener: false, first, elsewhere: false, later: false };
    let slot = hook.account(state, &decision, &own, telling);
    if let Some(entry) = &entry {
        handed::take_over(entry, state, &handed, &own, slot);
    }
    if !decision.verdict.passes() && cookie != 0 {
        hook.doom(state, cookie, netns, Whose::Theirs, decision.reason);
    }
    Outcome::Verdict(decision.verdict)
}

/// Whether a segment carries data that comes too early (TCP Fast Open, a deferred accept) where only what
/// is encrypted may pass: nobody keeps what its bytes say before there is a socket to keep it. It is
/// dropped without a word, and repeated once the connection is made.
#[inline(always)]
fn must_wait<H: Hook>(hook: &H, state: &State, decision: &Decision) -> bool {
    let carries = hook.span().is_none_or(|span| span.len != 0);
    carries && must_be_read(hook, state, decision, false)
}
