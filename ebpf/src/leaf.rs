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
    Addr, Cell, CounterKey, Direction, Identity, Protocol, Reason, SocketFlow, Verdict, Workload,
};
use bulkhead_core::{
    endpoint,
    judge::Decision,
    tables::Policy,
    track::{Entry, State, Telling, Whose, parts},
};

use crate::{
    skb::{self, Place, Skb},
    tables::{self, Kernel},
};

/// [`endpoint::lookup`]; an [`Identity`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_resolve(generation: u64, cgroup: u64, anchor: u64, addr: *const Addr) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole address.
    let Some(addr) = (unsafe { addr.as_ref() }) else { return Identity::UNKNOWN.0 };
    endpoint::lookup(&Policy::at(&Kernel, generation), &Workload { cgroup, anchor }, addr).0
}

/// [`Policy::lookup`] of `from << 32 | to` and `protocol << 16 | port`; 1 if `answer` was written.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_cell(generation: u64, pair: u64, service: u64, answer: *mut Cell) -> u32 {
    // SAFETY: null or, by the verifier's word, room for a whole cell.
    let Some(answer) = (unsafe { answer.as_mut() }) else { return 0 };
    let (from, to) = (Identity((pair >> 32) as u32), Identity(pair as u32));
    match Policy::at(&Kernel, generation).lookup(from, to, Protocol((service >> 16) as u8), service as u16) {
        Some(cell) => {
            *answer = cell;
            1
        }
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

/// The workload of a packet's socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_workload(skb: *mut __sk_buff, workload: *mut Workload) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(workload) = (unsafe { workload.as_mut() }) else { return 0 };
    // SAFETY: the context; levels beyond the cgroup's own give 0.
    unsafe {
        *workload = skb::nearest(bpf_skb_cgroup_id(skb), |level| bpf_skb_ancestor_cgroup_id(skb, level));
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
pub extern "C" fn leaf_owned(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |hook, state| parts::owned(hook, state).to_code())
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
pub extern "C" fn leaf_tracked(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |hook, state| parts::tracked(hook, state).to_code())
}

/// [`parts::untracked`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_untracked(skb: *mut __sk_buff, state: *const State) -> u32 {
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
    let entry = match entry {
        0 => Entry::Opener,
        1 => Entry::LocalOpener,
        _ => Entry::Receiver,
    };
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
        skb::put_on_list(cookie, &parts::doomed(state, netns, whose, Reason::from_code(reason as u8)));
    }
    0
}

const TELL_OPENER: u32 = 1;
const TELL_FIRST: u32 = 2;
const TELL_ELSEWHERE: u32 = 4;

/// As a number, for the border between two functions.
#[inline(always)]
pub fn telling_bits(telling: Telling) -> u32 {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    bit(telling.opener, TELL_OPENER) | bit(telling.first, TELL_FIRST) | bit(telling.elsewhere, TELL_ELSEWHERE)
}

/// From its number.
#[inline(always)]
pub fn telling_of(bits: u32) -> Telling {
    Telling {
        opener: bits & TELL_OPENER != 0,
        first: bits & TELL_FIRST != 0,
        elsewhere: bits & TELL_ELSEWHERE != 0,
    }
}

#[inline(always)]
fn with(skb: *mut __sk_buff, state: *const State, work: impl FnOnce(&Skb, &State) -> u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_ref() } {
        Some(state) => work(&Skb::new(SkBuffContext::new(skb)), state),
        None => Verdict::Deny as u32,
    }
}
