//! The bytes of a flow of datagrams that is allowed: whether each is what its rule asks for.
//!
//! What [`super::inspected`] does for streams. There is no order to follow, so each datagram is judged by
//! itself and by what was seen of its flow; nothing is held, and a refused one is dropped. Its flow lives
//! on: nobody can end one, and the next datagram is refused as well.
//!
//! Two hooks may read datagrams of one flow at once. What they keep of it may then be of either of them:
//! under `require` that can refuse what would have been accepted, never the other way around, because a
//! datagram that fits nothing is refused by itself.

use bulkhead_abi::{
    Control, Demand, FlowState, Identity, Inspection, Protocol, Reason, SocketFlow, Tls, Verdict,
    inspect::{ClassKey, Datagrams},
};

use super::{Finding, Hook, Outcome, Slot, State, is_owned};
use crate::{
    inspect::{self, Ruling, datagram},
    judge::{Decision, Question, Sides},
    packet::{Bytes, Kind},
    report::{self, Content, Subject},
};

/// What is known of a flow whose datagram is read. Numbers, which the verifier keeps apart more cheaply
/// than what they mean.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Known {
    /// Identities, opener and receiver.
    pub from: u32,
    /// See `from`.
    pub to: u32,
    /// Number of the rule that decided.
    pub rule: u32,
    /// [`Reason`] code of the verdict.
    pub reason: u8,
    /// Not zero: this end opened it.
    pub opener: u8,
    /// Not zero: the other end counts what passes.
    pub elsewhere: u8,
    /// Not zero: the other end may read what is kept, too.
    pub shared: u8,
}

/// Looks at a datagram whose flow was just judged.
#[inline(always)]
pub(super) fn after<H: Hook>(hook: &H, state: &State, outcome: Outcome) -> Outcome {
    let passes = matches!(outcome, Outcome::Verdict(verdict) if verdict.passes());
    if !passes || state.kind != Kind::Datagram || state.protocol != Protocol::UDP {
        return outcome;
    }
    match hook.on_content(state) {
        Verdict::Deny => Outcome::Verdict(Verdict::Deny),
        _ => outcome,
    }
}

/// Looks at a datagram of a flow that passes. One of which nothing is kept is of nobody's business: no
/// zone is at either end, or the node has not begun to enforce.
#[inline(always)]
pub fn content<H: Hook>(hook: &H, state: &State) -> Verdict {
    if is_owned(hook, state) {
        let Some(slot) = hook.owned() else { return Verdict::Allow };
        return slot.update(|flow| {
            if flow.flags & (SocketFlow::FLAG_TABLED | SocketFlow::FLAG_DEFERRED) != 0 {
                return Verdict::Allow;
            }
            let known = Known {
                from: flow.from.0,
                to: flow.to.0,
                rule: flow.rule,
                reason: flow.reason,
                opener: u8::from(flow.flags & SocketFlow::FLAG_OPENER != 0),
                elsewhere: u8::from(flow.flags & SocketFlow::FLAG_LOCAL != 0),
                shared: 0,
            };
            look(hook, state, &known, &mut flow.datagrams)
        });
    }
    let Some(slot) = hook.tabled(&state.key) else { return Verdict::Allow };
    slot.update(|flow| {
        if flow.tag != state.key.tag() || flow.to == Identity::VIRTUAL {
            return Verdict::Allow;
        }
        let opener = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) == state.local_is_low();
        let local = flow.flags & FlowState::FLAG_LOCAL != 0;
        let known = Known {
            from: flow.from.0,
            to: flow.to.0,
            rule: flow.rule,
            reason: flow.reason,
            opener: u8::from(opener),
            // As the flow itself is counted.
            elsewhere: u8::from(if opener { local } else { !local && flow.opener.is_known() }),
            shared: u8::from(local),
        };
        look(hook, state, &known, &mut flow.datagrams)
    })
}

#[inline(always)]
fn look<H: Hook>(hook: &H, state: &State, known: &Known, read: &mut Datagrams) -> Verdict {
    if read.settled != 0 && read.asked == state.control.generation {
        return Verdict::Allow;
    }
    match hook.on_examine(state, known, read) {
        Finding::Passes => Verdict::Allow,
        Finding::Held => Verdict::Deny,
        finding => hook.on_told(state, known, read, finding),
    }
}

/// Reads a datagram.
#[inline(always)]
pub fn examine<H: Hook>(hook: &H, state: &State, known: &Known, read: &mut Datagrams) -> Finding {
    let mut ruling = Ruling::Pass;
    if read.asked != state.control.generation {
        ruling = ask(hook, state, known, read);
    }
    if read.settled != 0 {
        return Finding::Passes;
    }
    if ruling == Ruling::Pass {
        let leaves = u8::from(state.leaves());
        let sender = u8::from(known.opener != leaves);
        ruling = hook.on_payload(payload(hook, state), &mut read.conversation, sender);
    }
    let strict = Tls::from_code(read.conversation.level) >= Tls::Require;
    let known_now = inspect::is_settled(read.conversation.phase);
    if !strict && known_now {
        read.conversation.phase = Inspection::DONE;
    }
    // The end that counts has not seen it yet.
    let unseen = known.shared != 0 && known.elsewhere != 0;
    read.settled = u8::from(read.conversation.phase == Inspection::DONE && !unseen);
    let reason = match ruling {
        Ruling::Refuse(reason) => Some(reason),
        _ if !known_now => return Finding::Passes,
        _ if !strict && Tls::from_code(read.level).is_read() => datagram::accepted(&read.conversation).err(),
        _ => None,
    };
    conclude(hook, known, read, ruling != Ruling::Pass, reason)
}

/// Tells what was found in a flow, and counts a datagram that is refused.
#[inline(always)]
pub fn told<H: Hook>(hook: &H, state: &State, known: &Known, read: &Datagrams, finding: Finding) -> Verdict {
    let (verdict, reason) = match finding {
        Finding::Passes | Finding::Known => (Verdict::Allow, Reason::from_code(known.reason)),
        Finding::Held => return Verdict::Deny,
        Finding::Audited(reason) => (Verdict::Audit, reason),
        Finding::Refused(reason) => (Verdict::Deny, reason),
    };
    let policy = state.policy(hook);
    let (from, to) = (Identity(known.from), Identity(known.to));
    let decision = Decision { verdict, reason, rule: known.rule, from, to };
    let denied = verdict == Verdict::Deny;
    let mut due = true;
    if verdict != Verdict::Allow {
        due = !denied || report::denied_first(hook, &state.key);
        let len = if denied { u64::from(hook.len()) } else { 0 };
        hook.add(report::slot_of(&policy, &decision), u64::from(due), u64::from(denied), len);
    }
    if due {
        let (src, dst) =
            if known.opener != 0 { (state.local(), state.remote()) } else { (state.remote(), state.local()) };
        let subject = Subject {
            src: src.addr,
            dst: dst.addr,
            src_port: src.port,
            dst_port: dst.port,
            protocol: state.protocol,
            workload: &hook.workload_at_hand(),
            content: Content {
                class: read.conversation.class,
                app: read.conversation.app,
                level: read.level,
            },
        };
        report::tell(&policy, &decision, &subject);
    }
    verdict
}

/// What is counted, and what is to be told.
#[inline(always)]
fn conclude<H: Hook>(
    hook: &H,
    known: &Known,
    read: &mut Datagrams,
    refused: bool,
    reason: Option<Reason>,
) -> Finding {
    // Both ends may write here: only the one that counts says that it has.
    if known.elsewhere != 0 && !refused {
        return Finding::Passes;
    }
    let told = read.conversation.class.wrapping_add(1);
    let audited = reason.map_or(0, |reason| reason as u8);
    if !refused && read.told == told && read.audited == audited {
        return Finding::Passes;
    }
    let new = read.told != told;
    (read.told, read.audited) = (told, audited);
    let verdict = match (refused, reason) {
        (true, _) => Verdict::Deny,
        (false, Some(_)) => Verdict::Audit,
        (false, None) => Verdict::Allow,
    };
    let key = ClassKey {
        from: Identity(known.from),
        to: Identity(known.to),
        class: read.conversation.class,
        app: read.conversation.app,
        level: read.level,
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

/// Asks what the flow's rule wants in this generation; what comes of it for a flow that is known already.
#[inline(always)]
fn ask<H: Hook>(hook: &H, state: &State, known: &Known, read: &mut Datagrams) -> Ruling {
    (read.asked, read.settled) = (state.control.generation, 0);
    let (from, to) = (Identity(known.from), Identity(known.to));
    if !from.is_zoned() && !to.is_zoned() {
        (read.level, read.settled) = (Tls::Off as u8, 1);
        return Ruling::Pass;
    }
    let port = if known.opener != 0 { state.remote().port } else { state.local().port };
    let question = Question { from, to, protocol: state.protocol, port, sides: Sides::Both };
    let wanted = hook.wanted(state.control.generation, &question);
    let mut demand = wanted.demand;
    if known.reason == Reason::Failsafe as u8 {
        demand.level = Tls::Off;
    }
    read.level = demand.level as u8;
    if demand.level == Tls::Mutual {
        demand = Demand::OFF;
    }
    let reports = wanted.reports || state.control.flags & (Control::FLAG_AUDIT | Control::FLAG_ADOPTING) != 0;
    if reports && demand.level >= Tls::Require {
        // Only to be told of: nothing is refused.
        demand.level = Tls::Report;
    }
    match read.conversation.phase {
        // What the rules of another generation refused is nobody's any more.
        Inspection::FRESH | Inspection::REFUSED => {
            read.conversation = inspect::conversation(demand);
            Ruling::Pass
        }
        _ => datagram::judge_again(&mut read.conversation, demand),
    }
}

/// Where a UDP datagram's payload stands, and how long it is: of a packet whose header says something
/// else, all that is there.
#[inline(always)]
fn payload<H: Bytes>(hook: &H, state: &State) -> (u32, u32) {
    const HEADER: u32 = 8;
    let at = state.transport.saturating_add(HEADER);
    let rest = hook.len().saturating_sub(at);
    let mut field = [0u8; 2];
    let said = match hook.load(state.transport.saturating_add(4), &mut field) {
        2 => u32::from(u16::from_be_bytes(field)).saturating_sub(HEADER),
        _ => 0,
    };
    (at, if said == 0 || said > rest { rest } else { said })
}
