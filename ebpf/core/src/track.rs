//! Flows: what a packet belongs to, and whether it passes. The entry point of the packet hooks.
//!
//! A flow lives in one of two places. A connected socket *owns* its flow in its own storage: no
//! parsing, no table, nothing to evict ([`owned`]). Everything else is *tabled* under its tuple
//! ([`tabled`]). Listening sockets hold nothing: a connection in the making is judged as inbound at each
//! of its packets ([`listening`]).
//!
//! Invariants: direction is the flow's (who opened it), never a port's; a verdict counts only in the
//! generation that made it; a tuple grants nothing to another owner; when the table is full, flows
//! that are in it live and new ones are denied.

mod content;
mod datagram;
mod denied;
mod handed;
mod hook;
mod icmp;
mod inspected;
mod listening;
mod owned;
mod pieces;
pub(crate) mod prepared;
mod reading;
pub(crate) mod role;
mod tabled;
mod telling;

use bulkhead_abi::{
    Addr, Control, Direction, FlowKey, Identity, Protocol, Reason, Side, SocketFlow, Verdict, Workload,
    tables::Home,
};

use crate::{
    endpoint,
    judge::{self, Decision, Question, Sides},
    packet::{Bytes, Kind, Packet, Segment},
    report::Report,
    tables::{Policy, Tables},
};

pub(crate) use self::{tabled::tcp_after, telling::again};
pub use hook::{Entry, Finding, Hook, Judged, Outcome, Ownership, Slot, Socket, Telling, Whose};
pub use pieces::{Before, Told};
pub use reading::Known;
pub use role::Cast;
pub use tabled::{is_expired, lifetime};

/// The parts of the work, each for itself. [`Hook`] has a method for each: the kernel makes them
/// functions that the verifier walks once.
pub mod parts {
    pub use super::{
        anomaly, content::content, content::examine, content::payload, datagram::again as datagram,
        icmp::icmp_error, inspected::ask, inspected::conclude, inspected::early, inspected::found,
        inspected::inspect, inspected::settle, listening::listening, owned::owned, pieces::tell, prepare,
        reading::told, role::proxied, role::role, role::turned, tabled::enter, tabled::tracked,
        tabled::untracked, telling::account, telling::doomed,
    };
}

/// Judges a packet.
#[inline(always)]
pub fn packet<H: Hook>(hook: &H, direction: Direction) -> Verdict {
    let control = hook.control();
    let socket = hook.socket();
    // The path of nearly every packet: a flow whose verdict is of this generation.
    // Not while it opens: it may be connected anew, and what it holds be of another flow.
    if socket == Socket::Other
        && let Some(owned) = hook.owned()
        && let Some(slot) = match owned.read(|flow| passing_stream(flow, control.generation)) {
            None => hook.on_datagram(&owned, control.generation, direction),
            slot => slot,
        }
    {
        let finding = if hook.reads_streams() && owned.read(is_read) {
            hook.on_inspect(&owned, &control, direction)
        } else {
            Finding::Passes
        };
        if finding == Finding::Passes {
            hook.add(slot, 0, 1, u64::from(hook.len()));
            return Verdict::Allow;
        }
        return inspected::tell(hook, direction, finding);
    }
    // Loaded anew: kept over all of the above it would take room on the stack of every other path.
    let mut state = State::new(hook.control(), direction, socket);
    hook.on_prepare(&mut state);
    // A reset passes because it only ends a connection. A raw socket has none, and would send data in it.
    if let Kind::Segment(segment) = &mut state.kind
        && segment.resets
        && socket == Socket::Other
        && hook.ownership() == Ownership::Raw
        && hook.is_programs()
    {
        segment.resets = false;
    }
    judge_packet(hook, &state)
}

#[inline(always)]
fn passing_stream(flow: &SocketFlow, generation: u64) -> Option<u32> {
    let passes = flow.protocol == Protocol::TCP.0
        && flow.generation == generation
        && Verdict::from_code(flow.verdict).passes();
    if passes { Some(flow.slot) } else { None }
}

/// Whether its bytes are looked at.
#[inline(always)]
fn is_read(flow: &SocketFlow) -> bool {
    flow.protocol == Protocol::TCP.0 && flow.reading.settled == 0
}

#[inline(always)]
fn judge_packet<H: Hook>(hook: &H, state: &State) -> Verdict {
    let mut judged = Judged::done(Outcome::Untracked);
    if state.control.flags & Control::FLAG_MUTUAL != 0 && is_parts(state) {
        judged = inspected::after(hook, state, Judged::done(hook.on_proxied(state)));
    }
    if judged.outcome == Outcome::Untracked {
        judged = match state.kind {
            Kind::Discovery => Judged::done(Outcome::Verdict(Verdict::Allow)),
            Kind::Malformed(reason) => Judged::done(Outcome::Anomaly(reason)),
            Kind::IcmpError => Judged::done(hook.on_icmp_error(state)),
            Kind::Segment(_) if state.socket == Socket::Listening => Judged::done(hook.on_listening(state)),
            _ if is_owned(hook, state) => inspected::after(hook, state, hook.on_owned(state)),
            _ => hook.on_tracked(state),
        };
    }
    if judged.outcome == Outcome::Untracked {
        judged = hook.on_untracked(state);
    }
    let judged = content::after(hook, state, judged);
    judged.count(hook);
    match judged.outcome {
        Outcome::Verdict(verdict) => verdict,
        Outcome::Anomaly(reason) => hook.on_anomaly(state, reason),
        Outcome::Untracked => hook.on_anomaly(state, Reason::Inconsistent),
    }
}

/// Whether a socket's role can matter for the packet.
#[inline(always)]
const fn is_parts(state: &State) -> bool {
    matches!(state.kind, Kind::Segment(_)) && !matches!(state.socket, Socket::None)
}

/// Whether the socket at hand owns the packet's flow, or may.
#[inline(always)]
fn is_owned<H: Hook>(hook: &H, state: &State) -> bool {
    match (state.kind, state.socket) {
        (_, Socket::None) => false,
        (Kind::Segment(_), Socket::Opening) => true,
        (Kind::Segment(_), _) => hook.ownership() == Ownership::Stream,
        (Kind::Datagram, _) if state.protocol == Protocol::UDP => hook.ownership() == Ownership::Datagrams,
        _ => false,
    }
}

/// One end of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End<'a> {
    /// Its address.
    pub addr: &'a Addr,
    /// Its port; an ICMP echo's identifier; 0 where the protocol has none.
    pub port: u16,
}

/// A packet that has to be looked at, as this hook sees it.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// The control block as it was when the packet came.
    pub control: Control,
    /// The key of its flow.
    pub key: FlowKey,
    /// Offset of the transport header in bytes.
    pub transport: u32,
    /// ICMP `type << 8 | code`, else 0.
    pub icmp: u16,
    /// The transport.
    pub protocol: Protocol,
    /// What kind of packet it is.
    pub kind: Kind,
    /// Its direction at this hook.
    pub direction: Direction,
    /// The socket at this hook.
    pub socket: Socket,
    /// Not zero: this end is the lower one of the key. A byte, because the compiler makes an offset out
    /// of a `bool`, and the kernel's verifier does not know that one is 0 or 1.
    local_low: u8,
}

impl State {
    #[inline(always)]
    pub(crate) fn new(control: Control, direction: Direction, socket: Socket) -> Self {
        Self {
            control,
            key: FlowKey::BLANK,
            transport: 0,
            icmp: 0,
            protocol: Protocol(0),
            kind: Kind::Malformed(Reason::Unparsable),
            direction,
            socket,
            local_low: 0,
        }
    }

    /// Takes over what a packet says. `netns`: the namespace, where an address is loopback.
    #[inline(always)]
    pub(crate) fn fill(&mut self, packet: &Packet, netns: u64) {
        (self.transport, self.icmp) = (packet.transport, packet.icmp);
        (self.protocol, self.kind) = (packet.protocol, packet.kind);
        let (src, dst) = ((packet.src, packet.src_port), (packet.dst, packet.dst_port));
        let (key, source_is_low) = FlowKey::new(src, dst, packet.protocol, netns);
        self.key = key;
        // Whoever pings itself has two equal ends: the request then comes from the lower one, the reply
        // not.
        let answers_itself = packet.kind == Kind::EchoReply && src == dst;
        self.local_low = u8::from((source_is_low && !answers_itself) == self.leaves());
    }

    /// Whether this end is the lower one of the key.
    #[inline(always)]
    pub const fn local_is_low(&self) -> bool {
        self.local_low != 0
    }

    /// This end.
    #[inline(always)]
    pub fn local(&self) -> End<'_> {
        self.end(self.local_is_low())
    }

    /// The other end.
    #[inline(always)]
    pub fn remote(&self) -> End<'_> {
        self.end(!self.local_is_low())
    }

    #[inline(always)]
    fn end(&self, low: bool) -> End<'_> {
        if low {
            End { addr: &self.key.low, port: self.key.low_port }
        } else {
            End { addr: &self.key.high, port: self.key.high_port }
        }
    }

    /// Whether the packet leaves this end.
    #[inline(always)]
    fn leaves(&self) -> bool {
        self.direction == Direction::Egress
    }

    #[inline(always)]
    pub(crate) fn segment(&self) -> Option<Segment> {
        match self.kind {
            Kind::Segment(segment) => Some(segment),
            _ => None,
        }
    }

    #[inline(always)]
    fn resets(&self) -> bool {
        matches!(self.kind, Kind::Segment(segment) if segment.resets)
    }

    #[inline(always)]
    fn is_stream(&self) -> bool {
        self.protocol == Protocol::TCP
    }

    #[inline(always)]
    pub(crate) fn policy<'a, H: Tables>(&self, hook: &'a H) -> Policy<'a, H> {
        Policy { tables: hook, control: self.control }
    }

    /// What comes out for a packet of a flow that is denied. A reset without data passes, whatever the
    /// verdict: it only ends what must end, and without it the other end would believe itself connected.
    #[inline(always)]
    pub(crate) fn out(&self, verdict: Verdict) -> Outcome {
        Outcome::Verdict(if self.resets() { Verdict::Allow } else { verdict })
    }
}

/// Reads the packet into the state: its two ends as this hook sees them, and its flow's key.
#[inline(always)]
pub fn prepare<H: Bytes + Report>(hook: &H, state: &mut State) {
    let packet: Packet = crate::packet::parse(hook);
    let loopback = packet.src.is_loopback() || packet.dst.is_loopback();
    let netns = if loopback { hook.netns() } else { 0 };
    state.fill(&packet, netns);
}

/// Judges the flow with its two ends as they are now. `opener`: this end opened it.
#[inline(always)]
fn decide<H: Hook>(hook: &H, state: &State, own: &Workload, opener: bool, peer: &Workload) -> Decision {
    let policy = state.policy(hook);
    let local = endpoint::resolve(&policy, own, state.local().addr);
    let remote = endpoint::resolve(&policy, peer, state.remote().addr);
    let (from, to, side, end) = if opener {
        (local, remote, Side::Egress, state.remote())
    } else {
        (remote, local, Side::Ingress, state.local())
    };
    if opener && to == Identity::VIRTUAL && is_guarded(hook, state) {
        return judge::deferred(from);
    }
    let question = Question {
        from,
        to,
        protocol: state.protocol,
        port: service(state.protocol, state.kind, state.icmp, end.port),
        sides: if peer.is_known() { Sides::Both } else { Sides::One(side) },
    };
    judge::judge(&policy, &question, || {
        let host = state.control.host_netns;
        (host != 0 && hook.netns() == host).then_some(side)
    })
}

/// Whether the guard sees what leaves this namespace. In the host's own one translation has been done
/// when a packet comes here, so an address that is still virtual stays so.
#[inline(always)]
fn is_guarded<H: Hook>(hook: &H, state: &State) -> bool {
    let netns = hook.netns();
    netns != state.control.host_netns
        && hook.home(netns).is_some_and(|home| home.flags & Home::FLAG_GUARDED != 0)
}

/// Whether a packet that leaves carries an address that is not its sender's: that of another namespace
/// of this node, or, from a raw socket, one that nobody here has and that is in a zone. The kernel lets
/// other sockets send from their namespace's own addresses only, so one that is not known here is merely
/// new.
#[inline(always)]
fn is_spoofed<H: Hook>(hook: &H, state: &State) -> bool {
    let addr = state.local().addr;
    if !state.leaves() || addr.is_loopback() || addr.is_unspecified() {
        return false;
    }
    match hook.local(addr) {
        Some(local) => {
            let netns = hook.netns();
            netns != 0 && local.netns != netns
        }
        None => hook.ownership() == Ownership::Raw && state.policy(hook).of_address(addr).is_zoned(),
    }
}

/// A packet that no rule can judge.
#[inline(always)]
pub fn anomaly<H: Hook>(hook: &H, state: &State, reason: Reason) -> Verdict {
    let own = hook.workload_at_hand();
    let policy = state.policy(hook);
    let mut local = endpoint::resolve(&policy, &own, state.local().addr).or_world();
    let remote = endpoint::resolve(&policy, &Workload::UNKNOWN, state.remote().addr).or_world();
    let judged = local;
    if reason == Reason::Spoofed {
        // Told by what the sender is, not by what it claims to be.
        local = endpoint::of_workload(&policy, &own);
    }
    let (from, to) = if state.leaves() { (local, remote) } else { (remote, local) };
    let decision = judge::anomaly(&policy, reason, judged, from, to);
    // What passes here belongs to no flow, and is none.
    let first = decision.verdict != Verdict::Allow;
    let telling = Telling { opener: state.leaves(), first, elsewhere: false, later: false };
    let _slot = hook.account(state, &decision, &own, telling);
    decision.verdict
}

/// What the rules call the receiver's port.
#[inline(always)]
pub(crate) fn service(protocol: Protocol, kind: Kind, icmp: u16, port: u16) -> u16 {
    match kind {
        Kind::EchoRequest | Kind::EchoReply if protocol == Protocol::ICMP => 8 << 8,
        Kind::EchoRequest | Kind::EchoReply => 128 << 8,
        _ if protocol.is_icmp() => icmp,
        _ => port,
    }
}

/// The workload on this node that receives what this end sends.
#[inline(always)]
fn receiver<H: Hook>(hook: &H, state: &State) -> Workload {
    let remote = state.remote();
    // The key has the namespace of a loopback address already.
    endpoint::receiver(&state.policy(hook), state.key.netns, remote.addr, remote.port, state.protocol)
}

const _: () = assert!(Identity::UNKNOWN.is_zoned(), "what cannot be told is closed");
