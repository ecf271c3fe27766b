//! Socket calls: a denial that the program hears at once, and the turn into the node's proxy.
//!
//! `connect` is refused with EPERM where both identities are known at that moment. Where one is not,
//! the call passes and the packet layer decides: this layer can only refuse, never approve, so its
//! ignorance lets nothing through. UDP's `sendto` needs no hook: the packet layer's denial is the
//! call's EPERM.
//!
//! Where a rule wants mutual TLS by the proxy, the call is turned to the proxy's listener ([`turn`]).

pub mod turn;

use bulkhead_abi::{
    Addr, Control, Identity, Protocol, Reason, Side, SocketFlow, SocketOwner, SocketRole, Verdict, Workload,
    tables::Home,
};

use crate::{
    endpoint,
    judge::{self, Decision, Question, Sides},
    report::{self, Content, Report, Subject},
    tables::{Policy, Tables},
    track::{Slot, prepared, role::is_here},
};
use turn::Turn;

/// A call on a socket.
pub trait Call: Tables + Report {
    /// What the socket keeps of its flow.
    type Owned: Slot<SocketFlow>;
    /// What the socket is for.
    type Role: Slot<SocketRole>;

    /// What the socket keeps of its flow, made when there is nothing yet; `None` without memory.
    fn own(&self) -> Option<Self::Owned>;
    /// Who made the socket; `None` for sockets older than the programs.
    fn owner(&self) -> Option<SocketOwner>;
    /// The calling process's workload.
    fn current(&self) -> Workload;
    /// What the socket is for, if anybody has said so.
    fn role(&self) -> Option<Self::Role>;
    /// The same, made when there is none; `None` without memory.
    fn make_role(&self) -> Option<Self::Role>;
}

/// A `connect` call.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    /// Where to.
    pub target: (Addr, u16),
    /// The transport.
    pub protocol: Protocol,
    /// What the socket is bound to; unspecified address and port 0 where it is not.
    pub bound: (Addr, u16),
}

/// Judges a `connect`, and says in `to` where it is to go instead, if elsewhere. An allowed one is neither
/// counted nor told: its first packet is, and finds the answer at the socket ([`prepared`]).
#[inline(always)]
pub fn connect<C: Call>(call: &C, connect: &Connect, to: &mut Turn) -> Verdict {
    let policy = Policy::live(call);
    let mut decided = turn::confined(&policy, call, connect);
    if !decided.is_known() {
        decided = decide(&policy, call, connect);
        if decided.is_known() && decided.decision.reason == Reason::OutsideProxy {
            turn::turn(&policy, call, connect, &mut decided, to);
        }
    }
    let decision = decided.decision;
    if !decided.is_known() || decision.verdict != Verdict::Deny {
        return Verdict::Allow;
    }
    call.add(report::slot_of(&policy, &decision), 1, 0, 0);
    let subject = Subject {
        src: &connect.bound.0,
        dst: &connect.target.0,
        src_port: connect.bound.1,
        dst_port: connect.target.1,
        protocol: connect.protocol,
        workload: &call.current(),
        content: Content::NONE,
    };
    report::tell(&policy, &decision, &subject);
    Verdict::Deny
}

/// What a call comes to, as far as that can be told.
#[derive(Clone, Copy)]
struct Decided {
    /// Not zero: it can.
    known: u8,
    /// Whose socket it is.
    own: Workload,
    /// The socket's network namespace.
    netns: u64,
    /// Where the connection will come from.
    source: Addr,
    decision: Decision,
}

impl Decided {
    const UNKNOWN: Self =
        Self { known: 0, own: Workload::UNKNOWN, netns: 0, source: Addr::ANY, decision: Decision::CLOSED };

    #[inline(always)]
    const fn is_known(&self) -> bool {
        self.known != 0
    }
}

/// Unknown where an identity is not known yet.
#[inline(always)]
fn decide<C: Call>(policy: &Policy<'_, C>, call: &C, connect: &Connect) -> Decided {
    let (target, port) = connect.target;
    match connect.protocol {
        Protocol::TCP => {}
        // A bound UDP socket may be a server that connects back to its client: that is a reply, and
        // only the packet layer can tell.
        Protocol::UDP if connect.bound.1 == 0 => {}
        _ => return Decided::UNKNOWN,
    }
    let Some(owner) = call.owner() else { return Decided::UNKNOWN };
    let current = call.current();
    let by_its_maker = current.cgroup == owner.cgroup;
    let own = if by_its_maker {
        current
    } else {
        // Passed on, or its process moved: the creator's ancestors cannot be asked for any more.
        if call.workload(owner.cgroup).is_none() {
            return Decided::UNKNOWN;
        }
        Workload { cgroup: owner.cgroup, anchor: 0 }
    };
    let source = source(policy, owner.netns, connect);
    // Who receives is known after translation.
    let to = policy.of_address(&target);
    if source.addr == Addr::ANY || to == Identity::VIRTUAL {
        return Decided::UNKNOWN;
    }
    let source_addr = source.addr;
    let peer = endpoint::receiver(policy, owner.netns, &target, port, connect.protocol);
    let question = Question {
        from: endpoint::resolve(policy, &own, &source_addr),
        to: endpoint::with_address(policy, &peer, to),
        protocol: connect.protocol,
        port,
        sides: if peer.is_known() { Sides::Both } else { Sides::One(Side::Egress) },
    };
    let decision = judge::judge(policy, &question, || {
        (owner.netns == policy.control.host_netns).then_some(Side::Egress)
    });
    if source.likely != 0 && decision.reason != Reason::OutsideProxy {
        return Decided::UNKNOWN;
    }
    if by_its_maker
        && connect.protocol == Protocol::TCP
        && decision.verdict == Verdict::Allow
        && let Some(place) = call.own()
    {
        prepared::keep(&place, policy.generation(), source_addr, connect.target, &peer, &decision);
    }
    Decided { known: 1 + source.likely, own, netns: owner.netns, source: source_addr, decision }
}

/// The address that a connection will come from, or [`Addr::ANY`].
#[derive(Clone, Copy)]
struct Source {
    addr: Addr,
    /// Not zero: it may come from another one.
    likely: u8,
}

#[inline(always)]
fn source<T: Tables>(policy: &Policy<'_, T>, netns: u64, connect: &Connect) -> Source {
    let (target, (bound, _)) = (connect.target.0, connect.bound);
    if !bound.is_unspecified() {
        return Source { addr: bound, likely: 0 };
    }
    // The kernel answers its own addresses from themselves.
    if is_here(policy.tables, netns, &target) {
        return Source { addr: target, likely: 0 };
    }
    let Some(home) = policy.tables.home(netns) else { return Source { addr: Addr::ANY, likely: 0 } };
    let (addr, several) = if target.is_v4() {
        (home.v4, home.flags & Home::FLAG_SEVERAL_V4)
    } else {
        (home.v6, home.flags & Home::FLAG_SEVERAL_V6)
    };
    let [first, second, ..] = target.octets();
    // Link-local and multicast destinations choose their source by interface.
    let by_interface = !target.is_v4() && (first == 0xff || (first == 0xfe && second & 0xc0 == 0x80));
    // Only whether to turn goes by what is likely: the turned connection comes from there for certain.
    let none = several != 0 && policy.control.flags & Control::FLAG_MUTUAL == 0;
    let addr = if by_interface || none { Addr::ANY } else { addr };
    Source { addr, likely: if several == 0 { 0 } else { 1 } }
}
