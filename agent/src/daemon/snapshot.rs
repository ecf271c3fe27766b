//! What everybody in the agent may look at while the reconciler works.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bulkhead_abi::Reason;
use bulkhead_policy::{Facts, Image, Model};
use tokio::sync::watch;

use super::labels::Labels;
use crate::config::Mode;
use crate::sockets::FlowTable;

/// The agent as it was at one moment; replaced whole.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The policy that is enforced; `None` while only the kernel knows it (a restart on a bad folder).
    pub model: Option<Arc<Model>>,
    /// What it was compiled to.
    pub image: Option<Arc<Image>>,
    /// With these facts.
    pub facts: Arc<Facts>,
    /// Names of identities.
    pub labels: Arc<Labels>,
    /// Generation that is enforced.
    pub generation: u64,
    /// Mode of the whole node.
    pub mode: Mode,
    /// Whether enforcement has begun.
    pub enforcing: bool,
    /// When the folder was last loaded without an error.
    pub last_success: Option<SystemTime>,
    /// How long that took.
    pub last_duration: Duration,
    /// Why the folder as it is now is not enforced.
    pub failure: Option<Failure>,
    /// How the kernel's tables were when they were last compared with the policy.
    pub drift: DriftSeen,
}

/// What looks at the kernel's tables came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DriftSeen {
    /// When the last look was.
    pub at: Option<SystemTime>,
    /// How long it took.
    pub took: Duration,
    /// Entries that differed then.
    pub entries: usize,
    /// Entries that were written right since the agent started.
    pub repaired: usize,
}

impl DriftSeen {
    /// A look found so many entries that differed.
    pub fn looked(&mut self, entries: usize, repaired: bool, took: Duration) {
        let repaired = self.repaired + if repaired { entries } else { 0 };
        *self = Self { at: Some(SystemTime::now()), took, entries, repaired };
    }
}

/// A reload that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Every diagnostic, rendered.
    pub text: String,
    /// Since when the folder is bad.
    pub since: SystemTime,
}

/// The present snapshot, and the pulse of the threads.
#[derive(Debug, Default)]
pub struct Shared {
    snapshot: watch::Sender<Arc<Snapshot>>,
    ended: Mutex<Vec<(Reason, u64)>>,
    flow_table: Mutex<FlowTable>,
    /// The reconcile loop's pulse.
    pub reconciler: Pulse,
    /// The event loop's.
    pub events: Pulse,
}

impl Shared {
    /// The agent as it is.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// For who waits for the next change of it.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    /// Changes what others see, at once and whole. Only the reconciler does.
    pub fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    /// Live flows that were ended, by reason.
    pub fn ended(&self) -> Vec<(Reason, u64)> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces [`Shared::ended`].
    pub fn set_ended(&self, ended: Vec<(Reason, u64)>) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = ended;
    }

    /// Whether the flow table is full.
    pub fn flow_table(&self) -> FlowTable {
        *self.flow_table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces [`Shared::flow_table`].
    pub fn set_flow_table(&self, state: FlowTable) {
        *self.flow_table.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// When a loop last turned.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// It turned now.
    pub fn beat(&self) {
        self.0.store(bulkhead_sys::clock::monotonic_ns(), Ordering::Relaxed);
    }

    /// Time since it last turned.
    pub fn age(&self) -> Duration {
        let now = bulkhead_sys::clock::monotonic_ns();
        Duration::from_nanos(now.saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}
