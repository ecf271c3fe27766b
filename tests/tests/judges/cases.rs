//! Policies and conversations, generated.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bulkhead_abi::{Addr, Protocol};
use bulkhead_policy::testing::{self, Case};
use bulkhead_policy::{Endpoint, Facts, Flow, Numbers, compile};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::conversation::{Conversation, Place};
use crate::policy::Policy;

/// A cgroup that no policy names and no zone inherits to.
pub const STRANGER: &str = "../stranger";

/// Cgroups that the agent has not heard of yet, with the nearest one that it has.
const UNHEARD: [(&str, &str); 2] = [("a/b/new", "a/b"), ("e/new", "e")];

/// Every cgroup, below the node's root.
pub fn cgroups() -> Vec<&'static str> {
    let heard = testing::CGROUPS.iter().map(|(_, path)| *path);
    heard.chain(UNHEARD.iter().map(|(path, _)| *path)).chain([STRANGER]).collect()
}

/// Where a receiver is registered.
pub type Service = (Addr, u8, u16);

fn service(flow: &Flow) -> Service {
    (flow.to.addr, flow.protocol.0, flow.port)
}

/// Draws cases.
pub struct Source {
    runner: TestRunner,
    numbers: Numbers,
    ids: BTreeMap<u64, String>,
    /// The next opener's port: no tuple occurs twice in a run, and none looks like a service.
    port: u16,
    /// Address pairs of protocols without ports that occurred.
    bare: BTreeSet<(Addr, Addr, u8, u16)>,
}

/// One draw.
pub struct Drawn {
    pub policy: Policy,
    pub conversations: Vec<Conversation>,
    /// Receivers that are registered on this node, by address, protocol and port: their cgroups.
    pub receivers: HashMap<Service, String>,
}

impl Source {
    /// Draws with this seed on a host whose cgroups have these numbers.
    pub fn new(seed: u64, id: impl Fn(&str) -> u64) -> Source {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let ids = testing::CGROUPS.iter().map(|(_, path)| (id(path), path.to_string())).collect();
        let runner = TestRunner::new_with_rng(Config::default(), rng);
        Source { runner, numbers: Numbers::default(), ids, port: 10_000, bare: BTreeSet::new() }
    }

    /// The next policy with its conversations.
    pub fn draw(&mut self, zones: usize, rules: usize, flows: usize) -> Drawn {
        let Case { model, facts, flows } = self.sample(testing::cases(zones, rules, flows));
        let facts = Facts { cgroups: self.ids.clone(), ..facts };
        let image = compile(&model, &facts, &mut self.numbers).unwrap();
        let guarded = self.sample(any::<bool>());
        let policy = Policy { model, facts, image, guarded };
        let zoned: Vec<String> = self.ids.values().filter(|path| policy.names(path)).cloned().collect();
        let flows: Vec<(Flow, Place)> = flows.into_iter().map(|flow| self.place(flow, &zoned)).collect();
        let mut receivers = HashMap::new();
        for (flow, _) in flows.iter().filter(|(_, place)| *place == Place::Both) {
            receivers.entry(service(flow)).or_insert_with(|| flow.to.cgroup.clone().unwrap());
        }
        let conversations =
            flows.into_iter().map(|(flow, place)| self.conversation(flow, place, &receivers)).collect();
        Drawn { policy, conversations, receivers }
    }

    /// The next policy, with virtual addresses, and flows as interfaces carry them, each with its opener's
    /// port. Cgroups are those that are heard of, or unknown.
    pub fn draw_forwarded(&mut self, zones: usize, rules: usize, flows: usize) -> (Policy, Vec<(Flow, u16)>) {
        let Case { model, facts, flows } = self.sample(testing::cases(zones, rules, flows));
        let facts = Facts { cgroups: self.ids.clone(), ..facts };
        let image = compile(&model, &facts, &mut self.numbers).unwrap();
        let policy = Policy { model, facts, image, guarded: true };
        let flows = flows.into_iter().map(|flow| {
            // Of the question that reaches the guard, nothing is left to anybody else.
            let flow = Flow { guarded: false, ..self.as_sent(flow) };
            (flow, self.next_port())
        });
        let flows = flows.collect();
        (policy, flows)
    }

    pub fn sample<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.runner).unwrap().current()
    }

    /// Where a flow is seen, and often enough by a workload that is in a zone.
    fn place(&mut self, flow: Flow, zoned: &[String]) -> (Flow, Place) {
        let mut flow = self.as_sent(flow);
        for end in [&mut flow.from, &mut flow.to] {
            if !zoned.is_empty() && self.sample(proptest::bool::weighted(0.4)) {
                end.cgroup = Some(self.sample(proptest::sample::select(zoned.to_vec())));
            }
        }
        let places =
            prop_oneof![2 => Just(Place::Opener), 2 => Just(Place::Receiver), 1 => Just(Place::Both)];
        match self.sample(places) {
            Place::Both if !flow.protocol.has_ports() || flow.to.cgroup.is_none() => (flow, Place::Opener),
            place => (flow, place),
        }
    }

    fn conversation(
        &mut self,
        mut flow: Flow,
        mut place: Place,
        receivers: &HashMap<Service, String>,
    ) -> Conversation {
        // Whoever sends to a registered receiver finds it, wanted or not.
        if let Some(path) = receivers.get(&service(&flow)).filter(|_| place == Place::Opener) {
            (place, flow.to.cgroup) = (Place::Both, Some(path.clone()));
        }
        if place == Place::Both {
            flow.to.cgroup = receivers.get(&service(&flow)).cloned();
        }
        let cgroups = [&flow.from, &flow.to].map(|end| self.whereabouts(end, place != Place::Both));
        match place {
            Place::Opener => flow.to.cgroup = None,
            Place::Receiver => flow.from.cgroup = None,
            Place::Both => {}
        }
        Conversation::new(flow, place, self.next_port(), cgroups)
    }

    fn next_port(&mut self) -> u16 {
        self.port = match self.port + 1 {
            // Services of the generated policies.
            32_766 => 32_770,
            port => port,
        };
        assert!(self.port < 65_000, "no ports left: draw fewer cases");
        self.port
    }

    /// The cgroup that an end's socket is in.
    fn whereabouts(&mut self, end: &Endpoint, may_be_unheard: bool) -> String {
        let Some(path) = &end.cgroup else { return STRANGER.into() };
        let below = UNHEARD.iter().find(|(_, above)| above == path).filter(|_| may_be_unheard);
        match below {
            Some((below, _)) if self.sample(any::<bool>()) => below.to_string(),
            _ => path.clone(),
        }
    }

    /// The flow as it can occur on a wire: one family, a port only where there are ports, and no tuple
    /// that occurred before.
    fn as_sent(&mut self, flow: Flow) -> Flow {
        let Flow { from, mut to, mut protocol, mut port, guarded } = flow;
        let v4 = from.addr.is_v4();
        if to.addr.is_v4() != v4 {
            to.addr = in_other_family(to.addr);
        }
        protocol = match protocol {
            Protocol::ICMP | Protocol::ICMPV6 if v4 => Protocol::ICMP,
            Protocol::ICMP | Protocol::ICMPV6 => Protocol::ICMPV6,
            // Hop-by-hop options are no protocol.
            Protocol(0) if !v4 => Protocol(47),
            other => other,
        };
        if protocol.is_icmp() {
            port = match (v4, port >> 8) {
                (true, 0 | 8) => 0x0800,
                (false, 128) => 0x8000,
                _ => port,
            };
        } else if !protocol.has_ports() {
            port = 0;
        }
        let echo = protocol.is_icmp() && port == if v4 { 0x0800 } else { 0x8000 };
        let mut pair = [from.addr, to.addr];
        pair.sort();
        let [low, high] = pair;
        let once = echo || self.bare.insert((low, high, protocol.0, if protocol.is_icmp() { 1 } else { 0 }));
        if !protocol.has_ports() && (low == high || !once) {
            // Which of them sent it could not be told.
            (protocol, port) = (Protocol::UDP, port.max(1));
        }
        Flow { from, to, protocol, port, guarded }
    }
}

fn in_other_family(addr: Addr) -> Addr {
    let [.., last] = addr.octets();
    match (addr.is_v4(), addr.is_loopback()) {
        (true, true) => Addr::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (false, true) => Addr::v4([127, 0, 0, 1]),
        (true, false) => Addr::from_octets([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last & 15]),
        (false, false) => Addr::v4([10, 0, 0, last & 15]),
    }
}
