//! The turn into the node's proxy: a program's `connect` under `tls = "mutual"` goes to the capture listener
//! in the program's own network namespace.
//!
//! It goes there from the address that it would have come from, and to that same address, so that the program
//! sees its own address, and a program that is bound to an interface gets there. Where it wanted to go is
//! kept at its socket. No program is ever let through in clear because the proxy is not there: then the call
//! is refused.
//!
//! The proxy's own sockets are confined to what they are for; what they do is not asked of the rules.

use bulkhead_abi::{
    Addr, Protocol, Reason, RoleKind, SocketFlow, SocketRole, Verdict,
    role::{CAPTURE_PORT, TUNNEL_PORT},
    tables::Home,
};

use super::{Call, Connect, Decided, Decision};
use crate::{
    judge,
    tables::Policy,
    track::{Slot, role::is_here},
};

/// Where a call is to go instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The address.
    pub addr: Addr,
    /// The port; 0: it goes where it wanted to.
    pub port: u16,
}

impl Turn {
    /// Where it wanted to.
    pub const NONE: Self = Self { addr: Addr::ANY, port: 0 };
}

/// Whom a program is told that it is connected to, where the kernel says `port`: of a turned connection,
/// whoever it wanted to reach.
#[inline(always)]
pub fn peer_name<C: Call>(call: &C, port: u16, name: &mut Turn) {
    if port == CAPTURE_PORT
        && let Some(slot) = call.role()
    {
        slot.read(|role| {
            if role.kind() == RoleKind::Turned {
                *name = Turn { addr: role.original, port: role.original_port };
            }
        });
    }
}

/// Whether a socket may be bound to a port that belongs to the proxy, as its role says.
#[inline(always)]
pub const fn may_bind(kind: RoleKind, port: u16) -> bool {
    match port {
        CAPTURE_PORT => matches!(kind, RoleKind::Capture),
        TUNNEL_PORT => matches!(kind, RoleKind::TunnelIn),
        _ => true,
    }
}

/// Judges the call of a socket that has a role; unknown where it has none. One that was turned before is
/// like any other when it connects anew.
#[inline(always)]
pub(super) fn confined<C: Call>(policy: &Policy<'_, C>, call: &C, connect: &Connect) -> Decided {
    let Some(slot) = call.role() else { return Decided::UNKNOWN };
    let mut decision = Decision::CLOSED;
    let kind = slot.update(|role| {
        let kind = role.kind();
        if kind == RoleKind::Turned {
            role.kind = RoleKind::None as u8;
        }
        (decision.from, decision.to, decision.rule) = (role.from, role.to, role.rule);
        kind
    });
    let may = match kind {
        RoleKind::None | RoleKind::Turned => return Decided::UNKNOWN,
        RoleKind::TunnelOut => connect.target.1 == TUNNEL_PORT,
        RoleKind::LastHop => is_here(call, call.netns(), &connect.target.0),
        RoleKind::Capture | RoleKind::TunnelIn => false,
    };
    (decision.verdict, decision.reason) =
        if may { (Verdict::Allow, Reason::Proxied) } else { (Verdict::Deny, Reason::OutsideProxy) };
    Decided { known: 1, decision: judge::in_mode(policy, decision), ..Decided::UNKNOWN }
}

/// Turns a call that may go by way of the proxy only, or says why it is refused.
#[inline(always)]
pub(super) fn turn<C: Call>(
    policy: &Policy<'_, C>,
    call: &C,
    connect: &Connect,
    decided: &mut Decided,
    to: &mut Turn,
) {
    if decided.decision.verdict != Verdict::Deny || connect.protocol != Protocol::TCP {
        return;
    }
    let netns = decided.netns;
    let proxied = policy.tables.home(netns).is_some_and(|home| home.flags & Home::FLAG_PROXIED != 0);
    if !proxied {
        // What comes from another address than is likely may be another matter: its packets tell.
        decided.known = u8::from(decided.known == 1);
        decided.decision.reason = Reason::NoProxy;
        return;
    }
    // From elsewhere (a transparent socket's source) nothing comes back to the proxy. The packet layer
    // refuses it.
    let mut known = 0;
    if is_here(policy.tables, netns, &decided.source)
        && let Some(slot) = call.make_role()
    {
        let Decision { from, to: receiver, rule, .. } = decided.decision;
        slot.update(|role| {
            *role = SocketRole {
                original: connect.target.0,
                original_port: connect.target.1,
                workload: decided.own,
                generation: policy.generation(),
                from,
                to: receiver,
                rule,
                ..SocketRole::new(RoleKind::Turned)
            };
        });
        // What was decided for an earlier connection of this socket is not about this one.
        if let Some(place) = call.own() {
            place.update(|flow| flow.flags &= !SocketFlow::FLAG_PREPARED);
        }
        *to = Turn { addr: decided.source, port: CAPTURE_PORT };
        (decided.decision.verdict, decided.decision.reason) = (Verdict::Allow, Reason::Proxied);
        known = 1;
    }
    decided.known = known;
}
