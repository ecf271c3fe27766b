//! Network namespaces.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::names;

/// A network namespace that `ip netns` knows, with loopback up; removed on drop.
///
/// A process that is still in it keeps it alive without its name, so drop peers first.
#[derive(Debug)]
pub struct Ns {
    name: String,
}

impl Ns {
    /// A new namespace whose name ends in `label`.
    ///
    /// Addresses are usable at once (no duplicate detection), anybody may ping, and a packet may
    /// come in by another way than the answer goes out.
    pub fn new(label: &str) -> Result<Ns> {
        let name = names::unique(label);
        ip(&["netns", "add", &name])?;
        let ns = Ns { name };
        ns.enter(|| {
            for (setting, value) in [
                ("ipv4/ping_group_range", "0 2147483647"),
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ] {
                fs::write(format!("/proc/sys/net/{setting}"), value)
                    .with_context(|| format!("cannot set net/{setting}"))?;
            }
            anyhow::Ok(())
        })??;
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Its name for `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(names::NETNS_FOLDER).join(&self.name)
    }

    /// Runs `ip` in it, one command a line, all in one process. Fails at the first that fails.
    pub fn ip(&self, commands: &str) -> Result<()> {
        batch(Command::new("ip").args(["-n", &self.name]), commands)
    }

    /// Writes a setting below `/proc/sys/net` of this namespace.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(format!("/proc/sys/net/{setting}"), value))?
            .with_context(|| format!("cannot set net/{setting}"))
    }

    /// Runs `work` on a thread of its own inside the namespace, and answers what it answers.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        enter(&self.path(), work)
    }

    /// A command that runs in it, ready for more arguments.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Runs `work` on a thread of its own inside the namespace that the file at `path` stands for.
pub(super) fn enter<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).with_context(|| format!("the namespace {} is gone", path.display()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<T> {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
        inside.join().map_err(|_| anyhow!("the work in {} panicked", path.display()))?
    })
}

/// Runs one `ip` command on the machine's own network.
fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run `ip`: install iproute2")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs many `ip` commands in one process.
pub(super) fn batch(ip: &mut Command, commands: &str) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: install iproute2")?;
    if let Some(mut input) = child.stdin.take() {
        // A child that ends early closes the pipe; its own message below says why.
        let _ = input.write_all(commands.as_bytes());
        let _ = input.write_all(b"\n");
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip said {} to:\n{commands}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
