//! The guard's parts, as functions that the verifier walks once: see [`crate::leaf`].

use aya_ebpf::bindings::__sk_buff;
use bulkhead_abi::{
    Reason, Verdict, Workload,
    flow::{Doomed, FirstFragment},
};
use bulkhead_core::{
    guard::{Asked, Mark, Part, parts},
    judge::Decision,
    packet,
    track::State,
};

use crate::{doomed, frame::Frame, leaf, maps, raw::opaque};

/// [`parts::prepare`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_prepare(skb: *mut __sk_buff, state: *mut State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    if let Some(state) = unsafe { state.as_mut() } {
        parts::prepare(&Frame::measured(skb), state);
    }
    0
}

/// [`packet::follow_extensions`] of a frame; see [`leaf::extensions_code`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_extensions(skb: *mut __sk_buff, first: u32) -> u64 {
    leaf::extensions_code(packet::follow_extensions(&Frame::measured(skb), first as u8))
}

/// [`parts::stamp`]; a mark's number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_stamp(skb: *mut __sk_buff, state: *mut State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_mut() } {
        Some(state) => parts::stamp(&Frame::measured(skb), state).0,
        None => Mark::NONE.0,
    }
}

/// [`parts::enter`]; a verdict's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_enter(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |guard, state| parts::enter(guard, state) as u32)
}

/// [`parts::reply`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_reply(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |guard, state| parts::reply(guard, state).to_code())
}

/// [`parts::speaks`]; not 0: it may be.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_speaks(skb: *mut __sk_buff, state: *const State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_ref() } {
        Some(state) => u32::from(parts::speaks(&Frame::of(skb), state)),
        None => 0,
    }
}

/// [`parts::answered`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_answered(skb: *mut __sk_buff, state: *mut State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_mut() } {
        Some(state) => parts::answered(&Frame::measured(skb), state).to_code(),
        None => Verdict::Deny as u32,
    }
}

/// [`parts::quoted`]; not 0: it was read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_quoted(skb: *mut __sk_buff, state: *mut State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_mut() } {
        Some(state) => u32::from(parts::quoted(&Frame::measured(skb), state)),
        None => 0,
    }
}

/// [`parts::said`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_said(skb: *mut __sk_buff, state: *const State) -> u32 {
    measured(skb, state, |guard, state| parts::said(guard, state).to_code())
}

/// [`parts::is_back`]; not 0: it is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_is_back(skb: *mut __sk_buff, state: *const State) -> u32 {
    // The work needs nothing of the packet; see `guard_first_fragment`.
    let _ = opaque(skb.addr() as u64);
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_ref() } {
        Some(state) => u32::from(parts::is_back(&Frame::of(skb), state)),
        None => 0,
    }
}

/// [`parts::fragment_back`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_fragment_back(skb: *mut __sk_buff, state: *mut State) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_mut() } {
        Some(state) => parts::fragment_back(&Frame::measured(skb), state).to_code(),
        None => Verdict::Deny as u32,
    }
}

/// [`parts::packet_socket`]; a verdict's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_packet_socket(skb: *mut __sk_buff, state: *const State) -> u32 {
    with(skb, state, |guard, state| parts::packet_socket(guard, state) as u32)
}

/// [`parts::read_fragment`]; a part's number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_read_fragment(
    skb: *mut __sk_buff,
    state: *mut State,
    first: *mut FirstFragment,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    match unsafe { (state.as_mut(), first.as_mut()) } {
        (Some(state), Some(first)) => parts::read_fragment(&Frame::measured(skb), state, first) as u32,
        _ => Part::Unreadable as u32,
    }
}

/// [`parts::later_fragment`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_later_fragment(skb: *mut __sk_buff, later: *const FirstFragment) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { later.as_ref() } {
        Some(later) => parts::later_fragment(&Frame::measured(skb), later).to_code(),
        None => Verdict::Deny as u32,
    }
}

/// [`parts::later_answer`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_later_answer(skb: *mut __sk_buff, later: *const FirstFragment) -> u32 {
    // An argument without use would be left out by the compiler, while the verifier goes by the declaration.
    let _ = opaque(skb.addr() as u64);
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { later.as_ref() } {
        Some(later) => parts::later_answer(&Frame::of(skb), later).to_code(),
        None => Verdict::Deny as u32,
    }
}

/// [`parts::first_fragment`]; an outcome's code. `verdict` is one's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_first_fragment(
    skb: *mut __sk_buff,
    state: *const State,
    first: *const FirstFragment,
    verdict: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(first) = (unsafe { first.as_ref() }) else { return Verdict::Deny as u32 };
    // The work needs nothing of the packet, and an argument without use would be left out by the compiler,
    // while the verifier goes by the declaration.
    let _ = opaque(skb.addr() as u64);
    with(skb, state, |guard, state| {
        parts::first_fragment(guard, state, first, Verdict::from_code(verdict as u8)).to_code()
    })
}

/// [`parts::icmp_error`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_icmp_error(skb: *mut __sk_buff, state: *const State) -> u32 {
    measured(skb, state, |guard, state| parts::icmp_error(guard, state).to_code())
}

/// [`parts::transit`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_transit(skb: *mut __sk_buff, state: *const State) -> u32 {
    measured(skb, state, |guard, state| parts::transit(guard, state).to_code())
}

/// [`parts::ask`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_ask(skb: *mut __sk_buff, state: *const State, asked: *mut Asked) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    let Some(asked) = (unsafe { asked.as_mut() }) else { return Verdict::Deny as u32 };
    with(skb, state, |guard, state| parts::ask(guard, state, asked).to_code())
}

/// [`parts::begin`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_begin(
    skb: *mut __sk_buff,
    state: *const State,
    asked: *const Asked,
    decision: *const Decision,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    let (Some(asked), Some(decision)) = (unsafe { (asked.as_ref(), decision.as_ref()) }) else {
        return Verdict::Deny as u32;
    };
    with(skb, state, |guard, state| parts::begin(guard, state, asked, decision).to_code())
}

/// [`parts::open`]; an outcome's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_open(skb: *mut __sk_buff, state: *const State) -> u32 {
    measured(skb, state, |guard, state| parts::open(guard, state).to_code())
}

/// [`parts::refuse`]; a verdict's code.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_refuse(skb: *mut __sk_buff, state: *const State, reason: u32) -> u32 {
    with(skb, state, |guard, state| parts::refuse(guard, state, Reason::from_code(reason as u8)) as u32)
}

/// [`Frame::remember`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_remember_opening(skb: *mut __sk_buff, state: *const State, sequence: u32) -> u32 {
    with(skb, state, |frame, state| {
        frame.remember(state, sequence);
        0
    })
}

/// Puts the socket of the connection that was opened with this sequence number on the list of those to be
/// ended.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_doom_opening(sequence: u32, reason: u32) -> u32 {
    // SAFETY: plain bytes, copied at once.
    if let Some(opening) = unsafe { maps::OPENINGS.get(sequence) }.copied() {
        doomed::put_on_list(opening.cookie, &Doomed { reason: reason as u8, ..opening.doomed });
    }
    0
}

/// [`parts::account`]; `telling` is a set of [`leaf`]'s `TELL_` bits.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_account(
    skb: *mut __sk_buff,
    state: *const State,
    decision: *const Decision,
    telling: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    let (Some(state), Some(decision)) = (unsafe { (state.as_ref(), decision.as_ref()) }) else {
        return 0;
    };
    let own = Workload { cgroup: opaque(0), anchor: opaque(0) };
    parts::account(&Frame::measured(skb), state, decision, &own, leaf::telling_of(telling))
}

#[inline(always)]
fn with(skb: *mut __sk_buff, state: *const State, work: impl FnOnce(&Frame, &State) -> u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_ref() } {
        Some(state) => work(&Frame::of(skb), state),
        None => Verdict::Deny as u32,
    }
}

/// The same for work that counts bytes or reads them.
#[inline(always)]
fn measured(skb: *mut __sk_buff, state: *const State, work: impl FnOnce(&Frame, &State) -> u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole state.
    match unsafe { state.as_ref() } {
        Some(state) => work(&Frame::measured(skb), state),
        None => Verdict::Deny as u32,
    }
}
