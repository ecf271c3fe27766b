//! Looking for sockets whose flow the live policy denies, judged with the kernel's own tables.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;

use bulkhead_abi::{
    Addr, FlowKey, FlowState, Protocol, Reason, RoleKind, Side, SocketFlow, SocketRole, Verdict, Workload,
};
use bulkhead_core::{
    endpoint,
    inspect::Ruling,
    judge::{self, Decision, Question, Sides},
    tables::Policy,
    track::parts,
};
use bulkhead_sys::sock_diag::{Diag, Query, Socket, State, Target};
use zerocopy::FromBytes;

use super::namespaces::Namespaces;
use crate::datapath::{DatapathError, Reader};

/// A socket whose flow is denied.
pub(super) struct Denied {
    pub(super) netns: u64,
    /// What its packets are counted by.
    pub(super) key: FlowKey,
    pub(super) target: Target,
    pub(super) decision: Decision,
    /// Somebody, the socket or the table, knew who opened its flow.
    pub(super) known: bool,
}

/// Looks at every connected socket for those whose flow the live policy denies; where addresses have
/// `left` their owners, at those alone whose other end was there, and not by who it was.
pub(super) fn look(
    reader: &Reader,
    namespaces: &mut Namespaces,
    left: &HashSet<Addr>,
) -> Result<Vec<Denied>, DatapathError> {
    if reader.adopting() {
        return Ok(Vec::new());
    }
    let (flows, roles) = (reader.socket_flows_map(), &reader.maps().socket_roles);
    let (ids, storages) = ([flows.id()?, roles.id()?], [flows.as_fd(), roles.as_fd()]);
    let mut all = Vec::new();
    for (netns, ns) in namespaces.open_all()? {
        let mut diag = Diag::open(&ns)?;
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let storages: &[_] = if protocol == Protocol::TCP { &storages } else { &[] };
            let query = Query { storages, ..Query::all(protocol) };
            all.extend(diag.dump(&query)?.into_iter().filter(is_connected).map(|socket| (netns, socket)));
        }
    }
    let cgroups = namespaces.cgroups()?;
    all.retain(|(_, socket)| socket.cgroup.is_some_and(|cgroup| cgroups.contains(&cgroup)));
    if !left.is_empty() {
        all.retain(|(_, socket)| left.contains(&socket.remote));
    }
    let judge = Judge::new(reader, ids, &all, left);
    let mut denied = Vec::new();
    for (netns, socket) in &all {
        let denial = judge.denial(*netns, socket);
        // A commit in between rewrites what was read: half of one policy and half of another is none. The
        // commit asks for a look of its own.
        if reader.generation() != judge.policy.generation() {
            return Ok(Vec::new());
        }
        if let Some((decision, known)) = denial {
            let (target, key) = (Target::from(socket), judge.shown(*netns, socket));
            denied.push(Denied { netns: *netns, key, target, decision, known });
        }
    }
    Ok(denied)
}

/// Judges sockets as the kernel would judge their next packet.
struct Judge<'a> {
    reader: &'a Reader,
    policy: Policy<'a, Reader>,
    /// The maps whose values tell a socket's flow, and its role.
    storages: [u32; 2],
    /// Tuples as their owners see them, to find who is at the other end on this node.
    owners: HashMap<(FlowKey, bool), u64>,
    /// Addresses that are not whose they were.
    left: &'a HashSet<Addr>,
}

impl<'a> Judge<'a> {
    fn new(
        reader: &'a Reader,
        storages: [u32; 2],
        sockets: &[(u64, Socket)],
        left: &'a HashSet<Addr>,
    ) -> Self {
        let owners = sockets
            .iter()
            .filter_map(|(netns, socket)| Some((key(*netns, socket), socket.cgroup?)))
            .collect();
        Self { reader, policy: Policy::live(reader), storages, owners, left }
    }

    /// The denial, if it is one, and whether it is known who opened the flow.
    fn denial(&self, netns: u64, socket: &Socket) -> Option<(Decision, bool)> {
        let cgroup = socket.cgroup?;
        let (key, local_is_low) = key(netns, socket);
        let [flows, roles] = self.storages;
        let flow = stored::<SocketFlow>(socket, flows)
            // A socket that was connected elsewhere before.
            .filter(|flow| flow.peer_addr == socket.remote && flow.peer_port == socket.remote_port);
        let tabled = if flow.is_none() { self.tabled(&key) } else { None };
        if self.is_proxied(stored(socket, roles), flow, tabled) {
            return None;
        }
        let opener = match (flow, tabled) {
            (Some(flow), _) => Some(flow.flags & SocketFlow::FLAG_OPENER != 0),
            (None, Some(flow)) => Some((flow.flags & FlowState::FLAG_OPENER_LOW != 0) == local_is_low),
            (None, None) => None,
        };
        let peer = match (flow, tabled) {
            (Some(flow), _) => flow.peer,
            (None, Some(flow)) if opener == Some(true) => flow.receiver,
            (None, Some(flow)) => flow.opener,
            (None, None) => Workload::UNKNOWN,
        };
        let stands = peer.is_known() && !self.left.contains(&socket.remote);
        let peer = if stands { peer } else { self.peer(netns, socket, (key, !local_is_low)) };
        let own = Workload { cgroup, anchor: cgroup };
        let judge = |opener| self.judge(netns, socket, &own, &peer, opener);
        let denies = |decision: &Decision| decision.verdict == Verdict::Deny;
        let denial = match opener {
            Some(opener) => Some(judge(opener)).filter(denies),
            // Who opened it is not known: it lives if either could have, and is told of as opened here.
            None => Some(judge(false)).filter(denies).and(Some(judge(true)).filter(denies)),
        };
        let contradicts = || self.contradiction(&flow?, judge(opener?));
        denial.or_else(contradicts).map(|decision| (decision, opener.is_some()))
    }

    /// The flow as its packets show it: where addresses are translated in the socket's own namespace, they
    /// are not the socket's.
    fn shown(&self, netns: u64, socket: &Socket) -> FlowKey {
        let [flows, _] = self.storages;
        match stored::<SocketFlow>(socket, flows).filter(|flow| flow.protocol == socket.protocol.0) {
            Some(flow) => {
                let (local, remote) = ((flow.local_addr, flow.local_port), (flow.peer_addr, flow.peer_port));
                FlowKey::new(local, remote, socket.protocol, netns).0
            }
            None => key(netns, socket).0,
        }
    }

    /// The denial of a flow that is allowed and whose bytes were not what its rule accepts now. Of one that is
    /// not known yet the next bytes tell, and the kernel stops them.
    fn contradiction(&self, flow: &SocketFlow, decision: Decision) -> Option<Decision> {
        if flow.protocol != Protocol::TCP.0 || decision.verdict != Verdict::Allow || !self.left.is_empty() {
            return None;
        }
        let mut flow = *flow;
        (flow.from, flow.to, flow.rule) = (decision.from, decision.to, decision.rule);
        flow.reason = decision.reason as u8;
        match parts::ask(self.reader, &mut flow, &self.policy.control) {
            Ruling::Refuse(reason) => Some(Decision { verdict: Verdict::Deny, reason, ..decision }),
            Ruling::Pass | Ruling::Hold => None,
        }
    }

    /// Whether a flow is one of the proxy's, which ends what lost its right; one to an address that is
    /// another's now is not.
    fn is_proxied(
        &self,
        role: Option<SocketRole>,
        flow: Option<SocketFlow>,
        tabled: Option<FlowState>,
    ) -> bool {
        const PROXIED: u8 = Reason::Proxied as u8;
        self.left.is_empty()
            && (role.is_some_and(|role| role.kind() != RoleKind::None)
                || flow.is_some_and(|flow| flow.reason == PROXIED)
                || tabled.is_some_and(|flow| flow.reason == PROXIED))
    }

    fn judge(&self, netns: u64, socket: &Socket, own: &Workload, peer: &Workload, opener: bool) -> Decision {
        let local = endpoint::resolve(&self.policy, own, &socket.local);
        let remote = endpoint::resolve(&self.policy, peer, &socket.remote);
        let (from, to, side, port) = if opener {
            (local, remote, Side::Egress, socket.remote_port)
        } else {
            (remote, local, Side::Ingress, socket.local_port)
        };
        let sides = if peer.is_known() { Sides::Both } else { Sides::One(side) };
        let question = Question { from, to, protocol: socket.protocol, port, sides };
        judge::judge(&self.policy, &question, || (netns == self.policy.control.host_netns).then_some(side))
    }

    /// The workload at the other end, where it is on this node: it owns a socket of the same tuple, or
    /// one that is bound and not connected, as a server's for datagrams is.
    fn peer(&self, netns: u64, socket: &Socket, end: (FlowKey, bool)) -> Workload {
        match self.owners.get(&end) {
            Some(&cgroup) => Workload { cgroup, anchor: cgroup },
            None => {
                let (addr, port) = (&socket.remote, socket.remote_port);
                endpoint::receiver(&self.policy, netns, addr, port, socket.protocol)
            }
        }
    }

    fn tabled(&self, key: &FlowKey) -> Option<FlowState> {
        self.reader.maps().flows.get(key).ok().flatten().filter(|flow| flow.tag == key.tag())
    }
}

/// What a map holds for a socket.
fn stored<T: FromBytes>(socket: &Socket, map: u32) -> Option<T> {
    let (_, bytes) = socket.storages.iter().find(|(id, _)| *id == map)?;
    T::read_from_bytes(bytes).ok()
}

fn is_connected(socket: &Socket) -> bool {
    socket.remote_port != 0 && ![State::TIME_WAIT, State::SYN_RECEIVED].contains(&socket.state)
}

fn key(netns: u64, socket: &Socket) -> (FlowKey, bool) {
    let (local, remote) = ((socket.local, socket.local_port), (socket.remote, socket.remote_port));
    FlowKey::new(local, remote, socket.protocol, netns)
}
