//! `bulkhead detach`: the one way to take enforcement off.
//!
//! A running agent is asked to stop first, or it would wonder where its maps went; the lock is then held
//! until the pins are gone, so that no other agent starts in between. Works without an agent, too.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bulkhead_sys::lock::Lock;

use super::{Result, Verdict};
use crate::config::Selection;
use crate::control::client::ClientError;
use crate::control::{Client, Request};
use crate::instance::{Instance, InstanceError};
use crate::proxy::{parent, start};

/// How long a stopping agent is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Say nothing when there is nothing to take off
    #[arg(long)]
    quiet: bool,
    /// End live connections under `tls = "mutual"` at once, instead of after `drain_seconds`
    #[arg(long)]
    now: bool,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let instance = super::instance(selection)?;
        let stopped = match Client::new(&instance.control_path()).ask(&Request::Stop) {
            Ok(_) => true,
            Err(ClientError::NotRunning(_)) => false,
            Err(error) => return Err(error).context("the running agent could not be asked to stop"),
        };
        let _lock = lock(&instance)?;
        // Before the kernel forgets what its sockets are for.
        let drain = if self.now { Duration::ZERO } else { super::config(selection)?.proxy.drain };
        if let Some(going) = start::dismiss(&instance.dir, drain) {
            if !self.now && !self.quiet {
                eprintln!(
                    "connections under tls = \"mutual\" have {} s to end; --now ends them at once",
                    drain.as_secs()
                );
            }
            if !going.wait() {
                bail!("the proxy was told to go, and still lives: end it, then run `bulkhead detach` again");
            }
        }
        parent::close_all(&instance)
            .context("what proxies needed in workloads' namespaces could not be taken away")?;
        let gone = crate::datapath::detach(&instance.pins)?;
        // Without maps the numbers mean nothing; the next start begins a new count either way.
        let _ = std::fs::remove_file(instance.state_path());
        let _ = std::fs::remove_file(instance.control_path());
        let all = gone.links + gone.interfaces + gone.maps;
        if all > 0 || !self.quiet {
            let agent = if stopped { "agent stopped; " } else { "" };
            let name = &instance.name;
            super::print(&match all {
                0 => format!("instance {name}: {agent}nothing was enforced\n"),
                _ => format!(
                    "instance {name}: {agent}enforcement is off ({} programs, the guard on {} interfaces, {} \
                     maps)\n",
                    gone.links, gone.interfaces, gone.maps
                ),
            })?;
        }
        Ok(Verdict::Fine)
    }
}

/// The instance's lock, once a stopping agent has given it up.
fn lock(instance: &Instance) -> Result<Lock> {
    let start = Instant::now();
    loop {
        match instance.lock() {
            Err(InstanceError::Locked { .. }) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error @ InstanceError::Locked { .. }) => {
                bail!("{error}; it did not stop when asked: end it, then run `bulkhead detach` again")
            }
            result => return Ok(result?),
        }
    }
}
