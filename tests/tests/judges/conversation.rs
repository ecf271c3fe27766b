//! Conversations between an end on this node and another, and what must become of each of their packets.
//!
//! The expectations are the oracle's, joined to the meaning of flows: whoever opened one is asked as its
//! opener, replies pass because the flow does, and a verdict lasts until the policy changes. What is sent is
//! clear text that nobody knows, so a datagram passes only where its rule lets such pass; one that does not is
//! counted as refused, and not as one of its flow.

use bulkhead_abi::{Accept, Direction, Protocol, Reason, Verdict};
use bulkhead_core::host::wire::{ACK, SYN, Wire};
use bulkhead_policy::{Endpoint, Flow};

use crate::policy::{Asked, Decision, Policy};

/// One end of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Opener,
    Receiver,
}

impl End {
    fn other(self) -> End {
        if self == End::Opener { End::Receiver } else { End::Opener }
    }
}

/// Which ends are sockets of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Opener,
    Receiver,
    /// Both, the receiver being registered.
    Both,
}

#[derive(Clone, Debug)]
pub struct Conversation {
    /// Who opens it, to whom, as rules see it. The cgroup of an end that is elsewhere is not known.
    pub flow: Flow,
    pub place: Place,
    /// The opener's port; an echo's identifier.
    pub port: u16,
    /// Where the ends' packets are seen: paths as the [`Chamber`](crate::chamber::Chamber) knows them.
    pub cgroups: [String; 2],
    memory: Memory,
}

/// What is known of the tuple.
#[derive(Clone, Default, Debug)]
struct Memory {
    /// Who opened the flow that is tracked.
    opener: Option<End>,
    /// The last verdict at each end, and the policy's number.
    judged: [Option<(usize, Decision)>; 2],
    /// A packet came back.
    answered: bool,
    denied: bool,
    /// Under which policy it was told that what it says is not as its rule wants, at opener and receiver.
    told: [Option<usize>; 2],
}

/// A packet at an end's hook.
#[derive(Clone, Debug)]
pub struct Step {
    pub at: End,
    pub from: End,
    /// Begins a connection; for protocols without them there is no difference.
    pub opens: bool,
}

/// What must become of a packet.
#[derive(Clone, Debug)]
pub struct Expected {
    pub passes: bool,
    /// What counts it, and whether it counts as a flow too. The last one counts the packet.
    pub counted: Vec<(Decision, bool)>,
}

impl Expected {
    /// What is left to the guard is counted there.
    fn new(passes: bool, counted: Option<(Decision, bool)>) -> Expected {
        let counted = counted.filter(|(decision, _)| !decision.is_deferred());
        Expected { passes, counted: counted.into_iter().collect() }
    }
}

impl Conversation {
    pub fn new(flow: Flow, place: Place, port: u16, cgroups: [String; 2]) -> Conversation {
        Conversation { flow, place, port, cgroups, memory: Memory::default() }
    }

    /// Where a step is judged.
    pub fn cgroup(&self, at: End) -> &str {
        &self.cgroups[at as usize]
    }

    pub fn direction(step: &Step) -> Direction {
        if step.at == step.from { Direction::Egress } else { Direction::Ingress }
    }

    pub fn is_stream(&self) -> bool {
        self.flow.protocol == Protocol::TCP
    }

    fn is_echo(&self) -> bool {
        let echo = if self.flow.from.addr.is_v4() { 0x0800 } else { 0x8000 };
        self.flow.protocol.is_icmp() && self.flow.port == echo
    }

    /// The bytes of a packet.
    pub fn packet(&self, step: &Step) -> Vec<u8> {
        let flow = &self.flow;
        let mut wire = Wire::new(flow.protocol, (flow.from.addr, self.port), (flow.to.addr, flow.port))
            .payload(b"hello");
        wire.icmp = flow.port;
        wire.flags = match (step.opens, step.from) {
            (true, End::Opener) => SYN,
            (true, End::Receiver) => SYN | ACK,
            (false, _) => ACK,
        };
        if step.from == End::Receiver {
            wire = wire.reversed();
            if self.is_echo() {
                wire.icmp = if flow.from.addr.is_v4() { 0 } else { 0x8100 };
                wire.src_port = self.port;
            }
        }
        wire.bytes()
    }

    /// What must become of it under this policy, whose number is `number`.
    pub fn expect(&mut self, policy: &Policy, number: usize, step: &Step) -> Expected {
        let mut expected = self.expect_by_verdict(policy, number, step);
        if expected.passes
            && let Some((verdict, refused)) = self.refused_for_its_bytes(policy, step.at)
        {
            if verdict == Verdict::Audit {
                let told = self.memory.told[step.at as usize].replace(number) == Some(number);
                if !told {
                    expected.counted.insert(0, (refused, true));
                }
                return expected;
            }
            expected.passes = false;
            // What would be denied is told of all the same.
            expected.counted.retain(|(decision, first)| *first && decision.verdict() == Verdict::Audit);
            expected.counted.push((refused, self.deny()));
        }
        expected
    }

    /// The refusal of a datagram, or of an IP protocol that tells how it is encrypted, that passes by its flow's
    /// verdict, where the rule wants to know that what it says is encrypted. Of TCP nobody reads here: no socket owns it.
    fn refused_for_its_bytes(&self, policy: &Policy, at: End) -> Option<(Verdict, Decision)> {
        let (_, decision) = self.memory.judged[at as usize].as_ref()?;
        let opener = self.memory.opener?;
        let (class, reason) = match self.flow.protocol {
            // What its packets carry is nothing that anybody knows.
            Protocol::UDP => (Accept::UNKNOWN, Reason::Unclassified),
            Protocol::ESP => (Accept::IPSEC, Reason::WeakEncryption),
            // Signed, and in clear.
            Protocol::AH => (Accept::NONE, Reason::ClearText),
            _ => return None,
        };
        if decision.is_deferred() {
            return None;
        }
        let flow = Flow { guarded: at == opener, ..self.opened_by(opener) };
        let verdict = policy.objects(&flow, class)?;
        // That nothing is known of what is only looked at is no word.
        let says = verdict == Verdict::Deny || class != Accept::UNKNOWN;
        let counts_here = self.place != Place::Both || at != opener;
        (says && (counts_here || verdict == Verdict::Deny))
            .then(|| (verdict, decision.refused(verdict, reason)))
    }

    fn expect_by_verdict(&mut self, policy: &Policy, number: usize, step: &Step) -> Expected {
        match self.memory.opener {
            // A connection that was answered cannot be opened: this is another one.
            Some(_) if self.is_stream() && self.memory.answered && is_syn(step) => {
                self.expect_new(policy, number, step)
            }
            Some(opener) => {
                self.memory.answered |= step.from != opener;
                self.expect_of_flow(policy, number, step.at, opener)
            }
            None => self.expect_new(policy, number, step),
        }
    }

    fn expect_of_flow(&mut self, policy: &Policy, number: usize, at: End, opener: End) -> Expected {
        let counts_here = self.place != Place::Both || at != opener;
        if let Some((judged, decision)) = &self.memory.judged[at as usize]
            && *judged == number
        {
            let passes = decision.verdict().passes();
            let counted = (counts_here || !passes).then(|| (decision.clone(), false));
            return Expected::new(passes, counted);
        }
        let decision = self.decide(policy, at, opener);
        let passes = decision.verdict().passes();
        let before = self.memory.judged[at as usize].replace((number, decision.clone()));
        let differs = before.is_none_or(|(_, before)| before.verdict() != decision.verdict());
        let first = if decision.verdict() == Verdict::Deny { self.deny() } else { differs };
        Expected::new(passes, (counts_here || !passes).then_some((decision, first)))
    }

    fn expect_new(&mut self, policy: &Policy, number: usize, step: &Step) -> Expected {
        let Step { at, from, .. } = *step;
        let answer = self.is_echo() && from == End::Receiver;
        let stray = self.is_stream() && !is_syn(step) || answer && at != from;
        if stray {
            // Of no flow, so the other end is known by its address at most.
            let seen = |end| if end == at { self.end(end).clone() } else { Endpoint::at(self.end(end).addr) };
            let [own, src, dst] = [at, from, from.other()].map(seen);
            let decision = policy.anomaly(&own, &src, &dst, Reason::Stray);
            let first = match decision.verdict() {
                Verdict::Allow => false,
                Verdict::Audit => true,
                Verdict::Deny => self.deny(),
            };
            return Expected { passes: decision.verdict().passes(), counted: vec![(decision, first)] };
        }
        // An answer that the kernel gives without anybody having seen the question.
        let opener = if answer { from.other() } else { from };
        let decision = self.decide(policy, at, opener);
        let passes = decision.verdict().passes();
        if answer && decision.verdict() == Verdict::Allow {
            return Expected::new(passes, None);
        }
        if !policy.is_zoned(&self.flow.from) && !policy.is_zoned(&self.flow.to) {
            return Expected::new(passes, Some((decision, false)));
        }
        if !passes {
            let first = self.deny();
            return Expected::new(passes, Some((decision, first)));
        }
        let denied = self.memory.denied;
        self.memory = Memory { opener: Some(opener), denied, ..Memory::default() };
        self.memory.judged[at as usize] = Some((number, decision.clone()));
        let elsewhere = self.place == Place::Both && at == opener;
        Expected::new(passes, (!elsewhere).then_some((decision, true)))
    }

    /// Whether the guard is to decide what this end has opened.
    pub fn is_deferred(&self, at: End) -> bool {
        self.memory.judged[at as usize].as_ref().is_some_and(|(_, decision)| decision.is_deferred())
    }

    /// The oracle's word on the flow if `opener` opened it.
    fn decide(&self, policy: &Policy, at: End, opener: End) -> Decision {
        let asked = match (self.place, at == opener) {
            (Place::Both, _) => Asked::Both,
            (_, true) => Asked::Opener,
            (_, false) => Asked::Receiver,
        };
        policy.decide(&Flow { guarded: at == opener, ..self.opened_by(opener) }, asked)
    }

    fn opened_by(&self, opener: End) -> Flow {
        if opener == End::Opener {
            return self.flow.clone();
        }
        let Flow { from, to, protocol, port, guarded } = self.flow.clone();
        let port = if protocol.has_ports() { self.port } else { port };
        Flow { from: to, to: from, protocol, port, guarded }
    }

    fn end(&self, end: End) -> &Endpoint {
        if end == End::Opener { &self.flow.from } else { &self.flow.to }
    }

    /// Whether this denial is news.
    fn deny(&mut self) -> bool {
        !std::mem::replace(&mut self.memory.denied, true)
    }
}

fn is_syn(step: &Step) -> bool {
    step.opens && step.from == End::Opener
}
