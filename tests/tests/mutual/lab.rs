//! Two namespaces on one wire, `web` and `db`, with a node around each or one node around both.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead::control::protocol::ProxyView;
use bulkhead::control::{Reply, Request};
use bulkhead::proxy::view::Certificate;
use bulkhead::proxy::wire::Record;
use bulkhead_tests::harness::{
    Agent, Authority, Cgroup, Launch, Ns, Pair, Peer, Program, Said, Topology, wait_until,
};

/// Limit for what must come, however busy the machine is.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) const WEB: &str = "10.77.0.1";
pub(crate) const DB: &str = "10.77.0.2";
pub(crate) const WEB6: &str = "fd00:77::1";
pub(crate) const DB6: &str = "fd00:77::2";

pub(crate) const ZONES: &str = "[zone.web]\ncidrs = [\"10.77.0.1/32\", \"fd00:77::1/128\"]\n\
                                [zone.db]\ncidrs = [\"10.77.0.2/32\", \"fd00:77::2/128\"]\n";

/// The nodes, their programs and their authority.
pub(crate) struct Lab {
    // In this order they end.
    /// Lives in `web`, so that the agent finds the namespace.
    pub(crate) web: Peer,
    /// In `db`.
    pub(crate) db: Peer,
    /// One, or that of `web` and that of `db`.
    pub(crate) agents: Vec<Agent>,
    pub(crate) wires: Topology,
    pub(crate) authority: Authority,
    /// Of the agents and of their programs.
    cgroups: Vec<Cgroup>,
    roots: Vec<Cgroup>,
}

/// `web` may open everything to `db`, over mutual TLS and with whatever else stands in the rule.
pub(crate) fn policy(more: &str) -> String {
    format!("{ZONES}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp\"]\ntls = \"mutual\"\n{more}\n")
}

impl Lab {
    /// A node around each.
    pub(crate) fn two_nodes() -> Lab {
        Lab::new(2, &policy(""))
    }

    /// One node around both.
    pub(crate) fn one_node(policy: &str) -> Lab {
        Lab::new(1, policy)
    }

    /// A node around `web`; what answers in `db` is a stranger.
    pub(crate) fn near_only(policy: &str) -> Lab {
        Lab::try_new(2, 1, policy).unwrap()
    }

    pub(crate) fn new(nodes: usize, policy: &str) -> Lab {
        Lab::try_new(nodes, nodes, policy).unwrap()
    }

    /// So many nodes, the first of them with agents.
    fn try_new(nodes: usize, with_agents: usize, policy: &str) -> Result<Lab> {
        let mut lab = Lab::bare(nodes, Topology::pair()?)?;
        for node in 0..with_agents {
            lab.start(node, policy, &lab.authority.config(node))?;
        }
        lab.wait_ready()?;
        Ok(lab)
    }

    /// So many nodes without agents, for `a` and `b` of these namespaces.
    pub(crate) fn bare(nodes: usize, wires: Topology) -> Result<Lab> {
        let authority = Authority::new(nodes)?;
        let roots = (0..nodes).map(|_| Cgroup::new("node")).collect::<Result<Vec<_>>>()?;
        let cgroups = vec![roots[0].child("web")?, roots[nodes - 1].child("db")?];
        let web = Peer::spawn(Some(wires.ns("a")?), Some(&cgroups[0]))?;
        let db = Peer::spawn(Some(wires.ns("b")?), Some(&cgroups[1]))?;
        Ok(Lab { web, db, agents: Vec::new(), wires, authority, cgroups, roots })
    }

    /// Starts the next node's agent, with this policy and configuration, and does not wait for its proxy.
    pub(crate) fn start(&mut self, node: usize, policy: &str, config: &str) -> Result<()> {
        self.start_in("enforce", node, policy, config)
    }

    /// The same, in a mode.
    pub(crate) fn start_in(&mut self, mode: &str, node: usize, policy: &str, config: &str) -> Result<()> {
        let own = self.roots[node].child("agent")?;
        let setup = Agent::prepare(&self.roots[node], policy).in_cgroup(&own).config(config);
        self.agents.push(setup.mode(mode).with_metrics().start()?);
        self.cgroups.push(own);
        Ok(())
    }

    /// A program on a node, in a namespace of the wires and in a cgroup of its own, which is in no zone.
    pub(crate) fn guest(&mut self, node: usize, cgroup: &str, ns: &str) -> Result<Peer> {
        let own = self.roots[node].child(cgroup)?;
        let peer = Peer::spawn(Some(self.wires.ns(ns)?), Some(&own))?;
        self.cgroups.push(own);
        Ok(peer)
    }

    /// Waits until every proxy listens where it has to, with a certificate for each who lives there.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let each = if self.roots.len() == 1 { 2 } else { 1 };
        for agent in &self.agents {
            wait_until(SOON, "the proxy is ready", || {
                let view = proxy(agent);
                view.running && view.namespaces == each && view.certificates >= each
            })
            .with_context(|| format!("it is {:?}:\n{}", proxy(agent), agent.log()))?;
        }
        Ok(())
    }

    /// The client's agent.
    pub(crate) fn near(&self) -> &Agent {
        &self.agents[0]
    }

    /// The server's.
    pub(crate) fn far(&self) -> &Agent {
        &self.agents[self.agents.len() - 1]
    }

    pub(crate) fn web_ns(&self) -> &Ns {
        self.wires.ns("a").unwrap()
    }

    pub(crate) fn db_ns(&self) -> &Ns {
        self.wires.ns("b").unwrap()
    }

    fn web_cgroup(&self) -> PathBuf {
        self.roots[0].path().join("web")
    }

    fn db_cgroup(&self) -> PathBuf {
        self.roots[self.roots.len() - 1].path().join("db")
    }

    /// Starts a server in `db`, and waits until it answers on these ports.
    pub(crate) fn serve(&self, launch: &Launch, ports: &[u16]) -> Program {
        let mut program = launch.start(self.db_ns(), &self.db_cgroup()).unwrap();
        for port in ports {
            let listens = || is_listening(self.db_ns(), *port);
            program.wait_until(SOON, listens).unwrap();
        }
        program
    }

    /// A client in `web`, to its end.
    pub(crate) fn ask(&self, launch: &Launch) -> Said {
        launch.run(self.web_ns(), &self.web_cgroup(), SOON).unwrap()
    }

    /// The same, and it goes on.
    pub(crate) fn begin(&self, launch: &Launch) -> Program {
        launch.start(self.web_ns(), &self.web_cgroup()).unwrap()
    }

    /// A program in the server's namespace and cgroup, to its end.
    pub(crate) fn ask_beside(&self, launch: &Launch) -> Said {
        launch.run(self.db_ns(), &self.db_cgroup(), SOON).unwrap()
    }

    /// Waits until the proxies' metrics hold such a line, of one agent.
    pub(crate) fn wait_metric(agent: &Agent, parts: &[&str]) -> f64 {
        let mut found = None;
        let waited = wait_until(SOON, &format!("{parts:?} is counted"), || {
            found = metric(&agent.metrics().unwrap_or_default(), parts);
            found.is_some_and(|value| value > 0.0)
        });
        let proxys = || {
            let all = agent.metrics().unwrap_or_default();
            all.lines().filter(|line| line.starts_with("bulkhead_proxy")).collect::<Vec<_>>().join("\n")
        };
        assert!(waited.is_ok(), "no {parts:?} in\n{}", proxys());
        found.unwrap()
    }

    /// Waits until such flows were counted by the kernel.
    pub(crate) fn wait_counted(agent: &Agent, pair: &Pair) -> u64 {
        let flows = || agent.counters().map(|counters| counters.get(pair).flows).unwrap_or_default();
        let waited = wait_until(SOON, "the kernel counted it", || flows() > 0);
        assert!(waited.is_ok(), "no {pair}, but {:?}", agent.counters());
        flows()
    }
}

/// Whether somebody in a namespace listens on a TCP port.
fn is_listening(ns: &Ns, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    let listens = |table: &str| {
        fs::read_to_string(table).is_ok_and(|text| {
            text.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next().is_some_and(|at| at.ends_with(&wanted)) && words.nth(1) == Some("0A")
            })
        })
    };
    ns.enter(|| {
        ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].iter().any(|table| listens(table))
    })
    .unwrap_or(false)
}

/// The value of the first metric whose line holds all of `parts`.
pub(crate) fn metric(text: &str, parts: &[&str]) -> Option<f64> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = lines.find(|line| parts.iter().all(|part| line.contains(part)))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// How an agent's proxy is.
pub(crate) fn proxy(agent: &Agent) -> ProxyView {
    agent.status().ok().and_then(|status| status.proxy).unwrap_or_default()
}

/// `bulkhead proxy connections`.
pub(crate) fn connections(agent: &Agent) -> Vec<Record> {
    let replies = agent.ask(&Request::ProxyConnections).unwrap();
    replies
        .into_iter()
        .filter_map(|r| if let Reply::ProxyConnection(one) = r { Some(*one) } else { None })
        .collect()
}

/// `bulkhead proxy certs`.
pub(crate) fn certificates(agent: &Agent) -> Vec<Certificate> {
    let replies = agent.ask(&Request::ProxyCertificates).unwrap();
    replies
        .into_iter()
        .filter_map(|r| if let Reply::ProxyCertificate(one) = r { Some(*one) } else { None })
        .collect()
}

/// `bulkhead proxy trace`: those that ended or were refused.
pub(crate) fn traced(agent: &Agent) -> Vec<Record> {
    let replies = agent.ask(&Request::ProxyTrace { after: 0 }).unwrap();
    let record = |r| if let Reply::ProxyTraced { record, .. } = r { Some(*record) } else { None };
    replies.into_iter().filter_map(record).collect()
}

/// Waits for a record in the trace.
pub(crate) fn wait_traced(agent: &Agent, what: &str, matches: impl Fn(&Record) -> bool) -> Record {
    let mut found = None;
    let waited = wait_until(SOON, what, || {
        found = traced(agent).into_iter().find(|record| matches(record));
        found.is_some()
    });
    assert!(waited.is_ok(), "not traced: {what}, but {:#?}", traced(agent));
    found.unwrap()
}

/// A script of this suite, by the project's Python.
pub(crate) fn python(script: &str) -> Launch {
    let python = std::env::var("BULKHEAD_PYTHON").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    Launch::new([python, script.to_string_lossy().into_owned()])
}

/// Both families, by the server's address and the client's.
pub(crate) const FAMILIES: [(&str, &str); 2] = [(DB, WEB), (DB6, WEB6)];

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}
