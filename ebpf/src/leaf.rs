//! Functions that the verifier walks once, by themselves.
//!
//! A global function of BPF is verified for any arguments at all, and then its calls are single
//! instructions; a static one is walked anew for every state that leads to it, and the paths multiply.
//! Pointers may be null as far as the verifier knows, so each is checked; a null one fails closed.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
    programs::SkBuffContext,
};
use bulkhead_abi::{
    Addr, Control, CounterKey, Direction, Identity, Inspection, Protocol, Reason, SocketFlow, Verdict,
    Workload,
    inspect::{ClassKey, Datagrams},
};
use bulkhead_core::{
    endpoint,
    inspect::{Cursor, Payload as _, Ruling},
    judge::{self, Decision, Question, Sides},
    packet::{self, Span},
    report::Content,
    tables::Policy,
    track::{Cast, Entry, Finding, Known, State, Telling, Whose, parts},
};

use crate::{
    doomed,
    payload::Carried,
    place::Place,
    raw::Raw,
    skb::{self, Skb},
    tables::{self, Kernel},
    workload,
};

/// [`endpoint::lookup`]; an [`Identity`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_resolve(generation: u64, cgroup: u64, anchor: u64, addr: *const Addr) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole address.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return Identity::UNKNOWN.0 };
    endpoint::lookup(&Policy::at(&Kernel, generation), &Workload { cgroup, anchor }, addr).0
}

/// [`judge::lookup`] of `from << 32 | to` and `sides << 24 | protocol << 16 | port`: the answer as
/// `rule << 32 | reason << 8 | verdict`, 0 where there is none.
///
/// As a number it is one state to the verifier, where each reason and verdict would be one of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_answer(generation: u64, pair: u64, service: u64) -> u64 {
    let question = Question {
        from: Identity((pair >> 32) as u32),
        to: Identity(pair as u32),
        protocol: Protocol((service >> 16) as u8),
        port: service as u16,
        sides: Sides::from_code((service >> 24) as u8),
    };
    match judge::lookup(&Policy::at(&Kernel, generation), &question) {
        Some(answer) => {
            u64::from(answer.rule) << 32 | u64::from(answer.reason as u8) << 8 | answer.verdict as u64
        }
        None => 0,
    }
}

/// [`judge::wanted`] of `from << 32 | to` and `protocol << 16 | port`; its code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_wanted(generation: u64, pair: u64, service: u64) -> u64 {
    let question = Question {
        from: Identity((pair >> 32) as u32),
        to: Identity(pair as u32),
        protocol: Protocol((service >> 16) as u8),
        port: service as u16,
        sides: Sides::Both,
    };
    judge::wanted(&Policy::at(&Kernel, generation), &question).to_code()
}

/// [`tables::count_class`]; not 0 where one of this kind is to be told of again.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_classed(key: *const ClassKey) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole key.
    match unsafe { key.as_ref() } {
        Some(key) => u32::from(tables::count_class(key)),
        None => 0,
    }
}

/// [`endpoint::lookup_receiver`] of `protocol << 16 | port`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_receiver(netns: u64, addr: *const Addr, service: u64, receiver: *mut Workload) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    let (Some(addr), Some(receiver)) = (unsafe { (addr.as_ref(), receiver.as_mut()) }) else { return 0 };
    *receiver =
        endpoint::lookup_receiver(&Kernel, netns, addr, service as u16, Protocol((service >> 16) as u8));
    0
}

/// [`packet::follow_extensions`] of a packet at a socket; see [`extensions_code`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_extensions(skb: *mut __sk_buff, first: u32) -> u64 {
    extensions_code(packet::follow_extensions(&Raw(skb), first as u8))
}

/// What stands behind extension headers, as a number: `offset << 8 | protocol`, or a reason behind
/// [`UNREADABLE`].
#[inline(always)]
pub fn extensions_code(found: Result<(Protocol, u32), Reason>) -> u64 {
    match found {
        Ok((protocol, at)) => u64::from(at) << 8 | u64::from(protocol.0),
        Err(reason) => UNREADABLE | reason as u64,
    }
}

/// From its number.
#[inline(always)]
pub fn extensions_from(code: u64) -> Result<(Protocol, u32), Reason> {
    if code & UNREADABLE != 0 {
        return Err(Reason::from_code(code as u8));
    }
    Ok((Protocol(code as u8), (code >> 8) as u32))
}

const UNREADABLE: u64 = 1 << 63;

/// [`packet::read_span`]; 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_span(skb: *mut __sk_buff, span: *mut Span) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(span) = (unsafe { span.as_mut() }) else { return 0 };
    match packet::read_span(&Skb::new(SkBuffContext::new(skb))) {
        Some(found) => {
            *span = found;
            1
        }
        None => 0,
    }
}

/// [`packet::is_multipath`] of a segment with payload, or without, whose options stand from `options`
/// to `at`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_multipath(skb: *mut __sk_buff, options: u32, at: u32, len: u32) -> u32 {
    u32::from(packet::is_multipath(&Raw(skb), &Span { options, at, len, ..Span::default() }))
}

/// [`skb::stream_start`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_start(skb: *mut __sk_buff, leaves: u32) -> u64 {
    skb::stream_start(skb, leaves)
}

/// The workload of a packet's socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_workload(skb: *mut __sk_buff, workload: *mut Workload) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(workload) = (unsafe { workload.as_mut() }) else { return 0 };
    // SAFETY: the context; levels beyond the cgroup's own give 0.
    unsafe {
        *workload = workload::nearest(bpf_skb_cgroup_id(skb), |level| bpf_skb_ancestor_cgroup_id(skb, level));
    }
    0
}

/// The counter slot of a key.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_slot(key: *const CounterKey) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole key.
    match unsafe { key.as_ref() } {
        Some(key) => tables::find_slot(key),
        None => 0,
    }
}

/// [`parts::datagram`]: 0, or a slot and one; `direction` is 1 for what leaves.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_datagram(
    skb: *mut __sk_buff,
    owned: *mut SocketFlow,
    generation: u64,
    direction: u32,
) -> u64 {
    if owned.is_null() {
        return 0;
    }
    let direction = if direction == 0 { Direction::Ingress } else { Direction::Egress };
    match parts::datagram(&Skb::new(SkBuffContext::new(skb)), &Place::at(owned), generation, direction) {
        Some(slot) => u64::from(slot) + 1,
        None => 0,
    }
}

/// [`parts::inspect`]; a finding's code. `how` is the control block's flags, and [`LEAVES`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_inspect(
    skb: *mut __sk_buff,
    owned: *mut SocketFlow,
    generation: u64,
    how: u64,
) -> u32 {
    if owned.is_null() {
        return Finding::Held.to_code();
    }
    let direction = if (how as i64) < 0 { Direction::Egress } else { Direction::Ingress };
    let control = Control { generation, host_netns: 0, flags: how & (LEAVES - 1) };
    let hook = Skb::new(SkBuffContext::new(skb));
    parts::inspect(&hook, &Place::at(owned), &control, direction).to_code()
}

/// [`parts::early`] of the payload at `place`, and of `seq << 32 | sender`; not 0 where it passes.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_early(skb: *mut __sk_buff, inspection: *mut Inspection, place: u64, how: u64) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(inspection) = (unsafe { inspection.as_mut() }) else { return 0 };
    let payload = Carried::placed(skb, place);
    let cursor = Cursor { seq: (how >> 32) as u32, at: 0, len: payload.len(), sender: how as u32 & 1 };
    u32::from(parts::early(&Skb::new(SkBuffContext::new(skb)), &payload, inspection, &cursor))
}

/// [`parts::settle`]; a ruling's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_settle(skb: *mut __sk_buff, inspection: *mut Inspection, sender: u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(inspection) = (unsafe { inspection.as_mut() }) else { return Ruling::Hold.code() };
    let payload = Carried::placed(skb, 0);
    parts::settle(&Skb::new(SkBuffContext::new(skb)), &payload, inspection, sender as u8 & 1).code()
}

/// Of a `how`: what leaves. The highest bit, because asking for that one takes no room on the stack.
pub const LEAVES: u64 = 1 << 63;

/// [`parts::content`]; a verdict's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_content(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |hook, state| parts::content(hook, state) as u32)
}

/// [`parts::examine`]; a finding's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_examine(
    skb: *mut __sk_buff,
    state: *const State,
    known: *const Known,
    read: *mut Datagrams,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    match unsafe { (state.as_ref(), known.as_ref(), read.as_mut()) } {
        (Some(state), Some(known), Some(read)) => {
            parts::examine(&Skb::new(SkBuffContext::new(skb)), state, known, read).to_code()
        }
        _ => Finding::Held.to_code(),
    }
}

/// [`parts::told`] of `finding << 32` and the content's `level << 16 | app << 8 | class`; a verdict's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_told(skb: *mut __sk_buff, state: *const State, known: *const Known, what: u64) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(known) = (unsafe { known.as_ref() }) else { return Verdict::Deny as u32 };
    let finding = (what >> 32) as u32;
    let content = Content { class: what as u8, app: (what >> 8) as u8, level: (what >> 16) as u8 };
    with(skb, state, |hook, state| parts::told(hook, state, known, content, finding) as u32)
}

/// As [`leaf_told`] wants it.
#[inline(always)]
pub fn told_code(content: Content, finding: Finding) -> u64 {
    let content = u64::from(content.level) << 16 | u64::from(content.app) << 8 | u64::from(content.class);
    u64::from(finding.to_code()) << 32 | content
}

/// [`parts::ask`]; a ruling's code. `how` is the control block's flags.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_ask(flow: *mut SocketFlow, generation: u64, how: u64) -> u32 {
    let control = Control { generation, host_netns: 0, flags: how };
    // SAFETY: null or, by the verifier's word, a whole flow.
    match unsafe { flow.as_mut() } {
        Some(flow) => parts::ask(&Kernel, flow, &control).code(),
        None => Ruling::Hold.code(),
    }
}

/// [`parts::conclude`] of a ruling's code; a finding's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_conclude(flow: *mut SocketFlow, ruling: u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole flow.
    match unsafe { flow.as_mut() } {
        Some(flow) => {
            parts::conclude(|key| leaf_classed(key) != 0, flow, Ruling::from_code(ruling)).to_code()
        }
        None => Finding::Held.to_code(),
    }
}

/// [`parts::found`] of a finding's code; a verdict's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_found(skb: *mut __sk_buff, state: *const State, finding: u32) -> u32 {
    with(skb, state, |hook, state| parts::found(hook, state, Finding::from_code(finding)) as u32)
}

/// [`parts::prepare`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_prepare(skb: *mut __sk_buff, state: *mut State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    if let Some(state) = unsafe { state.as_mut() } {
        parts::prepare(&Skb::new(SkBuffContext::new(skb)), state);
    }
    0
}

/// [`parts::owned`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_owned(skb: *mut __sk_buff, state: *const State) -> u64 {
    with(skb, state, |hook, state| parts::owned(hook, state).to_code())
}

/// [`parts::role`]; the number of the variant. Refuses where it cannot tell.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_role(
    skb: *mut __sk_buff,
    state: *const State,
    peer: *mut Workload,
    decision: *mut Decision,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    match unsafe { (state.as_ref(), peer.as_mut(), decision.as_mut()) } {
        (Some(state), Some(peer), Some(decision)) => {
            parts::role(&Skb::new(SkBuffContext::new(skb)), state, peer, decision) as u32
        }
        _ => Cast::Refused as u32,
    }
}

/// [`parts::proxied`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_proxied(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |hook, state| parts::proxied(hook, state).to_code())
}

/// [`skb::note_turned`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_note_turned(skb: *mut __sk_buff, state: *const State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    if let Some(state) = unsafe { state.as_ref() } {
        skb::note_turned(skb, state);
    }
    0
}

/// [`parts::listening`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_listening(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |hook, state| parts::listening(hook, state).to_code())
}

/// [`parts::tracked`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_tracked(skb: *mut __sk_buff, state: *const State) -> u64 {
    with(skb, state, |hook, state| parts::tracked(hook, state).to_code())
}

/// [`parts::untracked`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_untracked(skb: *mut __sk_buff, state: *const State) -> u64 {
    with(skb, state, |hook, state| parts::untracked(hook, state).to_code())
}

/// [`parts::icmp_error`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_icmp_error(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |hook, state| parts::icmp_error(hook, state).to_code())
}

/// [`parts::anomaly`]; a verdict's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_anomaly(skb: *mut __sk_buff, state: *const State, reason: u32) -> u32 {
    with(skb, state, |hook, state| parts::anomaly(hook, state, Reason::from_code(reason as u8)) as u32)
}

/// [`parts::account`]; `telling` is a set of the `TELL_` bits.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_account(
    skb: *mut __sk_buff,
    state: *const State,
    decision: *const Decision,
    own: *const Workload,
    telling: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    let (Some(decision), Some(own)) = (unsafe { (decision.as_ref(), own.as_ref()) }) else { return 0 };
    with(skb, state, |hook, state| parts::account(hook, state, decision, own, telling_of(telling)))
}

/// [`parts::enter`]; 0 when the table is full. `entry` is the number of the variant.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_enter(
    skb: *mut __sk_buff,
    state: *const State,
    peer: *const Workload,
    decision: *const Decision,
    entry: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    let (Some(decision), Some(peer)) = (unsafe { (decision.as_ref(), peer.as_ref()) }) else { return 0 };
    let entry = Entry::from_code(entry);
    with(skb, state, |hook, state| u32::from(parts::enter(hook, state, peer, decision, entry)))
}

/// Puts a socket on the list of those to be ended ([`parts::doomed`]); `whose` is the number of the
/// variant.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_doom(state: *const State, cookie: u64, netns: u64, whose: u32, reason: u32) -> u32 {
    let whose = if whose == 0 { Whose::Ours } else { Whose::Theirs };
    // SAFETY: null or, by the verifier's word, a whole state.
    if let Some(state) = unsafe { state.as_ref() } {
        doomed::put_on_list(cookie, &parts::doomed(state, netns, whose, Reason::from_code(reason as u8)));
    }
    0
}

const TELL_OPENER: u32 = 1;
const TELL_FIRST: u32 = 2;
const TELL_ELSEWHERE: u32 = 4;
const TELL_LATER: u32 = 8;

/// As a number, for the border between two functions.
#[inline(always)]
pub fn telling_bits(telling: Telling) -> u32 {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    bit(telling.opener, TELL_OPENER)
        | bit(telling.first, TELL_FIRST)
        | bit(telling.elsewhere, TELL_ELSEWHERE)
        | bit(telling.later, TELL_LATER)
}

/// From its number.
#[inline(always)]
pub fn telling_of(bits: u32) -> Telling {
    Telling {
        opener: bits & TELL_OPENER != 0,
        first: bits & TELL_FIRST != 0,
        elsewhere: bits & TELL_ELSEWHERE != 0,
        later: bits & TELL_LATER != 0,
    }
}

#[inline(always)]
fn with<R: From<u8>>(skb: *mut __sk_buff, state: *const State, work: impl FnOnce(&Skb, &State) -> R) -> R {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_ref() } {
        Some(state) => work(&Skb::new(SkBuffContext::new(skb)), state),
        None => R::from(Verdict::Deny as u8),
    }
}
