//! The guard: packets at an interface, for what no socket layer sees.
//!
//! [`ingress`] looks at what comes in by an interface and writes into the packet's mark who sent it;
//! [`egress`] judges, where it leaves and after address translation, what nobody has judged yet.
//!
//! Invariants: a packet is judged by its socket wherever there is one, and that was done at the socket
//! layer; the guard never says otherwise. What is left to it are frames of packet sockets, forged
//! sources, what is forwarded for endpoints that have no socket here, and flows to virtual addresses,
//! which the socket layers leave to it. Traffic between endpoints in no zone passes, uncounted. What
//! cannot be judged is denied to and from zones.

mod answer;
mod back;
mod enter;
mod fragments;
mod mark;
mod transit;

use bulkhead_abi::{
    Control, Direction, FlowKey, FlowState, Identity, Reason, SocketFlow, Verdict, Workload,
    flow::{FirstFragment, FragmentKey},
    tables::Interface,
};

use crate::{
    endpoint,
    judge::{self, Decision},
    packet::{Bytes, Kind},
    report::Report,
    tables::Tables,
    track::{Outcome, Slot, Socket, State, Telling},
};

pub use fragments::Part;
pub use mark::Mark;
pub use transit::Asked;

/// The parts of the work, each for itself; the kernel makes them functions that the verifier walks once.
pub mod parts {
    pub use super::{
        answer::{quoted, reply, said, speaks},
        back::is_back,
        enter::{enter, packet_socket, stamp},
        fragments::{
            answered, back as fragment_back, first_fragment, later_answer, later_fragment, read_fragment,
        },
        refuse,
        transit::{ask, begin, icmp_error, open, transit},
    };
    pub use crate::track::parts::{account, prepare};
}

/// Who sent a packet, as far as the interface can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// No socket of ours: it was forwarded, or the kernel made it.
    None,
    /// A socket below our cgroup, of an address family whose packets the socket layer judges.
    Socket,
    /// A packet socket below our cgroup: no socket layer has seen it.
    Packet,
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// IPv4 or IPv6.
    Ip,
    /// Address resolution: never judged.
    Arp,
    /// Anything else.
    Other,
}

/// What an interface's hook gives. The methods with bodies are the [`parts`] of the work; the kernel puts
/// functions of its own in their place. [`Bytes`] begin with the IP header.
pub trait Guard: Tables + Bytes + Report + Sized {
    /// A flow that the guard judges.
    type Transit: Slot<FlowState>;
    /// A flow that the sender's socket owns.
    type Owned: Slot<SocketFlow>;

    /// Who sent the packet.
    fn sender(&self) -> Sender;
    /// What it carries.
    fn network(&self) -> Network;
    /// The interface, all zero where nothing is known of it.
    fn interface(&self) -> Interface;
    /// What the guard wrote into the packet's mark where it came in.
    fn mark(&self) -> Mark;
    /// Writes it.
    fn set_mark(&self, mark: Mark);
    /// The workload of the sender's socket, unknown where there is none.
    fn sender_workload(&self) -> Workload;
    /// The flow that the sender's socket owns.
    fn owned(&self) -> Option<Self::Owned>;
    /// The guard's flow of `key`.
    fn transit(&self, key: &FlowKey) -> Option<Self::Transit>;
    /// Makes it, with every field zero; `None` when the table is full.
    fn new_transit(&self, key: &FlowKey) -> Option<Self::Transit>;
    /// Makes an entry in the socket layers' flow table, with every field zero; `None` when it is full.
    fn new_hand_over(&self, key: &FlowKey) -> Option<Self::Transit>;
    /// The flow of `key` in the socket layers' table.
    fn handed(&self, key: &FlowKey) -> Option<Self::Transit>;
    /// Whether a flow has begun whose opener is in a zone and has no socket.
    fn routes(&self) -> bool;
    /// From now on one has.
    fn route(&self);
    /// What was remembered of a packet's first fragment.
    fn first_fragment(&self, key: &FragmentKey) -> Option<FirstFragment>;
    /// Remembers it; false when the table is full.
    fn remember_fragment(&self, first: &FirstFragment) -> bool;

    /// Whether the sender's socket is a connection whose SYN is out.
    fn is_opening(&self) -> bool;
    /// Remembers the sender's connection by its SYN's sequence number.
    fn remember_opening(&self, state: &State, sequence: u32);
    /// Puts the socket of that connection on the list of those that the agent ends.
    fn doom_opening(&self, sequence: u32, reason: Reason);

    /// [`parts::prepare`].
    #[inline(always)]
    fn on_prepare(&self, state: &mut State) {
        parts::prepare(self, state);
    }
    /// [`parts::stamp`].
    #[inline(always)]
    fn on_stamp(&self, state: &mut State) -> Mark {
        parts::stamp(self, state)
    }
    /// [`parts::enter`].
    #[inline(always)]
    fn on_enter(&self, state: &State) -> Verdict {
        parts::enter(self, state)
    }
    /// [`parts::reply`].
    #[inline(always)]
    fn on_reply(&self, state: &State) -> Outcome {
        parts::reply(self, state)
    }
    /// [`parts::speaks`].
    #[inline(always)]
    fn on_speaks(&self, state: &State) -> bool {
        parts::speaks(self, state)
    }
    /// [`parts::answered`].
    #[inline(always)]
    fn on_answered(&self, state: &mut State) -> Outcome {
        parts::answered(self, state)
    }
    /// [`parts::quoted`].
    #[inline(always)]
    fn on_quoted(&self, state: &mut State) -> bool {
        parts::quoted(self, state)
    }
    /// [`parts::said`].
    #[inline(always)]
    fn on_said(&self, state: &State) -> Outcome {
        parts::said(self, state)
    }
    /// [`parts::is_back`].
    #[inline(always)]
    fn on_is_back(&self, state: &State) -> bool {
        parts::is_back(self, state)
    }
    /// [`parts::fragment_back`].
    #[inline(always)]
    fn on_fragment_back(&self, state: &mut State) -> Outcome {
        parts::fragment_back(self, state)
    }
    /// [`parts::packet_socket`].
    #[inline(always)]
    fn on_packet_socket(&self, state: &State) -> Verdict {
        parts::packet_socket(self, state)
    }
    /// [`parts::read_fragment`].
    #[inline(always)]
    fn on_read_fragment(&self, state: &mut State, first: &mut FirstFragment) -> Part {
        parts::read_fragment(self, state, first)
    }
    /// [`parts::later_fragment`].
    #[inline(always)]
    fn on_later_fragment(&self, later: &FirstFragment) -> Outcome {
        parts::later_fragment(self, later)
    }
    /// [`parts::later_answer`].
    #[inline(always)]
    fn on_later_answer(&self, later: &FirstFragment) -> Outcome {
        parts::later_answer(self, later)
    }
    /// [`parts::first_fragment`].
    #[inline(always)]
    fn on_first_fragment(&self, state: &State, first: &FirstFragment, verdict: Verdict) -> Outcome {
        parts::first_fragment(self, state, first, verdict)
    }
    /// [`parts::icmp_error`].
    #[inline(always)]
    fn on_icmp_error(&self, state: &State) -> Outcome {
        parts::icmp_error(self, state)
    }
    /// [`parts::transit`].
    #[inline(always)]
    fn on_transit(&self, state: &State) -> Outcome {
        parts::transit(self, state)
    }
    /// [`parts::ask`].
    #[inline(always)]
    fn on_ask(&self, state: &State, asked: &mut Asked) -> Outcome {
        parts::ask(self, state, asked)
    }
    /// [`parts::begin`].
    #[inline(always)]
    fn on_begin(&self, state: &State, asked: &Asked, decision: &Decision) -> Outcome {
        parts::begin(self, state, asked, decision)
    }
    /// [`parts::open`].
    #[inline(always)]
    fn on_open(&self, state: &State) -> Outcome {
        parts::open(self, state)
    }
    /// [`parts::refuse`].
    #[inline(always)]
    fn on_refuse(&self, state: &State, reason: Reason) -> Verdict {
        parts::refuse(self, state, reason)
    }
    /// [`parts::account`].
    #[inline(always)]
    fn account(&self, state: &State, decision: &Decision, own: &Workload, telling: Telling) -> u32 {
        parts::account(self, state, decision, own, telling)
    }
}

/// A packet that comes in: from the workload behind a veth, or from the wire.
#[inline(always)]
pub fn ingress<G: Guard>(guard: &G) -> Verdict {
    let mut state = State::new(guard.control(), Direction::Egress, Socket::None);
    if guard.sender() == Sender::Socket {
        let mark = if has_virtual(&state.control) { guard.on_stamp(&mut state) } else { Mark::JUDGED };
        guard.set_mark(mark);
    } else {
        guard.on_prepare(&mut state);
        let entered = guard.on_enter(&state);
        if !entered.passes() || !is_by_no_socket(guard) {
            return entered;
        }
        let believed = believe(guard, &mut state, entered);
        if !believed.passes() {
            return believed;
        }
    }
    if guard.routes() { back::back(guard, &mut state) } else { Verdict::Allow }
}

/// Whether the kernel may have made a packet by itself.
#[inline(always)]
fn is_by_no_socket<G: Guard>(guard: &G) -> bool {
    guard.sender() == Sender::None && guard.network() == Network::Ip
}

/// What comes in by no socket: an answer of the kernel behind the interface, if it may be given, is judged by
/// that.
#[inline(always)]
fn believe<G: Guard>(guard: &G, state: &mut State, verdict: Verdict) -> Verdict {
    if !guard.on_speaks(state) {
        return verdict;
    }
    let outcome = match state.kind {
        Kind::Malformed(Reason::Fragment) => guard.on_answered(state),
        Kind::IcmpError => answer::error(guard, state),
        _ => answer::answer(guard, state),
    };
    match outcome {
        Outcome::Verdict(answered) => {
            if answered.passes() {
                guard.set_mark(Mark::JUDGED);
            }
            answered
        }
        _ => verdict,
    }
}

/// A packet that leaves: towards the workload behind a veth, or to the wire.
#[inline(always)]
pub fn egress<G: Guard>(guard: &G) -> Verdict {
    let mut state = State::new(guard.control(), Direction::Egress, Socket::None);
    let sender = guard.sender();
    let carried = carried(guard, &state);
    if carried.is_none() && (sender == Sender::Socket || is_judged(guard, sender)) {
        return Verdict::Allow;
    }
    guard.on_prepare(&mut state);
    if sender == Sender::Packet && !guard.on_packet_socket(&state).passes() {
        return Verdict::Deny;
    }
    forward(guard, &mut state)
}

/// What came from a judged socket, and goes where a socket layer judges the other end, here or elsewhere;
/// and what was judged as it came in.
#[inline(always)]
fn is_judged<G: Guard>(guard: &G, sender: Sender) -> bool {
    let mark = guard.mark();
    if sender != Sender::None || mark != Mark::JUDGED {
        return sender == Sender::None && mark == Mark::BACK;
    }
    let interface = guard.interface();
    interface.flags & Interface::FLAG_WIRE != 0 || interface.netns != 0
}

/// Judges what is forwarded.
#[inline(always)]
fn forward<G: Guard>(guard: &G, state: &mut State) -> Verdict {
    if guard.network() != Network::Ip || state.kind == Kind::Discovery {
        return Verdict::Allow;
    }
    let mark = guard.mark();
    // A socket layer judges for the receiver, and one for the sender, here or elsewhere.
    let both = mark == Mark::JUDGED || mark == Mark::WIRE;
    if both && guard.local(state.remote().addr).is_some() {
        return Verdict::Allow;
    }
    let outcome = match state.kind {
        Kind::Malformed(Reason::Fragment) => fragments::fragment(guard, state),
        Kind::Malformed(reason) => Outcome::Anomaly(reason),
        _ => judge_flow(guard, state),
    };
    match outcome {
        Outcome::Verdict(verdict) => verdict,
        Outcome::Anomaly(reason) => guard.on_refuse(state, reason),
        Outcome::Untracked => guard.on_refuse(state, Reason::Inconsistent),
    }
}

/// A whole packet, or the first fragment of one. An ICMP error is of the flow that it quotes, never of one
/// between its own two ends.
#[inline(always)]
fn judge_flow<G: Guard>(guard: &G, state: &State) -> Outcome {
    if state.kind == Kind::IcmpError {
        return guard.on_icmp_error(state);
    }
    let outcome = guard.on_transit(state);
    if outcome != Outcome::Untracked {
        return outcome;
    }
    let may_speak = guard.mark() == Mark::NONE && is_by_no_socket(guard);
    let answered =
        if may_speak && guard.on_speaks(state) { answer::answer(guard, state) } else { Outcome::Untracked };
    match answered {
        Outcome::Untracked => guard.on_open(state),
        answered => answered,
    }
}

/// A packet that no rule can judge, if one of its ends is in a zone.
#[inline(always)]
pub fn refuse<G: Guard>(guard: &G, state: &State, reason: Reason) -> Verdict {
    let from = match carried(guard, state) {
        Some(identity) => identity,
        None => {
            let address = state.policy(guard).of_address(state.local().addr).or_world();
            translated(guard.mark(), address).unwrap_or(address)
        }
    };
    refuse_from(guard, state, reason, from, from)
}

/// The same, told as from `from` and judged in the mode of `judged`, or of the receiver where that is in
/// no zone.
#[inline(always)]
fn refuse_from<G: Guard>(
    guard: &G,
    state: &State,
    reason: Reason,
    from: Identity,
    judged: Identity,
) -> Verdict {
    let policy = state.policy(guard);
    let to = policy.of_address(state.remote().addr).or_world();
    let judged = if judged.is_zoned() { judged } else { to };
    if !judged.is_zoned() {
        return Verdict::Allow;
    }
    let decision = judge::anomaly(&policy, reason, judged, from, to);
    let telling = Telling { opener: true, first: true, elsewhere: false, later: false };
    let _slot = guard.account(state, &decision, &Workload::UNKNOWN, telling);
    decision.verdict
}

/// The sender's identity, where a socket layer has left the verdict to the guard.
#[inline(always)]
fn carried<G: Guard>(guard: &G, state: &State) -> Option<Identity> {
    if has_virtual(&state.control) { guard.mark().sender() } else { None }
}

/// The endpoint without a socket that a packet is from, where its address is not of `address` any more. One
/// whose identity the mark could not hold is as good as its address, if that is in a zone.
#[inline(always)]
fn translated(mark: Mark, address: Identity) -> Option<Identity> {
    mark.endpoint()
        .filter(|endpoint| *endpoint != address && !(*endpoint == Identity::UNKNOWN && address.is_zoned()))
}

#[inline(always)]
fn has_virtual(control: &Control) -> bool {
    control.flags & Control::FLAG_VIRTUAL != 0
}

/// The receiver at the packet's destination: its workload, and the identity of both.
#[inline(always)]
fn receiver<G: Guard>(guard: &G, state: &State) -> (Workload, Identity) {
    let (policy, remote) = (state.policy(guard), state.remote());
    let workload = endpoint::receiver(&policy, 0, remote.addr, remote.port, state.protocol);
    (workload, endpoint::resolve(&policy, &workload, remote.addr).or_world())
}
