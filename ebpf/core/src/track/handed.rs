//! What the opener's hook decided, taken over by the receiver's.
//!
//! Where both ends are on this node, the opener's hook has asked the rules of both sides, and has left
//! the answer in the flow table. The receiver's hook takes that answer instead of looking for it again,
//! as long as nothing differs that it depends on: the generation, and who receives. Only an allow is
//! taken over, so this can save work and grant nothing: a denial, a doubt, another receiver, and what
//! passed for the opener's side alone (a failsafe port, a virtual address) are judged anew.

use bulkhead_abi::{FlowState, Reason, Verdict, Workload};

use super::{Hook, Slot, State};
use crate::{judge::Decision, report::NO_SLOT};

/// An answer to be taken over, or none. (An `Option` would leave bytes unwritten that the verifier then
/// sees copied.)
#[derive(Clone, Copy)]
pub(super) struct Handed {
    /// Not zero: it is one.
    stands: u8,
    /// Not zero: the opener is the node's proxy, or was turned to it. That is for [`super::role`] alone, and
    /// holds in any generation.
    proxied: u8,
    /// Not zero: the receiver's hook has taken it over already, in this generation: see [`take_over`].
    taken: u8,
    /// The counter slot of what was taken over.
    pub(super) slot: u32,
    receiver: Workload,
    pub(super) decision: Decision,
}

impl Handed {
    /// No answer.
    pub(super) const NONE: Self = Self {
        stands: 0,
        proxied: 0,
        taken: 0,
        slot: NO_SLOT,
        receiver: Workload::UNKNOWN,
        decision: Decision::CLOSED,
    };

    /// Whether the opener is the node's proxy, or was turned to it.
    #[inline(always)]
    pub(super) const fn is_proxied(&self) -> bool {
        self.proxied != 0
    }

    /// Whether the receiver at hand has taken it over before: then it is not to be compared again, nor
    /// counted anew.
    #[inline(always)]
    pub(super) fn is_taken<H: Hook>(&self, hook: &H) -> bool {
        self.taken != 0 && self.receiver.cgroup == hook.cgroup()
    }

    /// Who receives, as the opener's hook found.
    #[inline(always)]
    pub(super) const fn receiver(&self) -> Workload {
        self.receiver
    }
}

/// Notes in a flow's entry that the receiver at hand, `own`, goes by what was handed over, and counts in
/// `slot`: its next packets need not ask again. It grants nothing that the entry does not.
#[inline(always)]
pub(super) fn take_over(
    entry: &impl Slot<FlowState>,
    state: &State,
    handed: &Handed,
    own: &Workload,
    slot: u32,
) {
    if handed.stands == 0 || handed.receiver != *own {
        return;
    }
    entry.update(|flow| {
        if flow.tag == state.key.tag() {
            let ([egress, _], [out, _]) = (flow.judged, flow.verdict);
            (flow.verdict, flow.slot) = ([out, Verdict::Allow as u8], slot);
            flow.judged = [egress, state.control.generation];
        }
    });
}

/// What a flow's entry has for its receiver's hook.
#[inline(always)]
pub(super) fn read(flow: &FlowState, generation: u64) -> Handed {
    let ([judged, taken], [verdict, into]) = (flow.judged, flow.verdict);
    let is_local = flow.flags & (FlowState::FLAG_LOCAL | FlowState::FLAG_ADOPTED) == FlowState::FLAG_LOCAL;
    let reason = Reason::from_code(flow.reason);
    let decision =
        Decision { verdict: Verdict::Allow, reason, rule: flow.rule, from: flow.from, to: flow.to };
    let allows = is_local && verdict == Verdict::Allow as u8;
    let stands = allows
        && judged == generation
        && !matches!(reason, Reason::Failsafe | Reason::Virtual | Reason::Proxied)
        && !decision.is_deferred();
    let proxied = allows && matches!(reason, Reason::Proxied);
    let taken = stands && taken == generation && into == Verdict::Allow as u8;
    Handed {
        stands: u8::from(stands),
        proxied: u8::from(proxied),
        taken: u8::from(taken),
        slot: flow.slot,
        receiver: flow.receiver,
        decision,
    }
}

/// The decision at this end, which `opener` says which it is: `handed` where that is about the receiver
/// at hand.
#[inline(always)]
pub(super) fn decide<H: Hook>(
    hook: &H,
    state: &State,
    own: &Workload,
    opener: bool,
    peer: &Workload,
    handed: &Handed,
) -> Decision {
    if handed.stands != 0 && !opener && handed.receiver == *own {
        handed.decision
    } else {
        super::decide(hook, state, own, opener, peer)
    }
}
