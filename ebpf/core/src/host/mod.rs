//! The kernel's side over ordinary collections, so that the decisions can be tried without a kernel.
//!
//! A [`Node`] holds what the maps hold: tables that a test fills in, and what the decisions leave behind
//! (flows, counters, events, sockets to be ended), each to be looked at afterwards. A [`Sock`] is a socket
//! with its storage. [`Node::packet`] and [`Node::connect`] are the two entry points.
//!
//! Nothing here decides: lookups are as plain as they can be, and share no code with the maps.

mod at;
mod guard;
mod tables;
pub mod wire;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
    vec::Vec,
};

use bulkhead_abi::{
    Addr, Control, Counter, CounterKey, Direction, Event, FlowKey, FlowState, ListenerKey, LocalAddress,
    SocketFlow, SocketOwner, SocketRole, TurnedKey, TurnedValue, Verdict, Workload,
    flow::{Denial, Doomed, FirstFragment, FragmentKey, Listener, Opening},
    inspect::{Ahead, ClassCount, ClassKey},
    tables::{FailsafeKey, Home, Interface},
};

use crate::{
    call::{self, Connect, turn::Turn},
    report::NO_SLOT,
    track::{self, Ownership, Socket},
};
pub use at::{At, Place};
pub use guard::Frame;
pub use tables::Tables;

/// A node: what its maps hold.
#[derive(Debug)]
pub struct Node {
    /// The control block.
    pub control: Control,
    /// The compiled policy.
    pub tables: Tables,
    /// Failsafe ports, with the packets that needed them.
    pub failsafe: RefCell<BTreeMap<FailsafeKey, u64>>,
    /// Addresses of the node's namespaces.
    pub locals: HashMap<Addr, LocalAddress>,
    /// Where namespaces send from.
    pub homes: HashMap<u64, Home>,
    /// Registered receivers.
    pub listeners: HashMap<ListenerKey, Listener>,
    /// The cgroup above each cgroup.
    pub parents: HashMap<u64, u64>,
    /// Interfaces that the guard sits on, by index.
    pub interfaces: HashMap<u32, Interface>,
    /// The largest number that the guard's part of the mark holds.
    pub mark_room: u32,
    /// Whether a flow has begun whose opener is in a zone and has no socket.
    pub routes: Cell<bool>,
    /// How many packets' fragments the table takes.
    pub fragment_capacity: usize,
    /// How many flows the table takes, and the guard's.
    pub flow_capacity: usize,
    /// The time, in nanoseconds.
    pub now: Cell<u64>,
    /// Sockets to be ended, by cookie.
    pub doomed: RefCell<BTreeMap<u64, Doomed>>,
    flows: RefCell<BTreeMap<FlowKey, Rc<RefCell<FlowState>>>>,
    transit: RefCell<BTreeMap<FlowKey, Rc<RefCell<FlowState>>>>,
    fragments: RefCell<BTreeMap<FragmentKey, FirstFragment>>,
    turned: RefCell<BTreeMap<TurnedKey, TurnedValue>>,
    openings: RefCell<BTreeMap<u32, Opening>>,
    denied: RefCell<HashMap<FlowKey, Denial>>,
    classes: RefCell<BTreeMap<ClassKey, ClassCount>>,
    pieces: RefCell<Vec<(u8, u32, Vec<u8>)>>,
    slots: RefCell<Vec<(CounterKey, Counter)>>,
    events: RefCell<Vec<Event>>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            control: Control { generation: 1, host_netns: 0, flags: 0 },
            tables: Tables::default(),
            failsafe: RefCell::default(),
            locals: HashMap::new(),
            homes: HashMap::new(),
            listeners: HashMap::new(),
            parents: HashMap::new(),
            interfaces: HashMap::new(),
            mark_room: 0xffff,
            routes: Cell::new(false),
            fragment_capacity: usize::MAX,
            flow_capacity: usize::MAX,
            now: Cell::new(1_000_000_000),
            doomed: RefCell::default(),
            flows: RefCell::default(),
            transit: RefCell::default(),
            fragments: RefCell::default(),
            openings: RefCell::default(),
            turned: RefCell::default(),
            denied: RefCell::default(),
            classes: RefCell::default(),
            pieces: RefCell::default(),
            slots: RefCell::default(),
            events: RefCell::default(),
        }
    }
}

impl Node {
    /// Judges a packet that crosses the socket layer at `sock`. `bytes` begin with the IP header.
    pub fn packet(&self, sock: &Sock, direction: Direction, bytes: &[u8]) -> Verdict {
        track::packet(&At::packet(self, sock, bytes), direction)
    }

    /// Judges a `connect` that a process of the cgroup `current` makes on `sock`.
    pub fn connect(&self, sock: &Sock, current: u64, connect: &Connect) -> Verdict {
        self.dial(sock, current, connect).0
    }

    /// The same, with where it is turned to.
    pub fn dial(&self, sock: &Sock, current: u64, connect: &Connect) -> (Verdict, Turn) {
        let mut to = Turn::NONE;
        let at = At { current: self.workload_of(current), ..At::packet(self, sock, &[]) };
        let verdict = call::connect(&at, connect, &mut to);
        (verdict, to)
    }

    /// Whom a socket is told that it is connected to, where the kernel says `port`.
    pub fn peer_name(&self, sock: &Sock, port: u16) -> Turn {
        let mut name = Turn::NONE;
        call::turn::peer_name(&At::packet(self, sock, &[]), port, &mut name);
        name
    }

    /// What is known of turned connections.
    pub fn turned(&self) -> BTreeMap<TurnedKey, TurnedValue> {
        self.turned.borrow().clone()
    }

    /// A cgroup with the nearest one above it that is in a zone, as a hook meets it.
    pub fn workload_of(&self, cgroup: u64) -> Workload {
        let mut anchor = cgroup;
        while anchor != 0 && !self.tables.workloads.contains_key(&anchor) {
            anchor = self.parents.get(&anchor).copied().unwrap_or(0);
        }
        Workload { cgroup, anchor }
    }

    /// The flow table.
    pub fn flows(&self) -> BTreeMap<FlowKey, FlowState> {
        self.flows.borrow().iter().map(|(key, flow)| (*key, *flow.borrow())).collect()
    }

    /// Puts a flow into the table, as the agent does with connections that it adopts.
    pub fn set_flow(&self, key: FlowKey, flow: FlowState) {
        self.flows.borrow_mut().insert(key, Rc::new(RefCell::new(flow)));
    }

    /// Empties the flow table, and the guard's two.
    pub fn clear_flows(&self) {
        self.flows.borrow_mut().clear();
        self.transit.borrow_mut().clear();
        self.fragments.borrow_mut().clear();
    }

    /// What was counted since the last call; keys that did not move are left out.
    pub fn take_counters(&self) -> BTreeMap<CounterKey, Counter> {
        let mut moved = BTreeMap::new();
        for (key, counter) in self.slots.borrow_mut().iter_mut() {
            if *counter != Counter::default() {
                moved.insert(*key, core::mem::take(counter));
            }
        }
        moved
    }

    /// What was handed to user space since the last look: sender, offset, bytes.
    pub fn taken_pieces(&self) -> Vec<(u8, u32, Vec<u8>)> {
        self.pieces.take()
    }

    /// Flows by class.
    pub fn classes(&self) -> BTreeMap<ClassKey, u64> {
        self.classes.borrow().iter().map(|(key, count)| (*key, count.flows)).collect()
    }

    /// What was told since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        core::mem::take(&mut self.events.borrow_mut())
    }

    fn slot(&self, key: &CounterKey) -> u32 {
        let mut slots = self.slots.borrow_mut();
        let found = slots.iter().position(|(known, _)| known == key);
        let index = found.unwrap_or_else(|| {
            slots.push((*key, Counter::default()));
            slots.len() - 1
        });
        u32::try_from(index).unwrap_or(NO_SLOT)
    }

    fn count(&self, slot: u32, flows: u64, packets: u64, bytes: u64) {
        let mut slots = self.slots.borrow_mut();
        let index = usize::try_from(slot).unwrap_or(usize::MAX);
        if let Some((_, counter)) = slots.get_mut(index) {
            counter.flows += flows;
            counter.packets += packets;
            counter.bytes += bytes;
        }
    }
}

/// A socket.
#[derive(Clone, Debug)]
pub struct Sock {
    /// Its state.
    pub state: Socket,
    /// What it can own.
    pub ownership: Ownership,
    /// The cgroup that it was made in.
    pub cgroup: u64,
    /// Its namespace's cookie.
    pub netns: u64,
    /// Its own cookie.
    pub cookie: u64,
    /// Who made it, where its making was seen.
    pub owner: Option<SocketOwner>,
    /// Sequence numbers of the first bytes that come in and go out, where none has yet.
    pub starts: (Option<u32>, Option<u32>),
    /// Sequence number that it waits for.
    pub received: Cell<Option<u32>>,
    /// What went on ahead of its turn.
    pub ahead: Rc<RefCell<Ahead>>,
    /// Its storage; a clone of the socket shares it once there is something in it.
    pub storage: RefCell<Option<Rc<RefCell<SocketFlow>>>>,
    /// What it is for.
    pub role: RefCell<Option<Rc<RefCell<SocketRole>>>>,
    /// Whether what comes in came over loopback.
    pub looped: Cell<bool>,
}

impl Sock {
    /// A socket that owns nothing, of a cgroup and a namespace; as `BPF_PROG_TEST_RUN` makes them.
    pub fn plain(cgroup: u64, netns: u64) -> Self {
        Self {
            state: Socket::Other,
            ownership: Ownership::Nothing,
            cgroup,
            netns,
            cookie: cgroup << 32 | netns,
            owner: Some(SocketOwner { cgroup, netns, ..SocketOwner::default() }),
            starts: (None, None),
            received: Cell::new(None),
            ahead: Rc::default(),
            storage: RefCell::default(),
            role: RefCell::default(),
            looped: Cell::new(false),
        }
    }

    /// The same with a role, as the agent assigns it.
    #[must_use]
    pub fn with_role(self, role: SocketRole) -> Self {
        Self { role: RefCell::new(Some(Rc::new(RefCell::new(role)))), ..self }
    }

    /// What it is for, if anybody has said so.
    pub fn role(&self) -> Option<SocketRole> {
        self.role.borrow().as_ref().map(|role| *role.borrow())
    }

    /// A connected TCP socket.
    pub fn stream(cgroup: u64, netns: u64) -> Self {
        Self { ownership: Ownership::Stream, ..Self::plain(cgroup, netns) }
    }

    /// A TCP socket whose SYN goes out next.
    pub fn opening(cgroup: u64, netns: u64) -> Self {
        Self { state: Socket::Opening, ..Self::stream(cgroup, netns) }
    }

    /// A listening TCP socket.
    pub fn listening(cgroup: u64, netns: u64) -> Self {
        Self { state: Socket::Listening, ..Self::stream(cgroup, netns) }
    }

    /// A UDP socket that is connected.
    pub fn datagrams(cgroup: u64, netns: u64) -> Self {
        Self { ownership: Ownership::Datagrams, ..Self::plain(cgroup, netns) }
    }

    /// A raw socket.
    pub fn raw(cgroup: u64, netns: u64) -> Self {
        Self { ownership: Ownership::Raw, ..Self::plain(cgroup, netns) }
    }

    /// No socket.
    pub fn none() -> Self {
        Self { state: Socket::None, cookie: 0, owner: None, ..Self::plain(0, 0) }
    }

    /// The flow that it owns.
    pub fn flow(&self) -> Option<SocketFlow> {
        self.storage.borrow().as_ref().map(|flow| *flow.borrow())
    }
}
