//! The bytes of a stream whose flow is allowed: whether what they say is what its rule asks for.
//!
//! [`crate::inspect`] reads; here is what a socket adds to that: where its stream begins, what its rule
//! asks for in this generation, whether anybody enforces it, and what is counted and told. Each end that
//! is on this node reads for itself, so that it does not matter whose node has no agent; the receiver's
//! counts.
//!
//! Fails closed where a rule demands encryption: a segment that cannot be placed or read is dropped
//! without a word, and its sender repeats it; a stream whose beginning was not seen is unknown.

use bulkhead_abi::{
    Class, Control, Demand, Direction, Inspection, Protocol, Reason, SocketFlow, Tls, Verdict,
    inspect::ClassKey,
};

use super::{Finding, Hook, Outcome, Slot, Socket, State, Whose};
use crate::{
    inspect::{self, Payload, Ruling, datagram::Readers, stream},
    judge::{Decision, Question, Sides},
    packet::{Bytes, Span},
    report::{self, Content, Subject},
};

/// Looks at what a segment carries, of a flow that is allowed in this generation.
#[inline(always)]
pub fn inspect<H: Hook>(hook: &H, owned: &H::Owned, control: &Control, direction: Direction) -> Finding {
    // What the long way can read and this cannot does not exist.
    let Some(span) = hook.span() else { return Finding::Held };
    // Where this end's own direction begins is seen in its SYN; of the other one, TCP itself says it, which
    // does not believe everybody.
    let begins = span.begins() && direction == Direction::Egress;
    if (span.len == 0 && !begins && !span.is_urgent()) || owned.read(|flow| flow.settled != 0) {
        return Finding::Passes;
    }
    if !hook.lock(owned) {
        // Another processor reads a segment of this flow.
        return if owned.read(is_strict) { Finding::Held } else { Finding::Passes };
    }
    let finding = owned.update(|flow| look(hook, flow, control, direction, &span));
    hook.unlock(owned);
    finding
}

/// Looks at a segment whose flow was just judged.
#[inline(always)]
pub(super) fn after<H: Hook>(hook: &H, state: &State, outcome: Outcome) -> Outcome {
    if !state.is_stream() || !matches!(outcome, Outcome::Verdict(verdict) if verdict.passes()) {
        return outcome;
    }
    let Some(owned) = hook.owned() else { return outcome };
    // A reset of a flow that is denied passes, too.
    if !owned.read(|flow| Verdict::from_code(flow.verdict).passes()) {
        return outcome;
    }
    match hook.on_inspect(&owned, &state.control, state.direction) {
        Finding::Passes => outcome,
        Finding::Held => Outcome::Verdict(Verdict::Deny),
        finding => Outcome::Verdict(hook.on_found(state, finding)),
    }
}

/// What becomes of a segment of a flow whose verdict stands, when its bytes said something.
#[inline(always)]
pub(super) fn tell<H: Hook>(hook: &H, control: &Control, direction: Direction, finding: Finding) -> Verdict {
    if finding == Finding::Held {
        return Verdict::Deny;
    }
    let mut state = State::new(*control, direction, Socket::Other);
    hook.on_prepare(&mut state);
    hook.on_found(&state, finding)
}

/// Tells what was found in a flow, and ends one that is refused.
#[inline(always)]
pub fn found<H: Hook>(hook: &H, state: &State, finding: Finding) -> Verdict {
    let (verdict, reason) = match finding {
        Finding::Passes | Finding::Known => (Verdict::Allow, None),
        Finding::Held => return Verdict::Deny,
        Finding::Audited(reason) => (Verdict::Audit, Some(reason)),
        Finding::Refused(reason) => (Verdict::Deny, Some(reason)),
    };
    let Some(owned) = hook.owned() else { return verdict };
    let policy = state.policy(hook);
    let mut decision = Decision { verdict, ..Decision::CLOSED };
    let (mut opener, mut content) = (false, Content::NONE);
    owned.read(|flow| {
        opener = flow.flags & SocketFlow::FLAG_OPENER != 0;
        (decision.from, decision.to, decision.rule) = (flow.from, flow.to, flow.rule);
        decision.reason = reason.unwrap_or(Reason::from_code(flow.reason));
        let inspection = &flow.inspection;
        content = Content { class: inspection.class, app: inspection.app, level: flow.level };
    });
    let mut due = true;
    if verdict != Verdict::Allow {
        let slot = report::slot_of(&policy, &decision);
        due = verdict == Verdict::Audit || report::denied_first(hook, &state.key);
        let len = if verdict == Verdict::Deny { u64::from(hook.len()) } else { 0 };
        hook.add(slot, u64::from(due), u64::from(verdict == Verdict::Deny), len);
        if verdict == Verdict::Deny {
            owned.update(|flow| {
                (flow.verdict, flow.reason, flow.slot) = (verdict as u8, decision.reason as u8, slot);
            });
        }
    }
    if due {
        let (src, dst) =
            if opener { (state.local(), state.remote()) } else { (state.remote(), state.local()) };
        let subject = Subject {
            src: src.addr,
            dst: dst.addr,
            src_port: src.port,
            dst_port: dst.port,
            protocol: state.protocol,
            workload: &hook.workload_at_hand(),
            content,
        };
        report::tell(&policy, &decision, &subject);
    }
    if verdict == Verdict::Deny {
        let cookie = hook.cookie();
        if cookie != 0 {
            hook.doom(state, cookie, hook.netns(), Whose::Ours, decision.reason);
        }
    }
    verdict
}

#[inline(always)]
fn look<H: Hook>(
    hook: &H,
    flow: &mut SocketFlow,
    control: &Control,
    direction: Direction,
    span: &Span,
) -> Finding {
    let opener = flow.flags & SocketFlow::FLAG_OPENER != 0;
    let leaves = direction == Direction::Egress;
    let sender = if opener == leaves { 0 } else { 1 };
    let mut ruling = Ruling::Pass;
    if flow.inspection.class == Class::Mutual as u8 {
        // Between a program and the proxy: told by how it goes.
        (flow.level, flow.settled) = (Tls::Mutual as u8, 1);
        return conclude(hook, flow, opener, Ruling::Pass, None);
    }
    if flow.asked != control.generation {
        ruling = ask(hook, flow, control, opener);
    }
    if flow.settled != 0 {
        return Finding::Passes;
    }
    let before = hook.on_begin(flow, sender);
    if ruling == Ruling::Pass && flow.inspection.phase <= Inspection::FOLLOWING {
        ruling = read(hook, flow, direction, sender, span);
    }
    let settled = inspect::is_settled(flow.inspection.phase);
    let more = hook.on_tell(flow, sender, (span.at, span.len, span.seq), before, ruling.code());
    flow.settled = u8::from(flow.inspection.phase == Inspection::DONE && !more);
    let reason = match ruling {
        Ruling::Hold => return Finding::Held,
        Ruling::Pass if !settled => return Finding::Passes,
        Ruling::Pass if Tls::from_code(flow.level).is_read() && !is_strict(flow) => {
            stream::accepted(&flow.inspection).err()
        }
        Ruling::Pass => None,
        Ruling::Refuse(reason) => Some(reason),
    };
    conclude(hook, flow, opener, ruling, reason)
}

/// What is counted, and what is to be told, of a flow whose class is known.
#[inline(always)]
fn conclude<H: Hook>(
    hook: &H,
    flow: &mut SocketFlow,
    opener: bool,
    ruling: Ruling,
    reason: Option<Reason>,
) -> Finding {
    let refused = ruling != Ruling::Pass;
    let told = flow.inspection.class.wrapping_add(1);
    let audited = reason.map_or(0, |reason| reason as u8);
    if !refused && flow.told == told && flow.audited == audited {
        return Finding::Passes;
    }
    let new = flow.told != told;
    (flow.told, flow.audited) = (told, audited);
    flow.inspection.flags |= Inspection::FLAG_TOLD;
    if !counts(flow, opener) && !refused {
        return Finding::Passes;
    }
    let verdict = match (refused, reason) {
        (true, _) => Verdict::Deny,
        (false, Some(_)) => Verdict::Audit,
        (false, None) => Verdict::Allow,
    };
    let key = ClassKey {
        from: flow.from,
        to: flow.to,
        class: flow.inspection.class,
        app: flow.inspection.app,
        level: flow.level,
        verdict: verdict as u8,
    };
    let due = new && hook.classed(&key);
    match (verdict, reason) {
        (Verdict::Deny, Some(reason)) => Finding::Refused(reason),
        (Verdict::Audit, Some(reason)) => Finding::Audited(reason),
        _ if due => Finding::Known,
        _ => Finding::Passes,
    }
}

/// Whether this end counts what passes, and tells of it.
#[inline(always)]
pub(super) fn counts(flow: &SocketFlow, opener: bool) -> bool {
    !opener || flow.flags & (SocketFlow::FLAG_LOCAL | SocketFlow::FLAG_DEFERRED) == 0
}

/// Asks what the flow's rule wants in this generation; what comes of it for a flow that is known already.
#[inline(always)]
fn ask<H: Hook>(hook: &H, flow: &mut SocketFlow, control: &Control, opener: bool) -> Ruling {
    flow.asked = control.generation;
    if !flow.from.is_zoned() && !flow.to.is_zoned() {
        // Nobody's business.
        (flow.level, flow.settled) = (Tls::Off as u8, 1);
        return Ruling::Pass;
    }
    let question = Question {
        from: flow.from,
        to: flow.to,
        protocol: Protocol(flow.protocol),
        port: if opener { flow.peer_port } else { flow.local_port },
        sides: Sides::Both,
    };
    let wanted = hook.wanted(control.generation, &question);
    let mut demand = wanted.demand;
    if flow.reason == Reason::Failsafe as u8 {
        demand.level = Tls::Off;
    }
    flow.level = demand.level as u8;
    if demand.level == Tls::Mutual {
        // What came here without the proxy may.
        demand = Demand::OFF;
    }
    let reports = wanted.reports || control.flags & (Control::FLAG_AUDIT | Control::FLAG_ADOPTING) != 0;
    if reports && demand.level >= Tls::Require {
        // Only to be told of: nothing is held, and nothing refused.
        demand.level = Tls::Report;
    }
    if flow.inspection.phase == Inspection::FRESH {
        inspect::demand(&mut flow.inspection, demand);
        return Ruling::Pass;
    }
    inspect::judge_again(&mut flow.inspection, demand)
}

/// Reads a segment.
#[inline(always)]
fn read<H: Hook>(hook: &H, flow: &mut SocketFlow, direction: Direction, sender: u8, span: &Span) -> Ruling {
    let strict = is_strict(flow);
    // Bytes that its receiver may take out of the stream, and bytes that belong elsewhere in another one.
    if strict && (span.is_urgent() || (span.has_options() && hook.is_multipath(span))) {
        return stream::refuse(&mut flow.inspection, Reason::Unclassified);
    }
    let begun = Inspection::FLAG_BEGUN << sender;
    if flow.inspection.flags & begun == 0 {
        flow.inspection.flags |= begun;
        let start = if span.begins() { Some(span.seq) } else { hook.stream_start(direction) };
        match start {
            Some(start) => stream::begin(&mut flow.inspection, sender, start),
            None => stream::begin_within(&mut flow.inspection, sender, span.seq),
        }
    }
    if span.len == 0 {
        return Ruling::Pass;
    }
    hook.on_segment((span.at, span.len), &mut flow.inspection, sender, span.seq)
}

/// Whether what is not accepted is stopped.
#[inline(always)]
fn is_strict(flow: &SocketFlow) -> bool {
    Tls::from_code(flow.inspection.level) >= Tls::Require
}

impl<B: Bytes> Readers for Carried<'_, B> {}

/// What a packet carries.
pub(super) struct Carried<'a, B> {
    pub(super) bytes: &'a B,
    pub(super) at: u32,
    pub(super) len: u32,
}

impl<B: Bytes> Payload for Carried<'_, B> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        if offset >= self.len {
            return 0;
        }
        let read = self.bytes.load(self.at.saturating_add(offset), buffer);
        // What stands behind the packet's own end is no payload.
        read.min(self.len - offset)
    }
}
