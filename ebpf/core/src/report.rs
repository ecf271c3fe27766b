//! How a decision is told: counters, which are exact, and events, which may be lost.

use bulkhead_abi::{
    Addr, Control, CounterKey, Event, EventKind, FlowKey, Protocol, Verdict, Workload, flow::Denial,
    inspect::ClassKey,
};

use crate::{
    judge::Decision,
    tables::{Policy, Tables},
};

/// A counter slot that counts nothing.
pub const NO_SLOT: u32 = u32::MAX;

/// Where decisions are told.
pub trait Report {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    fn now(&self) -> u64;
    /// The same, up to some milliseconds behind, for less.
    fn coarse_now(&self) -> u64;
    /// The counter slot of `key`, made when it is new.
    fn slot(&self, key: &CounterKey) -> u32;
    /// Adds to a slot. [`NO_SLOT`] is ignored.
    fn add(&self, slot: u32, flows: u64, packets: u64, bytes: u64);
    /// What is remembered of a denied flow.
    fn denial(&self, key: &FlowKey) -> Option<Denial>;
    /// Lets `note` write into what is remembered of a denied flow: all zero where nothing was, or that of
    /// another flow (its tag tells).
    fn note_denial(&self, key: &FlowKey, note: impl FnOnce(&mut Denial));
    /// Hands an event to the daemon, filled in where it will be read, or counts its loss.
    fn emit(&self, fill: impl FnOnce(&mut Event));
    /// Counts a flow by its class; whether one of this kind is to be told of again.
    fn classed(&self, key: &ClassKey) -> bool;
    /// Network namespace cookie of the socket at hand, 0 if unknown.
    fn netns(&self) -> u64;
    /// Cookie of the socket at hand, 0 if there is none.
    fn cookie(&self) -> u64;
}

/// A denied tuple that comes back after as many nanoseconds is a new attempt: longer than the last
/// retransmission of a SYN that people wait for (RFC 6298: 1, 3, 7, 15, 31 seconds).
pub const MEMORY: u64 = 35_000_000_000;

/// Remembers a denied flow; whether it was not remembered already.
#[inline(always)]
pub fn denied_first<R: Report>(report: &R, key: &FlowKey) -> bool {
    let told = report.now();
    let mut first = true;
    report.note_denial(key, |denial| {
        first = denial.tag != key.tag() || told.wrapping_sub(denial.told) >= MEMORY;
        if first {
            (denial.told, denial.judged, denial.tag) = (told, 0, key.tag());
        }
    });
    first
}

/// What was decided about, in the direction of the flow.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The opener's address.
    pub src: &'a Addr,
    /// The receiver's.
    pub dst: &'a Addr,
    /// The opener's port.
    pub src_port: u16,
    /// The receiver's.
    pub dst_port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// The workload at hand.
    pub workload: &'a Workload,
    /// What its bytes say, where they were looked at.
    pub content: Content,
}

/// What a flow's bytes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// [`Class`](bulkhead_abi::Class) code.
    pub class: u8,
    /// [`App`](bulkhead_abi::App) code.
    pub app: u8,
    /// [`Tls`](bulkhead_abi::Tls) code of the level that the flow's rule asks for.
    pub level: u8,
}

impl Content {
    /// Nobody looked.
    pub const NONE: Self = Self { class: 0, app: 0, level: 0 };
}

/// The counter slot of a decision. Before enforcement begins, what will be denied is not counted: it
/// will be when it is ended.
#[inline(always)]
pub fn slot_of<T: Tables + Report>(policy: &Policy<'_, T>, decision: &Decision) -> u32 {
    if policy.control.flags & Control::FLAG_ADOPTING != 0 && decision.verdict != Verdict::Allow {
        return NO_SLOT;
    }
    policy.tables.slot(&CounterKey {
        from: decision.from,
        to: decision.to,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        _reserved: [0; 2],
    })
}

/// Tells the daemon of a denial, or of what would be one; of what passes, which class it is of.
#[inline(always)]
pub fn tell<T: Tables + Report>(policy: &Policy<'_, T>, decision: &Decision, subject: &Subject<'_>) {
    if policy.control.flags & Control::FLAG_ADOPTING != 0 {
        return;
    }
    let report = policy.tables;
    report.emit(|event| {
        event.time = report.now();
        event.generation = policy.generation();
        event.netns = report.netns();
        event.cookie = report.cookie();
        event.workload = *subject.workload;
        event.src = *subject.src;
        event.dst = *subject.dst;
        event.from = decision.from;
        event.to = decision.to;
        event.rule = decision.rule;
        event.pid = 0;
        event.src_port = subject.src_port;
        event.dst_port = subject.dst_port;
        event.kind = match decision.verdict {
            Verdict::Allow => EventKind::Classified as u8,
            _ => EventKind::Verdict as u8,
        };
        event.protocol = subject.protocol.0;
        event.verdict = decision.verdict as u8;
        event.reason = decision.reason as u8;
        event.class = subject.content.class;
        event.app = subject.content.app;
        event.level = subject.content.level;
        event._reserved = [0; 5];
    });
}
