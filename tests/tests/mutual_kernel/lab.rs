//! A client and a server in network namespaces of their own, on one node or on two.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_tests::harness::{
    Agent, Cgroup, Counters, Dial, Kind, Pair, Peer, Serve, Setup, Socket, Topology, wait_until,
};

use crate::toy::Toy;

/// Limit for what must come, however busy the machine is.
pub const SOON: Duration = Duration::from_secs(20);
/// How long nothing is waited for.
pub const NOTHING: Duration = Duration::from_millis(500);

/// Both families, by the server's address.
pub const SERVERS: [&str; 2] = ["10.77.0.2:7000", "[fd00:77::2]:7000"];
/// The client's addresses.
pub const CLIENTS: [&str; 2] = ["10.77.0.1", "fd00:77::1"];

const ZONES: &str = "[zone.client]\ncgroups = [\"client\"]\ncidrs = [\"10.77.0.1/32\", \"fd00:77::1/128\"]\n\
                     [zone.server]\ncgroups = [\"server\"]\ncidrs = [\"10.77.0.2/32\", \"fd00:77::2/128\"]\n";

pub struct Lab {
    // In this order they end.
    pub client: Peer,
    pub server: Peer,
    pub proxies: Vec<Cgroup>,
    _cgroups: Vec<Cgroup>,
    pub pair: Topology,
    /// One, or the client's and the server's.
    pub roots: Vec<Cgroup>,
    /// Sockets are made by moving this process between cgroups, which others must not notice.
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    pub fn one_node() -> Lab {
        Lab::new(1)
    }

    pub fn two_nodes() -> Lab {
        Lab::new(2)
    }

    fn new(nodes: usize) -> Lab {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = Topology::pair().unwrap();
        let roots: Vec<Cgroup> = (0..nodes).map(|_| Cgroup::new("node").unwrap()).collect();
        let client = roots[0].child("client").unwrap();
        let server = roots[nodes - 1].child("server").unwrap();
        Lab {
            client: Peer::spawn(Some(pair.ns("a").unwrap()), Some(&client)).unwrap(),
            server: Peer::spawn(Some(pair.ns("b").unwrap()), Some(&server)).unwrap(),
            proxies: roots.iter().map(|root| root.child("proxy").unwrap()).collect(),
            _cgroups: vec![client, server],
            pair,
            roots,
            _alone: alone,
        }
    }

    /// The agents of all nodes, under a policy of this level from client to server.
    pub fn agents(&self, tls: &str) -> Vec<Agent> {
        self.roots.iter().map(|root| prepare(root, &policy(tls)).start().unwrap()).collect()
    }

    pub fn prepare(&self, tls: &str) -> Setup {
        prepare(&self.roots[0], &policy(tls))
    }

    /// A proxy on every node.
    pub fn toys(&self, agents: &[Agent]) -> Vec<Toy> {
        let (a, b) = (self.pair.ns("a").unwrap(), self.pair.ns("b").unwrap());
        let places = if agents.len() == 1 { vec![vec![a, b]] } else { vec![vec![a], vec![b]] };
        let each = agents.iter().zip(&self.proxies).zip(&places);
        each.map(|((agent, cgroup), places)| Toy::start(agent, cgroup, places).unwrap()).collect()
    }

    pub fn listen(&self, at: &str) -> Socket {
        self.server.listen(Kind::Tcp, at.parse().unwrap(), Serve::Hold).unwrap()
    }

    pub fn dial(&self, to: &str) -> Dial {
        Dial::tcp(to.parse().unwrap())
    }

    /// A connection, and the server's end of it.
    pub fn connect(&self, listener: &Socket) -> (Socket, Socket) {
        let near = self.client.connect(&Dial::tcp(listener.local)).unwrap();
        (near, self.server.accept(listener, SOON).unwrap())
    }

    /// Clear text both ways.
    pub fn talk(&self, (near, far): &(Socket, Socket)) {
        self.client.send(near, b"a question", None).unwrap();
        assert_eq!(self.server.recv(far, SOON).unwrap().0, b"a question");
        self.server.send(far, b"an answer", None).unwrap();
        assert_eq!(self.client.recv(near, SOON).unwrap().0, b"an answer");
    }

    /// Nobody has come to a listener.
    pub fn nobody_came(&self, listener: &Socket) {
        std::thread::sleep(NOTHING);
        let accepted = self.server.accept(listener, Duration::from_millis(1));
        assert!(accepted.is_err(), "{accepted:?} came");
    }
}

/// A policy whose one rule has this level, or whatever else stands behind it.
pub fn policy(tls: &str) -> String {
    format!(
        "{ZONES}[[allow]]\nfrom = \"client\"\nto = \"server\"\nports = [\"tcp/7000-7999\"]\ntls = {tls}\n"
    )
}

pub const MUTUAL: &str = "\"mutual\"";

/// An agent that does not mind what a test tells the kernel of proxies: it is not the one who does.
pub fn prepare(root: &Cgroup, policy: &str) -> Setup {
    Agent::prepare(root, policy).flag("--verify-seconds=0")
}

/// Waits until flows from client to server were counted.
pub fn counted(agent: &Agent, before: &Counters, verdict: &str, reason: &str) {
    let pair = Pair::new("client", "server", verdict, reason);
    let moved = || agent.counters().unwrap().since(before).get(&pair).flows > 0;
    if wait_until(SOON, "it is counted", moved).is_err() {
        panic!("no {verdict}/{reason}, but {:?}", agent.counters().unwrap().since(before));
    }
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
