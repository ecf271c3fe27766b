//! What a kernel says by itself, by no socket whose layer would have judged it: the answer to a ping, a
//! connection accepted by a SYN cookie, the last acknowledgement of one whose socket is gone, an error about
//! what it cannot deliver. (Resets pass everywhere: they only end.)
//!
//! It is judged as the flow that it is about, by the rules of the end that speaks; the other end's were
//! asked where the request began. A kernel speaks from an address of its own namespace: whoever forges such
//! a packet in there, by a tun, can say no more by it than an answer may.
//!
//! Which way it fails: what the rules do not let pass here, and what is no answer, is left to who judges
//! where it leaves, and is a stray there.

use bulkhead_abi::{Control, FlowState, Side, Verdict, Workload, role::TUNNEL_PORT};

use super::{Guard, Mark};
use crate::{
    endpoint,
    judge::{self, Decision, Question, Sides},
    packet::{self, Kind},
    track::{Outcome, Slot, State, Telling, is_expired, service},
};

/// What becomes of a packet that a kernel may have made by itself, errors apart; untracked if it is no
/// answer, or none that may be given.
#[inline(always)]
pub(super) fn answer<G: Guard>(guard: &G, state: &State) -> Outcome {
    match state.kind {
        Kind::EchoReply => guard.on_reply(state),
        Kind::Segment(segment) if !segment.opens && !segment.resets && !segment.finishes => {
            guard.on_said(state)
        }
        _ => Outcome::Untracked,
    }
}

/// The same of an error; the state is that of what it quotes afterwards.
#[inline(always)]
pub(super) fn error<G: Guard>(guard: &G, state: &mut State) -> Outcome {
    if guard.on_quoted(state) { guard.on_said(state) } else { Outcome::Untracked }
}

/// Whether the packet is from an address of whose kernel it may be: of the namespace behind the interface
/// where it came in, or of the node itself, where it came in by no interface that the guard is on. (There a
/// source of the node's would have been a forged one, and the kernel believes no other interface an address
/// of its own.)
#[inline(always)]
pub fn speaks<G: Guard>(guard: &G, state: &State) -> bool {
    let home = match guard.mark() {
        mark if mark.is_routed() => guard.interface().netns,
        Mark::NONE => state.control.host_netns,
        _ => 0,
    };
    home != 0 && guard.local(state.local().addr).is_some_and(|local| local.netns == home)
}

/// The reply to a ping. No socket has met its request, so this is where the rules of whoever was pinged are
/// asked.
#[inline(always)]
pub fn reply<G: Guard>(guard: &G, state: &State) -> Outcome {
    let decision = lets_in(guard, state);
    if decision.verdict != Verdict::Allow {
        let telling = Telling { opener: false, first: true, elsewhere: false, later: false };
        let _slot = guard.account(state, &decision, &Workload::UNKNOWN, telling);
    }
    Outcome::Verdict(decision.verdict)
}

/// Reads what an error quotes into the state, as a packet between the same two ends; false if it is not for
/// the sender of that.
#[inline(always)]
pub fn quoted<G: Guard>(guard: &G, state: &mut State) -> bool {
    let Some(mut quoted) = packet::parse_quoted(guard, state.transport) else { return false };
    if quoted.src != *state.remote().addr {
        return false;
    }
    (quoted.src, quoted.dst) = (quoted.dst, quoted.src);
    (quoted.src_port, quoted.dst_port) = (quoted.dst_port, quoted.src_port);
    state.fill(&quoted, 0);
    true
}

/// A segment without a socket, or what an error is about: it passes where the end that speaks lets in what
/// the other one opened, or may have opened it. What a kernel accepts, it did not open.
#[inline(always)]
pub fn said<G: Guard>(guard: &G, state: &State) -> Outcome {
    let accepts = match state.kind {
        Kind::Segment(_) if !is_bare(guard, state) => return Outcome::Untracked,
        Kind::Segment(_) if is_tunnels(state) => return Outcome::Verdict(Verdict::Allow),
        Kind::Segment(segment) => segment.accepts,
        _ => false,
    };
    if lets_in(guard, state).verdict.passes() || (!accepts && lets_out(guard, state)) {
        Outcome::Verdict(Verdict::Allow)
    } else {
        Outcome::Untracked
    }
}

/// Whether the end that speaks lets in what the other one opened: its own rules, for whoever the socket
/// layers' table says that the other one is.
#[inline(always)]
fn lets_in<G: Guard>(guard: &G, state: &State) -> Decision {
    let policy = state.policy(guard);
    let (here, there, protocol) = (state.local(), state.remote(), state.protocol);
    let from = endpoint::resolve(&policy, &opener(guard, state), there.addr);
    let receiver = endpoint::receiver(&policy, 0, here.addr, here.port, protocol);
    let to = endpoint::resolve(&policy, &receiver, here.addr);
    let port = service(protocol, state.kind, state.icmp, here.port);
    judge::judge(&policy, &Question { from, to, protocol, port, sides: Sides::One(Side::Ingress) }, || None)
}

/// Whether the end that speaks may have opened it.
#[inline(always)]
fn lets_out<G: Guard>(guard: &G, state: &State) -> bool {
    let policy = state.policy(guard);
    let (here, there, protocol) = (state.local(), state.remote(), state.protocol);
    let from = endpoint::resolve(&policy, &Workload::UNKNOWN, here.addr);
    let receiver = endpoint::receiver(&policy, 0, there.addr, there.port, protocol);
    let to = endpoint::resolve(&policy, &receiver, there.addr);
    let port = service(protocol, state.kind, state.icmp, there.port);
    let question = Question { from, to, protocol, port, sides: Sides::One(Side::Egress) };
    judge::judge(&policy, &question, || None).verdict.passes()
}

/// Who opened it from the other end, where the socket layers' table knows: by its cgroup, or by what it was
/// before its address was translated.
#[inline(always)]
fn opener<G: Guard>(guard: &G, state: &State) -> Workload {
    let Some(slot) = guard.handed(&state.key) else { return Workload::UNKNOWN };
    let now = guard.now();
    slot.read(|flow| {
        let by_remote = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) != state.local_is_low();
        let lives = flow.tag == state.key.tag() && !is_expired(flow, now, state.protocol);
        if lives && by_remote { flow.opener } else { Workload::UNKNOWN }
    })
}

/// Whether a segment carries nothing.
#[inline(always)]
fn is_bare<G: Guard>(guard: &G, state: &State) -> bool {
    let mut offset = [0u8];
    let read = guard.load(state.transport.wrapping_add(12), &mut offset);
    let [offset] = offset;
    read == 1 && state.transport.wrapping_add(u32::from(offset >> 4) * 4) == guard.len()
}

/// Whether it is of a connection between two nodes' proxies, which no rule names.
#[inline(always)]
fn is_tunnels(state: &State) -> bool {
    state.control.flags & Control::FLAG_MUTUAL != 0
        && (state.local().port == TUNNEL_PORT || state.remote().port == TUNNEL_PORT)
}
