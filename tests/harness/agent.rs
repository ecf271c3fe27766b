//! A real agent over a cgroup subtree of the test's own, and what the kernel counts below it.
//!
//! Every agent has its own pins, lock, socket and policy folder, so several run side by side: each is
//! a "node". When the value is dropped, also by a panic, the agent is killed and its enforcement taken
//! off; the end of its log is printed when the test is failing. The log is JSON at level DEBUG, so that
//! tests find events by field.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bulkhead::control::protocol::{FindingFilter, FindingView, FlowFilter, FlowView, Status, ZoneView};
use bulkhead::control::{Client, Reply, Request};
use bulkhead::datapath::{self, Reader};
use serde_json::Value;
use tempfile::TempDir;

use super::counters::Counters;
use super::wait::wait_until;
use super::{Cgroup, Ns, names};

/// Limit for everything that an agent is waited for; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where agents keep their pins unless told otherwise.
const PINS: &str = "/sys/fs/bpf/bulkhead";

/// Name of the zone file that [`Agent::write_policy`] writes.
const POLICY: &str = "policy.toml";

/// How an agent is to be started. See [`Agent::prepare`].
#[derive(Debug)]
pub struct Setup {
    root: PathBuf,
    policy: String,
    mode: String,
    ns: Option<PathBuf>,
    metrics: bool,
    flags: Vec<String>,
    object: Option<PathBuf>,
    pins: PathBuf,
    log_level: String,
    config: String,
    cgroup: Option<PathBuf>,
}

/// An agent, running or not, whose enforcement is taken off when this is dropped.
#[derive(Debug)]
pub struct Agent {
    child: Option<Child>,
    setup: Setup,
    dir: TempDir,
    /// Name of the instance; also of its pins and of its folder below the run dir.
    name: String,
    metrics: Option<SocketAddr>,
}

impl Setup {
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

impl Agent {
    /// Starts an agent in mode `enforce` over the subtree `root`, with one zone file.
    pub fn start(root: &Cgroup, policy: &str) -> Result<Agent> {
        Agent::prepare(root, policy).start()
    }

    /// As [`Agent::start`], with more to say before it starts.
    #[must_use]
    pub fn prepare(root: &Cgroup, policy: &str) -> Setup {
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
        }
    }

    /// Process id of the running agent.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The folder of zone files.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        self.dir.path().join("policies")
    }

    /// The folder of its pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.setup.pins.join(&self.name)
    }

    /// Writes the zone file, at once and whole, and waits until the agent enforces it. Fails with the
    /// agent's diagnostics when it refuses the file; the file stays then.
    pub fn apply(&self, policy: &str) -> Result<()> {
        let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        self.write_policy(policy)?;
        let mut refusal = None;
        wait_until(PATIENCE, "the policy is applied", || {
            let Ok(status) = self.status() else { return false };
            let policy = status.policy;
            match policy.error {
                // Somebody has it open: a program that another test is just starting has every file of
                // this process until it is its own. The agent reads it when that is over.
                Some(text) if text.contains("is being written") => false,
                Some(text) if policy.failing_since.is_some_and(|since| since > before) => {
                    refusal = Some(text);
                    true
                }
                Some(_) => false,
                None => policy.last_success.is_some_and(|at| at > before),
            }
        })?;
        match refusal {
            Some(text) => bail!("the policy was refused:\n{text}"),
            None => Ok(()),
        }
    }

    /// Writes the zone file, at once and whole, and waits for nothing.
    pub fn write_policy(&self, policy: &str) -> Result<()> {
        self.write_file(POLICY, policy)
    }

    /// Writes any file of the policy folder, at once and whole.
    pub fn write_file(&self, name: &str, text: &str) -> Result<()> {
        let next = self.dir.path().join("next");
        fs::write(&next, text)?;
        fs::rename(&next, self.policies().join(name))?;
        Ok(())
    }

    /// Waits until the kernel's generation is at least `generation`.
    pub fn wait_generation(&self, generation: u64) -> Result<()> {
        let reader = self.reader()?;
        let reached = || reader.generation() >= generation;
        wait_until(PATIENCE, &format!("generation {generation}"), reached)
    }

    /// `bulkhead status`, from the control socket.
    pub fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status)?.pop() {
            Some(Reply::Status(status)) => Ok(*status),
            other => bail!("no status: {other:?}"),
        }
    }

    /// `bulkhead flows`, from the control socket.
    pub fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowView>> {
        let flow = |reply| if let Reply::Flow(flow) = reply { Some(*flow) } else { None };
        Ok(self.ask(&Request::Flows(filter))?.into_iter().filter_map(flow).collect())
    }

    /// `bulkhead findings`, from the control socket.
    pub fn findings(&self, filter: FindingFilter) -> Result<Vec<FindingView>> {
        let finding = |reply| if let Reply::Finding(finding) = reply { Some(*finding) } else { None };
        Ok(self.ask(&Request::Findings(filter))?.into_iter().filter_map(finding).collect())
    }

    /// Where it keeps what must outlive a boot.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        self.dir.path().join("state").join(&self.name)
    }

    /// Where its metrics are served, in the network namespace that it runs in.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// `bulkhead zones`, from the control socket.
    pub fn zones(&self) -> Result<Vec<ZoneView>> {
        let zone = |reply| if let Reply::Zone(zone) = reply { Some(zone) } else { None };
        Ok(self.ask(&Request::Zones)?.into_iter().filter_map(zone).collect())
    }

    /// Asks on the control socket.
    pub fn ask(&self, request: &Request) -> Result<Vec<Reply>> {
        Ok(Client::new(&self.run_folder().join("control.sock")).ask(request)?)
    }

    /// The kernel's maps, with or without a running agent.
    pub fn reader(&self) -> Result<Reader> {
        Ok(Reader::open(&self.pins())?)
    }

    /// What the kernel has counted so far, by zone pair, verdict and reason; with or without a running
    /// agent.
    pub fn counters(&self) -> Result<Counters> {
        let state: Value = serde_json::from_slice(&fs::read(self.run_folder().join("numbers.json"))?)?;
        let label = |identity: bulkhead_abi::Identity| match identity {
            bulkhead_abi::Identity::WORLD => "world".to_owned(),
            bulkhead_abi::Identity::NODE => "node".to_owned(),
            bulkhead_abi::Identity::VIRTUAL => "virtual".to_owned(),
            bulkhead_abi::Identity(number) => state
                .pointer(&format!("/labels/{number}"))
                .and_then(Value::as_str)
                .map_or_else(|| format!("unknown {number}"), str::to_owned),
        };
        Ok(Counters::new(self.reader()?.counters()?, label))
    }

    /// The text of `/metrics`; the agent must have been started [`with_metrics`](Setup::with_metrics).
    pub fn metrics(&self) -> Result<String> {
        let address = self.metrics.context("this agent serves no metrics: start it with_metrics()")?;
        let scrape = || -> Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
            if !head.starts_with("HTTP/1.1 200") {
                bail!("no metrics: {answer}");
            }
            Ok(body.to_owned())
        };
        inside(self.setup.ns.as_deref(), scrape)?
    }

    /// Kills the agent with SIGKILL; enforcement stays.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends the agent with SIGTERM and waits for it; enforcement stays.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("a process without id")?, rustix::process::Signal::TERM)?;
        let status = child.wait()?;
        if !status.success() {
            bail!("the agent ended with {status}:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Starts the agent (again), and waits until it enforces. Fails with its log when it ends instead.
    pub fn restart(&mut self) -> Result<()> {
        self.begin()?;
        let mut ended = None;
        let client = Client::new(&self.run_folder().join("control.sock"));
        let waited = wait_until(PATIENCE, "the agent enforces", || {
            if let Some(child) = &mut self.child {
                ended = child.try_wait().ok().flatten();
            }
            let answer = client.ask(&Request::Status).unwrap_or_default();
            let pid = self.child.as_ref().map(Child::id);
            let enforces = |reply: &Reply| match reply {
                Reply::Status(status) => status.enforcing && Some(status.pid) == pid,
                _ => false,
            };
            ended.is_some() || answer.iter().any(enforces)
        });
        match (ended, waited) {
            (None, Ok(())) => Ok(()),
            (Some(status), _) => {
                self.child = None;
                bail!("the agent ended with {status}:\n{}", self.log_tail())
            }
            (None, Err(error)) => bail!("{error}:\n{}", self.log_tail()),
        }
    }

    /// Starts the agent and waits for nothing.
    pub fn begin(&mut self) -> Result<()> {
        self.kill9()?;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.command("run");
        command.arg("--policies").arg(self.policies()).args(["--mode", &self.setup.mode]);
        // What outlives a boot of this machine is not the test's either.
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.args(["--log-format", "json", "--log-level", &self.setup.log_level, "--metrics"]);
        command.arg(self.metrics.map_or_else(|| "off".to_owned(), |address| address.to_string()));
        let object =
            self.setup.object.clone().or_else(|| std::env::var_os("BULKHEAD_OBJECT").map(PathBuf::from));
        if let Some(object) = object {
            command.arg("--object").arg(object);
        }
        if self.setup.ns.is_none() {
            // The machine's own interfaces are not the test's.
            command.args(["--guard", "off"]);
        }
        command.args(&self.setup.flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = inside(self.setup.ns.as_deref(), move || command.spawn())?;
        self.child = Some(child.context("cannot start the agent")?);
        Ok(())
    }

    /// Changes the node's mode; holds from the next [`Agent::restart`] on.
    pub fn set_mode(&mut self, mode: &str) {
        mode.clone_into(&mut self.setup.mode);
    }

    /// An argument of `bulkhead run` from the next [`Agent::restart`] on, as `--flow-capacity=64`, in the place
    /// of one of the same name.
    pub fn set_flag(&mut self, flag: &str) {
        let name = |flag: &str| flag.split('=').next().map(str::to_owned);
        self.setup.flags.retain(|held| name(held) != name(flag));
        self.setup.flags.push(flag.to_owned());
    }

    /// Loads this kernel object instead of the usual one from the next [`Agent::restart`] on.
    pub fn set_object(&mut self, object: Option<&Path>) {
        self.setup.object = object.map(Path::to_path_buf);
    }

    /// `bulkhead detach`: takes enforcement off and ends the agent.
    pub fn detach(&mut self) -> Result<()> {
        let output = self.command("detach").output()?;
        if !output.status.success() {
            bail!("detach: {}", String::from_utf8_lossy(&output.stderr));
        }
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Any command of `bulkhead` about this instance, with what it printed.
    pub fn run(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(command).args(arguments).output()?)
    }

    /// The whole log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The log's lines as JSON objects: `message`, `level`, and the fields of each. A line that is still
    /// being written is left out.
    #[must_use]
    pub fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of the log for which `matches` holds, and answers it.
    pub fn wait_log(&self, what: &str, mut matches: impl FnMut(&Value) -> bool) -> Result<Value> {
        let mut found = None;
        let waited = wait_until(PATIENCE, what, || {
            found = self.log_lines().into_iter().find(|line| matches(line));
            found.is_some()
        });
        match (found, waited) {
            (Some(line), _) => Ok(line),
            (None, Err(error)) => bail!("{error}:\n{}", self.log_tail()),
            (None, Ok(())) => bail!("not found: {what}"),
        }
    }

    fn command(&self, name: &str) -> Command {
        let bulkhead = program().unwrap_or_else(|| "bulkhead".into());
        let mut command = match self.setup.cgroup.as_ref().filter(|_| name == "run") {
            None => Command::new(bulkhead),
            Some(cgroup) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
                shell.arg(cgroup.join("cgroup.procs")).arg(bulkhead);
                shell
            }
        };
        command.arg(name).arg("--config").arg(self.dir.path().join("bulkhead.toml"));
        command.arg("--cgroup-root").arg(&self.setup.root);
        command.arg("--run-dir").arg(self.dir.path().join("run"));
        command.arg("--pin-dir").arg(&self.setup.pins);
        command
    }

    /// The name that the agent derives from the cgroup root.
    fn instance(&self) -> Result<String> {
        let config = bulkhead::config::Config {
            cgroup_root: Some(self.setup.root.clone()),
            ..bulkhead::config::Config::default()
        };
        Ok(bulkhead::instance::Instance::new(&config, &super::cgroup::mount()?)?.name)
    }

    /// The folder of its lock, control socket and state.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        self.dir.path().join("run").join(&self.name)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(30)).fold(String::new(), |text, line| text + line + "\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.kill9();
        bulkhead::proxy::start::end(&self.run_folder());
        if let Err(error) = datapath::detach(&self.pins()) {
            eprintln!("enforcement of {} could not be taken off: {error}", self.name);
        }
        if std::thread::panicking() {
            eprintln!("the end of the log of {}:\n{}", self.name, self.log_tail());
        }
    }
}

/// The agent's program: where the environment says, else beside or one folder above whoever runs.
#[must_use]
pub fn program() -> Option<PathBuf> {
    if let Some(told) = std::env::var_os("BULKHEAD_BIN") {
        return Some(told.into());
    }
    let own = std::env::current_exe().ok()?;
    own.ancestors().skip(1).take(2).map(|folder| folder.join("bulkhead")).find(|file| file.is_file())
}

/// Leaves the test when it cannot run an agent, for want of root or of the program: SKIPPED on a
/// developer's machine, failed in CI.
#[macro_export]
macro_rules! require_agent {
    () => {
        $crate::require_root!();
        if $crate::harness::agent_program().is_none() {
            assert!(
                !$crate::harness::must_run(),
                "the agent is not built, and CI=true says that this must run"
            );
            eprintln!("SKIPPED: the agent is not built; run `cargo xtask test`");
            return;
        }
    };
}

/// Runs `work` in the network namespace at a path, or here.
fn inside<T: Send>(ns: Option<&Path>, work: impl FnOnce() -> T + Send) -> Result<T> {
    match ns {
        Some(path) => super::ns::enter(path, work),
        None => Ok(work()),
    }
}

/// A port that nobody uses now. Somebody may take it before the agent does: rare enough for tests.
fn free_port(ns: Option<&Path>) -> Result<SocketAddr> {
    let port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(inside(ns, port)??)
}

/// Takes off what killed runs left enforced.
pub fn sweep_pins() {
    for name in names::left_behind(Path::new(PINS)) {
        let _ = datapath::detach(&Path::new(PINS).join(name));
    }
}
