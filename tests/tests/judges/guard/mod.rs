//! The guard before three judges: an account of what it must do, read out over the oracle; the host build;
//! and the kernel's programs, run by hand on interfaces that exist for it.
//!
//! What a test run cannot give: packet sockets (a frame's socket is of the family that the frame carries)
//! and sockets that own a flow. Those are tried with real traffic.

mod expected;
mod lanes;
mod tally;
mod view;

use std::collections::{BTreeMap, HashMap};

use bulkhead_abi::tables::Interface;
use bulkhead_abi::{
    Control, Counter, Direction, Event, FlowKey, Identity, ListenerKey, LocalAddress, Protocol, Workload,
    flow::{FirstFragment, Listener},
};
use bulkhead_core::guard::{Mark, Network, Sender};
use bulkhead_core::host::{Frame, Node, Sock};
use bulkhead_datapath::TrialFrame;
use bulkhead_policy::testing;
use bulkhead_sys::clock::monotonic_ns;
use bulkhead_sys::netns::NetNs;
use bulkhead_tests::harness::Ns;
use proptest::prelude::*;
use proptest::sample::select;

use crate::cases::{STRANGER, Source, cgroups};
use crate::chamber::{Chamber, GUARD_MARK};
use crate::conversation::End;
use crate::policy::{Decision, Label, Policy, comparable, control, describe};
use crate::{require_programs, told};
use expected::{Book, Expected};
use lanes::{Behind, Lane, Packet, Step};
use tally::Tally;
use view::{Around, ROUTED, UNKNOWN, View};

const LANES: usize = 90;
/// How often all policies are drawn at most, where something rare is missing.
const ROUNDS: u64 = 4;

/// Cookies of namespaces that the policies' addresses are in.
const NAMESPACES: [u64; 2] = [71, 72];
/// How the interfaces are called, and what is behind each.
const INTERFACES: [(&str, Behind); 4] = [
    ("wire0", Behind::Wire),
    ("pod0", Behind::Known(NAMESPACES[0])),
    ("pod1", Behind::Known(NAMESPACES[1])),
    ("tap0", Behind::Nobody),
];

#[test]
fn guard_host_and_account_agree() {
    require_programs!();
    let (seed, policies) = (told("BULKHEAD_SEED", 2), told("BULKHEAD_GUARD_POLICIES", 60) as usize);
    println!("seed {seed}, {policies} policies; another seed by BULKHEAD_SEED");
    let mut tally = Tally::default();
    // What is rare is drawn until it was drawn often enough: how soon, is luck.
    for round in 0..ROUNDS {
        // By default, and with eight bits in the midst of others', which do not hold every identity.
        for (mask, seed) in [(GUARD_MARK, seed), (0x000f_f000, seed + 1000)] {
            let mut court = Court::new(seed + round * 10_000, mask, std::mem::take(&mut tally));
            for number in 0..policies / 2 {
                court.policy(number);
            }
            tally = court.tally;
        }
        if policies < 60 || tally.missing().is_empty() {
            break;
        }
    }
    println!("{tally:#?}");
    if policies >= 60 {
        assert_eq!(tally.missing(), Vec::<String>::new());
    }
}

struct Court {
    seed: u64,
    source: Source,
    chamber: Chamber,
    node: Node,
    mask: u32,
    indexes: HashMap<Behind, u32>,
    around: Around,
    book: Book,
    /// Lanes that began under the policy that is live, with what is still to be sent.
    open: Vec<(Lane, Vec<Step>)>,
    counted: BTreeMap<Label, Counter>,
    told: Vec<Decision>,
    tally: Tally,
    _ns: Ns,
}

impl Court {
    fn new(seed: u64, mask: u32, tally: Tally) -> Court {
        let ns = Ns::new("judges").unwrap();
        let wires = INTERFACES.map(|(name, _)| format!("link add {name} type veth peer name {name}x"));
        ns.ip(&wires.join("\n")).unwrap();
        let found = NetNs::open(&ns.path()).unwrap().interfaces().unwrap();
        let index = |name: &str| found.iter().find(|interface| interface.name == name).unwrap().index;
        let indexes: HashMap<_, _> = INTERFACES.iter().map(|(name, behind)| (*behind, index(name))).collect();

        let chamber = Chamber::within(&cgroups(), mask, Some(&ns));
        let mut source = Source::new(seed, |path| chamber.cgroup(path));
        let mut node = Node::default();
        node.parents = chamber.parents();
        node.mark_room = mask >> mask.trailing_zeros();
        // Where there is little room, enough of the policies' identities are to be beyond it.
        let last = |policy: &Policy| policy.image.identities.keys().next_back().map_or(0, |last| last.0);
        while node.mark_room < 1000 && last(&source.draw_forwarded(14, 4, 1).0) < node.mark_room + 40 {}
        for (behind, index) in &indexes {
            let (netns, wire) = match behind {
                Behind::Known(netns) => (*netns, 0),
                Behind::Wire => (0, Interface::FLAG_WIRE),
                _ => (0, 0),
            };
            node.interfaces.insert(*index, Interface { netns, flags: Interface::FLAG_ETHERNET | wire });
        }
        let interfaces: Vec<_> = node.interfaces.iter().map(|(index, value)| (*index, *value)).collect();
        chamber.reader.maps().interfaces.set_all(&interfaces).unwrap();
        Court {
            seed,
            source,
            chamber,
            node,
            mask,
            indexes,
            around: Around::default(),
            book: Book::default(),
            open: Vec::new(),
            counted: BTreeMap::new(),
            told: Vec::new(),
            tally,
            _ns: ns,
        }
    }

    /// Makes the next policy live, under flows of the one before; then opens its own.
    fn policy(&mut self, number: usize) {
        let wide = number % 2 == 1;
        let (policy, flows) =
            self.source.draw_forwarded(if wide { 14 } else { 5 }, if wide { 20 } else { 8 }, LANES);
        self.tally.policies += 1;
        let flows: Vec<Lane> = flows.into_iter().map(|(flow, port)| self.lane(&policy, flow, port)).collect();
        self.commit(&policy);
        self.surround(&policy, &flows);
        let before = std::mem::take(&mut self.open);
        for (lane, steps) in before {
            self.send(&policy, number, &lane, &steps);
        }
        self.inspect(&policy, number);
        self.tally.lanes += flows.len();
        for lane in flows {
            let [now, later] = [0, 1].map(|_| self.source.sample(lanes::steps()));
            self.send(&policy, number, &lane, &now);
            self.open.push((lane, later));
        }
        self.inspect(&policy, number);
        if number % 4 == 3 {
            self.forget();
        }
    }

    /// Where a flow is seen, and what is done to its mark.
    fn lane(&mut self, policy: &Policy, flow: bulkhead_policy::Flow, port: u16) -> Lane {
        let places = [INTERFACES[0].1, INTERFACES[1].1, INTERFACES[2].1, INTERFACES[3].1];
        let behind = prop_oneof![9 => select(places.to_vec()), 1 => Just(Behind::Host)];
        let behind = self.source.sample([behind.clone(), behind]);
        let paths: Vec<String> =
            cgroups().into_iter().filter(|p| *p != STRANGER).map(str::to_owned).collect();
        let socket = proptest::option::weighted(0.5, select(paths));
        let sockets = self.source.sample([socket.clone(), socket]);
        let live: Vec<u32> = policy.image.identities.keys().map(|identity| identity.0).collect();
        let half = self.node.mark_room / 2;
        let some = live.into_iter().filter(|n| *n >= Identity::FIRST && *n <= half).chain([half]);
        let some: Vec<u32> = some.collect();
        // As behind a translation of addresses; now and then there was no room for the identity, or none to
        // tell.
        let endpoints = some.iter().copied().chain([UNKNOWN]).map(|n| half + 1 + n).chain([ROUTED]);
        let endpoints: Vec<u32> = endpoints.collect();
        let any_of_them = select([&some[..], &endpoints].concat());
        let overwritten = prop_oneof![
            6 => Just(Vec::new()),
            2 => (0..16u32).prop_map(|number| vec![number]),
            2 => proptest::collection::vec(select(some), 1..3),
            3 => proptest::collection::vec(select(endpoints), 1..3),
            1 => proptest::collection::vec(any_of_them, 2..5),
        ];
        let overwritten = self.source.sample(overwritten);
        let others = self.source.sample(any::<u32>()) & !self.mask;
        Lane { flow, port, behind, sockets, overwritten, others }
    }

    fn commit(&mut self, policy: &Policy) {
        let generation = self.chamber.commit(&policy.image);
        self.around.has_virtual = policy.image.prefixes.values().any(|i| *i == Identity::VIRTUAL);
        let flags = if self.around.has_virtual { Control::FLAG_VIRTUAL } else { 0 };
        self.node.control = Control { flags, ..control(generation, self.chamber.netns) };
        self.node.tables = policy.tables();
    }

    /// Which addresses are on this node, and which sockets are bound, from now on.
    fn surround(&mut self, policy: &Policy, lanes: &[Lane]) {
        let maps = self.chamber.reader.maps();
        maps.locals.remove_all(&self.node.locals.keys().copied().collect::<Vec<_>>()).unwrap();
        maps.listeners.remove_all(&self.node.listeners.keys().copied().collect::<Vec<_>>()).unwrap();
        self.node.locals.clear();
        self.node.listeners.clear();
        (self.around.locals, self.around.listeners) = (HashMap::new(), HashMap::new());
        (self.around.room, self.around.host) = (self.node.mark_room, self.chamber.netns);

        let own = [NAMESPACES[0], NAMESPACES[1], self.chamber.netns];
        let homes = proptest::collection::hash_map(testing::addresses(), select(own.to_vec()), 4..16);
        let mut homes = self.source.sample(homes);
        // Those who are behind an interface have their own addresses there, now and then.
        for lane in lanes {
            for (end, behind) in [&lane.flow.from, &lane.flow.to].into_iter().zip(lane.behind) {
                if let Behind::Known(netns) = behind
                    && self.source.sample(proptest::bool::weighted(0.15))
                {
                    homes.insert(end.addr, netns);
                }
            }
        }
        for (addr, netns) in homes {
            self.around.locals.insert(addr, netns);
            self.node.locals.insert(addr, LocalAddress { addr, netns });
        }
        let heard: Vec<(u64, String)> = policy.facts.cgroups.clone().into_iter().collect();
        for lane in lanes.iter().filter(|lane| lane.flow.protocol.has_ports()) {
            let (addr, port) = (lane.flow.to.addr, lane.flow.port);
            let Some(netns) = self.around.locals.get(&addr).copied() else { continue };
            let any = if addr.is_v4() { bulkhead_abi::Addr::ANY_V4 } else { bulkhead_abi::Addr::ANY };
            let at = self.source.sample(select(vec![addr, addr, any, bulkhead_abi::Addr::ANY]));
            let (cgroup, path) = self.source.sample(select(heard.clone()));
            let key = ListenerKey::new(netns, at, port, Protocol(lane.flow.protocol.0));
            let workload = Workload { anchor: self.node.workload_of(cgroup).anchor, cgroup };
            self.node.listeners.insert(key, Listener { workload, cookie: 1 });
            self.around.listeners.insert(key, path);
        }
        let locals: Vec<_> = self.node.locals.iter().map(|(addr, value)| (*addr, *value)).collect();
        let listeners: Vec<_> = self.node.listeners.iter().map(|(key, value)| (*key, *value)).collect();
        let maps = self.chamber.reader.maps();
        maps.locals.set_all(&locals).unwrap();
        maps.listeners.set_all(&listeners).unwrap();
    }

    /// Sends packets of a lane through the node, in order.
    fn send(&mut self, policy: &Policy, number: usize, lane: &Lane, steps: &[Step]) {
        for (turn, step) in steps.iter().enumerate() {
            let packet = lane.packet(*step);
            let (from, to) = match step.from {
                End::Opener => (lane.behind[0], lane.behind[1]),
                End::Receiver => (lane.behind[1], lane.behind[0]),
            };
            // Without IP, a test run's socket is of no family.
            let socket = lane.socket(step.from).filter(|_| packet.is_ip());
            let mut mark = 0;
            let here = Here { policy, number, lane, step, packet: &packet };
            if from != Behind::Host {
                let (passes, after) = self.try_one(&here, Direction::Ingress, from, socket, mark);
                if !passes {
                    continue;
                }
                mark = after;
            }
            if to != Behind::Host {
                let overwritten = lane.overwritten.iter().copied().cycle().nth(turn);
                let overwritten = overwritten.filter(|_| step.from == End::Opener);
                // What is forwarded has left its socket behind.
                let socket = socket.filter(|_| from == Behind::Host);
                self.try_one(&here, Direction::Egress, to, socket, overwritten.unwrap_or(mark));
            }
        }
    }

    /// Holds three judges' word on one frame against each other; whether it passes, and its mark.
    fn try_one(
        &mut self,
        here: &Here<'_>,
        direction: Direction,
        behind: Behind,
        socket: Option<&str>,
        mark: u32,
    ) -> (bool, u32) {
        let Here { policy, number, lane, packet, .. } = *here;
        let (index, unit) = (self.indexes[&behind], 1 << self.mask.trailing_zeros());
        self.node.now.set(monotonic_ns());
        let frame = TrialFrame {
            direction,
            interface: index,
            mark: lane.others | (mark * unit),
            ethertype: packet.ethertype,
            packet: packet.bytes.clone(),
        };
        let (code, kernel_mark) = self.chamber.run_guard(socket.unwrap_or(STRANGER), &frame);
        assert!(matches!(code, -1 | 2), "{code}: the guard leaves a packet to whoever is next, or drops it");
        let kernel = (code == -1, kernel_mark);

        let (host, host_mark) = self.at_host(direction, index, packet, socket, mark);
        let view = View { policy, number, around: &self.around, now: self.node.now.get() };
        let expected = match direction {
            Direction::Ingress => self.book.comes_in(&view, packet, behind, socket, mark),
            Direction::Egress => self.book.goes_out(&view, packet, behind, socket.is_some(), mark),
        };
        let Expected { passes, mark: after, counted, why } = expected;
        let say = |what: &str| {
            format!(
                "seed {}, policy {number}, {direction:?} by {behind:?}, mark {mark}, socket {socket:?}: {what}\n\
                 expected {passes}, mark {after}, because {why:?}; the host says {host}, {host_mark}; the kernel \
                 {kernel:?}\n{:?} of {lane:#?}\n{packet:?}\n{counted:?}\nlocals {:?}, listeners {:?}\n{}",
                self.seed,
                here.step,
                self.around.locals,
                self.around.listeners,
                describe(policy),
            )
        };
        assert!((passes, after) == (host, host_mark), "{}", say("the host differs"));
        assert!((passes, lane.others | (after * unit)) == kernel, "{}", say("the kernel differs"));

        let by = |first| Counter { flows: u64::from(first), packets: 1, bytes: packet.bytes.len() as u64 };
        let mut wanted = BTreeMap::new();
        for (decision, first) in &counted {
            add(&mut wanted, &decision.label, by(*first));
        }
        let mut moved = BTreeMap::new();
        for (key, counter) in self.node.take_counters() {
            add(&mut moved, &policy.label(&key), counter);
        }
        assert!(wanted == moved, "{}", say(&format!("{wanted:?} must move, {moved:?} did")));
        self.tally.frames += 1;
        self.tally.passed += usize::from(passes);
        for why in why {
            *self.tally.by_why.entry(why).or_default() += 1;
        }
        for (decision, first) in counted {
            add(&mut self.counted, &decision.label, by(first));
            if first && decision.verdict() != bulkhead_abi::Verdict::Allow {
                self.told.push(decision);
            }
        }
        (passes, after)
    }

    fn at_host(
        &self,
        direction: Direction,
        index: u32,
        packet: &Packet,
        socket: Option<&str>,
        mark: u32,
    ) -> (bool, u32) {
        let frame = Frame {
            sender: if socket.is_some() { Sender::Socket } else { Sender::None },
            network: match packet.ethertype {
                0x0800 | 0x86dd => Network::Ip,
                0x0806 => Network::Arp,
                _ => Network::Other,
            },
            mark: Mark::from_number(mark, self.node.mark_room).into(),
        };
        let cgroup = self.chamber.cgroup(socket.unwrap_or(STRANGER));
        // At an interface nobody asks for the socket's namespace, or its number.
        let sock = Sock { cookie: 0, ..Sock::plain(cgroup, 0) };
        let verdict = match direction {
            Direction::Ingress => self.node.comes_in(index, &frame, &sock, &packet.bytes),
            Direction::Egress => self.node.goes_out(index, &frame, &sock, &packet.bytes),
        };
        (verdict.passes(), frame.mark.get().number(self.node.mark_room))
    }

    /// Counters, events and tables: those that must have moved, and no other.
    fn inspect(&mut self, policy: &Policy, number: usize) {
        let at = format!("seed {}, policy {number}", self.seed);
        let expected = std::mem::take(&mut self.counted);
        let moved = self.chamber.take_counters();
        let moved: BTreeMap<Label, Counter> =
            moved.iter().map(|(key, counter)| (policy.label(key), *counter)).collect();
        for label in expected.keys().chain(moved.keys()) {
            assert_eq!(expected.get(label), moved.get(label), "{at}: the kernel's {label:?}");
        }
        let mut told = std::mem::take(&mut self.told);
        told.sort();
        let timeless = |event: Event| Event { time: 0, ..event };
        let host: Vec<Event> = self.node.take_events().into_iter().map(timeless).collect();
        let kernel: Vec<Event> = self.chamber.take_events().into_iter().map(timeless).collect();
        assert_eq!(host, kernel, "{at}: what is told");
        let mut by_name: Vec<Decision> = host.iter().map(|event| policy.told(event)).collect();
        by_name.sort();
        assert_eq!(told, by_name, "{at}: what must be told");
        self.compare_tables(&at);
        let losses = self.chamber.reader.losses().unwrap();
        assert!(losses.iter().all(|(_, lost)| *lost == 0), "{losses:?}");
    }

    fn compare_tables(&mut self, at: &str) {
        let maps = self.chamber.reader.maps();
        let kernel = comparable(maps.transit.entries().unwrap());
        assert_eq!(comparable(self.node.transit()), kernel, "{at}: the guard's flows");
        let plain = |first: FirstFragment| (first.key, FirstFragment { seen: 0, slot: 0, ..first });
        let kernel: BTreeMap<_, _> =
            maps.fragments.entries().unwrap().into_iter().map(|(_, first)| plain(first)).collect();
        let host: BTreeMap<_, _> = self.node.fragments().into_iter().map(plain).collect();
        assert_eq!(host, kernel, "{at}: fragments");
        let kernel = comparable(maps.flows.entries().unwrap());
        assert_eq!(comparable(self.node.flows()), kernel, "{at}: what is handed over");
        let handed: BTreeMap<FlowKey, Identity> =
            kernel.iter().map(|(key, flow)| (*key, flow.opener.identity().unwrap())).collect();
        assert_eq!(self.book.handed, handed, "{at}: what must be handed over");
        self.tally.handed_over += handed.len();
        assert_eq!(self.book.routes, self.node.routes.get(), "{at}: whether anything may be on its way back");
    }

    /// Takes away what flows have left.
    fn forget(&mut self) {
        let maps = self.chamber.reader.maps();
        let keys = |flows: Vec<(FlowKey, _)>| flows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        maps.transit.remove_all(&keys(self.node.transit())).unwrap();
        maps.flows.remove_all(&keys(self.node.flows().into_iter().collect())).unwrap();
        let fragments: Vec<_> = self.node.fragments().iter().map(|first| first.key).collect();
        maps.fragments.remove_all(&fragments).unwrap();
        self.node.clear_flows();
        self.book.clear();
        self.open.clear();
    }
}

fn add(counters: &mut BTreeMap<Label, Counter>, label: &Label, by: Counter) {
    let counter = counters.entry(label.clone()).or_default();
    counter.flows += by.flows;
    counter.packets += by.packets;
    counter.bytes += by.bytes;
}

/// A packet on its way.
#[derive(Clone, Copy)]
struct Here<'a> {
    policy: &'a Policy,
    number: usize,
    lane: &'a Lane,
    step: &'a Step,
    packet: &'a Packet,
}
