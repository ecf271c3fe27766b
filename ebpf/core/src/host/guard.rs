//! The guard's hook over ordinary collections.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    vec::Vec,
};

use bulkhead_abi::{
    FlowKey, FlowState, Reason, SocketFlow, Verdict, Workload,
    flow::{Doomed, FirstFragment, FragmentKey, Opening},
    tables::Interface,
};

use super::{At, Node, Place, Sock};
use crate::{
    guard::{self, Guard, Mark, Network, Sender},
    track::{Hook as _, Socket, State, Whose, parts},
};

/// A frame on its way through the node. Its bytes begin with the IP header.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Who sent it.
    pub sender: Sender,
    /// What it carries.
    pub network: Network,
    /// What the guard wrote into its mark.
    pub mark: Cell<Mark>,
}

impl Frame {
    /// A frame of IP from nobody known.
    pub fn forwarded() -> Self {
        Self { sender: Sender::None, network: Network::Ip, mark: Cell::new(Mark::NONE) }
    }

    /// A frame of IP from a socket that the socket layer judges.
    pub fn of_socket() -> Self {
        Self { sender: Sender::Socket, ..Self::forwarded() }
    }

    /// A frame of IP from a packet socket.
    pub fn of_packet_socket() -> Self {
        Self { sender: Sender::Packet, ..Self::forwarded() }
    }
}

impl Node {
    /// A frame that comes in by `interface`. `sock` is its sender's.
    pub fn comes_in(&self, interface: u32, frame: &Frame, sock: &Sock, bytes: &[u8]) -> Verdict {
        guard::ingress(&At { frame: Some((frame, interface)), ..At::packet(self, sock, bytes) })
    }

    /// A frame that leaves by `interface`.
    pub fn goes_out(&self, interface: u32, frame: &Frame, sock: &Sock, bytes: &[u8]) -> Verdict {
        guard::egress(&At { frame: Some((frame, interface)), ..At::packet(self, sock, bytes) })
    }

    /// The guard's flows.
    pub fn transit(&self) -> Vec<(FlowKey, FlowState)> {
        self.transit.borrow().iter().map(|(key, flow)| (*key, *flow.borrow())).collect()
    }

    /// Packets whose fragments are under way.
    pub fn fragments(&self) -> Vec<FirstFragment> {
        self.fragments.borrow().values().copied().collect()
    }
}

impl Guard for At<'_> {
    type Transit = Place<FlowState>;
    type Owned = Place<SocketFlow>;

    fn sender(&self) -> Sender {
        self.frame.map_or(Sender::None, |(frame, _)| frame.sender)
    }
    fn network(&self) -> Network {
        self.frame.map_or(Network::Other, |(frame, _)| frame.network)
    }
    fn interface(&self) -> Interface {
        let found = self.frame.and_then(|(_, index)| self.node.interfaces.get(&index));
        found.copied().unwrap_or_default()
    }
    fn mark(&self) -> Mark {
        self.frame.map_or(Mark::NONE, |(frame, _)| frame.mark.get())
    }
    fn set_mark(&self, mark: Mark) {
        if let Some((frame, _)) = self.frame {
            let room = self.node.mark_room;
            frame.mark.set(Mark::from_number(mark.number(room), room));
        }
    }
    fn sender_workload(&self) -> Workload {
        self.node.workload_of(self.sock.cgroup)
    }
    fn owned(&self) -> Option<Place<SocketFlow>> {
        crate::track::Hook::owned(self)
    }
    fn transit(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        self.node.transit.borrow().get(key).cloned().map(Place)
    }
    fn new_transit(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        let mut flows = self.node.transit.borrow_mut();
        if flows.len() >= self.node.flow_capacity && !flows.contains_key(key) {
            return None;
        }
        let place = Rc::<RefCell<FlowState>>::default();
        flows.insert(*key, place.clone());
        Some(Place(place))
    }
    fn new_hand_over(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        self.table(key)
    }
    fn handed(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        self.tabled(key)
    }
    fn is_opening(&self) -> bool {
        self.sock.state == Socket::Opening
    }
    fn remember_opening(&self, state: &State, sequence: u32) {
        let doomed = parts::doomed(state, self.sock.netns, Whose::Ours, Reason::Default);
        let opening = Opening { cookie: self.sock.cookie, doomed };
        self.node.openings.borrow_mut().insert(sequence, opening);
    }
    fn doom_opening(&self, sequence: u32, reason: Reason) {
        if let Some(opening) = self.node.openings.borrow().get(&sequence) {
            let doomed = Doomed { reason: reason as u8, ..opening.doomed };
            self.node.doomed.borrow_mut().insert(opening.cookie, doomed);
        }
    }
    fn routes(&self) -> bool {
        self.node.routes.get()
    }
    fn route(&self) {
        self.node.routes.set(true);
    }
    fn first_fragment(&self, key: &FragmentKey) -> Option<FirstFragment> {
        self.node.fragments.borrow().get(key).copied()
    }
    fn remember_fragment(&self, first: &FirstFragment) -> bool {
        let mut fragments = self.node.fragments.borrow_mut();
        if fragments.len() >= self.node.fragment_capacity && !fragments.contains_key(&first.key) {
            return false;
        }
        fragments.insert(first.key, *first);
        true
    }
}
