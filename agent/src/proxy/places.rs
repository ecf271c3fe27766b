//! Where the proxy is wanted: the network namespaces that workloads live in, as the event loop finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_abi::Addr;
use tokio::sync::watch;

/// A namespace that a workload lives in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// A process inside that is not ours.
    pub pid: u32,
    /// Its addresses, loopback apart; none of a namespace that an unprivileged user made.
    pub addresses: BTreeSet<Addr>,
}

/// The places by their namespaces' cookies, and which processes are our own and make no namespace one.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Places {
    found: watch::Sender<BTreeMap<u64, Place>>,
    own: Arc<Mutex<BTreeSet<u32>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            found: watch::Sender::default(),
            own: Arc::new(Mutex::new(BTreeSet::from([std::process::id()]))),
        }
    }
}

impl Places {
    /// Told by the event loop.
    pub fn publish(&self, found: BTreeMap<u64, Place>) {
        self.found.send_if_modified(|before| {
            let news = *before != found;
            *before = found;
            news
        });
    }

    /// Hears of changes.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<u64, Place>> {
        self.found.subscribe()
    }

    /// The proxy's processes: where only they live, nobody needs one.
    pub fn set_own(&self, processes: impl IntoIterator<Item = u32>) {
        let own = processes.into_iter().chain([std::process::id()]).collect();
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// See [`Places::set_own`]; this process is among them.
    pub fn own(&self) -> BTreeSet<u32> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
