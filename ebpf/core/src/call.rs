//! Socket calls: a denial that the program hears at once.
//!
//! `connect` is refused with EPERM where both identities are known at that moment. Where one is not,
//! the call passes and the packet layer decides: this layer can only refuse, never approve, so its
//! ignorance lets nothing through. UDP's `sendto` needs no hook: the packet layer's denial is the
//! call's EPERM.

use bulkhead_abi::{
    Addr, Identity, Protocol, Side, SocketFlow, SocketOwner, Verdict, Workload, tables::Home,
};

use crate::{
    endpoint,
    judge::{self, Decision, Question, Sides},
    report::{self, Content, Report, Subject},
    tables::{Policy, Tables},
    track::{Slot, prepared},
};

/// A call on a socket.
pub trait Call: Tables + Report {
    /// What the socket keeps of its flow.
    type Owned: Slot<SocketFlow>;

    /// What the socket keeps of its flow, made when there is nothing yet; `None` without memory.
    fn own(&self) -> Option<Self::Owned>;
    /// Who made the socket; `None` for sockets older than the programs.
    fn owner(&self) -> Option<SocketOwner>;
    /// The calling process's workload.
    fn current(&self) -> Workload;
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

/// Judges a `connect`. An allowed one is neither counted nor told: its first packet is, and finds the
/// answer at the socket ([`prepared`]).
#[inline(always)]
pub fn connect<C: Call>(call: &C, connect: &Connect) -> Verdict {
    let policy = Policy::live(call);
    let Some(decision) = decide(&policy, call, connect) else { return Verdict::Allow };
    if decision.verdict == Verdict::Deny {
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
        return Verdict::Deny;
    }
    Verdict::Allow
}

/// `None` where an identity is not known yet.
#[inline(always)]
fn decide<C: Call>(policy: &Policy<'_, C>, call: &C, connect: &Connect) -> Option<Decision> {
    let (target, port) = connect.target;
    match connect.protocol {
        Protocol::TCP => {}
        // A bound UDP socket may be a server that connects back to its client: that is a reply, and
        // only the packet layer can tell.
        Protocol::UDP if connect.bound.1 == 0 => {}
        _ => return None,
    }
    let owner = call.owner()?;
    let current = call.current();
    let by_its_maker = current.cgroup == owner.cgroup;
    let own = if by_its_maker {
        current
    } else {
        // Passed on, or its process moved: the creator's ancestors cannot be asked for any more.
        call.workload(owner.cgroup)?;
        Workload { cgroup: owner.cgroup, anchor: 0 }
    };
    let source = source(policy, owner.netns, connect)?;
    // Who receives is known after translation.
    if policy.of_address(&target) == Identity::VIRTUAL {
        return None;
    }
    let peer = endpoint::receiver(policy, owner.netns, &target, port, connect.protocol);
    let question = Question {
        from: endpoint::resolve(policy, &own, &source),
        to: endpoint::resolve(policy, &peer, &target),
        protocol: connect.protocol,
        port,
        sides: if peer.is_known() { Sides::Both } else { Sides::One(Side::Egress) },
    };
    let decision = judge::judge(policy, &question, || {
        (owner.netns == policy.control.host_netns).then_some(Side::Egress)
    });
    if by_its_maker
        && connect.protocol == Protocol::TCP
        && decision.verdict == Verdict::Allow
        && let Some(place) = call.own()
    {
        prepared::keep(&place, policy.generation(), source, connect.target, &peer, &decision);
    }
    Some(decision)
}

/// The address that the connection will come from.
#[inline(always)]
fn source<T: Tables>(policy: &Policy<'_, T>, netns: u64, connect: &Connect) -> Option<Addr> {
    let (target, (bound, _)) = (connect.target.0, connect.bound);
    if !bound.is_unspecified() {
        return Some(bound);
    }
    // The kernel answers its own addresses from themselves.
    if target.is_loopback() {
        return Some(target);
    }
    match policy.tables.local(&target) {
        Some(local) if local.netns == netns && local.addr == target => return Some(target),
        _ => {}
    }
    let home = policy.tables.home(netns)?;
    let (addr, several) = if target.is_v4() {
        (home.v4, home.flags & Home::FLAG_SEVERAL_V4)
    } else {
        (home.v6, home.flags & Home::FLAG_SEVERAL_V6)
    };
    if several != 0 {
        return None;
    }
    let [first, second, ..] = target.octets();
    // Link-local and multicast destinations choose their source by interface.
    let by_interface = !target.is_v4() && (first == 0xff || (first == 0xfe && second & 0xc0 == 0x80));
    if addr == Addr::ANY || by_interface { None } else { Some(addr) }
}
