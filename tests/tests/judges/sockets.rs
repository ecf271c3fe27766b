//! Real sockets under generated policies: what the oracle allows arrives, and nothing else does, also
//! after the policy has changed under a live flow.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_abi::{Accept, Addr, LocalAddress, Protocol, Verdict};
use bulkhead_datapath::{Datapath, Features, Options};
use bulkhead_policy::testing::CGROUPS;
use bulkhead_policy::{Endpoint, Flow};
use bulkhead_sys::netns::NetNs;
use bulkhead_tests::harness::{
    Called, Cgroup, Dial, Exchanged, Kind, Peer, Pending, Serve, Socket, Topology,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::cases::Source;
use crate::policy::{Asked, Policy};
use crate::{require_programs, told};

const POLICIES: u64 = 12;
const FLOWS: usize = 28;
/// So many flows must be refused for their bytes, or more policies are drawn.
const REFUSED: usize = 5;
/// How long is waited for what must arrive, on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// How long is waited for what must not.
const SHORT: Duration = Duration::from_millis(150);

const WORKLOADS: [&str; 4] = ["a/b", "a/b/c", "d/b.service", "e"];
const PORTS: [u16; 5] = [53, 80, 0x0800, 0x8000, 9000];

#[test]
fn real_sockets_agree_with_the_oracle() {
    require_programs!();
    let features = Features::probe().unwrap();
    let [allowed, denied, switched, refused] = hold_against_the_oracle(features, POLICIES);
    assert!(allowed > 60 && denied > 60 && switched > 60, "{allowed} {denied} {switched}");
    assert!(refused > REFUSED, "{refused}");
}

/// The same as on a kernel before 6.15.
#[test]
fn real_sockets_agree_where_storage_tells_the_namespace() {
    require_programs!();
    let features = Features { netns_cookie: false, ..Features::probe().unwrap() };
    let [allowed, denied, switched, _] = hold_against_the_oracle(features, 4);
    assert!(allowed > 20 && denied > 20 && switched > 20, "{allowed} {denied} {switched}");
}

/// How many flows were allowed, were denied, and met another policy, and how many of these were refused
/// for what was said in them.
fn hold_against_the_oracle(features: Features, policies: u64) -> [usize; 4] {
    let seed = told("BULKHEAD_SEED", 3);
    println!("seed {seed}; another seed by BULKHEAD_SEED");
    let mut field = Field::new(features);
    let mut source = Source::new(seed, |path| field.cgroups[path].id().unwrap());
    let mut live: Vec<Talk> = Vec::new();
    let (mut allowed, mut denied, mut switched, mut refused) = (0, 0, 0, 0);
    for number in 0..policies * 4 {
        // Few rules look at bytes, and which ports are free differs from run to run.
        if number >= policies && refused > REFUSED {
            break;
        }
        let policy = source.draw(5, 8, 0).policy;
        field.datapath.as_mut().unwrap().commit(&policy.image).unwrap();
        switched += live.len();
        for (talk, answer) in field.ask_all(std::mem::take(&mut live), &policy) {
            refused += usize::from(talk.is_refused(&policy));
            let context = || format!("seed {seed}, policy {number}, begun before: {answer:?} {talk:#?}");
            assert_eq!(answer.is_ok(), talk.expected(&policy), "{}", context());
            field.close(talk);
        }
        for _ in 0..FLOWS {
            let plan = source.sample(plans());
            let held: Vec<_> = live.iter().map(|talk| (talk.flow.protocol, talk.flow.port)).collect();
            let mut talk = field.listen(plan, &held);
            let answer = field.open(&mut talk, &policy);
            refused += usize::from(talk.is_refused(&policy));
            let context = || format!("seed {seed}, policy {number}: {answer:?} {talk:#?}");
            assert_eq!(answer.is_ok(), talk.expected(&policy), "{}", context());
            if answer.is_ok() {
                allowed += 1;
                live.push(talk);
            } else {
                denied += 1;
                field.close(talk);
            }
        }
    }
    println!("{allowed} allowed, {denied} denied, {switched} met another policy, {refused} for their bytes");
    [allowed, denied, switched, refused]
}

/// A flow to be tried: host and workload of both ends.
#[derive(Clone, Debug)]
struct Plan {
    client: (usize, usize),
    server: (usize, usize),
    v6: bool,
    transport: Transport,
    addresses: (usize, usize),
    port: u16,
    any: bool,
    mapped: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    ConnectedUdp,
    Udp,
}

fn plans() -> impl Strategy<Value = Plan> {
    let end = || (0..2usize, 0..WORKLOADS.len());
    let transports = vec![Transport::Tcp, Transport::Tcp, Transport::ConnectedUdp, Transport::Udp];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (end(), end(), select(transports), (0..3usize, 0..3usize), select(PORTS.to_vec()), flags).prop_map(
        |(client, server, transport, addresses, port, (v6, any, mapped))| Plan {
            client,
            server,
            v6,
            transport,
            addresses,
            port,
            any,
            mapped,
        },
    )
}

/// A flow between two sockets.
#[derive(Debug)]
struct Talk {
    plan: Plan,
    flow: Flow,
    to: SocketAddr,
    from: SocketAddr,
    listener: Socket,
    socket: Option<Socket>,
}

impl Talk {
    /// Whether an answer comes: nobody refuses the flow, nor what is said in it.
    fn expected(&self, policy: &Policy) -> bool {
        self.is_allowed(policy) && !policy.refuses(&self.flow, Accept::UNKNOWN)
    }

    /// Whether it is its bytes that are refused.
    fn is_refused(&self, policy: &Policy) -> bool {
        self.is_allowed(policy) && policy.refuses(&self.flow, Accept::UNKNOWN)
    }

    fn is_allowed(&self, policy: &Policy) -> bool {
        policy.decide(&self.flow, Asked::Both).verdict() != Verdict::Deny
    }

    fn limit(&self, policy: &Policy) -> Duration {
        if self.expected(policy) { LONG } else { SHORT }
    }
}

/// Two hosts with four workloads each, under programs of our own.
struct Field {
    datapath: Option<Datapath>,
    peers: Vec<Vec<Peer>>,
    cgroups: BTreeMap<&'static str, Cgroup>,
    _net: Topology,
    pins: PathBuf,
    _root: Cgroup,
}

/// Addresses of the hosts, from the space of the generated policies.
const HOSTS: [(&str, [u8; 3]); 2] = [("a", [1, 2, 3]), ("b", [8, 9, 10])];

impl Field {
    fn new(features: Features) -> Field {
        bulkhead_sys::mount::ensure_bpffs().unwrap();
        let root = Cgroup::new("sockets").unwrap();
        let below = CGROUPS.iter().filter(|(_, path)| !path.is_empty());
        let node = root.child("node").unwrap();
        let mut cgroups: BTreeMap<&'static str, Cgroup> =
            below.map(|(_, path)| (*path, node.child(path).unwrap())).collect();
        cgroups.insert("", node);
        let addresses = HOSTS
            .map(|(_, hosts)| hosts.map(|n| [format!("10.0.0.{n}/28"), format!("fd00::{n:x}/124")]).concat());
        let [a, b] = addresses.each_ref().map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
        let net = Topology::flat(&[("a", &a), ("b", &b)]).unwrap();
        let peers = HOSTS.iter().map(|(host, _)| {
            let ns = net.ns(host).unwrap();
            WORKLOADS.iter().map(|path| Peer::spawn(Some(ns), Some(&cgroups[path])).unwrap()).collect()
        });
        let peers = peers.collect();
        let pins = Path::new(bulkhead_sys::mount::BPFFS).join(format!("bh-sockets-{}", std::process::id()));
        let options = Options {
            pins: &pins,
            cgroup_root: root.path(),
            audit: false,
            failsafe: &[],
            flow_capacity: 4096,
            guard_mark: 0xffff_0000,
            object: None,
        };
        let (mut datapath, _) = Datapath::open_with(&options, features).unwrap();
        let mut field = Field { datapath: None, peers, cgroups, _net: net, pins: pins.clone(), _root: root };
        datapath.attach().unwrap();
        datapath.begin_enforcement().unwrap();
        let mut locals = Vec::new();
        for (host, (name, numbers)) in HOSTS.iter().enumerate() {
            let path = field._net.ns(name).unwrap().path();
            let netns = NetNs::open(&path).unwrap().cookie().unwrap();
            for index in 0..numbers.len() {
                for v6 in [false, true] {
                    let addr = abi(address(host, index, v6));
                    locals.push((addr, LocalAddress { addr, netns }));
                }
            }
        }
        datapath.reader().maps().locals.set_all(&locals).unwrap();
        field.datapath = Some(datapath);
        field
    }

    /// The receiver, bound after the programs were attached.
    fn listen(&self, plan: Plan, held: &[(Protocol, u16)]) -> Talk {
        let loopback = plan.client.0 == plan.server.0 && plan.addresses.0 == plan.addresses.1;
        let [from, to] = if loopback {
            [lo(plan.v6); 2]
        } else {
            [
                address(plan.client.0, plan.addresses.0, plan.v6),
                address(plan.server.0, plan.addresses.1, plan.v6),
            ]
        };
        let protocol = if plan.transport == Transport::Tcp { Protocol::TCP } else { Protocol::UDP };
        let server = &self.peers[plan.server.0][plan.server.1];
        let any: IpAddr = if plan.v6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
        // UDP answers from the address that was asked only where it is bound to it.
        let bind = if plan.any && protocol == Protocol::TCP { any } else { to };
        let kind = if protocol == Protocol::TCP { Kind::Tcp } else { Kind::Udp };
        // Peers share UDP ports where they can, and then the last one gets what was meant for the first:
        // a port that a flow still holds is replaced by a free one.
        let port = if held.contains(&(protocol, plan.port)) { 0 } else { plan.port };
        // So is one that connections of an earlier flow still hold.
        let listen = |port| server.listen(kind, SocketAddr::new(bind, port), Serve::Echo);
        let listener = listen(port).or_else(|_| listen(0)).unwrap();
        let port = listener.local.port();
        let end =
            |addr, workload: usize| Endpoint { addr: abi(addr), cgroup: Some(WORKLOADS[workload].into()) };
        let flow = Flow {
            from: end(from, plan.client.1),
            to: end(to, plan.server.1),
            protocol,
            port,
            guarded: false,
        };
        let (to, from) = (SocketAddr::new(to, port), SocketAddr::new(from, 0));
        Talk { plan, flow, to, from, listener, socket: None }
    }

    /// Opens the flow, and asks a question that wants an answer.
    fn open(&self, talk: &mut Talk, policy: &Policy) -> Called<Exchanged> {
        let client = &self.peers[talk.plan.client.0][talk.plan.client.1];
        let limit = talk.limit(policy);
        let dial = |dial: Dial| {
            let dial = dial.from(talk.from).within(limit);
            client.connect(&if talk.plan.mapped { dial.v6_socket() } else { dial })
        };
        let socket = match talk.plan.transport {
            Transport::Tcp => dial(Dial::tcp(talk.to)),
            Transport::ConnectedUdp => dial(Dial::udp(talk.to)),
            Transport::Udp => client.open(Kind::Udp, Some(talk.from), talk.plan.mapped),
        };
        talk.socket = Some(socket?);
        self.ask(talk, policy).wait()
    }

    /// Asks once more on every live flow, all at the same time.
    fn ask_all(&self, talks: Vec<Talk>, policy: &Policy) -> Vec<(Talk, Called<Exchanged>)> {
        let asked: Vec<_> = talks.into_iter().map(|talk| (self.ask(&talk, policy), talk)).collect();
        asked.into_iter().map(|(answer, talk)| (talk, answer.wait())).collect()
    }

    fn ask(&self, talk: &Talk, policy: &Policy) -> Pending<Exchanged> {
        let client = &self.peers[talk.plan.client.0][talk.plan.client.1];
        let to = (talk.plan.transport == Transport::Udp).then_some(talk.to);
        client.begin_exchange(talk.socket.as_ref().unwrap(), to, 1, 32, talk.limit(policy))
    }

    fn close(&self, talk: Talk) {
        let client = &self.peers[talk.plan.client.0][talk.plan.client.1];
        if let Some(socket) = &talk.socket {
            let reset = talk.plan.transport == Transport::Tcp;
            let _ = if reset { client.reset(socket) } else { client.close(socket) };
        }
        let _ = self.peers[talk.plan.server.0][talk.plan.server.1].close(&talk.listener);
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        self.datapath = None;
        let _ = bulkhead_datapath::detach(&self.pins);
        // Peers go before their cgroups and namespaces.
        self.peers.clear();
    }
}

fn address(host: usize, index: usize, v6: bool) -> IpAddr {
    let n = HOSTS[host].1[index];
    if v6 { format!("fd00::{n:x}").parse().unwrap() } else { IpAddr::from([10, 0, 0, n]) }
}

fn lo(v6: bool) -> IpAddr {
    if v6 { "::1".parse().unwrap() } else { IpAddr::from([127, 0, 0, 1]) }
}

fn abi(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(addr) => Addr::v4(addr.octets()),
        IpAddr::V6(addr) => Addr::from_octets(addr.octets()),
    }
}
