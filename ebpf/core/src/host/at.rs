//! The traits that the decisions are generic over, for a packet or a call on a [`Node`].

use std::{cell::RefCell, rc::Rc};

use bulkhead_abi::{
    Addr, Cell, Control, CounterKey, Direction, Event, FlowKey, FlowState, Identity, ListenerKey,
    LocalAddress, PairKey, Reason, RoleKind, RuleKey, SocketFlow, SocketOwner, SocketRole, TurnedKey,
    Workload,
    flow::{Denial, Listener},
    inspect::{Ahead, ClassKey},
    limits,
    tables::{FailsafeKey, Home, IdentityValue, PairValue, PrefixValue, UnionValue, WorkloadValue},
};
use zerocopy::FromZeros as _;

use super::{Frame, Node, Sock};
use crate::{
    call::Call,
    packet::{Bytes, Words},
    report::Report,
    tables,
    track::{Hook, Ownership, Slot, Socket, State, Told, Whose, parts},
};

/// A packet, or a call, at a socket of a node.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Where.
    pub node: &'a Node,
    /// At which socket.
    pub sock: &'a Sock,
    /// The packet, from its IP header on; nothing for calls.
    pub bytes: &'a [u8],
    /// The calling process's workload, for calls.
    pub current: Workload,
    /// The frame that the packet is in, and the index of the interface, for the guard.
    pub frame: Option<(&'a Frame, u32)>,
}

impl<'a> At<'a> {
    /// A packet at a socket.
    pub fn packet(node: &'a Node, sock: &'a Sock, bytes: &'a [u8]) -> Self {
        Self { node, sock, bytes, current: Workload::UNKNOWN, frame: None }
    }
}

/// A value that several hold at once.
#[derive(Debug)]
pub struct Place<V>(pub(super) Rc<RefCell<V>>);

impl<V> Slot<V> for Place<V> {
    fn read<R>(&self, look: impl FnOnce(&V) -> R) -> R {
        look(&self.0.borrow())
    }
    fn update<R>(&self, change: impl FnOnce(&mut V) -> R) -> R {
        change(&mut self.0.borrow_mut())
    }
}

impl Bytes for At<'_> {
    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let mut count = 0;
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
            count += 1;
        }
        count
    }

    fn first<const N: usize>(&self) -> Option<Words<N>> {
        self.bytes.first_chunk().copied().map(Words)
    }
}

impl tables::Tables for At<'_> {
    fn control(&self) -> Control {
        self.node.control
    }
    fn prefix(&self, addr: &Addr) -> Option<PrefixValue> {
        self.node.tables.prefix(addr)
    }
    fn workload(&self, cgroup: u64) -> Option<WorkloadValue> {
        self.node.tables.workloads.get(&cgroup).copied()
    }
    fn union(&self, key: &PairKey) -> Option<UnionValue> {
        self.node.tables.unions.get(key).copied()
    }
    fn identity(&self, identity: Identity) -> Option<IdentityValue> {
        self.node.tables.identities.get(&identity).copied()
    }
    fn pair(&self, key: &PairKey) -> Option<PairValue> {
        self.node.tables.pairs.get(key).copied()
    }
    fn rule(&self, key: &RuleKey) -> Option<Cell> {
        self.node.tables.rule(key)
    }
    fn failsafe(&self, key: &FailsafeKey) -> bool {
        let mut ports = self.node.failsafe.borrow_mut();
        ports.get_mut(key).map(|packets| *packets += 1).is_some()
    }
    fn local(&self, addr: &Addr) -> Option<LocalAddress> {
        self.node.locals.get(addr).copied()
    }
    fn home(&self, netns: u64) -> Option<Home> {
        self.node.homes.get(&netns).copied()
    }
    fn listener(&self, key: &ListenerKey) -> Option<Listener> {
        self.node.listeners.get(key).copied()
    }
}

impl Report for At<'_> {
    fn now(&self) -> u64 {
        self.node.now.get()
    }
    fn coarse_now(&self) -> u64 {
        self.node.now.get()
    }
    fn slot(&self, key: &CounterKey) -> u32 {
        self.node.slot(key)
    }
    fn add(&self, slot: u32, flows: u64, packets: u64, bytes: u64) {
        self.node.count(slot, flows, packets, bytes);
    }
    fn denial(&self, key: &FlowKey) -> Option<Denial> {
        self.node.denied.borrow().get(key).copied()
    }
    fn note_denial(&self, key: &FlowKey, note: impl FnOnce(&mut Denial)) {
        note(self.node.denied.borrow_mut().entry(*key).or_default());
    }
    fn emit(&self, fill: impl FnOnce(&mut Event)) {
        let mut event = Event::new_zeroed();
        fill(&mut event);
        self.node.events.borrow_mut().push(event);
    }
    fn classed(&self, key: &ClassKey) -> bool {
        let mut classes = self.node.classes.borrow_mut();
        let count = classes.entry(*key).or_default();
        count.flows += 1;
        let due = count.flows == 1 || self.node.now.get().saturating_sub(count.told) >= limits::CLASS_SILENCE;
        if due {
            count.told = self.node.now.get();
        }
        due
    }
    fn netns(&self) -> u64 {
        self.sock.netns
    }
    fn cookie(&self) -> u64 {
        self.sock.cookie
    }
}

impl Call for At<'_> {
    type Owned = Place<SocketFlow>;
    type Role = Place<SocketRole>;

    fn own(&self) -> Option<Place<SocketFlow>> {
        Hook::own(self)
    }
    fn owner(&self) -> Option<SocketOwner> {
        self.sock.owner
    }
    fn current(&self) -> Workload {
        self.current
    }
    fn role(&self) -> Option<Place<SocketRole>> {
        Hook::role(self)
    }
    fn make_role(&self) -> Option<Place<SocketRole>> {
        let mut role = self.sock.role.borrow_mut();
        Some(Place(role.get_or_insert_default().clone()))
    }
}

impl Hook for At<'_> {
    type Owned = Place<SocketFlow>;
    type Tabled = Place<FlowState>;
    type Role = Place<SocketRole>;
    type Ahead = Place<Ahead>;

    fn role(&self) -> Option<Place<SocketRole>> {
        self.sock.role.borrow().clone().map(Place)
    }
    fn is_looped(&self) -> bool {
        self.sock.looped.get()
    }
    fn note_turned(&self, state: &State) {
        let Some(role) = self.sock.role().filter(|role| role.kind() == RoleKind::Turned) else { return };
        let client = state.local();
        let key = TurnedKey::new(self.sock.netns, *client.addr, client.port);
        let turned = parts::turned(&role, self.workload_at_hand());
        self.node.turned.borrow_mut().insert(key, turned);
    }
    fn socket(&self) -> Socket {
        self.sock.state
    }
    fn is_programs(&self) -> bool {
        self.sock.owner.is_some()
    }
    fn ownership(&self) -> Ownership {
        self.sock.ownership
    }
    fn stream_start(&self, direction: Direction) -> Option<u32> {
        match direction {
            Direction::Ingress => self.sock.starts.0,
            Direction::Egress => self.sock.starts.1,
        }
    }
    fn received(&self) -> Option<u32> {
        self.sock.received.get()
    }
    fn ahead(&self) -> Option<Place<Ahead>> {
        Some(Place(self.sock.ahead.clone()))
    }
    fn lock(&self, _owned: &Place<SocketFlow>) -> bool {
        true
    }
    fn unlock(&self, _owned: &Place<SocketFlow>) {}
    fn piece(&self, flow: &SocketFlow, told: &Told) {
        let mut bytes = std::vec![0; told.len as usize];
        for (byte, at) in bytes.iter_mut().zip(told.at..) {
            let mut one = [0];
            let _read = self.load(at, &mut one);
            [*byte] = one;
        }
        if told.len == 0 {
            let [opener, receiver] = &flow.inspection.streams;
            let kept = if told.sender == 0 { opener } else { receiver };
            bytes.extend(kept.bytes.iter().take(kept.have.into()));
        }
        self.node.pieces.borrow_mut().push((told.sender as u8, told.offset, bytes));
    }
    fn is_connected(&self) -> bool {
        matches!(self.sock.ownership, Ownership::Stream | Ownership::Datagrams)
    }
    fn barrier(&self) {}
    fn cgroup(&self) -> u64 {
        self.sock.cgroup
    }
    fn workload_at_hand(&self) -> Workload {
        self.node.workload_of(self.sock.cgroup)
    }
    fn owned(&self) -> Option<Place<SocketFlow>> {
        self.sock.storage.borrow().clone().map(Place)
    }
    fn own(&self) -> Option<Place<SocketFlow>> {
        let mut storage = self.sock.storage.borrow_mut();
        Some(Place(storage.get_or_insert_default().clone()))
    }
    fn tabled(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        self.node.flows.borrow().get(key).cloned().map(Place)
    }
    fn table(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        let mut flows = self.node.flows.borrow_mut();
        if flows.len() >= self.node.flow_capacity && !flows.contains_key(key) {
            return None;
        }
        let place = Rc::<RefCell<FlowState>>::default();
        flows.insert(*key, place.clone());
        Some(Place(place))
    }
    fn untable(&self, key: &FlowKey) {
        self.node.flows.borrow_mut().remove(key);
    }
    fn doom(&self, state: &State, cookie: u64, netns: u64, whose: Whose, reason: Reason) {
        let doomed = parts::doomed(state, netns, whose, reason);
        self.node.doomed.borrow_mut().entry(cookie).or_insert(doomed);
    }
}
