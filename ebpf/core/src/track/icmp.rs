//! ICMP errors.

use bulkhead_abi::{FlowKey, Identity, Reason, Side, Verdict, Workload};

use super::{Hook, Outcome, Slot, State, service};
use crate::{
    endpoint,
    judge::{self, Question, Sides},
    packet,
};

/// An ICMP error passes when the flow that it quotes is live, or would be allowed from either end: flows
/// that a socket owns cannot be found by their tuple. It is for whoever sent what it quotes: to anybody
/// else it would be a way around the rules. What a router's own kernel says of a packet that it could not pass on
/// is no forgery, and the flow may be of a socket that only its cgroup tells.
#[inline(always)]
pub fn icmp_error<H: Hook>(hook: &H, state: &State) -> Outcome {
    let Some(quoted) = packet::parse_quoted(hook, state.transport) else {
        return Outcome::Anomaly(Reason::IcmpError);
    };
    let receiver = if state.leaves() { state.remote() } else { state.local() };
    if *receiver.addr != quoted.src {
        return Outcome::Anomaly(Reason::IcmpError);
    }
    let (src, dst) = ((quoted.src, quoted.src_port), (quoted.dst, quoted.dst_port));
    let (key, _) = FlowKey::new(src, dst, quoted.protocol, state.key.netns);
    if let Some(slot) = hook.tabled(&key)
        && slot.read(|flow| flow.tag) == key.tag()
    {
        return Outcome::Verdict(Verdict::Allow);
    }
    let policy = state.policy(hook);
    let own = hook.workload_at_hand();
    // Sockets older than the agent look like the kernel's: a zone's word is never taken for it.
    if state.leaves()
        && quoted.dst != *state.local().addr
        && !hook.is_programs()
        && !endpoint::of_workload(&policy, &own).is_zoned()
    {
        return Outcome::Verdict(Verdict::Allow);
    }
    // What leaves is about a packet that came to us, what comes is about one that we sent.
    let (ours, theirs) = if state.leaves() { (&quoted.dst, &quoted.src) } else { (&quoted.src, &quoted.dst) };
    let ours = endpoint::resolve(&policy, &own, ours);
    let theirs = endpoint::resolve(&policy, &Workload::UNKNOWN, theirs);
    // About what was sent to a virtual address: only the guard can tell, and the kernel holds the error
    // against the socket's own state.
    if !state.leaves() && theirs == Identity::VIRTUAL {
        return Outcome::Verdict(Verdict::Allow);
    }
    let (our_port, their_port) =
        if state.leaves() { (quoted.dst_port, quoted.src_port) } else { (quoted.src_port, quoted.dst_port) };
    let port = |port| service(quoted.protocol, quoted.kind, quoted.icmp, port);
    let protocol = quoted.protocol;
    let outward = Question {
        from: ours,
        to: theirs,
        protocol,
        port: port(their_port),
        sides: Sides::One(Side::Egress),
    };
    let inward =
        Question { from: theirs, to: ours, protocol, port: port(our_port), sides: Sides::One(Side::Ingress) };
    let passes = |question: &Question| judge::judge(&policy, question, || None).verdict.passes();
    if passes(&outward) || passes(&inward) {
        return Outcome::Verdict(Verdict::Allow);
    }
    Outcome::Anomaly(Reason::IcmpError)
}
