//! The agent's side of the proxy: a thread that keeps listeners in the workloads' namespaces, answers the
//! proxy's questions by the policy, makes sockets for it, and hands it certificates.
//!
//! What it tells the proxy holds until it says otherwise: when the policy or a membership changes, or a
//! certificate, the proxy asks again, for live connections, too.

mod answers;
mod certificates;
mod conversation;
mod last_hops;
mod listeners;
mod sockets;
mod suspicion;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use bulkhead_sys::netns::{self, NetNs};
use tokio::sync::{mpsc, oneshot};

use super::places::{Place, Places};
use super::start::Found;
use super::view::View;
use super::wire::Record;
use crate::config::ProxyConfig;
use crate::daemon::snapshot::Shared;
use crate::datapath::Reader;
use crate::findings::Desk;
use conversation::State;
pub use last_hops::close_all;

/// What the thread works with.
#[derive(Debug)]
pub struct Sources {
    /// The kernel's tables.
    pub reader: Reader,
    /// The policy.
    pub shared: Arc<Shared>,
    /// Where workloads live.
    pub places: Places,
    /// How it is configured.
    pub config: ProxyConfig,
    /// What others see of it.
    pub view: View,
    /// Who hears of those who cannot prove who they are.
    pub findings: Desk,
}

/// The running thread; the proxy goes on when this ends.
#[derive(Debug)]
pub struct Supervisor {
    commands: mpsc::UnboundedSender<Command>,
    _thread: JoinHandle<()>,
}

/// What may be asked of it.
#[derive(Debug)]
enum Command {
    Connections(oneshot::Sender<Vec<Record>>),
}

/// Asks a running supervisor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::UnboundedSender<Command>);

impl Asker {
    /// The live connections; `None` while no proxy answers. Blocks.
    pub fn connections(&self) -> Option<Vec<Record>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Command::Connections(answer)).ok()?;
        answered.blocking_recv().ok()
    }
}

impl Supervisor {
    /// Starts it.
    pub fn start(found: Found, sources: Sources) -> io::Result<Self> {
        let (commands, orders) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut state = State::new(found, sources, orders);
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || runtime.block_on(state.live()))?;
        Ok(Self { commands, _thread: thread })
    }

    /// For those who want to know.
    pub fn asker(&self) -> Asker {
        Asker(self.commands.clone())
    }
}

/// The namespace `cookie`, in which the process `pid` was found.
fn enter(cookie: u64, pid: u32) -> io::Result<NetNs> {
    let found = NetNs::of_process(pid).ok().filter(|ns| ns.cookie().is_ok_and(|its| its == cookie));
    // It may have ended, and others live there still.
    match found {
        Some(ns) => Ok(ns),
        None => netns::find(cookie)
            .map_err(io::Error::other)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no process lives there any more")),
    }
}

/// Whether a place is one that is known.
fn known(place: u64, found: Option<&Place>) -> io::Result<&Place> {
    found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no workload lives in namespace {place}"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_after_the_process_that_it_was_found_by() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pid = ended.id();
        ended.wait().unwrap();
        let cookie = NetNs::current().unwrap().cookie().unwrap();
        assert_eq!(enter(cookie, pid).unwrap().cookie().unwrap(), cookie);
        assert!(enter(u64::MAX, std::process::id()).is_err(), "another namespace than the one that is meant");
    }
}
