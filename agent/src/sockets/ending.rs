//! Ending sockets whose flow is denied, so that their programs see an error and not silence.
//!
//! The kernel lists those that it met (a packet was dropped). After a policy change the idle ones are
//! found by looking at every socket, judged with the kernel's own tables. Always by cookie: a tuple may
//! have been given to somebody else since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::AsFd as _;

use bulkhead_abi::{
    Addr, FlowKey, FlowState, Protocol, Reason, RoleKind, Side, SocketFlow, SocketRole, Verdict, Workload,
    flow::Doomed,
};
use bulkhead_core::{
    endpoint,
    inspect::Ruling,
    judge::{self, Decision, Question, Sides},
    tables::Policy,
    track::parts,
};
use bulkhead_sys::sock_diag::{Destroyed, Diag, Query, Socket, State, Target};
use zerocopy::FromBytes;

use bulkhead_policy::Image;

use super::namespaces::Namespaces;
use crate::datapath::{DatapathError, Reader};

/// Ends sockets, and counts them.
#[derive(Debug, Default)]
pub(super) struct Ending {
    ended: BTreeMap<Reason, u64>,
}

impl Ending {
    /// How many were ended so far, by reason.
    pub(super) fn counts(&self) -> Vec<(Reason, u64)> {
        self.ended.iter().map(|(&reason, &count)| (reason, count)).collect()
    }

    /// Ends those that the kernel has listed.
    pub(super) fn end_doomed(&mut self, reader: &Reader, namespaces: &mut Namespaces) {
        let sockets = reader.sockets();
        let doomed = &sockets.maps().doomed;
        let listed = match doomed.entries() {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "cannot read which sockets are to be ended");
                return;
            }
        };
        if listed.is_empty() {
            return;
        }
        self.end_listed(namespaces, &listed);
        let cookies: Vec<u64> = listed.iter().map(|(cookie, _)| *cookie).collect();
        if let Err(error) = doomed.remove_all(&cookies) {
            tracing::warn!(%error, "cannot clear the list of sockets to be ended");
        }
    }

    /// Ends these.
    pub(super) fn end_listed(&mut self, namespaces: &mut Namespaces, listed: &[(u64, Doomed)]) {
        let mut by_namespace: HashMap<u64, Vec<(Target, Reason)>> = HashMap::new();
        for (cookie, entry) in listed {
            let reason = Reason::from_code(entry.reason);
            by_namespace.entry(entry.netns).or_default().push((target(*cookie, entry), reason));
        }
        for (netns, targets) in by_namespace {
            // A namespace without a process of ours has no socket that could wait for an answer.
            if let Some(ns) = namespaces.open(netns) {
                match Diag::open(&ns) {
                    Ok(mut diag) => self.end(&mut diag, &targets),
                    Err(error) => tracing::warn!(%error, "cannot end sockets in a network namespace"),
                }
            }
        }
    }

    /// Ends every socket whose flow the live policy, `image`, denies.
    pub(super) fn end_denied(&mut self, reader: &Reader, namespaces: &mut Namespaces, image: &Image) {
        if let Err(error) = self.try_end_denied(reader, namespaces, Some(image), &HashSet::new()) {
            tracing::warn!(%error, "cannot look for idle connections that lost their right; their next packet is denied");
        }
    }

    /// Ends every socket whose other end was at one of these addresses, if the live policy would not let
    /// it open towards whoever is there now.
    pub(super) fn end_left(
        &mut self,
        reader: &Reader,
        namespaces: &mut Namespaces,
        left: &HashSet<Addr>,
    ) -> Result<(), DatapathError> {
        self.try_end_denied(reader, namespaces, None, left)
    }

    fn try_end_denied(
        &mut self,
        reader: &Reader,
        namespaces: &mut Namespaces,
        image: Option<&Image>,
        left: &HashSet<Addr>,
    ) -> Result<(), DatapathError> {
        let mut denied = look(reader, namespaces, left)?;
        // A flow moves from the table to its socket while both are read, one after the other, and is then
        // seen in neither. It is in one of them at the second look, or it is in none.
        if denied.iter().any(|denied| !denied.known) {
            let first: HashSet<u64> = denied.iter().map(|denied| denied.target.cookie).collect();
            denied = look(reader, namespaces, left)?;
            denied.retain(|denied| denied.known || first.contains(&denied.target.cookie));
        }
        if let Some(image) = image {
            tell(&denied, image);
        }
        let mut by_namespace: HashMap<u64, Vec<(Target, Reason)>> = HashMap::new();
        for Denied { netns, target, decision, .. } in denied {
            by_namespace.entry(netns).or_default().push((target, decision.reason));
        }
        for (netns, targets) in by_namespace {
            if let Some(ns) = namespaces.open(netns) {
                self.end(&mut Diag::open(&ns)?, &targets);
            }
        }
        Ok(())
    }

    fn end(&mut self, diag: &mut Diag, targets: &[(Target, Reason)]) {
        let wanted: Vec<Target> = targets.iter().map(|(target, _)| *target).collect();
        for (result, (target, reason)) in diag.destroy_all(&wanted).into_iter().zip(targets) {
            match result {
                Ok(Destroyed::Now) => {
                    *self.ended.entry(*reason).or_default() += 1;
                    tracing::debug!(cookie = target.cookie, reason = reason.as_str(), "ended a socket");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "cannot end a socket whose flow is denied"),
            }
        }
    }
}

/// A socket whose flow is denied.
struct Denied {
    netns: u64,
    target: Target,
    decision: Decision,
    /// Somebody, the socket or the table, knew who opened its flow.
    known: bool,
}

/// Says whose flows end, and by which rule; of very many, only the first.
fn tell(denied: &[Denied], image: &Image) {
    const LINES: usize = 32;
    for Denied { target, decision, .. } in denied.iter().take(LINES) {
        tracing::info!(
            from = image.label(decision.from),
            to = image.label(decision.to),
            protocol = target.protocol.0,
            reason = decision.reason.as_str(),
            rule = image.rules.get(&decision.rule).map(|rule| rule.label()),
            "a live flow lost its right"
        );
    }
    if let Some(more @ 1..) = denied.len().checked_sub(LINES) {
        tracing::info!(more, "more live flows lost their right");
    }
}

/// Looks at every connected socket for those whose flow the live policy denies; where addresses have
/// `left` their owners, at those alone whose other end was there, and not by who it was.
fn look(
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
            denied.push(Denied { netns: *netns, target: Target::from(socket), decision, known });
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
            // Who opened it is not known: it lives if either could have.
            None => Some(judge(true)).filter(denies).and(Some(judge(false)).filter(denies)),
        };
        let contradicts = || self.contradiction(&flow?, judge(opener?));
        denial.or_else(contradicts).map(|decision| (decision, opener.is_some()))
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

fn target(cookie: u64, doomed: &Doomed) -> Target {
    Target {
        protocol: Protocol(doomed.protocol),
        cookie,
        local: doomed.local,
        remote: doomed.remote,
        local_port: doomed.local_port,
        remote_port: doomed.remote_port,
        interface: 0,
    }
}
