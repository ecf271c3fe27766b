//! Two nodes on one wire, a client's and a server's, and what carries connections between them.
//!
//! A node is a network namespace and a cgroup with two below it: `work`, for the program, and `hop`, for
//! everything that carries connections. What the hops use is what is in `hop`.
// What the two nodes have is arrays of two, and JSON that is written here is an object: an index that is not
// there is a defect of this bench, which then has no figure.
#![allow(clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::{Agent, Cgroup, Ns, Program, Topology, wait_until};
use tempfile::TempDir;

use super::certificates::{Certificates, DOMAIN, ZONES};
use super::load::{Load, Outcome};
use super::peers;
use super::subject::Subject;
use super::usage::{self, Memory};

/// Where the client is.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Where the server is.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The first of many addresses that are the server's, too: a tunnel is to one of them.
pub(crate) const MORE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// How many they are.
pub(crate) const ADDRESSES: u32 = 4_096;
const MORE_PREFIX: &str = "10.78.0.0/16";
/// Where the server serves.
pub(crate) const PORT: u16 = 5000;
/// Where nobody goes.
const RESIDENT: u16 = 5001;
/// Where the hops meet.
pub(crate) const TUNNEL: u16 = 15008;

/// For everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The nodes.
pub(crate) struct Stage {
    /// Lives where clients come and go, as a workload does: a node serves namespaces that somebody lives in.
    resident: Option<Server>,
    topology: Topology,
    certificates: Certificates,
    workers: usize,
    hops: [Cgroup; 2],
    work: [Cgroup; 2],
    roots: [Cgroup; 2],
}

/// Something that carries connections, with a server behind it. Ended with this value.
pub(crate) struct Running<'a> {
    stage: &'a Stage,
    subject: Subject,
    _server: Server,
    agents: Vec<Agent>,
    _programs: Vec<Program>,
    _folders: Vec<TempDir>,
}

impl Stage {
    pub(crate) fn new(workers: usize) -> Result<Stage> {
        let topology = Topology::pair()?;
        let (near, far) = (topology.ns("a")?, topology.ns("b")?);
        near.ip(&format!("route add {MORE_PREFIX} via {SERVER}"))?;
        let more = |nth| format!("addr add {}/32 dev lo", Ipv4Addr::from(u32::from(MORE) + nth));
        far.ip(&(0..ADDRESSES).map(more).collect::<Vec<_>>().join("\n"))?;
        for ns in [near, far] {
            // A new connection finds a free port at once, however many there were before.
            ns.sysctl("ipv4/ip_local_port_range", "16000 65000")?;
            ns.sysctl("ipv4/tcp_max_tw_buckets", "0")?;
        }
        let roots = [Cgroup::new("near")?, Cgroup::new("far")?];
        let [near, far] = &roots;
        let hops = [near.child("hop")?, far.child("hop")?];
        let work = [near.child("work")?, far.child("work")?];
        let certificates = Certificates::new()?;
        let mut stage = Stage { resident: None, topology, certificates, workers, hops, work, roots };
        stage.resident = Some(Server::start(&stage, 0, SocketAddrV4::new(CLIENT, RESIDENT))?);
        Ok(stage)
    }

    /// Puts `subject` between client and server, and waits until it carries.
    pub(crate) fn start(&self, subject: Subject) -> Result<Running<'_>> {
        let (mut agents, mut programs, mut folders) = (Vec::new(), Vec::new(), Vec::new());
        match subject {
            Subject::Direct => {}
            Subject::Bulkhead => {
                for node in 0..2 {
                    let (agent, folder) = self.agent(node)?;
                    agents.push(agent);
                    folders.push(folder);
                }
            }
            _ => {
                let launches = peers::hops(subject, &self.certificates, self.workers)?;
                for (node, launch) in launches.iter().enumerate().rev() {
                    let (ns, at) = (self.ns(node)?, peers::LISTEN[node]);
                    let mut program = launch.start(ns, self.hops[node].path())?;
                    program.wait_until(PATIENCE, || ns.enter(|| listens(at)).unwrap_or(false))?;
                    programs.push(program);
                }
            }
        }
        let server = Server::start(self, 1, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT))?;
        let running =
            Running { stage: self, subject, _server: server, agents, _programs: programs, _folders: folders };
        running.wait_ready()?;
        Ok(running)
    }

    /// An agent as a user would run it, but for what has no place here: the guard and the metrics' port.
    fn agent(&self, node: usize) -> Result<(Agent, TempDir)> {
        let folder = tempfile::Builder::new().prefix("bh-").tempdir()?;
        let zone = ZONES[node];
        self.certificates.copy(zone, &folder.path().join(zone))?;
        // Each tunnel of its own is a handshake, and more than the limit for strangers may be wanted.
        let config = format!(
            "[proxy]\nenabled = true\ntrust_domain = \"{DOMAIN}\"\ncertificates = \"{}\"\n\
             handshakes_per_second = 100000\n",
            folder.path().display()
        );
        let [web, db] = ZONES;
        let policy = format!(
            "[zone.{web}]\ncidrs = [\"{CLIENT}/32\"]\n[zone.{db}]\ncidrs = [\"{SERVER}/32\", \"{MORE_PREFIX}\"]\n\
             [[allow]]\nfrom = \"{web}\"\nto = \"{db}\"\nports = [\"tcp/{PORT}\"]\ntls = \"mutual\"\n"
        );
        let setup = Agent::prepare(&self.roots[node], &policy).in_cgroup(&self.hops[node]);
        Ok((setup.config(&config).log_level("info").start()?, folder))
    }

    /// The end of a load in the work of a node.
    fn end(&self, node: usize, at: SocketAddrV4) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("proxy-end").arg("--cgroup").arg(self.work[node].path());
        command.arg("--netns").arg(self.ns(node)?.path()).args(["--at", &at.to_string()]);
        Ok(command)
    }

    fn ns(&self, node: usize) -> Result<&Ns> {
        self.topology.ns(if node == 0 { "a" } else { "b" })
    }
}

impl Running<'_> {
    /// Makes a load, and what it cost: processor seconds of both hops.
    pub(crate) fn run(&self, load: Load, time: Duration) -> Result<(Outcome, f64)> {
        let before = self.cpu()?;
        let outcome = Asking::start(self, load, time)?.end();
        let outcome = outcome.with_context(|| self.refusals())?;
        Ok((outcome, self.cpu()? - before))
    }

    /// What the agents say of connections that were refused: the last of each.
    fn refusals(&self) -> String {
        let last = |agent: &Agent| {
            let lines = agent.log_lines();
            let refused =
                lines.iter().rev().find(|line| line["why"].as_str().is_some_and(|why| !why.is_empty()))?;
            Some(format!("{}: {}", refused["outcome"], refused["why"]))
        };
        let told: Vec<String> = self.agents.iter().filter_map(last).collect();
        if told.is_empty() { format!("{} failed", self.subject.name()) } else { told.join("; ") }
    }

    /// Opens connections, does something while they are open, and sees whether they still are.
    pub(crate) fn hold<T>(&self, connections: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut asking = Asking::start(self, Load::Hold { connections }, Duration::ZERO)?;
        if asking.line()? != "held" {
            return Err(asking.end().err().context("connections were not held")?);
        }
        let result = work()?;
        asking.end()?;
        Ok(result)
    }

    /// Memory of a node's hop, all of it.
    pub(crate) fn memory(&self, node: usize) -> Result<Memory> {
        usage::memory(self.stage.hops[node].path(), |_| true)
    }

    /// Memory of what reads and writes connections alone.
    pub(crate) fn proxy_memory(&self, node: usize) -> Result<Memory> {
        let ours = self.subject == Subject::Bulkhead;
        usage::memory(self.stage.hops[node].path(), |line| !ours || line.contains("--serve"))
    }

    fn cpu(&self) -> Result<f64> {
        let [near, far] = &self.stage.hops;
        Ok(usage::cpu(near.path())? + usage::cpu(far.path())?)
    }

    /// Where the client has to go: the near hop, where that is not unseen.
    fn entry(&self) -> SocketAddrV4 {
        match self.subject {
            Subject::Direct | Subject::Bulkhead => SocketAddrV4::new(SERVER, PORT),
            _ => SocketAddrV4::new(CLIENT, PORT),
        }
    }

    fn wait_ready(&self) -> Result<()> {
        let mut last = None;
        let once = Duration::from_millis(50);
        let carries = || match self.run(Load::Connect { at_once: 1 }, once) {
            Ok((outcome, _)) => outcome.count > 0,
            Err(error) => {
                last = Some(error);
                false
            }
        };
        let waited = wait_until(PATIENCE, &format!("{} carries connections", self.subject.name()), carries);
        waited.map_err(|error| last.map_or(error, |last| last.context("nothing is carried")))
    }
}

fn listens(at: SocketAddrV4) -> bool {
    TcpStream::connect_timeout(&at.into(), Duration::from_secs(1)).is_ok()
}

/// The serving end; ended with this value.
struct Server(Child);

impl Server {
    fn start(stage: &Stage, node: usize, at: SocketAddrV4) -> Result<Server> {
        let mut command = stage.end(node, at)?;
        let mut child = command.arg("serve").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("a serving end without output")?;
        let server = Server(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("the serving end did not start");
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The asking end; ended with this value.
struct Asking {
    child: Child,
    input: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Asking {
    fn start(running: &Running<'_>, load: Load, time: Duration) -> Result<Asking> {
        let mut command = running.stage.end(0, running.entry())?;
        command.args(["--seconds", &time.as_secs_f64().to_string()]);
        match load {
            Load::Stream { streams } => command.args(["stream", &streams.to_string()]),
            Load::Connect { at_once } => command.args(["connect", &at_once.to_string()]),
            Load::ConnectEverywhere { at_once, first, addresses } => {
                command.args(["connect-everywhere", &at_once.to_string(), &first.to_string()]);
                command.arg(addresses.to_string())
            }
            Load::Round { connections } => command.args(["round", &connections.to_string()]),
            Load::Hold { connections } => command.args(["hold", &connections.to_string()]),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("an asking end without output")?);
        Ok(Asking { child, input, lines })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Lets it go on if it waits, and hears what it came to.
    fn end(mut self) -> Result<Outcome> {
        if let Some(mut input) = self.input.take() {
            // It may have ended already; what it says is read below.
            let _ = input.write_all(b"\n");
        }
        let line = self.line()?;
        if self.child.wait()?.success() {
            return Ok(serde_json::from_str(&line)?);
        }
        let mut why = String::new();
        if let Some(errors) = &mut self.child.stderr {
            errors.read_to_string(&mut why)?;
        }
        bail!("{}", why.trim().trim_start_matches("error: "))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
