//! A client and a server, with one rule between them, and what is counted.

use std::time::Duration;

use bulkhead_tests::harness::{Agent, Cgroup, Counters, Pair, Peer, Topology, wait_until};

/// Limit for what must come, however busy the machine is.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How long nothing is waited for.
pub(crate) const NOTHING: Duration = Duration::from_millis(300);

/// Two peers in namespaces of their own; the client at 10.77.0.1, the server at 10.77.0.2.
pub(crate) struct Lab {
    pub(crate) client: Peer,
    pub(crate) server: Peer,
    cgroups: Vec<Cgroup>,
    pub(crate) pair: Topology,
    pub(crate) root: Cgroup,
    _elsewhere: Option<Cgroup>,
    zones: &'static str,
}

impl Lab {
    /// Both ends on one node.
    pub(crate) fn one_node() -> Lab {
        Lab::new(None, "[zone.client]\ncgroups = [\"client\"]\n[zone.server]\ncgroups = [\"server\"]\n")
    }

    /// No agent at the client's.
    pub(crate) fn receiver_alone() -> Lab {
        let zones = "[zone.client]\ncidrs = [\"10.77.0.1/32\"]\n[zone.server]\ncgroups = [\"server\"]\n";
        Lab::new(Some("client"), zones)
    }

    /// No agent at the server's.
    pub(crate) fn sender_alone() -> Lab {
        let zones = "[zone.client]\ncgroups = [\"client\"]\n[zone.server]\ncidrs = [\"10.77.0.2/32\"]\n";
        Lab::new(Some("server"), zones)
    }

    fn new(out: Option<&str>, zones: &'static str) -> Lab {
        let pair = Topology::pair().unwrap();
        let root = Cgroup::new("node").unwrap();
        let elsewhere = out.map(|_| Cgroup::new("elsewhere").unwrap());
        let place = |name| elsewhere.as_ref().filter(|_| out == Some(name)).unwrap_or(&root);
        let [client, server] = ["client", "server"].map(|name| place(name).child(name).unwrap());
        Lab {
            client: Peer::spawn(Some(pair.ns("a").unwrap()), Some(&client)).unwrap(),
            server: Peer::spawn(Some(pair.ns("b").unwrap()), Some(&server)).unwrap(),
            cgroups: vec![client, server],
            pair,
            root,
            _elsewhere: elsewhere,
            zones,
        }
    }

    /// The cgroups of client and server.
    pub(crate) fn cgroups(&self) -> [&std::path::Path; 2] {
        [0, 1].map(|at| self.cgroups[at].path())
    }

    /// Ports 7000 to 7999 are open, encrypted as `level` says.
    pub(crate) fn policy(&self, level: &str) -> String {
        format!(
            "{}[[allow]]\nfrom = \"client\"\nto = \"server\"\n\
             ports = [\"tcp/7000-7999\", \"udp/7000-7999\"]\ntls = \"{level}\"\n",
            self.zones
        )
    }

    pub(crate) fn agent(&self, level: &str) -> Agent {
        Agent::start(&self.root, &self.policy(level)).unwrap()
    }
}

/// That this counter moved by so many flows since, and by no more.
pub(crate) fn counted(agent: &Agent, before: &Counters, verdict: &str, reason: &str, flows: u64) {
    let pair = Pair::new("client", "server", verdict, reason);
    let moved = || agent.counters().unwrap().since(before).get(&pair).flows;
    wait_until(SOON, "it is counted", || moved() >= flows).unwrap();
    std::thread::sleep(NOTHING);
    assert_eq!(moved(), flows, "counted once");
}
