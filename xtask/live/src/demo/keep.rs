//! `--keep` and `--clean`.
//!
//! The processes of the shop hang on the one that made them, so that one stays, out of sight: `--keep`
//! starts it, waits until its story is told, and leaves. Its number stands in a file; `--clean` ends it
//! and waits until it has removed everything, then looks for what killed runs left.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::{self, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt::Interrupt;
use crate::network::{MACHINES, NODES};
use crate::print::say;
use crate::shop::Shop;
use crate::story;

/// Of the demo that was kept.
const FOLDER: &str = "/run/bulkhead-demo";

/// For an end with everything removed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The half of `--keep` that leaves.
pub(crate) fn start(policies: &Path, interrupt: &Interrupt) -> Result<bool> {
    if let Some(pid) = kept() {
        bail!("a demo is running already (process {pid}): remove it with `cargo xtask demo --clean`");
    }
    let own = std::env::current_exe()?;
    let mut keeper = Command::new(own)
        .arg("--hold")
        .arg("--policies")
        .arg(policies)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the process that stays")?;
    let mut told = false;
    loop {
        if let Some(status) = keeper.try_wait()? {
            return Ok(status.success());
        }
        if kept().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == keeper.id()) {
            return Ok(true);
        }
        if interrupt.came() && !told {
            told = true;
            kill_process(Pid::from_child(&keeper), Signal::TERM)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The half that stays.
pub(crate) fn hold(policies: &Path, interrupt: &Interrupt) -> Result<bool> {
    // What is started from here must not hold on to the terminal's pipes.
    let folder = Folder::make()?;
    let own_errors = rustix::io::dup(rustix::stdio::stderr())?;
    rustix::stdio::dup2_stderr(File::create(folder.path("stderr.log"))?)?;
    let played = story::play(policies, interrupt);
    rustix::stdio::dup2_stderr(&own_errors)?;
    drop(own_errors);
    let (shop, right) = played?;
    if !right {
        return Ok(false);
    }
    configure(&shop, &folder)?;
    show(&shop)?;
    let nowhere = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    // Not the terminal's any more. It fails only for who leads a group already, which is as good.
    let _ = rustix::process::setsid();
    fs::write(folder.path("pid.new"), std::process::id().to_string())?;
    fs::rename(folder.path("pid.new"), folder.path("pid"))?;
    while !interrupt.came() {
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(shop);
    Ok(true)
}

/// Ends the one that stayed, and removes what nobody owns.
pub(crate) fn clean() -> Result<bool> {
    if let Some(pid) = kept() {
        kill_process(pid, Signal::TERM)?;
        let gone = || kept().is_none();
        wait_until(PATIENCE, "the demo has removed itself", gone)?;
        say("the demo is removed");
    } else {
        say("no demo is running");
    }
    harness::sweep();
    harness::sweep_pins();
    let _ = fs::remove_dir_all(FOLDER);
    Ok(true)
}

/// The process that stayed, if it lives.
fn kept() -> Option<Pid> {
    let number: i32 = fs::read_to_string(Path::new(FOLDER).join("pid")).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{number}/comm")).ok()?;
    (name.trim() == "bulkhead-demo").then(|| Pid::from_raw(number)).flatten()
}

/// The folder of a kept demo; removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Folder> {
        let path = PathBuf::from(FOLDER);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Folder(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A configuration for each node, so that `bulkhead … --config FILE` speaks of it.
fn configure(shop: &Shop, folder: &Folder) -> Result<()> {
    for (node, (name, agent)) in NODES.iter().zip(&shop.agents).enumerate() {
        let root = shop.network.root(node)?.path().display().to_string();
        let policies = agent.policies();
        let run = policies.with_file_name("run");
        let text = format!(
            "cgroup_root = {root:?}\npolicies = {:?}\nrun_dir = {:?}\nmode = \"enforce\"\n",
            policies.display().to_string(),
            run.display().to_string(),
        );
        fs::write(folder.path(&format!("{name}.toml")), text)?;
    }
    Ok(())
}

fn show(shop: &Shop) -> Result<()> {
    let program = harness::agent_program().context("the agent is not built")?;
    let program = program.display();
    say("\nIt is still running. To look around:");
    for name in NODES {
        say(&format!("   {program} status --config {FOLDER}/{name}.toml"));
    }
    let config = format!("--config {FOLDER}/{}.toml", NODES[0]);
    say(&format!("   {program} zones {config}"));
    say(&format!("   {program} explain {config} 10.20.1.10 10.20.3.10@shop.slice/db.service tcp/5432"));
    say("To change the policy, edit and save:");
    for (name, agent) in NODES.iter().zip(&shop.agents) {
        say(&format!("   {}/shop.toml    ({name})", agent.policies().display()));
    }
    say("To run something as a machine of the shop (in its namespace and its cgroup):");
    for machine in MACHINES.iter().filter(|machine| ["web", "intruder"].contains(&machine.name)) {
        let namespace = shop.network.namespace(machine.name)?;
        let cgroup = shop.network.root(machine.node)?.path().join(machine.cgroup);
        say(&format!(
            "   sh -c 'echo $$ > {}/cgroup.procs; exec ip netns exec {namespace} ping -c 1 10.20.2.10'    ({})",
            cgroup.display(),
            machine.name
        ));
    }
    say("To remove it:\n   cargo xtask demo --clean");
    Ok(())
}
