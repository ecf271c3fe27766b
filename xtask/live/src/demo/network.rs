//! The stage: six machines on one switch, on two nodes with an agent each, and in every
//! machine one process with sockets.
//!
//! A node is a cgroup subtree. Everything made here is removed when the values are dropped: processes
//! first, then enforcement, cgroups and namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use bulkhead_tests::harness::{Agent, Cgroup, Kind, Peer, Serve, Socket, Topology};

/// A machine of the shop.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) node: usize,
    pub(crate) cgroup: &'static str,
    v4: &'static str,
    v6: &'static str,
    /// What it serves.
    serves: &'static [(Kind, u16)],
}

const TCP: Kind = Kind::Tcp;
const UDP: Kind = Kind::Udp;

/// Everybody. What is served is served on both families, also where nobody is allowed to come.
pub(crate) const MACHINES: [Machine; 6] = [
    Machine {
        name: "web",
        node: 0,
        cgroup: "shop.slice/web.service",
        v4: "10.20.1.10/24",
        v6: "fd00:20:1::10/64",
        serves: &[(TCP, 8080), (UDP, 9000)],
    },
    Machine {
        name: "api",
        node: 0,
        cgroup: "shop.slice/api.service",
        v4: "10.20.2.10/24",
        v6: "fd00:20:2::10/64",
        serves: &[(TCP, 8080), (TCP, 9100), (TCP, 9101), (UDP, 9000)],
    },
    Machine {
        name: "db",
        node: 0,
        cgroup: "shop.slice/db.service",
        v4: "10.20.3.10/24",
        v6: "fd00:20:3::10/64",
        serves: &[(TCP, 5432), (TCP, 22), (UDP, 9125)],
    },
    Machine {
        name: "intruder",
        node: 0,
        cgroup: "user.slice/intruder.scope",
        v4: "10.20.9.66/24",
        v6: "fd00:20:9::66/64",
        serves: &[(TCP, 4444)],
    },
    Machine {
        name: "web-2",
        node: 1,
        cgroup: "shop.slice/web.service",
        v4: "10.20.1.20/24",
        v6: "fd00:20:1::20/64",
        serves: &[(TCP, 11211)],
    },
    Machine {
        name: "outside",
        node: 1,
        cgroup: "user.slice/resolver.scope",
        v4: "10.20.8.53/24",
        v6: "fd00:20:8::53/64",
        serves: &[(UDP, 53)],
    },
];

/// What the nodes are called.
pub(crate) const NODES: [&str; 2] = ["node-a", "node-b"];

/// All of it. The order of the fields is the order in which they go.
pub(crate) struct Network {
    peers: BTreeMap<&'static str, Peer>,
    servers: BTreeMap<(&'static str, bool, u8, u16), Socket>,
    cgroups: Vec<Cgroup>,
    roots: Vec<Cgroup>,
    agents: Cgroup,
    _top: Cgroup,
    topology: Topology,
}

impl Network {
    /// Machines, cgroups, and everybody serving; no agent yet.
    pub(crate) fn build() -> Result<Network> {
        let addresses = MACHINES.map(|machine| [machine.v4, machine.v6]);
        let hosts: Vec<_> =
            MACHINES.iter().zip(&addresses).map(|(machine, ends)| (machine.name, &ends[..])).collect();
        let topology = Topology::flat(&hosts)?;
        let top = Cgroup::new("demo")?;
        let roots = NODES.iter().map(|name| top.child(name)).collect::<Result<Vec<_>>>()?;
        let mut network = Network {
            peers: BTreeMap::new(),
            servers: BTreeMap::new(),
            cgroups: Vec::new(),
            agents: top.child("agents")?,
            roots,
            _top: top,
            topology,
        };
        for machine in &MACHINES {
            network.people(machine)?;
        }
        Ok(network)
    }

    /// The process of a machine.
    pub(crate) fn peer(&self, machine: &str) -> Result<&Peer> {
        self.peers.get(machine).with_context(|| format!("nobody is called {machine}"))
    }

    /// A listening socket, so that it can be asked what arrived.
    pub(crate) fn server(&self, machine: &'static str, v6: bool, kind: Kind, port: u16) -> Option<&Socket> {
        self.servers.get(&(machine, v6, number(kind), port))
    }

    /// The cgroup subtree of a node.
    pub(crate) fn root(&self, node: usize) -> Result<&Cgroup> {
        self.roots.get(node).context("there is no such node")
    }

    /// Puts an agent's process where a later run finds it, should nobody else be left to end it.
    pub(crate) fn adopt(&self, agent: &Agent) -> Result<()> {
        agent.pid().map_or(Ok(()), |pid| self.agents.add(pid))
    }

    /// Name of a machine's network namespace, for `ip netns exec`.
    pub(crate) fn namespace(&self, machine: &str) -> Result<&str> {
        Ok(self.topology.ns(machine)?.name())
    }

    fn people(&mut self, machine: &Machine) -> Result<()> {
        let cgroup = self.root(machine.node)?.child(machine.cgroup)?;
        let peer = Peer::spawn(Some(self.topology.ns(machine.name)?), Some(&cgroup))?;
        for v6 in [false, true] {
            for &(kind, port) in machine.serves {
                let socket =
                    peer.listen(kind, SocketAddr::new(address(machine.name, v6)?, port), Serve::Echo)?;
                self.servers.insert((machine.name, v6, number(kind), port), socket);
            }
        }
        self.peers.insert(machine.name, peer);
        self.cgroups.push(cgroup);
        Ok(())
    }
}

/// A machine by its name.
pub(crate) fn machine(name: &str) -> Result<&'static Machine> {
    MACHINES.iter().find(|machine| machine.name == name).with_context(|| format!("nobody is called {name}"))
}

/// The address of a machine.
pub(crate) fn address(machine: &str, v6: bool) -> Result<IpAddr> {
    let machine = self::machine(machine)?;
    let text = if v6 { machine.v6 } else { machine.v4 };
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    Ok(address.parse()?)
}

/// Copies the zone files of a folder, so that they can be edited.
pub(crate) fn copy_policies(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn number(kind: Kind) -> u8 {
    match kind {
        Kind::Tcp | Kind::Mptcp => 6,
        Kind::Udp => 17,
        Kind::Raw(number) => number,
        Kind::Ping => 1,
        // Below IP: of no protocol.
        Kind::Packet => 255,
    }
}
