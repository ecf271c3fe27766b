//! A real agent over a cgroup subtree of the test's own, and what the kernel counts below it.
//!
//! Every agent has its own pins, lock, socket and policy folder, so several run side by side: each is
//! a "node". When the value is dropped, also by a panic, the agent is killed and its enforcement taken
//! off; the end of its log is printed when the test is failing. The log is JSON at level DEBUG, so that
//! tests find events by field.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bulkhead::control::{Client, Reply, Request};
use bulkhead::datapath;
use tempfile::TempDir;

use super::wait::wait_until;
use super::{Cgroup, names};

mod asked;
mod setup;

pub use asked::Books;
pub use setup::Setup;

/// Limit for everything that an agent is waited for; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where agents keep their pins unless told otherwise.
const PINS: &str = "/sys/fs/bpf/bulkhead";

/// Name of the zone file that [`Agent::write_policy`] writes.
const POLICY: &str = "policy.toml";

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

impl Agent {
    /// Starts an agent in mode `enforce` over the subtree `root`, with one zone file.
    pub fn start(root: &Cgroup, policy: &str) -> Result<Agent> {
        Agent::prepare(root, policy).start()
    }

    /// As [`Agent::start`], with more to say before it starts.
    #[must_use]
    pub fn prepare(root: &Cgroup, policy: &str) -> Setup {
        Setup::new(root, policy)
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

    /// The zone file as it is now.
    pub fn policy(&self) -> Result<String> {
        Ok(fs::read_to_string(self.policies().join(POLICY))?)
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

    /// Where it keeps what must outlive a boot.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        self.dir.path().join("state").join(&self.name)
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
        if let Some(name) = &self.setup.name {
            command.arg("--instance").arg(name);
        }
        command
    }

    /// The name that the agent derives from the cgroup root.
    fn instance(&self) -> Result<String> {
        let config = bulkhead::config::Config {
            cgroup_root: Some(self.setup.root.clone()),
            name: self.setup.name.clone(),
            ..bulkhead::config::Config::default()
        };
        Ok(bulkhead::instance::Instance::new(&config, &super::cgroup::mount()?)?.name)
    }

    /// The folder of its lock, control socket and state.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        self.dir.path().join("run").join(&self.name)
    }

    /// Its log, which goes on through restarts.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
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
        bulkhead::proxy::start::dismiss(&self.run_folder(), Duration::ZERO).map(|going| going.wait());
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

/// Takes off what killed runs left enforced.
pub fn sweep_pins() {
    for name in names::left_behind(Path::new(PINS)) {
        let _ = datapath::detach(&Path::new(PINS).join(name));
    }
}
