//! Fragments, where they are forwarded. The first one names the flow and is judged as it; later ones pass
//! only behind an allowed first one, and only where they do not write over what was judged.
//!
//! On the way to a socket of this node fragments are put together before its socket layer judges, so this
//! is for endpoints that have none here. The table is bounded; what does not fit is denied.

use bulkhead_abi::{
    Addr, FlowState, Reason, Verdict,
    flow::{FirstFragment, FragmentKey},
};

use super::{Guard, back, judge_flow, transit::is_of};
use crate::{
    packet::{self, Kind},
    report::NO_SLOT,
    track::{Outcome, Slot, State},
};

/// What a fragment can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Part {
    /// Nothing that can be read, or too short for its transport header.
    Unreadable = 0,
    /// It begins a packet.
    First = 1,
    /// It goes on with one.
    Later = 2,
}

impl Part {
    /// From its number.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::First,
            2 => Self::Later,
            _ => Self::Unreadable,
        }
    }
}

/// How long the later fragments may keep their first one waiting, in nanoseconds: as long as Linux keeps
/// fragments (`net.ipv4.ipfrag_time`).
const LIFETIME: u64 = 30_000_000_000;

/// Nothing read yet.
const BLANK: FirstFragment = FirstFragment {
    key: FragmentKey { src: Addr::ANY, dst: Addr::ANY, id: 0, protocol: 0, _reserved: [0; 3] },
    generation: 0,
    seen: 0,
    end: 0,
    slot: 0,
};

/// A fragment.
#[inline(always)]
pub(super) fn fragment<G: Guard>(guard: &G, state: &mut State) -> Outcome {
    let mut first = BLANK;
    match guard.on_read_fragment(state, &mut first) {
        Part::Unreadable => Outcome::Anomaly(Reason::Fragment),
        Part::Later => guard.on_later_fragment(&first),
        Part::First => match judge_flow(guard, state) {
            Outcome::Verdict(verdict) if verdict.passes() => guard.on_first_fragment(state, &first, verdict),
            outcome => outcome,
        },
    }
}

/// A fragment of an answer that a kernel gives: its first one is judged, the others follow it.
#[inline(always)]
pub fn answered<G: Guard>(guard: &G, state: &mut State) -> Outcome {
    let mut first = BLANK;
    match guard.on_read_fragment(state, &mut first) {
        Part::Later => guard.on_later_answer(&first),
        Part::First if state.kind == Kind::EchoReply => match guard.on_reply(state) {
            Outcome::Verdict(verdict) if verdict.passes() => {
                match guard.on_first_fragment(state, &first, verdict) {
                    passes @ Outcome::Verdict(_) => passes,
                    _ => Outcome::Untracked,
                }
            }
            outcome => outcome,
        },
        _ => Outcome::Untracked,
    }
}

/// A fragment that may be on its way back, where it comes in.
#[inline(always)]
pub fn back<G: Guard>(guard: &G, state: &mut State) -> Outcome {
    let mut first = BLANK;
    match guard.on_read_fragment(state, &mut first) {
        Part::Unreadable => Outcome::Untracked,
        Part::Later => guard.on_later_fragment(&first),
        Part::First => match back::flow(guard, state) {
            Outcome::Verdict(verdict) if verdict.passes() => guard.on_first_fragment(state, &first, verdict),
            outcome => outcome,
        },
    }
}

/// Reads a fragment: of a first one, its flow into the state and where it ends; of a later one, where it
/// begins.
#[inline(always)]
pub fn read_fragment<G: Guard>(guard: &G, state: &mut State, first: &mut FirstFragment) -> Part {
    let Some(fragment) = packet::read_fragment(guard) else { return Part::Unreadable };
    first.key = fragment.key;
    first.generation = state.control.generation;
    if fragment.offset != 0 {
        first.end = fragment.offset;
        return Part::Later;
    }
    first.end = fragment.end;
    state.fill(&fragment.packet, 0);
    Part::First
}

/// A fragment that goes on with a packet. `later` is what [`read_fragment`] made of it.
#[inline(always)]
pub fn later_fragment<G: Guard>(guard: &G, later: &FirstFragment) -> Outcome {
    match behind(guard, later) {
        Some(slot) => {
            guard.add(slot, 0, 1, u64::from(guard.len()));
            Outcome::Verdict(Verdict::Allow)
        }
        None => Outcome::Anomaly(Reason::Fragment),
    }
}

/// The same where it comes in: of what nobody counts. Untracked if it is of anything else.
#[inline(always)]
pub fn later_answer<G: Guard>(guard: &G, later: &FirstFragment) -> Outcome {
    match behind(guard, later) {
        Some(NO_SLOT) => Outcome::Verdict(Verdict::Allow),
        _ => Outcome::Untracked,
    }
}

/// The counter slot of the allowed first fragment that a later one is behind.
#[inline(always)]
fn behind<G: Guard>(guard: &G, later: &FirstFragment) -> Option<u32> {
    let first = guard.first_fragment(&later.key)?;
    let goes_on = first.key == later.key
        && first.generation == later.generation
        && guard.now().saturating_sub(first.seen) < LIFETIME
        && later.end >= first.end;
    goes_on.then_some(first.slot)
}

/// A first fragment that passes. Between endpoints in no zone nothing is kept of it, and nothing asked of
/// later ones. A kernel's answer is of no flow of the guard's, and counted by nobody.
#[inline(always)]
pub fn first_fragment<G: Guard>(
    guard: &G,
    state: &State,
    first: &FirstFragment,
    verdict: Verdict,
) -> Outcome {
    let now = guard.now();
    let slot = guard.transit(&state.key).and_then(|place| place.read(|flow| slot_of(state, flow, now)));
    // What the table holds under this key may be of before, and not what let the packet pass.
    let slot = match slot {
        Some(slot) => slot,
        None if state.kind == Kind::EchoReply => NO_SLOT,
        None => return Outcome::Verdict(verdict),
    };
    let remembered = FirstFragment { seen: now, slot, ..*first };
    if guard.remember_fragment(&remembered) {
        Outcome::Verdict(verdict)
    } else {
        Outcome::Anomaly(Reason::Fragment)
    }
}

/// The counter slot of the flow that a packet which passes is of; `None` if it is of another one.
#[inline(always)]
fn slot_of(state: &State, flow: &FlowState, now: u64) -> Option<u32> {
    let [judged, _] = flow.judged;
    let ours = judged == state.control.generation && is_of(state, flow, now);
    ours.then_some(flow.slot)
}
