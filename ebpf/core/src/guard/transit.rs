//! Flows that the guard judges: forwarded ones, and those to virtual addresses. They have a table of
//! their own, because one that a socket layer approved is approved by one end only.

use bulkhead_abi::{
    Control, FlowKey, FlowState, Identity, Reason, Side, Verdict, Workload, flow::TcpState, tables::Interface,
};

use super::{Guard, Mark, answer::speaks, carried, enter::sequence, receiver, translated};
use crate::{
    endpoint,
    judge::{self, Decision, Question, Sides},
    packet::{self, Kind},
    report::NO_SLOT,
    track::{Outcome, Slot, State, Telling, again, is_expired, service, tcp_after},
};

/// A packet of a flow in the guard's table; untracked if it is of none.
#[inline(always)]
pub fn transit<G: Guard>(guard: &G, state: &State) -> Outcome {
    match guard.transit(&state.key) {
        Some(slot) => slot.update(|flow| tracked(guard, state, flow)),
        None => Outcome::Untracked,
    }
}

/// Whether this is the packet's flow: a connection that was answered cannot be opened, so a segment that
/// opens is of another one.
#[inline(always)]
pub(super) fn is_of(state: &State, flow: &FlowState, now: u64) -> bool {
    let opens = state.segment().is_some_and(|segment| segment.opens);
    flow.tag == state.key.tag()
        && !is_expired(flow, now, state.protocol)
        && !(opens && flow.tcp != TcpState::Opening as u8)
}

#[inline(always)]
fn tracked<G: Guard>(guard: &G, state: &State, flow: &mut FlowState) -> Outcome {
    let now = guard.now();
    if !is_of(state, flow, now) {
        return Outcome::Untracked;
    }
    let source_opened = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) == state.local_is_low();
    if source_opened && is_anothers(guard, state, flow) {
        return Outcome::Untracked;
    }
    flow.seen = now;
    flow.tcp = tcp_after(flow.tcp, state, source_opened);
    if !source_opened {
        flow.flags |= FlowState::FLAG_REPLIED;
    }
    let ([judged, _], [verdict, sides]) = (flow.judged, flow.verdict);
    // The sender's identity may have changed since, without a change of what the guard reads.
    let sender = if source_opened { sender(guard, state, flow.flags) } else { None };
    let same = sender.is_none_or(|sender| sender == flow.from);
    if judged == state.control.generation && same {
        let judged = again(guard, state, Verdict::from_code(verdict), flow.slot);
        judged.count(guard);
        return judged.outcome;
    }
    let policy = state.policy(guard);
    let (opener, target) =
        if source_opened { (state.local(), state.remote()) } else { (state.remote(), state.local()) };
    let from = match sender {
        Some(sender) => sender,
        None if flow.flags & FlowState::FLAG_CARRIED != 0 => flow.from,
        None => policy.of_address(opener.addr).or_world(),
    };
    let question = Question {
        from,
        to: endpoint::resolve(&policy, &flow.receiver, target.addr).or_world(),
        protocol: state.protocol,
        port: service(state.protocol, state.kind, state.icmp, target.port),
        sides: sides_of(sides),
    };
    let decision = judge::judge(&policy, &question, || None);
    let elsewhere = flow.flags & FlowState::FLAG_LOCAL != 0;
    let first = decision.verdict != Verdict::from_code(verdict);
    let telling = Telling { opener: source_opened, first, elsewhere, later: false };
    flow.slot = guard.account(state, &decision, &Workload::UNKNOWN, telling);
    write(flow, state.control.generation, &decision, sides);
    state.out(decision.verdict)
}

/// Begun by an endpoint without a socket, under another address than its own.
const TRANSLATED: u8 = FlowState::FLAG_CARRIED | FlowState::FLAG_ROUTED;

/// Whether a packet by a flow's opener is from a translated endpoint, and the flow is not: it was begun
/// from the same translated tuple by somebody else, or before the endpoint was in a zone.
#[inline(always)]
fn is_anothers<G: Guard>(guard: &G, state: &State, flow: &FlowState) -> bool {
    let mark = guard.mark();
    let Some(endpoint) = mark.endpoint() else { return false };
    if flow.flags & TRANSLATED == TRANSLATED {
        return false;
    }
    // The common case, without a look at the policy: it went by the address, and still does.
    let [judged, _] = flow.judged;
    let by_address = flow.flags & FlowState::FLAG_CARRIED == 0 && judged == state.control.generation;
    if by_address && endpoint == flow.from {
        return false;
    }
    translated(mark, state.policy(guard).of_address(state.local().addr).or_world()).is_some()
}

/// Who the opener of a flow with these flags is, where the mark says it.
#[inline(always)]
fn sender<G: Guard>(guard: &G, state: &State, flags: u8) -> Option<Identity> {
    let mark = guard.mark();
    if flags & TRANSLATED == TRANSLATED && mark.is_routed() {
        Some(mark.endpoint().unwrap_or(Identity::WORLD))
    } else {
        carried(guard, state)
    }
}

/// What the guard has to judge of a flow that is new to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Asked {
    from: Identity,
    to: Identity,
    receiver: Workload,
    sides: u32,
    flags: u32,
}

impl Asked {
    const BLANK: Self = Self {
        from: Identity::UNKNOWN,
        to: Identity::UNKNOWN,
        receiver: Workload::UNKNOWN,
        sides: APART as u32,
        flags: 0,
    };
    /// Who the sender is was known where the packet came in: its socket layer has left it to the guard, or
    /// its address is another one by now.
    const CARRIED: u32 = 1;
    /// Counted where the last of the two ends is judged.
    const ELSEWHERE: u32 = 2;
    /// It leaves to another machine.
    const WIRE: u32 = 4;
    /// From an endpoint in a zone that has no socket.
    const ROUTED: u32 = 8;

    #[inline(always)]
    const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// A packet of no flow that is known. In three parts, for verifiers to whom each path through the first is
/// a state of its own in the others.
#[inline(always)]
pub fn open<G: Guard>(guard: &G, state: &State) -> Outcome {
    let mut asked = Asked::BLANK;
    let outcome = guard.on_ask(state, &mut asked);
    if outcome != Outcome::Untracked {
        return outcome;
    }
    let question = Question {
        from: asked.from,
        to: asked.to,
        protocol: state.protocol,
        port: service(state.protocol, state.kind, state.icmp, state.remote().port),
        sides: sides_of(asked.sides as u8),
    };
    let decision = judge::judge(&state.policy(guard), &question, || None);
    if decision.verdict.passes() {
        return guard.on_begin(state, &asked, &decision);
    }
    let elsewhere = asked.has(Asked::ELSEWHERE);
    let telling = Telling { opener: true, first: true, elsewhere, later: false };
    let _slot = guard.account(state, &decision, &Workload::UNKNOWN, telling);
    if asked.has(Asked::CARRIED)
        && !asked.has(Asked::ROUTED)
        && let Some(sequence) = sequence(guard, state)
    {
        guard.doom_opening(sequence, decision.reason);
    }
    Outcome::Verdict(decision.verdict)
}

/// Works out what is to be judged; untracked if anything is.
#[inline(always)]
pub fn ask<G: Guard>(guard: &G, state: &State, asked: &mut Asked) -> Outcome {
    let adopting = state.control.flags & Control::FLAG_ADOPTING != 0;
    if let Some(segment) = state.segment() {
        if segment.resets {
            return Outcome::Verdict(Verdict::Allow);
        }
        if !segment.opens && !adopting {
            return Outcome::Anomaly(Reason::Stray);
        }
    }
    if state.kind == Kind::EchoReply {
        return Outcome::Anomaly(Reason::Stray);
    }
    let address = state.policy(guard).of_address(state.local().addr).or_world();
    let sender = match carried(guard, state) {
        None => translated(guard.mark(), address),
        carried => carried,
    };
    asked.from = sender.unwrap_or(address);
    (asked.receiver, asked.to) = receiver(guard, state);
    if !asked.from.is_zoned() && !asked.to.is_zoned() && sender.is_none() {
        return Outcome::Verdict(Verdict::Allow);
    }
    let local = guard.local(state.remote().addr).is_some();
    let wire = guard.interface().flags & Interface::FLAG_WIRE != 0;
    let mark = guard.mark();
    let known = sender.is_some() && asked.receiver.is_known();
    asked.sides = u32::from(whose_sides(sender.is_some(), mark, local, wire, known));
    let bit = |set: bool, flag: u32| if set { flag } else { 0 };
    asked.flags = bit(sender.is_some(), Asked::CARRIED)
        | bit(local || (sender.is_none() && mark == Mark::JUDGED), Asked::ELSEWHERE)
        | bit(wire, Asked::WIRE)
        | bit(mark.endpoint().is_some(), Asked::ROUTED);
    Outcome::Untracked
}

/// A flow that passes begins.
#[inline(always)]
pub fn begin<G: Guard>(guard: &G, state: &State, asked: &Asked, decision: &Decision) -> Outcome {
    let Some(slot) = guard.new_transit(&state.key) else {
        return Outcome::Anomaly(Reason::FlowTableFull);
    };
    let hand_over = asked.has(Asked::CARRIED) && !asked.has(Asked::WIRE);
    if hand_over && !enter_hand_over(guard, state, decision) {
        return Outcome::Anomaly(Reason::FlowTableFull);
    }
    if asked.has(Asked::ROUTED) {
        guard.route();
    }
    let elsewhere = asked.has(Asked::ELSEWHERE);
    let telling = Telling { opener: true, first: true, elsewhere, later: false };
    let counter = guard.account(state, decision, &Workload::UNKNOWN, telling);
    slot.update(|flow| {
        flow.seen = guard.now();
        flow.receiver = asked.receiver;
        flow.slot = counter;
        flow.flags = flag(state.local_is_low(), FlowState::FLAG_OPENER_LOW)
            | flag(asked.has(Asked::CARRIED), FlowState::FLAG_CARRIED)
            | flag(asked.has(Asked::ROUTED), FlowState::FLAG_ROUTED)
            | flag(asked.has(Asked::ELSEWHERE), FlowState::FLAG_LOCAL);
        if let Some(segment) = state.segment() {
            let at = if segment.opens { TcpState::Opening } else { TcpState::Established };
            flow.tcp = at as u8;
        }
        write(flow, state.control.generation, decision, asked.sides as u8);
        // Last: until then it is nobody's flow.
        flow.tag = state.key.tag();
    });
    Outcome::Verdict(decision.verdict)
}

/// Leaves the sender's identity where the receiver's socket layer finds it, under the tuple that it will
/// see.
#[inline(always)]
fn enter_hand_over<G: Guard>(guard: &G, state: &State, decision: &Decision) -> bool {
    let Some(slot) = guard.new_hand_over(&state.key) else { return false };
    slot.update(|flow| {
        flow.seen = guard.now();
        flow.opener = Workload::carried(decision.from);
        flow.judged = [state.control.generation, 0];
        flow.verdict = [decision.verdict as u8, 0];
        (flow.from, flow.to, flow.rule) = (decision.from, decision.to, decision.rule);
        flow.reason = decision.reason as u8;
        flow.slot = NO_SLOT;
        flow.flags = FlowState::FLAG_LOCAL | flag(state.local_is_low(), FlowState::FLAG_OPENER_LOW);
        if state.segment().is_some() {
            flow.tcp = TcpState::Opening as u8;
        }
        flow.tag = state.key.tag();
    });
    true
}

/// An ICMP error passes when it goes to the sender of what it quotes, and that is of a flow of the guard's
/// that is live and passes; or when the node itself says it, as routers do of packets that they cannot pass
/// on. Such a packet has left by no interface, and its flow may be a socket's.
#[inline(always)]
pub fn icmp_error<G: Guard>(guard: &G, state: &State) -> Outcome {
    let Some(quoted) = packet::parse_quoted(guard, state.transport) else {
        return Outcome::Anomaly(Reason::IcmpError);
    };
    if quoted.src == *state.remote().addr && guard.mark() == Mark::NONE && speaks(guard, state) {
        return Outcome::Verdict(Verdict::Allow);
    }
    let (src, dst) = ((quoted.src, quoted.src_port), (quoted.dst, quoted.dst_port));
    let (key, _) = FlowKey::new(src, dst, quoted.protocol, 0);
    let lives = |flow: &FlowState| {
        let [verdict, _] = flow.verdict;
        flow.tag == key.tag()
            && !is_expired(flow, guard.now(), quoted.protocol)
            && Verdict::from_code(verdict).passes()
    };
    match guard.transit(&key) {
        Some(slot) if quoted.src == *state.remote().addr && slot.read(lives) => {
            Outcome::Verdict(Verdict::Allow)
        }
        _ => Outcome::Anomaly(Reason::IcmpError),
    }
}

#[inline(always)]
fn write(flow: &mut FlowState, generation: u64, decision: &Decision, sides: u8) {
    (flow.from, flow.to, flow.rule) = (decision.from, decision.to, decision.rule);
    flow.reason = decision.reason as u8;
    flow.verdict = [decision.verdict as u8, sides];
    flow.judged = [generation, 0];
}

const BOTH: u8 = 0;
const EGRESS: u8 = 1;
const INGRESS: u8 = 2;
const APART: u8 = 3;

/// Whose rules the guard asks: those of the ends that no socket layer judges, here or on another node.
/// `known`: the workloads at both ends are.
#[inline(always)]
const fn whose_sides(deferred: bool, mark: Mark, local: bool, wire: bool, known: bool) -> u8 {
    match mark {
        _ if deferred && wire => EGRESS,
        _ if known => BOTH,
        _ if deferred => APART,
        Mark::JUDGED => INGRESS,
        // From one machine to another: no socket of either is here.
        Mark::WIRE if wire => APART,
        Mark::WIRE => INGRESS,
        _ if local || wire => EGRESS,
        _ => APART,
    }
}

#[inline(always)]
const fn sides_of(code: u8) -> Sides {
    match code {
        EGRESS => Sides::One(Side::Egress),
        INGRESS => Sides::One(Side::Ingress),
        BOTH => Sides::Both,
        _ => Sides::Apart,
    }
}

#[inline(always)]
const fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}
