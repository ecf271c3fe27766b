//! Fragments, where they are forwarded. The first one names the flow and is judged as it; later ones pass
//! only behind an allowed first one, and only where they do not write over what was judged.
//!
//! On the way to a socket of this node fragments are put together before its socket layer judges, so this
//! is for endpoints that have none here. The table is bounded; what does not fit is denied.

use bulkhead_abi::{Reason, Verdict, flow::FirstFragment};

use super::{Guard, judge_flow};
use crate::{
    packet,
    track::{Outcome, Slot, State},
};

/// How long the later fragments may keep their first one waiting, in nanoseconds: as long as Linux keeps
/// fragments (`net.ipv4.ipfrag_time`).
const LIFETIME: u64 = 30_000_000_000;

/// A fragment.
#[inline(always)]
pub fn fragment<G: Guard>(guard: &G, state: &State) -> Outcome {
    let Some(fragment) = packet::read_fragment(guard) else {
        return Outcome::Anomaly(Reason::Fragment);
    };
    if fragment.offset != 0 {
        let known = guard.first_fragment(&fragment.key).filter(|first| {
            first.key == fragment.key
                && first.generation == state.control.generation
                && guard.now().saturating_sub(first.seen) < LIFETIME
                && fragment.offset >= first.end
        });
        let Some(first) = known else { return Outcome::Anomaly(Reason::Fragment) };
        guard.add(first.slot, 0, 1, u64::from(guard.len()));
        return Outcome::Verdict(Verdict::Allow);
    }
    let mut first = *state;
    first.fill(&fragment.packet, 0);
    let outcome = judge_flow(guard, &first);
    let Outcome::Verdict(verdict) = outcome else { return outcome };
    // Between endpoints in no zone nothing is kept, and nothing is asked of later ones.
    let Some(flow) = guard.transit(&first.key) else { return outcome };
    if !verdict.passes() {
        return outcome;
    }
    let remembered = FirstFragment {
        key: fragment.key,
        generation: state.control.generation,
        seen: guard.now(),
        end: fragment.end,
        slot: flow.read(|flow| flow.slot),
    };
    if guard.remember_fragment(&remembered) { outcome } else { Outcome::Anomaly(Reason::Fragment) }
}
