//! Flows that a socket owns: TCP connections, and UDP that is connected.

use bulkhead_abi::{
    Class, Control, FlowState, Identity, Inspection, Reason, SocketFlow, Verdict, Workload,
    inspect::{Datagrams, Reading},
};

use super::{
    Entry, Hook, Judged, Outcome, Slot, Socket, State, Telling, Whose,
    handed::{self, Handed},
    is_spoofed,
    prepared::{self, Prepared},
    receiver, telling,
};
use crate::judge::{Decision, Question, Sides};

/// A packet of a socket that owns its flow, or will from now on.
#[inline(always)]
pub fn owned<H: Hook>(hook: &H, state: &State) -> Judged {
    let mut role = Role::NEW;
    let (mut peer, mut handed, mut prepared) = (Workload::UNKNOWN, Handed::NONE, Prepared::NONE);
    if let Some(slot) = hook.owned() {
        let standing = slot.update(|flow| {
            let is_copy = flow.flags & SocketFlow::FLAG_TABLED != 0;
            let same = is_of(flow, state);
            if is_copy || (!same && !is_translated(hook, flow, state)) {
                return None;
            }
            role.known = true;
            role.opener = flow.flags & SocketFlow::FLAG_OPENER != 0;
            role.reads = flow.flags & SocketFlow::FLAG_READ != 0;
            role.verdict = flow.verdict;
            peer = flow.peer;
            if flow.reason == Reason::Proxied as u8 && flow.verdict == Verdict::Allow as u8 {
                // The proxy asks for it, and ends it.
                flow.reading.settled = 0;
                flow.generation = state.control.generation;
            }
            let refused = flow.inspection.phase == Inspection::REFUSED && state.is_stream();
            (!same || refused || flow.generation == state.control.generation).then_some(flow.slot)
        });
        if let Some(counter) = standing {
            return telling::again(hook, state, Verdict::from_code(role.verdict), counter);
        }
    }
    if !role.known {
        if state.resets() {
            return Judged::done(Outcome::Verdict(Verdict::Allow));
        }
        if is_spoofed(hook, state) {
            return Judged::done(Outcome::Anomaly(Reason::Spoofed));
        }
        prepared = prepared::read(hook, state);
        if prepared.stands {
            (role.opener, peer) = (true, prepared.peer);
        } else {
            find_role(hook, state, &mut role, &mut peer, &mut handed);
        }
    }

    let mut own = Workload::UNKNOWN;
    let decision = if prepared.stands {
        // An allow is told without its workload.
        prepared.decision
    } else {
        own = if handed.is_taken(hook) { handed.receiver() } else { hook.workload_at_hand() };
        handed::decide(hook, state, &own, role.opener, &peer, &handed)
    };
    let local = role.opener && peer.is_known();
    if local && !role.known {
        // Below the levels that stop anything, what the receiver's end reads is enough.
        role.reads = role.adopted || must_be_read(hook, state, &decision, true);
    }
    let elsewhere = local || decision.is_deferred();
    let first = !is_counted(state, &role, &decision);
    let telling = Telling { opener: role.opener, first, elsewhere, later: true };
    let counter = hook.account(state, &decision, &own, telling);
    // Without memory for it the next packet is judged as this one was. Before enforcement begins that is
    // wanted: who opened a flow that is older is a guess until the agent has told it, and must not stick.
    let guessed = !role.known && !role.handed && state.socket != Socket::Opening;
    let adopting = state.control.flags & Control::FLAG_ADOPTING != 0;
    let mut unkept = false;
    if !(guessed && adopting) {
        match hook.own() {
            Some(slot) => slot.update(|flow| write(flow, hook, state, &role, &peer, &decision, counter)),
            None => unkept = true,
        }
    }
    if !decision.verdict.passes() {
        let cookie = hook.cookie();
        if cookie != 0 {
            hook.doom(state, cookie, hook.netns(), Whose::Ours, decision.reason);
        }
        return Judged::done(state.out(decision.verdict));
    }
    // Whose bytes cannot be looked at, for want of memory, must not carry any that matter.
    if unkept && must_be_read(hook, state, &decision, role.opener) {
        return Judged::done(Outcome::Verdict(Verdict::Deny));
    }
    // Leaves the opener's workload where the receiver's hook finds it.
    if local && !role.known && !hook.enter(state, &peer, &decision, Entry::local(role.reads)) {
        return Judged::done(Outcome::Anomaly(Reason::FlowTableFull));
    }
    // An adopted flow's entry serves both of its ends, if both are here.
    if role.handed && !role.adopted && state.is_stream() {
        hook.untable(&state.key);
    }
    Judged::passing(decision.verdict, counter, first)
}

/// Who opened a flow, and what was known of it.
pub(super) struct Role {
    /// This end opened it.
    pub(super) opener: bool,
    /// The socket owns it already.
    pub(super) known: bool,
    /// Both ends are on this node, and the opener's reads the bytes of the stream, too.
    pub(super) reads: bool,
    /// It is a leg between a program and the proxy.
    pub(super) leg: bool,
    /// Read from the table, which a stream does not need any more once the socket owns it.
    pub(super) handed: bool,
    /// It lived before enforcement began.
    pub(super) adopted: bool,
    /// Code of its last verdict, 0 if there was none.
    pub(super) verdict: u8,
}

impl Role {
    /// Of a flow of which nothing is known.
    pub(super) const NEW: Self = Self {
        opener: false,
        known: false,
        reads: false,
        leg: false,
        handed: false,
        adopted: false,
        verdict: 0,
    };
}

/// Whether this is the flow of the packet. It is not when the socket was disconnected, or sends
/// elsewhere than it is connected to, or from another address of its host.
#[inline(always)]
pub(super) fn is_of(flow: &SocketFlow, state: &State) -> bool {
    flow.protocol == state.protocol.0
        && flow.peer_port == state.remote().port
        && flow.local_port == state.local().port
        && flow.peer_addr == *state.remote().addr
        && flow.local_addr == *state.local().addr
}

/// Whether this packet is of the flow though it shows another tuple: where addresses are translated in the
/// socket's own namespace, one direction is seen before and the other one after. A stream's socket has one
/// connection at a time, which begins with a SYN, and the kernel itself has found it; a datagram's must
/// bear a virtual address. What was decided stands until a packet shows the tuple that it was decided for.
#[inline(always)]
fn is_translated<H: Hook>(hook: &H, flow: &SocketFlow, state: &State) -> bool {
    if flow.protocol != state.protocol.0 {
        return false;
    }
    if let Some(segment) = state.segment() {
        return !(state.leaves() && segment.opens);
    }
    !state.leaves()
        && flow.flags & SocketFlow::FLAG_OPENER != 0
        && state.policy(hook).of_address(state.remote().addr) == Identity::VIRTUAL
}

/// Finds who opened a flow that the socket does not own yet, and who stands at its other end.
#[inline(always)]
fn find_role<H: Hook>(hook: &H, state: &State, role: &mut Role, peer: &mut Workload, handed: &mut Handed) {
    let opening = state.socket == Socket::Opening;
    if !opening && let Some(slot) = hook.tabled(&state.key) {
        slot.read(|flow| {
            let opener = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) == state.local_is_low();
            let adopted = flow.flags & FlowState::FLAG_ADOPTED != 0;
            // A stream that opens has its own storage since its SYN: an old hand-over of the same tuple
            // says nothing about it.
            if flow.tag == state.key.tag() && (adopted || !opener || !state.is_stream()) {
                (role.opener, role.adopted, role.handed) = (opener, adopted, true);
                role.reads = flow.flags & FlowState::FLAG_READ != 0;
                *peer = if opener { flow.receiver } else { flow.opener };
                if !opener {
                    *handed = handed::read(flow, state.control.generation);
                }
            }
        });
    }
    if role.handed {
        return;
    }
    role.opener = if state.is_stream() { opening } else { state.leaves() };
    if role.opener {
        *peer = receiver(hook, state);
    }
}

/// Whether the flow's rule lets only what is encrypted pass.
#[inline(always)]
pub(super) fn must_be_read<H: Hook>(hook: &H, state: &State, decision: &Decision, opener: bool) -> bool {
    let port = if opener { state.remote().port } else { state.local().port };
    let question =
        Question { from: decision.from, to: decision.to, protocol: state.protocol, port, sides: Sides::Both };
    let wanted = hook.wanted(state.control.generation, &question);
    let audit = wanted.reports || state.control.flags & (Control::FLAG_AUDIT | Control::FLAG_ADOPTING) != 0;
    wanted.demand.level.is_read() && !audit && decision.reason != Reason::Failsafe
}

/// A connection that was accepted was counted when it knocked; one that was adopted is no new one.
#[inline(always)]
fn is_counted(state: &State, role: &Role, decision: &Decision) -> bool {
    if role.known {
        return role.verdict == decision.verdict as u8;
    }
    decision.verdict.passes() && state.is_stream() && (!role.opener || role.adopted)
}

#[inline(always)]
pub(super) fn write<H: Hook>(
    flow: &mut SocketFlow,
    hook: &H,
    state: &State,
    role: &Role,
    peer: &Workload,
    decision: &Decision,
    counter: u32,
) {
    if !role.known {
        flow.opened = hook.now();
        flow.reading = Reading::default();
        flow.inspection = Inspection::default();
        if role.leg {
            flow.inspection.class = Class::Mutual as u8;
        }
        flow.datagrams = Datagrams::default();
    }
    let local = role.opener && (peer.is_known() || role.leg);
    // The receiver's end reads, and tells.
    let left = local && !role.reads;
    (flow.reading.settled, flow.datagrams.reading.settled) = (u8::from(left), 0);
    flow.peer = *peer;
    (flow.peer_addr, flow.local_addr) = (*state.remote().addr, *state.local().addr);
    (flow.peer_port, flow.local_port) = (state.remote().port, state.local().port);
    (flow.from, flow.to, flow.rule) = (decision.from, decision.to, decision.rule);
    (flow.verdict, flow.reason) = (decision.verdict as u8, decision.reason as u8);
    flow.slot = counter;
    flow.protocol = state.protocol.0;
    flow.flags = if role.opener { SocketFlow::FLAG_OPENER } else { 0 };
    if local {
        flow.flags |= SocketFlow::FLAG_LOCAL;
    }
    if role.reads {
        flow.flags |= SocketFlow::FLAG_READ;
    }
    if role.adopted {
        flow.flags |= SocketFlow::FLAG_ADOPTED;
    }
    if decision.is_deferred() {
        flow.flags |= SocketFlow::FLAG_DEFERRED;
    }
    // Last: who reads this generation finds the verdict that belongs to it.
    flow.generation = state.control.generation;
}
