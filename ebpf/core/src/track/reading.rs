//! What a rule asks of a flow's bytes, and what is counted and told of them: one mechanism for streams
//! ([`super::inspected`]) and for datagrams ([`super::content`]), which differ in how they are read.
//!
//! Each end that is on this node reads for itself, so that it does not matter whose node has no agent; the
//! receiver's counts. Fails closed: a flow whose rule cannot be found must be encrypted.

use bulkhead_abi::{
    Control, Demand, Identity, Protocol, Reason, SocketFlow, Tls, Verdict,
    inspect::{ClassKey, Reading},
};

use super::{Finding, Hook, State};
use crate::{
    inspect::Ruling,
    judge::{Decision, Question, Sides},
    report::{self, Content, Subject},
    tables::Tables,
};

/// What is known of a flow whose bytes are read. Numbers, which the verifier keeps apart more cheaply than
/// what they mean.
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

impl Known {
    /// What is known of a flow that a socket owns.
    #[inline(always)]
    pub(super) fn of(flow: &SocketFlow) -> Self {
        Self {
            from: flow.from.0,
            to: flow.to.0,
            rule: flow.rule,
            reason: flow.reason,
            opener: u8::from(is_opener(flow)),
            elsewhere: u8::from(!counts(flow)),
            shared: 0,
        }
    }

    /// Its end of the class counters.
    #[inline(always)]
    fn class_key(&self, content: Content, verdict: Verdict) -> ClassKey {
        ClassKey {
            from: Identity(self.from),
            to: Identity(self.to),
            class: content.class,
            app: content.app,
            level: content.level,
            verdict: verdict as u8,
        }
    }

    /// What was decided, in the end, and why.
    #[inline(always)]
    pub(super) fn decision(&self, verdict: Verdict, reason: Reason) -> Decision {
        Decision { verdict, reason, rule: self.rule, from: Identity(self.from), to: Identity(self.to) }
    }
}

/// Whether this end opened the flow.
#[inline(always)]
pub(super) fn is_opener(flow: &SocketFlow) -> bool {
    flow.flags & SocketFlow::FLAG_OPENER != 0
}

/// Whether this end counts what passes, and tells of it.
#[inline(always)]
pub(super) fn counts(flow: &SocketFlow) -> bool {
    !is_opener(flow) || flow.flags & (SocketFlow::FLAG_LOCAL | SocketFlow::FLAG_DEFERRED) == 0
}

/// Asks what a flow's rule wants in this generation, of its `port`: what is to be acted on. `None` where it
/// is nobody's business, because no zone is at either end: then its bytes are not looked at.
#[inline(always)]
pub(super) fn demand<T: Tables>(
    tables: &T,
    control: &Control,
    known: &Known,
    (protocol, port): (Protocol, u16),
    reading: &mut Reading,
) -> Option<Demand> {
    (reading.asked, reading.settled) = (control.generation, 0);
    let (from, to) = (Identity(known.from), Identity(known.to));
    if !from.is_zoned() && !to.is_zoned() {
        (reading.level, reading.settled) = (Tls::Off as u8, 1);
        return None;
    }
    let question = Question { from, to, protocol, port, sides: Sides::Both };
    let wanted = tables.wanted(control.generation, &question);
    let mut demand = wanted.demand;
    if known.reason == Reason::Failsafe as u8 {
        demand.level = Tls::Off;
    }
    reading.level = demand.level as u8;
    if demand.level == Tls::Mutual {
        // What came here without the proxy may.
        demand = Demand::OFF;
    }
    let reports = wanted.reports || control.flags & (Control::FLAG_AUDIT | Control::FLAG_ADOPTING) != 0;
    if reports && demand.level >= Tls::Require {
        // Only to be told of: nothing is held, and nothing refused.
        demand.level = Tls::Report;
    }
    Some(demand)
}

/// Why what was read is to be told of; `accepted` says whether the rule would have it. `strict`: what it
/// would not is stopped.
#[inline(always)]
pub(super) fn reason(
    ruling: Ruling,
    reading: &Reading,
    strict: bool,
    accepted: impl FnOnce() -> Result<(), Reason>,
) -> Option<Reason> {
    match ruling {
        Ruling::Refuse(reason) => Some(reason),
        _ if !strict && Tls::from_code(reading.level).is_read() => accepted().err(),
        _ => None,
    }
}

/// What is counted, by `classed`, and what is to be told, of a flow whose class is known. `refused`: it ends
/// here.
#[inline(always)]
pub(super) fn conclude(
    classed: impl FnOnce(&ClassKey) -> bool,
    known: &Known,
    reading: &mut Reading,
    (class, app): (u8, u8),
    refused: bool,
    reason: Option<Reason>,
) -> Finding {
    // Both ends may write here: only the one that counts says that it has.
    if known.elsewhere != 0 && !refused {
        return Finding::Passes;
    }
    let told = class.wrapping_add(1);
    let audited = reason.map_or(0, |reason| reason as u8);
    if !refused && reading.told == told && reading.audited == audited {
        return Finding::Passes;
    }
    let new = reading.told != told;
    (reading.told, reading.audited) = (told, audited);
    let verdict = match (refused, reason) {
        (true, _) => Verdict::Deny,
        (false, Some(_)) => Verdict::Audit,
        (false, None) => Verdict::Allow,
    };
    let content = Content { class, app, level: reading.level };
    let due = new && classed(&known.class_key(content, verdict));
    match (verdict, reason) {
        (Verdict::Deny, Some(reason)) => Finding::Refused(reason),
        (Verdict::Audit, Some(reason)) => Finding::Audited(reason),
        _ if due => Finding::Known,
        _ => Finding::Passes,
    }
}

/// Tells what was found in a flow, and counts what is refused. `finding` is its code: taken apart as a
/// number, because the compiler leaves undefined what a finding without a reason has in that place, and the
/// verifier takes offence.
#[inline(always)]
pub fn told<H: Hook>(hook: &H, state: &State, known: &Known, content: Content, finding: u32) -> Verdict {
    let verdict = Finding::verdict_of(finding);
    if finding == Finding::Held.to_code() {
        return verdict;
    }
    let reason = if verdict == Verdict::Allow { known.reason } else { finding as u8 };
    let reason = Reason::from_code(reason);
    let policy = state.policy(hook);
    let decision = known.decision(verdict, reason);
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
            content,
        };
        report::tell(&policy, &decision, &subject);
    }
    verdict
}
