//! The oracle, the host build and the kernel on generated conversations.

use std::collections::BTreeMap;

use bulkhead_abi::tables::Home;
use bulkhead_abi::{Addr, Counter, Event, ListenerKey, LocalAddress, Protocol, Reason, flow::Listener};
use bulkhead_core::host::{Node, Sock};
use bulkhead_datapath::maps::CONTROL_HOST;

use crate::cases::{Drawn, Source, cgroups};
use crate::chamber::Chamber;
use crate::conversation::{Conversation, End, Expected, Place, Step};
use crate::policy::{Decision, Label, Policy, comparable, control, describe};
use crate::{require_programs, told};

const FLOWS: usize = 80;

#[test]
fn oracle_host_and_kernel_agree() {
    require_programs!();
    let (seed, policies) = (told("BULKHEAD_SEED", 2), told("BULKHEAD_POLICIES", 150));
    println!("seed {seed}, {policies} policies; another seed by BULKHEAD_SEED");
    let mut court = Court::new(seed);
    for number in 0..policies {
        court.policy(number as usize);
    }
    court.close();
    println!("{:?}", court.tally);
    let Tally { cases, by_cgroup, replies, switched, deferred, refused, .. } = court.tally;
    assert!(policies < 150 || cases >= 10_000, "too few cases: {cases}");
    assert!(deferred * 100 >= cases, "too few for the guard: {deferred}");
    assert!(policies < 150 || refused >= 100, "too few refused for their bytes: {refused}");
    assert!(by_cgroup * 2 >= cases && replies * 2 >= cases && switched * 2 >= cases);
}

/// How much was tried.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    /// An end on this node is in a zone by its cgroup.
    by_cgroup: usize,
    /// A packet went the other way, after an allowed one or a denied one.
    replies: usize,
    /// The policy changed in mid-flow.
    switched: usize,
    /// The guard is to decide.
    deferred: usize,
    packets: usize,
    passed: usize,
    /// A datagram was refused for what it says.
    refused: usize,
}

pub struct Court {
    seed: u64,
    pub source: Source,
    pub chamber: Chamber,
    pub node: Node,
    /// The policy that is live, and conversations that began under it.
    open: Option<Drawn>,
    /// What must have been counted and told since the last look.
    counted: BTreeMap<Label, Counter>,
    told: Vec<Decision>,
    tally: Tally,
}

impl Court {
    pub fn new(seed: u64) -> Court {
        let chamber = Chamber::new(&cgroups());
        let source = Source::new(seed, |path| chamber.cgroup(path));
        let mut node = Node::default();
        node.parents = chamber.parents();
        let (counted, told, tally) = (BTreeMap::new(), Vec::new(), Tally::default());
        Court { seed, source, chamber, node, open: None, counted, told, tally }
    }

    /// Makes the next policy live, under flows of the one before; then opens its own.
    fn policy(&mut self, number: usize) {
        // Some of many zones, so that wide zones occur.
        let wide = number % 8 == 7;
        let mut drawn = self.source.draw(if wide { 14 } else { 5 }, if wide { 20 } else { 8 }, FLOWS);
        if self.chamber.seen_netns == 0 {
            // Whose loopback it is cannot be told then, and so not who receives there.
            drawn.conversations.retain(|conversation| !conversation.flow.to.addr.is_loopback());
        }
        self.commit(&drawn.policy);
        if let Some(mut before) = self.open.take() {
            self.tally.switched += before.conversations.len();
            self.rounds(&drawn.policy, number, &mut before.conversations, &AFTER_SWITCH);
            self.inspect(&drawn.policy, number);
            self.forget();
        }
        self.register(&drawn);
        let mut conversations = std::mem::take(&mut drawn.conversations);
        self.tally.cases += conversations.len();
        self.tally.by_cgroup += conversations.iter().filter(|c| is_by_cgroup(&drawn.policy, c)).count();
        self.rounds(&drawn.policy, number, &mut conversations, &BEFORE_SWITCH);
        self.inspect(&drawn.policy, number);
        drawn.conversations = conversations;
        self.open = Some(drawn);
    }

    /// Makes the next policy live, with its receivers.
    pub fn next_policy(&mut self) -> Drawn {
        let drawn = self.source.draw(5, 8, FLOWS);
        self.commit(&drawn.policy);
        self.register(&drawn);
        drawn
    }

    fn commit(&mut self, policy: &Policy) {
        let generation = self.chamber.commit(&policy.image);
        let netns = self.chamber.seen_netns;
        let home = Home { flags: if policy.guarded { Home::FLAG_GUARDED } else { 0 }, ..Home::default() };
        self.node.control = control(generation, netns + 1);
        self.node.homes.insert(netns, home);
        let maps = self.chamber.reader.maps();
        // Of a pod, as it were: in the host's own namespace nothing is left to the guard.
        maps.control.store(CONTROL_HOST, netns + 1).unwrap();
        maps.homes.set_all(&[(netns, home)]).unwrap();
        self.node.tables = policy.tables();
    }

    fn close(&mut self) {
        let losses = self.chamber.reader.losses().unwrap();
        assert!(losses.iter().all(|(_, lost)| *lost == 0), "{losses:?}");
    }

    /// Sends each conversation's packets, one round after the other, all packets of a round at once.
    fn rounds(&mut self, policy: &Policy, number: usize, all: &mut [Conversation], rounds: &[Round]) {
        let mut went = vec![true; all.len()];
        for round in rounds {
            let mut work: BTreeMap<String, Vec<(usize, Step)>> = BTreeMap::new();
            for (index, conversation) in all.iter_mut().enumerate() {
                if let Some(step) = round.step(conversation, went[index]) {
                    let cgroup = conversation.cgroup(step.at).to_owned();
                    work.entry(cgroup).or_default().push((index, step));
                }
            }
            for (cgroup, steps) in work {
                let packets = steps
                    .iter()
                    .map(|(index, step)| (Conversation::direction(step), all[*index].packet(step)));
                let kernel = self.chamber.run(&cgroup, packets.collect());
                for ((index, step), kernel) in steps.into_iter().zip(kernel) {
                    let conversation = &mut all[index];
                    went[index] = self.judge(policy, number, conversation, &step, kernel);
                }
            }
        }
    }

    /// Holds the three verdicts on one packet against each other; whether it passed.
    fn judge(
        &mut self,
        policy: &Policy,
        number: usize,
        conversation: &mut Conversation,
        step: &Step,
        kernel: bool,
    ) -> bool {
        let packet = conversation.packet(step);
        let before = conversation.clone();
        let sock = Sock::plain(self.chamber.cgroup(conversation.cgroup(step.at)), self.chamber.seen_netns);
        let host = self.node.packet(&sock, Conversation::direction(step), &packet).passes();
        let Expected { passes, counted } = conversation.expect(policy, number, step);
        self.tally.deferred += usize::from(conversation.is_deferred(step.at));
        assert!(
            passes == host && passes == kernel,
            "seed {}, policy {number}: the oracle says {passes}, the host {host}, the kernel {kernel}\n\
             {step:?} of {before:#?}\n{counted:?}\n{}",
            self.seed,
            describe(policy),
        );
        self.tally.packets += 1;
        self.tally.passed += usize::from(passes);
        let bytes = |(decision, _): &(Decision, bool)| decision.label.3 == Reason::Unclassified;
        self.tally.refused += usize::from(counted.iter().any(bytes));
        let first_reply = step.from == End::Receiver && step.opens;
        let once = step.at == step.from || conversation.place == Place::Opener;
        self.tally.replies += usize::from(first_reply && once);
        let last = counted.len().saturating_sub(1);
        let by = |at, first| {
            let (packets, bytes) = if at == last { (1, packet.len() as u64) } else { (0, 0) };
            Counter { flows: u64::from(first), packets, bytes }
        };
        let moves = counted.iter().enumerate().map(|(at, (d, first))| (d.label.clone(), by(at, *first)));
        let wanted: BTreeMap<_, _> = moves.collect();
        let host = self.node.take_counters();
        let host: BTreeMap<_, _> = host.iter().map(|(key, counter)| (policy.label(key), *counter)).collect();
        assert!(
            wanted == host,
            "seed {}, policy {number}: the counters that must move are {wanted:?}, on the host {host:?} did\n\
             {step:?} of {before:#?}\n{}",
            self.seed,
            describe(policy),
        );
        for (at, (decision, first)) in counted.into_iter().enumerate() {
            let (counter, more) = (self.counted.entry(decision.label.clone()).or_default(), by(at, first));
            counter.flows += more.flows;
            counter.packets += more.packets;
            counter.bytes += more.bytes;
            if first && decision.verdict() != bulkhead_abi::Verdict::Allow {
                self.told.push(decision);
            }
        }
        passes
    }

    /// The counters that moved, and no other; the events; the flow tables.
    fn inspect(&mut self, policy: &Policy, number: usize) {
        let expected = std::mem::take(&mut self.counted);
        let moved = self.chamber.take_counters();
        let moved: BTreeMap<Label, Counter> =
            moved.iter().map(|(key, counter)| (policy.label(key), *counter)).collect();
        for label in expected.keys().chain(moved.keys()) {
            let (wanted, got) = (expected.get(label), moved.get(label));
            assert_eq!(wanted, got, "seed {}, policy {number}, the kernel's {label:?}", self.seed);
        }
        let mut told = std::mem::take(&mut self.told);
        told.sort();
        for (judge, events) in [("host", self.node.take_events()), ("kernel", self.chamber.take_events())] {
            let verdict = |event: &&Event| event.kind == bulkhead_abi::EventKind::Verdict as u8;
            let mut events: Vec<Decision> =
                events.iter().filter(verdict).map(|event| policy.told(event)).collect();
            events.sort();
            assert_eq!(told, events, "seed {}, policy {number}, events of the {judge}", self.seed);
        }
        self.compare_flows(number);
    }

    /// The flow tables of host and kernel hold the same.
    pub fn compare_flows(&self, number: usize) {
        let kernel = comparable(self.chamber.reader.flows().unwrap());
        let mut host = comparable(self.node.flows());
        for (key, flow) in &mut host {
            // A test run's socket has a cookie that nobody knows before.
            flow.netns = kernel.get(key).map_or(flow.netns, |flow| flow.netns);
        }
        assert_eq!(host, kernel, "seed {}, policy {number}: the flow tables", self.seed);
    }

    /// Registers the receivers on this node, as binding them would.
    fn register(&mut self, drawn: &Drawn) {
        for (&(addr, protocol, port), path) in &drawn.receivers {
            let netns = self.chamber.netns;
            let cgroup = self.chamber.cgroup(path);
            let workload = self.node.workload_of(cgroup);
            let key = ListenerKey::new(netns, addr, port, Protocol(protocol));
            self.node.listeners.insert(key, Listener { workload, cookie: 1 });
            if !addr.is_loopback() {
                self.node.locals.insert(addr, LocalAddress { addr, netns });
            }
        }
        let maps = self.chamber.reader.maps();
        let listeners: Vec<_> = self.node.listeners.iter().map(|(key, value)| (*key, *value)).collect();
        let locals: Vec<(Addr, LocalAddress)> =
            self.node.locals.iter().map(|(addr, value)| (*addr, *value)).collect();
        maps.listeners.set_all(&listeners).unwrap();
        maps.locals.set_all(&locals).unwrap();
    }

    /// Takes away what a policy's conversations have left.
    pub fn forget(&mut self) {
        let maps = self.chamber.reader.maps();
        let flows: Vec<_> = self.node.flows().keys().copied().collect();
        let listeners: Vec<_> = self.node.listeners.keys().copied().collect();
        let locals: Vec<_> = self.node.locals.keys().copied().collect();
        maps.flows.remove_all(&flows).unwrap();
        maps.listeners.remove_all(&listeners).unwrap();
        maps.locals.remove_all(&locals).unwrap();
        self.node.clear_flows();
        self.node.listeners.clear();
        self.node.locals.clear();
    }
}

fn is_by_cgroup(policy: &Policy, conversation: &Conversation) -> bool {
    let ends = [&conversation.flow.from, &conversation.flow.to];
    ends.iter().any(|end| end.cgroup.as_ref().is_some_and(|path| policy.names(path)))
}

/// A packet of every conversation.
struct Round {
    from: End,
    /// Where it is seen: at its sender's hook or at the other one.
    arrives: bool,
    opens: bool,
}

const fn round(from: End, arrives: bool, opens: bool) -> Round {
    Round { from, arrives, opens }
}

/// It opens, is answered, goes on.
const BEFORE_SWITCH: [Round; 6] = [
    round(End::Opener, false, true),
    round(End::Opener, true, true),
    round(End::Receiver, false, true),
    round(End::Receiver, true, true),
    round(End::Opener, false, false),
    round(End::Opener, true, false),
];

/// It goes on, is answered, tries to open once more.
const AFTER_SWITCH: [Round; 6] = [
    round(End::Opener, false, false),
    round(End::Opener, true, false),
    round(End::Receiver, false, false),
    round(End::Receiver, true, false),
    round(End::Opener, false, true),
    round(End::Opener, true, true),
];

impl Round {
    /// The packet of this round, if the conversation has one: where both ends are here, it arrives only
    /// if it went out.
    fn step(&self, conversation: &Conversation, went: bool) -> Option<Step> {
        let from = self.from;
        let to = if from == End::Opener { End::Receiver } else { End::Opener };
        let at = if self.arrives { to } else { from };
        let here = match conversation.place {
            Place::Opener => at == End::Opener,
            Place::Receiver => at == End::Receiver,
            Place::Both => went,
        };
        here.then_some(Step { at, from, opens: self.opens })
    }
}
