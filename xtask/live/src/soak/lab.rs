//! The network, the server, the clients and the agent of the run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bulkhead_tests::harness::{Agent, Cgroup, Kind, Ns, Peer, Serve, Topology, wait_until};

use crate::figures::{self, Figures};
use crate::interrupt::Interrupt;
use crate::policy::{ALWAYS, FIRST, NEVER, Policy, SECOND, server as address};
use crate::witness::Witness;

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A flow of datagrams that was answered is forgotten after three minutes, and the agent looks once in a
/// while.
const EXPIRY: Duration = Duration::from_secs(300);

/// Dropped from the top: processes, then the agent, then what they live in.
pub(crate) struct Lab {
    /// Sees what happens.
    pub(crate) witness: Arc<Witness>,
    /// Clients.
    pub(crate) clients: Vec<Client>,
    pub(crate) agent: Agent,
    /// What is in force, or will be once an agent runs.
    pub(crate) policy: Policy,
    /// Workloads that come and go live below it.
    pub(crate) churn: Cgroup,
    _cgroups: Vec<Cgroup>,
    _root: Cgroup,
    net: Arc<Topology>,
}

/// Who asks.
#[derive(Clone)]
pub(crate) struct Client {
    /// Its host.
    pub(crate) host: &'static str,
    pub(crate) peer: Arc<Peer>,
    /// Whether it has IPv6.
    pub(crate) v6: bool,
}

impl Lab {
    /// Everything, with the first policy in force.
    pub(crate) fn new() -> Result<Lab> {
        let net = Topology::routed(&[
            ("one", &["10.61.1.1/24"]),
            ("two", &["10.61.2.2/24"]),
            ("three", &["10.61.3.3/24", "fd00:61:3::3/64"]),
            ("server", &["10.61.9.9/24", "fd00:61:9::9/64"]),
        ])?;
        let root = Cgroup::new("soak")?;
        let names = ["one", "two", "three", "server"];
        let cgroups = names.iter().map(|name| root.child(name)).collect::<Result<Vec<_>>>()?;
        let churn = root.child("churn")?;
        // Datagrams of each attempt have a port of their own, and an entry for three minutes.
        let setup = Agent::prepare(&root, &Policy::A.text()).in_ns(net.ns("router")?);
        let setup = setup.flag("--flow-capacity=1000000").flag("--guard-interfaces=port*");
        let agent = setup.log_level("info").start()?;
        let mut peers = Vec::new();
        for (host, cgroup) in names.into_iter().zip(&cgroups) {
            let peer = Peer::spawn(Some(net.ns(host)?), Some(cgroup))?;
            yield_to_agents(&peer)?;
            peers.push(Client { host, peer: Arc::new(peer), v6: host == "three" });
        }
        let Some(Client { peer: server, .. }) = peers.pop() else { anyhow::bail!("a lab without a server") };
        let mut echoes = Vec::new();
        for port in [ALWAYS, FIRST, SECOND, NEVER] {
            for v6 in [false, true] {
                server.listen(Kind::Tcp, address(v6, port), Serve::Echo)?;
                echoes.push(server.listen(Kind::Udp, address(v6, port), Serve::Echo)?);
            }
        }
        let net = Arc::new(net);
        let witness = Arc::new(Witness::new(&agent, Arc::clone(&net), server, echoes)?);
        let policy = Policy::A;
        Ok(Lab { witness, clients: peers, agent, policy, churn, _cgroups: cgroups, _root: root, net })
    }

    /// The namespace of the node, through which all packets go.
    pub(crate) fn router(&self) -> Result<&Ns> {
        self.net.ns("router")
    }

    /// The figures when everything that expires has expired, and of an agent that started then: how much
    /// memory an agent keeps depends on how much there was to read at its start.
    pub(crate) fn at_rest(&mut self, interrupt: &Interrupt) -> Result<Figures> {
        let idle = || interrupt.came() || Figures::take(self).is_ok_and(|now| now.is_idle());
        // What is left is in the figures.
        let _ = wait_until(EXPIRY, "idle flows have expired", idle);
        interrupt.check()?;
        self.renew()?;
        self.settle()?;
        Figures::take(self)
    }

    /// A fresh agent, with the first policy in force.
    fn renew(&mut self) -> Result<()> {
        self.agent.terminate()?;
        self.agent.restart()?;
        self.policy = Policy::A;
        self.agent.apply(&Policy::A.text())
    }

    /// Waits until the agent's memory has come to rest.
    fn settle(&self) -> Result<()> {
        let mut last = (figures::rss(&self.agent), Instant::now());
        wait_until(LONG, "the agent's memory is at rest", || {
            let now = figures::rss(&self.agent);
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_secs(2)
        })
        .or(Ok(()))
    }
}

/// A load that takes every processor must not keep an agent from starting: on a host, it would have more of
/// them. The threads of a peer's calls inherit it.
fn yield_to_agents(peer: &Peer) -> Result<()> {
    const NICE: i32 = 10;
    let pid = i32::try_from(peer.pid()).ok().and_then(rustix::process::Pid::from_raw);
    Ok(rustix::process::setpriority_process(pid, NICE)?)
}
