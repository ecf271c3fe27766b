//! Flows of the node's own proxy, and of the connections that were turned to it.
//!
//! They are not judged by the rules: the proxy asks the policy itself, for the flow that they are parts of.
//! What they need instead is that each socket does what it is for, and nothing else, and that nobody goes
//! around the proxy. So a socket with a role opens only what the role says; the capture listener takes only
//! what was turned to it; and a program behind the last hop takes a flow as the proxy's only where its
//! opener's hook, on this machine, has said so. Whatever is left is judged by the rules, which let no flow
//! pass that was to go by way of the proxy ([`judge`]).
//!
//! A hand-over counts for more here than elsewhere, so it is believed only for packets that came over
//! loopback: who sends the same tuple from outside is somebody else. Once a socket owns such a flow it keeps
//! it, whatever generation comes: the proxy ends what lost its right.

use bulkhead_abi::{
    Addr, FlowState, Identity, Reason, RoleKind, SocketFlow, SocketRole, TurnedValue, Verdict, Workload,
    role::{CAPTURE_PORT, TUNNEL_PORT},
};

use super::{
    Entry, Hook, Outcome, Slot, Socket, State, Telling, Whose,
    handed::{self, Handed},
    owned::{Role, is_of, write},
    receiver,
};
use crate::{
    endpoint,
    judge::{self, Decision},
    tables::Tables,
};

/// What the role of the socket at hand makes of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cast {
    /// Nothing: the rules judge it.
    Not = 0,
    /// It opens a leg that does not leave its network namespace: a turned connection, or a last hop.
    Leg = 1,
    /// It opens a tunnel.
    Tunnel = 2,
    /// It receives a leg.
    Taken = 3,
    /// It receives a tunnel.
    Knock = 4,
    /// It is refused.
    Refused = 5,
}

impl Cast {
    /// From its number; any other refuses.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Not,
            1 => Self::Leg,
            2 => Self::Tunnel,
            3 => Self::Taken,
            4 => Self::Knock,
            _ => Self::Refused,
        }
    }
}

/// A segment of a flow that the socket at hand does not own yet, where its role says what becomes of that;
/// untracked where it says nothing.
#[inline(always)]
pub fn proxied<H: Hook>(hook: &H, state: &State) -> Outcome {
    let opens = state.segment().is_some_and(|segment| segment.opens);
    let begins = opens && state.leaves();
    let is_known = hook.owned().is_some_and(|slot| {
        slot.read(|flow| {
            let is_flow = flow.flags & (SocketFlow::FLAG_TABLED | SocketFlow::FLAG_PREPARED) == 0;
            is_flow && (!begins || is_of(flow, state))
        })
    });
    if is_known || state.resets() {
        return Outcome::Untracked;
    }
    let (mut peer, mut decision) = (Workload::UNKNOWN, Decision::CLOSED);
    let cast = hook.on_role(state, &mut peer, &mut decision);
    if cast == Cast::Not {
        return Outcome::Untracked;
    }
    let leg = matches!(cast, Cast::Leg | Cast::Taken);
    let opener = matches!(cast, Cast::Leg | Cast::Tunnel);
    if opener {
        peer = receiver(hook, state);
    }
    // A leg ends where it began, whether or not it is known yet who listens there.
    let local = opener && (leg || peer.is_known());
    let (passes, listens) = (decision.verdict.passes(), state.socket == Socket::Listening);
    // What was accepted was counted when it knocked.
    let first = if listens { opens && !state.leaves() || !passes } else { opener || !passes };
    let own = hook.workload_at_hand();
    let telling = Telling { opener, first, elsewhere: local, later: false };
    let slot = hook.account(state, &decision, &own, telling);
    if listens {
        if !passes {
            doom_opener(hook, state, decision.reason);
        }
        return Outcome::Verdict(decision.verdict);
    }
    let role = Role { opener, leg, reads: local && !leg, ..Role::NEW };
    if let Some(place) = hook.own() {
        place.update(|flow| write(flow, hook, state, &role, &peer, &decision, slot));
    }
    if !passes {
        let cookie = hook.cookie();
        if cookie != 0 {
            hook.doom(state, cookie, hook.netns(), Whose::Ours, decision.reason);
        }
        return Outcome::Verdict(decision.verdict);
    }
    if cast == Cast::Leg && begins {
        hook.note_turned(state);
    }
    if local && !hook.enter(state, &peer, &decision, Entry::local(role.reads)) {
        return Outcome::Anomaly(Reason::FlowTableFull);
    }
    if !opener {
        hook.untable(&state.key);
    }
    Outcome::Verdict(decision.verdict)
}

/// Has the socket ended that has knocked where it may not, if it is here.
#[inline(always)]
fn doom_opener<H: Hook>(hook: &H, state: &State, reason: Reason) {
    let (mut cookie, mut netns) = (0, 0);
    if let Some(slot) = hook.tabled(&state.key) {
        slot.read(|flow| {
            if flow.tag == state.key.tag() {
                (cookie, netns) = (flow.cookie, flow.netns);
            }
        });
    }
    if cookie != 0 {
        hook.doom(state, cookie, netns, Whose::Theirs, reason);
    }
}

/// What the role of the socket at hand makes of the flow that a segment belongs to; `decision` and, of one
/// that was opened elsewhere, `peer` are written unless that is nothing.
#[inline(always)]
pub fn role<H: Hook>(hook: &H, state: &State, peer: &mut Workload, decision: &mut Decision) -> Cast {
    let mut role = SocketRole::new(RoleKind::None);
    if let Some(slot) = hook.role() {
        slot.read(|held| role = *held);
    }
    let opening = state.socket == Socket::Opening;
    let mut handed = Handed::NONE;
    if !opening && let Some(slot) = hook.tabled(&state.key) {
        slot.read(|flow| {
            let remote_opened = (flow.flags & FlowState::FLAG_OPENER_LOW != 0) != state.local_is_low();
            if remote_opened && flow.tag == state.key.tag() {
                *peer = flow.opener;
                handed = handed::read(flow, state.control.generation);
            }
        });
    }
    let came = handed.is_proxied() && (state.leaves() || hook.is_looped());
    let remote = state.remote();
    let mut opens = true;
    let cast = match role.kind() {
        RoleKind::Turned if remote.port == CAPTURE_PORT && *remote.addr == *state.local().addr => Cast::Leg,
        RoleKind::TunnelOut if remote.port == TUNNEL_PORT => Cast::Tunnel,
        RoleKind::LastHop if is_here(hook, hook.netns(), remote.addr) => Cast::Leg,
        RoleKind::TunnelOut | RoleKind::LastHop => Cast::Refused,
        RoleKind::TunnelIn if !opening => {
            opens = false;
            Cast::Knock
        }
        RoleKind::Capture | RoleKind::None | RoleKind::Turned if came => Cast::Taken,
        RoleKind::None | RoleKind::Turned => return Cast::Not,
        RoleKind::Capture | RoleKind::TunnelIn => {
            opens = opening;
            Cast::Refused
        }
    };
    if matches!(cast, Cast::Leg | Cast::Tunnel) {
        *decision = passing(role.from, role.to, role.rule);
        return cast;
    }
    if came && matches!(cast, Cast::Taken | Cast::Knock) {
        *decision = passing(handed.decision.from, handed.decision.to, handed.decision.rule);
        return cast;
    }
    let policy = state.policy(hook);
    let local = endpoint::resolve(&policy, &role.workload, state.local().addr).or_world();
    let remote = endpoint::resolve(&policy, peer, remote.addr).or_world();
    let (from, to) = if opens { (local, remote) } else { (remote, local) };
    *decision = passing(from, to, 0);
    if cast == Cast::Refused {
        (decision.verdict, decision.reason) = (Verdict::Deny, Reason::OutsideProxy);
        *decision = judge::in_mode(&policy, *decision);
    }
    cast
}

/// What is told of a connection whose socket has this role, and is `workload`'s.
#[inline(always)]
pub fn turned(role: &SocketRole, workload: Workload) -> TurnedValue {
    TurnedValue {
        original: role.original,
        workload,
        generation: role.generation,
        from: role.from,
        to: role.to,
        rule: role.rule,
        port: role.original_port,
        _reserved: 0,
    }
}

/// Whether `addr` is one of the namespace's own.
#[inline(always)]
pub(crate) fn is_here<T: Tables>(tables: &T, netns: u64, addr: &Addr) -> bool {
    addr.is_loopback() || tables.local(addr).is_some_and(|local| local.netns == netns && local.addr == *addr)
}

#[inline(always)]
fn passing(from: Identity, to: Identity, rule: u32) -> Decision {
    Decision { verdict: Verdict::Allow, reason: Reason::Proxied, rule, from, to }
}
