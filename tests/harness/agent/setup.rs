//! How an agent is to be started.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::Result;

use super::{Agent, PINS, POLICY, inside, sweep_pins};
use crate::harness::{Cgroup, Ns, cgroup, names};

/// How an agent is to be started. See [`Agent::prepare`].
#[derive(Debug)]
pub struct Setup {
    pub(super) root: PathBuf,
    pub(super) policy: String,
    pub(super) mode: String,
    pub(super) ns: Option<PathBuf>,
    pub(super) metrics: bool,
    pub(super) flags: Vec<String>,
    pub(super) object: Option<PathBuf>,
    pub(super) pins: PathBuf,
    pub(super) log_level: String,
    pub(super) config: String,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) name: Option<String>,
}

impl Setup {
    pub(super) fn new(root: &Cgroup, policy: &str) -> Setup {
        Setup {
            root: root.path().to_path_buf(),
            policy: policy.to_owned(),
            mode: "enforce".to_owned(),
            ns: None,
            metrics: false,
            flags: Vec::new(),
            object: None,
            pins: PINS.into(),
            log_level: "debug".to_owned(),
            config: String::new(),
            cgroup: None,
            name: None,
        }
    }

    /// Mode of the node: `enforce` (as long as nothing is said) or `audit`.
    #[must_use]
    pub fn mode(mut self, mode: &str) -> Setup {
        mode.clone_into(&mut self.mode);
        self
    }

    /// Runs the agent in a network namespace, which is the "host" then (zone `node`, failsafe ports).
    #[must_use]
    pub fn in_ns(mut self, ns: &Ns) -> Setup {
        self.ns = Some(ns.path());
        self
    }

    /// Serves metrics on a free port of loopback; see [`Agent::metrics`].
    #[must_use]
    pub fn with_metrics(mut self) -> Setup {
        self.metrics = true;
        self
    }

    /// Keeps the pins below another folder, which must be on a BPF file system.
    #[must_use]
    pub fn pins_in(mut self, folder: &Path) -> Setup {
        self.pins = folder.to_path_buf();
        self
    }

    /// One more argument of `bulkhead run`, as `--flow-capacity=64`.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Setup {
        self.flags.push(flag.to_owned());
        self
    }

    /// Level of its log: `debug` as long as nothing is said.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Setup {
        level.clone_into(&mut self.log_level);
        self
    }

    /// Text of its configuration file; it is empty as long as nothing is said.
    #[must_use]
    pub fn config(mut self, text: &str) -> Setup {
        text.clone_into(&mut self.config);
        self
    }

    /// Runs the agent in a cgroup: one with a proxy must be below its own root, or nobody sees its sockets.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: &Cgroup) -> Setup {
        self.cgroup = Some(cgroup.path().to_path_buf());
        self
    }

    /// Lets the agent guard every cgroup of the machine, as it does on an ordinary node: other tests' programs,
    /// too. The policy must be about addresses and cgroups that nobody else has.
    pub fn over_everything(mut self) -> Result<Setup> {
        self.root = cgroup::mount()?;
        // What it leaves behind, when the test is killed, is found by its name.
        self.name = Some(names::unique("top"));
        Ok(self)
    }

    /// Starts the agent and waits until it enforces.
    pub fn start(self) -> Result<Agent> {
        let mut agent = self.place()?;
        agent.restart()?;
        Ok(agent)
    }

    /// Makes everything that the agent needs, but does not start it; see [`Agent::restart`].
    pub fn place(self) -> Result<Agent> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep_pins);
        let dir = tempfile::Builder::new().prefix("bh-").tempdir()?;
        fs::create_dir(dir.path().join("policies"))?;
        // A configuration of this machine must not reach into tests.
        fs::write(dir.path().join("bulkhead.toml"), &self.config)?;
        fs::write(dir.path().join("policies").join(POLICY), &self.policy)?;
        let metrics = if self.metrics { Some(free_port(self.ns.as_deref())?) } else { None };
        let mut agent = Agent { child: None, setup: self, dir, name: String::new(), metrics };
        agent.name = agent.instance()?;
        Ok(agent)
    }
}

/// A port that nobody uses now. Somebody may take it before the agent does: rare enough for tests.
fn free_port(ns: Option<&Path>) -> Result<SocketAddr> {
    let port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(inside(ns, port)??)
}
