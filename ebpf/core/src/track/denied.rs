//! A flood of what is denied: the same verdict again, for less.
//!
//! A denied packet that no flow is known of is remembered with its verdict. The next one of the same
//! tuple, the same way, of the same cgroup and generation is denied as that one was, for so short
//! a time that nobody waits for it: who comes into a zone, or begins to listen, is seen when it is over.
//! It is asked only where no approved flow was found, and answers nothing but denials.

use super::{Hook, State};

/// How long a denial is taken as given, in nanoseconds.
const STANDING: u64 = 20_000_000;

/// The counter slot of a denial that still stands.
#[inline(always)]
pub(super) fn standing<H: Hook>(hook: &H, state: &State) -> Option<u32> {
    if !is_told_by_key(state) {
        return None;
    }
    let denial = hook.denial(&state.key)?;
    let stands = denial.generation == state.control.generation
        && denial.way == way(state)
        && hook.coarse_now().saturating_sub(denial.judged) < STANDING
        && denial.cgroup == hook.cgroup();
    if stands { Some(denial.slot) } else { None }
}

/// Remembers a denial that was counted in `slot`.
#[inline(always)]
pub(super) fn remember<H: Hook>(hook: &H, state: &State, slot: u32) {
    if !is_told_by_key(state) {
        return;
    }
    let (now, cgroup) = (hook.now(), hook.cgroup());
    hook.note_denial(&state.key, |denial| {
        // Of one that nobody was told of, nothing is remembered.
        if denial.tag == state.key.tag() {
            (denial.generation, denial.cgroup, denial.slot) = (state.control.generation, cgroup, slot);
            denial.way = way(state);
            denial.judged = now;
        }
    });
}

/// A key is the same for both directions, and both ends may be of one cgroup.
#[inline(always)]
fn way(state: &State) -> u8 {
    u8::from(state.leaves()) | u8::from(state.local_is_low()) << 1
}

/// Whether the flow's key says all that a verdict depends on. What kind of ICMP it is stands beside it.
#[inline(always)]
fn is_told_by_key(state: &State) -> bool {
    state.protocol.has_ports()
}
