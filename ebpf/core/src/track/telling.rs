//! Counting, telling, and putting sockets on the list of those to be ended.

use bulkhead_abi::{Reason, Verdict, Workload, flow::Doomed};

use super::{Judged, State, Telling, Whose};
use crate::{
    judge::Decision,
    packet::Bytes,
    report::{self, Content, NO_SLOT, Report, Subject},
    tables::Tables,
};

/// Counts a decision and tells of it where it is due; the slot that its flow counts in from now on.
#[inline(always)]
pub fn account<H: Tables + Bytes + Report>(
    hook: &H,
    state: &State,
    decision: &Decision,
    own: &Workload,
    telling: Telling,
) -> u32 {
    if telling.elsewhere && decision.verdict.passes() {
        return NO_SLOT;
    }
    let policy = state.policy(hook);
    let slot = report::slot_of(&policy, decision);
    let len = u64::from(hook.len());
    if decision.verdict == Verdict::Allow {
        if !telling.later {
            hook.add(slot, u64::from(telling.first), 1, len);
        }
        return slot;
    }
    let fresh =
        telling.first && (decision.verdict == Verdict::Audit || report::denied_first(hook, &state.key));
    if !telling.later || !decision.verdict.passes() {
        hook.add(slot, u64::from(fresh), 1, len);
    }
    if fresh {
        let (src, dst) =
            if telling.opener { (state.local(), state.remote()) } else { (state.remote(), state.local()) };
        let subject = Subject {
            src: src.addr,
            dst: dst.addr,
            src_port: src.port,
            dst_port: dst.port,
            protocol: state.protocol,
            workload: own,
            content: Content::NONE,
        };
        report::tell(&policy, decision, &subject);
    }
    slot
}

/// Another packet of a flow whose verdict stands; one that passes is still to be counted.
#[inline(always)]
pub(crate) fn again<H: Tables + Bytes + Report>(
    hook: &H,
    state: &State,
    verdict: Verdict,
    counter: u32,
) -> Judged {
    if verdict.passes() {
        return Judged::passing(verdict, counter, false);
    }
    hook.add(counter, 0, 1, u64::from(hook.len()));
    Judged::done(state.out(verdict))
}

/// A socket for the list of those to be ended.
#[inline(always)]
pub fn doomed(state: &State, netns: u64, whose: Whose, reason: Reason) -> Doomed {
    let (own, peer) = match whose {
        Whose::Ours => (state.local(), state.remote()),
        Whose::Theirs => (state.remote(), state.local()),
    };
    Doomed {
        netns,
        local: *own.addr,
        remote: *peer.addr,
        local_port: own.port,
        remote_port: peer.port,
        protocol: state.protocol.0,
        reason: reason as u8,
        _reserved: [0; 2],
    }
}
