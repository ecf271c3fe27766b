//! Flows that no socket owns: UDP that is not connected, ICMP echo, and packets without a socket.

use bulkhead_abi::{FlowState, Identity, Protocol, Reason, Verdict, Workload, flow::TcpState};

use super::{
    Entry, Hook, Judged, Outcome, Slot, State, Telling, datagram, decide, denied,
    handed::{self, Handed},
    is_spoofed, receiver, telling,
};
use crate::{
    judge::Decision,
    packet::Kind,
    report::{self, NO_SLOT},
};

/// A packet of a flow in the table; untracked if it is of none, or of one that grants nothing any more.
#[inline(always)]
pub fn tracked<H: Hook>(hook: &H, state: &State) -> Judged {
    match hook.tabled(&state.key) {
        Some(slot) => slot.update(|flow| judge_tracked(hook, state, flow)),
        None => Judged::done(Outcome::Untracked),
    }
}

#[inline(always)]
fn judge_tracked<H: Hook>(hook: &H, state: &State, flow: &mut FlowState) -> Judged {
    let now = hook.now();
    let opener = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) == state.local_is_low();
    let (judged, verdict) = of_side(flow, opener);
    let owner = if opener { flow.opener.cgroup } else { flow.receiver.cgroup };
    let opens = state.segment().is_some_and(|segment| segment.opens);
    if flow.tag != state.key.tag()
        || is_expired(flow, now, state.protocol)
        || (opens && flow.tcp != TcpState::Opening as u8)
        // A tuple grants nothing to another owner.
        || (judged != 0 && owner != hook.cgroup())
    {
        return Judged::done(Outcome::Untracked);
    }
    flow.seen = now;
    let source_opened = opener == state.leaves();
    flow.tcp = tcp_after(flow.tcp, state, source_opened);
    if !source_opened {
        flow.flags |= FlowState::FLAG_REPLIED;
    }
    if judged == state.control.generation {
        let counts = counts_here(flow, opener, flow.to);
        let counter = if counts || !verdict.passes() { flow.slot } else { NO_SLOT };
        if verdict == Verdict::Allow {
            datagram::remember(hook, state, flow, opener, counter);
        }
        return telling::again(hook, state, verdict, counter);
    }
    let own = hook.workload_at_hand();
    let peer = if opener { flow.receiver } else { flow.opener };
    let handed = if opener { Handed::NONE } else { handed::read(flow, state.control.generation) };
    let decision = handed::decide(hook, state, &own, opener, &peer, &handed);
    let counts = counts_here(flow, opener, decision.to);
    // Asked anew: what is remembered over calls takes room on the stack.
    let (judged, verdict) = of_side(flow, opener);
    let first = if counts { judged == 0 || verdict != decision.verdict } else { !decision.verdict.passes() };
    let telling = Telling { opener, first, elsewhere: !counts, later: true };
    let counter = hook.account(state, &decision, &own, telling);
    if counts || !decision.verdict.passes() {
        flow.slot = counter;
    }
    judge_side(flow, opener, state.control.generation, &decision, own);
    if decision.verdict.passes() {
        return Judged::passing(decision.verdict, counter, first);
    }
    Judged::done(state.out(decision.verdict))
}

/// A packet of no flow that is known.
#[inline(always)]
pub fn untracked<H: Hook>(hook: &H, state: &State) -> Judged {
    let leaves = state.leaves();
    if let Some(segment) = state.segment() {
        if segment.resets {
            return Judged::done(Outcome::Verdict(Verdict::Allow));
        }
        if !segment.opens {
            return Judged::done(Outcome::Anomaly(Reason::Stray));
        }
    }
    // The kernel's own answer to somebody else's request, whose ingress no socket hook sees, is judged
    // as the inbound flow that it answers.
    let answers = state.kind == Kind::EchoReply;
    if answers && !leaves {
        return Judged::done(Outcome::Anomaly(Reason::Stray));
    }
    if let Some(slot) = denied::standing(hook, state) {
        return telling::again(hook, state, Verdict::Deny, slot);
    }
    if is_spoofed(hook, state) {
        return Judged::done(Outcome::Anomaly(Reason::Spoofed));
    }
    let opener = leaves && !answers;
    let own = hook.workload_at_hand();
    let peer = if opener { receiver(hook, state) } else { Workload::UNKNOWN };
    let decision = decide(hook, state, &own, opener, &peer);
    let passes = decision.verdict.passes();
    // One that is only reported is a flow, to be told of once.
    if answers && decision.verdict == Verdict::Allow {
        return Judged::done(Outcome::Verdict(decision.verdict));
    }
    if passes && decision.is_unzoned() {
        // No state, and so no telling one flow from the next: packets are counted, flows are not.
        let telling = Telling { opener, first: false, elsewhere: decision.is_deferred(), later: true };
        let slot = hook.account(state, &decision, &own, telling);
        return Judged::passing(decision.verdict, slot, false);
    }
    let local = opener && peer.is_known();
    let elsewhere = local || decision.is_deferred();
    if passes {
        let entry = match (opener, local) {
            (true, true) => Entry::LocalOpener,
            (true, false) => Entry::Opener,
            (false, _) => Entry::Receiver,
        };
        if !hook.enter(state, &peer, &decision, entry) {
            return Judged::done(Outcome::Anomaly(Reason::FlowTableFull));
        }
    }
    let slot = hook.account(state, &decision, &own, Telling { opener, first: true, elsewhere, later: true });
    if passes {
        return Judged::passing(decision.verdict, slot, true);
    }
    denied::remember(hook, state, slot);
    Judged::done(Outcome::Verdict(decision.verdict))
}

/// Puts a new flow into the table; false when it is full.
#[inline(always)]
pub fn enter<H: Hook>(hook: &H, state: &State, peer: &Workload, decision: &Decision, entry: Entry) -> bool {
    let own = hook.workload_at_hand();
    let opener = entry != Entry::Receiver;
    let (generation, verdict) = (state.control.generation, decision.verdict as u8);
    let counter = match entry {
        Entry::LocalOpener | Entry::LocalReader => NO_SLOT,
        _ if decision.is_deferred() => NO_SLOT,
        _ => report::slot_of(&state.policy(hook), decision),
    };
    let Some(slot) = hook.table(&state.key) else { return false };
    slot.update(|flow| {
        flow.seen = hook.now();
        if opener {
            (flow.opener, flow.receiver) = (own, *peer);
            (flow.judged, flow.verdict) = ([generation, 0], [verdict, 0]);
            (flow.cookie, flow.netns) = (hook.cookie(), hook.netns());
        } else {
            (flow.opener, flow.receiver) = (*peer, own);
            (flow.judged, flow.verdict) = ([0, generation], [0, verdict]);
        }
        (flow.from, flow.to, flow.rule) = (decision.from, decision.to, decision.rule);
        flow.reason = decision.reason as u8;
        flow.slot = counter;
        flow.flags = entry.flags();
        if opener == state.local_is_low() {
            flow.flags |= FlowState::FLAG_OPENER_LOW;
        }
        if state.is_stream() {
            flow.tcp = TcpState::Opening as u8;
        }
        // Last: until then it is nobody's flow.
        flow.tag = state.key.tag();
    });
    true
}

/// How long a tabled flow lives without a packet, in nanoseconds.
#[inline(always)]
pub fn lifetime(flow: &FlowState, protocol: Protocol) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let replied = flow.flags & FlowState::FLAG_REPLIED != 0;
    match (protocol, TcpState::from_code(flow.tcp)) {
        (Protocol::TCP, _) if flow.flags & FlowState::FLAG_ADOPTED != 0 => u64::MAX,
        (Protocol::TCP, TcpState::Established) => 6 * 3600 * SECOND,
        (Protocol::TCP, TcpState::Closing) => 120 * SECOND,
        (Protocol::TCP, TcpState::Closed) => 10 * SECOND,
        (Protocol::TCP, _) => 60 * SECOND,
        (Protocol::UDP | Protocol::UDPLITE, _) if replied => 180 * SECOND,
        (Protocol::UDP | Protocol::UDPLITE | Protocol::ICMP | Protocol::ICMPV6, _) => 30 * SECOND,
        _ => 600 * SECOND,
    }
}

/// Whether a tabled flow has been silent for longer than its lifetime: it grants nothing any more,
/// whether or not the agent has swept it yet.
#[inline(always)]
pub fn is_expired(flow: &FlowState, now: u64, protocol: Protocol) -> bool {
    now.saturating_sub(flow.seen) > lifetime(flow, protocol)
}

/// When one side was judged, and how.
#[inline(always)]
fn of_side(flow: &FlowState, opener: bool) -> (u64, Verdict) {
    let ([egress, ingress], [out, into]) = (flow.judged, flow.verdict);
    if opener { (egress, Verdict::from_code(out)) } else { (ingress, Verdict::from_code(into)) }
}

#[inline(always)]
fn judge_side(flow: &mut FlowState, opener: bool, generation: u64, decision: &Decision, own: Workload) {
    let ([egress, ingress], [out, into]) = (flow.judged, flow.verdict);
    let verdict = decision.verdict as u8;
    (flow.from, flow.to, flow.rule) = (decision.from, decision.to, decision.rule);
    flow.reason = decision.reason as u8;
    if opener {
        (flow.verdict, flow.opener) = ([verdict, into], own);
        flow.judged = [generation, ingress];
    } else {
        (flow.verdict, flow.receiver) = ([out, verdict], own);
        flow.judged = [egress, generation];
    }
}

/// A flow between two ends of this node is counted at its receiver, one that its opener's end leaves to
/// the guard by the guard, all others where they are seen.
#[inline(always)]
fn counts_here(flow: &FlowState, opener: bool, to: Identity) -> bool {
    let local = flow.flags & FlowState::FLAG_LOCAL != 0;
    if opener { !local && to != Identity::VIRTUAL } else { local || !flow.opener.is_known() }
}

#[inline(always)]
pub(crate) fn tcp_after(tcp: u8, state: &State, source_opened: bool) -> u8 {
    let Some(segment) = state.segment() else { return tcp };
    let next = match TcpState::from_code(tcp) {
        _ if segment.resets => TcpState::Closed,
        TcpState::Opening if !source_opened => TcpState::Established,
        TcpState::Opening | TcpState::Established if segment.finishes => TcpState::Closing,
        TcpState::Closing if segment.finishes => TcpState::Closed,
        state => state,
    };
    next as u8
}
