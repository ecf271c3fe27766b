//! Two nodes on a wire that can be bad: agents, proxies, certificates, and the two programs that talk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulkhead::control::protocol::ProxyView;
use bulkhead_tests::harness::{Agent, Authority, Cgroup, Launch, Ns, Peer, Program, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::notes::Reader;
use super::pressure::Pressure;
use super::wire::Wire;

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

const CLIENT: [&str; 2] = ["10.77.0.1/24", "10.77.0.1/32"];
const SERVER: [&str; 2] = ["10.77.0.2/24", "10.77.0.2/32"];
const PORT: &str = "10.77.0.2:7000";

/// The client's node and the server's.
pub(crate) const NODES: [&str; 2] = ["near", "far"];

/// Dropped from the top.
pub(crate) struct Site {
    pub(crate) name: &'static str,
    client: Option<Program>,
    server: Option<Program>,
    /// Somebody lives on each node also while no client runs, so that the agents serve its namespace.
    _tenants: Vec<Peer>,
    /// The near one and the far one.
    pub(crate) agents: Vec<Agent>,
    /// On the memory of each agent with its proxy.
    pub(crate) pressure: Vec<Pressure>,
    pub(crate) authority: Authority,
    pub(crate) wire: Wire,
    /// Of the agents.
    own: Vec<Cgroup>,
    /// Of the programs.
    homes: Vec<Cgroup>,
    _roots: Vec<Cgroup>,
    pub(crate) namespaces: Vec<Ns>,
    folder: TempDir,
    rounds: u32,
    /// What the programs tell.
    pub(crate) notes: Reader,
}

/// The rule of both nodes: the client may open this port at the server.
fn policy(port: u16) -> String {
    let [web, db] = [CLIENT[1], SERVER[1]];
    format!(
        "[zone.web]\ncidrs = [\"{web}\"]\n[zone.db]\ncidrs = [\"{db}\"]\n\
         [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/{port}\"]\ntls = \"mutual\"\n"
    )
}

impl Site {
    /// Everything up to the programs.
    pub(crate) fn new(name: &'static str) -> Result<Site> {
        let namespaces = NODES.iter().map(|node| Ns::new(node)).collect::<Result<Vec<_>>>()?;
        let [a, b] = namespaces.as_slice() else { anyhow::bail!("two namespaces") };
        let wire = Wire::between(a, b)?;
        for (ns, address) in [(a, CLIENT[0]), (b, SERVER[0])] {
            ns.ip(&format!("link set eth0 up\naddr add {address} dev eth0"))?;
        }
        let authority = Authority::new(NODES.len())?;
        let folder = tempfile::Builder::new().prefix("bh-soak-").tempdir()?;
        let roots = NODES.iter().map(|_| Cgroup::new(name)).collect::<Result<Vec<_>>>()?;
        let own = roots.iter().map(|root| root.child("agent")).collect::<Result<Vec<_>>>()?;
        let homes = roots.iter().map(|root| root.child("program")).collect::<Result<Vec<_>>>()?;
        let mut tenants = Vec::new();
        for (ns, home) in namespaces.iter().zip(&homes) {
            tenants.push(Peer::spawn(Some(ns), Some(home))?);
        }
        let mut agents = Vec::new();
        for (node, (root, own)) in roots.iter().zip(&own).enumerate() {
            let setup = Agent::prepare(root, &policy(7000)).in_cgroup(own).config(&authority.config(node));
            agents.push(setup.with_metrics().log_level("warn").start()?);
        }
        let notes = Reader::new(folder.path().join("notes"));
        let mut site = Site {
            name,
            client: None,
            server: None,
            _tenants: tenants,
            agents,
            pressure: Vec::new(),
            authority,
            wire,
            own,
            homes,
            _roots: roots,
            namespaces,
            folder,
            rounds: 0,
            notes,
        };
        site.serve()?;
        site.wait_ready()?;
        site.pressure = site.own.iter().map(|own| Pressure::new(own.path())).collect::<Result<_>>()?;
        Ok(site)
    }

    /// Starts the server, in the place of the one that is there.
    pub(crate) fn serve(&mut self) -> Result<()> {
        self.server = None;
        let launch = self.launch("proxy-server", &["--at", PORT])?;
        self.server = Some(self.start(&launch, 1)?);
        Ok(())
    }

    /// Starts the client.
    pub(crate) fn talk(&mut self, light: bool) -> Result<()> {
        self.client = None;
        let stop = self.stop_file();
        if stop.exists() {
            fs::remove_file(&stop)?;
        }
        let mut launch = self.launch("proxy-client", &["--to", PORT, "--stop", &stop.to_string_lossy()])?;
        if light {
            launch = launch.and(["--light"]);
        }
        self.client = Some(self.start(&launch, 0)?);
        Ok(())
    }

    /// Ends the client, once its last connections have ended.
    pub(crate) fn hush(&mut self) -> Result<()> {
        fs::write(self.stop_file(), "")?;
        if let Some(client) = self.client.take() {
            // Whoever hangs is given up by then.
            let said = client.wait_ended(super::ends::PATIENCE * 2)?;
            ensure!(said.succeeded(), "the client of {}: {:?} {}", self.name, said.status, said.errors);
        }
        Ok(())
    }

    /// Kills the client or the server, and starts another.
    pub(crate) fn kill_program(&mut self, client: bool) -> Result<()> {
        if client { self.talk(false) } else { self.serve() }
    }

    /// Sends a signal to the server.
    pub(crate) fn signal_server(&self, signal: Signal) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), |server| self::signal(server.pid(), signal))
    }

    fn launch(&self, command: &str, arguments: &[&str]) -> Result<Launch> {
        let own = std::env::current_exe()?;
        let launch = Launch::new([own.to_string_lossy().into_owned(), command.to_owned()]);
        Ok(launch.and(arguments).and(["--notes", &self.notes.path().to_string_lossy()]))
    }

    fn start(&self, launch: &Launch, node: usize) -> Result<Program> {
        let (ns, home) = (self.namespaces.get(node), self.homes.get(node));
        let program = launch.start(ns.context("no such node")?, home.context("no such node")?.path())?;
        // A load that takes every processor must not keep an agent from what it must do within a second.
        let pid = i32::try_from(program.pid()).ok().and_then(Pid::from_raw);
        rustix::process::setpriority_process(pid, 10)?;
        Ok(program)
    }

    fn stop_file(&self) -> PathBuf {
        self.folder.path().join("stop")
    }

    pub(crate) fn agent(&mut self, node: usize) -> Result<&mut Agent> {
        self.agents.get_mut(node).context("no such node")
    }

    /// Takes the right away on one node, or gives it back.
    pub(crate) fn allow(&self, node: usize, allowed: bool) -> Result<()> {
        let agent = self.agents.get(node).context("no such node")?;
        agent.apply(&policy(if allowed { 7000 } else { 7001 }))
    }

    /// New certificates for both nodes, by a new root if that is asked for.
    pub(crate) fn renew(&mut self, root: bool) -> Result<()> {
        self.rounds += 1;
        if root {
            self.authority.rotate(NODES.len())?;
        }
        for node in 0..NODES.len() {
            self.authority.issue_node(node, &self.rounds.to_string())?;
        }
        Ok(())
    }

    /// A node's memory has a limit from now on, in KiB.
    pub(crate) fn squeeze(&self, node: usize) -> Result<u64> {
        let (pressure, own) = (self.pressure.get(node), self.own.get(node));
        let (pressure, own) = (pressure.context("no such node")?, own.context("no such node")?);
        pressure.take(own.path())?;
        pressure.squeeze()
    }

    /// Waits until both proxies serve.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        for agent in &self.agents {
            let ready = || {
                let view = proxy(agent);
                view.running && view.namespaces > 0 && view.certificates > 0
            };
            wait_until(LONG, "the proxy serves", ready).with_context(|| agent.log())?;
        }
        Ok(())
    }
}

/// How an agent's proxy is.
pub(crate) fn proxy(agent: &Agent) -> ProxyView {
    agent.status().ok().and_then(|status| status.proxy).unwrap_or_default()
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process without id")?;
    Ok(kill_process(pid, signal)?)
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
