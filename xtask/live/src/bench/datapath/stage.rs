//! Two network namespaces on one wire, and what stands between them: nothing, or a firewall.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::{Agent, Cgroup, Ns, Topology};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::load::{Load, Outcome};
use super::policy::{self, Policy, SERVER};

/// What stands between the ends. Both ends are policed, except where a flood must arrive to be dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Variant {
    /// No firewall.
    None,
    /// nftables that tracks connections and holds no policy.
    Conntrack,
    /// nftables with the policy.
    Nftables,
    /// Bulkhead with the policy.
    Bulkhead,
}

/// Where the asking end runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Pinned to the serving end's processor: all that a request costs is in its rate.
    Together,
    /// Pinned to another one.
    Apart,
    /// As `Apart`, and nothing polices the asking end: what is denied is denied where it arrives.
    Stranger,
}

/// The network, and one policy for it, ready to be switched on.
pub(crate) struct Stage {
    topology: Topology,
    root: Cgroup,
    client: Cgroup,
    server: Cgroup,
    stranger: Cgroup,
    agent: Agent,
    nftables: NamedTempFile,
    conntrack: NamedTempFile,
    cpus: (usize, usize),
    on: Variant,
}

impl Stage {
    /// The ends on these processors (asking, serving), and `policy` not yet loaded by anybody.
    pub(crate) fn new(policy: Policy, cpus: (usize, usize)) -> Result<Stage> {
        let topology = Topology::pair()?;
        let root = Cgroup::new("bench")?;
        let (client, server) = (root.child("client")?, root.child("server")?);
        let stranger = Cgroup::new("bench-stranger")?;
        let agent = Agent::prepare(&root, &policy.zone_file()).place()?;
        let (nftables, conntrack) = (written(&policy.ruleset())?, written(&policy::conntrack_only())?);
        // A new connection finds a free port at once, however many there were before.
        topology.ns("a")?.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        topology.ns("a")?.sysctl("ipv4/tcp_max_tw_buckets", "0")?;
        let on = Variant::None;
        Ok(Stage { topology, root, client, server, stranger, agent, nftables, conntrack, cpus, on })
    }

    /// Lets the agent load this kernel object from now on.
    pub(crate) fn load_object(&mut self, object: &Path) {
        self.agent.set_object(Some(object));
    }

    /// Puts a firewall between the ends in the place of the one that was there; how long loading it took.
    pub(crate) fn switch(&mut self, to: Variant) -> Result<Duration> {
        self.off()?;
        let start = Instant::now();
        self.on = to;
        match to {
            Variant::None => {}
            Variant::Conntrack => self.nft(&self.conntrack)?,
            Variant::Nftables => self.nft(&self.nftables)?,
            Variant::Bulkhead => self.agent.restart()?,
        }
        Ok(start.elapsed())
    }

    /// Runs one load.
    pub(crate) fn run(&self, load: Load, place: Place, time: Duration) -> Result<Outcome> {
        let nft = matches!(self.on, Variant::Conntrack | Variant::Nftables);
        if nft && place == Place::Stranger {
            delete_table(self.topology.ns("a")?)?;
        }
        let outcome = self.run_load(load, place, time);
        if nft && place == Place::Stranger {
            let file = if self.on == Variant::Nftables { &self.nftables } else { &self.conntrack };
            apply(self.topology.ns("a")?, file)?;
        }
        outcome.with_context(|| format!("{load:?} with {}", self.on))
    }

    /// The agent, running or not.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Does `work` where the asking end is: in its cgroup and namespace.
    pub(crate) fn at_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let own = std::process::id();
        let home = fs::read_to_string("/proc/self/cgroup")?;
        let home = home.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup2 here")?;
        let mount = bulkhead_sys::cgroup::mount_point()?;
        self.client.add(own)?;
        let result = self.topology.ns("a")?.enter(work);
        fs::write(mount.join(home).join("cgroup.procs"), own.to_string())?;
        result
    }

    /// The cgroup that holds both ends.
    pub(crate) fn root(&self) -> &Cgroup {
        &self.root
    }

    fn run_load(&self, load: Load, place: Place, time: Duration) -> Result<Outcome> {
        let mut server = Server::start(self)?;
        let (cgroup, cpu) = match place {
            Place::Together => (&self.client, self.cpus.1),
            Place::Apart => (&self.client, self.cpus.0),
            Place::Stranger => (&self.stranger, self.cpus.0),
        };
        let mut command = self.end(cgroup, self.topology.ns("a")?, cpu)?;
        let name = clap::ValueEnum::to_possible_value(&load).context("a load without a name")?;
        command.args(["ask", name.get_name(), "--seconds", &time.as_secs_f64().to_string()]);
        if matches!(load, Load::Udp | Load::UdpUnconnected) {
            server.say("read on")?;
        }
        let before = server.say("")?;
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("the asking end failed");
        }
        let mut outcome: Outcome = serde_json::from_slice(&output.stdout)?;
        if matches!(load, Load::Udp | Load::UdpUnconnected) {
            // What counts is what was read.
            outcome.count = server.say("read off")? - before;
        }
        Ok(outcome)
    }

    fn end(&self, cgroup: &Cgroup, netns: &Ns, cpu: usize) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("end").arg("--cgroup").arg(cgroup.path()).arg("--netns").arg(netns.path());
        command.args(["--cpu", &cpu.to_string(), "--at", SERVER]);
        Ok(command)
    }

    fn nft(&self, file: &NamedTempFile) -> Result<()> {
        apply(self.topology.ns("a")?, file)?;
        apply(self.topology.ns("b")?, file)
    }

    fn off(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.on, Variant::None) {
            Variant::None => Ok(()),
            Variant::Conntrack | Variant::Nftables => {
                delete_table(self.topology.ns("a")?)?;
                delete_table(self.topology.ns("b")?)
            }
            Variant::Bulkhead => self.agent.detach(),
        }
    }
}

impl Variant {
    /// All of them.
    pub(crate) const ALL: [Variant; 4] =
        [Variant::None, Variant::Conntrack, Variant::Nftables, Variant::Bulkhead];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Variant::None => "none",
            Variant::Conntrack => "conntrack",
            Variant::Nftables => "nftables",
            Variant::Bulkhead => "Bulkhead",
        })
    }
}

/// The serving end; ended with this value.
struct Server {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(stage: &Stage) -> Result<Server> {
        let mut command = stage.end(&stage.server, stage.topology.ns("b")?, stage.cpus.1)?;
        let mut child = command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("a serving end without output")?);
        let mut server = Server { child, lines };
        let hello = server.line()?;
        if hello != "ready" {
            bail!("the serving end did not start");
        }
        Ok(server)
    }

    /// Says something, and hears how many datagrams were read.
    fn say(&mut self, word: &str) -> Result<u64> {
        let input = self.child.stdin.as_mut().context("a serving end without input")?;
        writeln!(input, "{word}")?;
        Ok(self.line()?.parse()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn written(text: &str) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

fn apply(ns: &Ns, file: &NamedTempFile) -> Result<()> {
    let output = ns.command("nft").arg("-f").arg(file.path()).output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("nft: {}", error.lines().take(3).collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

fn delete_table(ns: &Ns) -> Result<()> {
    let output = ns.command("nft").args(["delete", "table", "inet", policy::TABLE]).output()?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
