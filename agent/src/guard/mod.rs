//! The guard on the interfaces of the agent's own network namespace.
//!
//! Which interfaces is chosen by name. They are guarded as they appear, on a thread of its own, so that
//! no compilation or sweep keeps a new one waiting ([`watch`]); what hangs where is held in one
//! [`state::State`]. Which namespace is behind an interface is learned together with whoever follows
//! namespaces: this module tells him what changed and which interfaces are guarded, he tells the numbers
//! of the namespaces that he knows.
//!
//! Which way it fails: an interface that cannot be guarded is told of, in the log, by `status` and a
//! metric, and tried again; the socket layers judge what passes it all the same. Of a namespace that
//! has another way out nothing is left to the guard.

mod state;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_sys::netns::{Monitor, NetNs};

use crate::config::GuardConfig;
use crate::control::protocol::GuardView;
use crate::datapath::DatapathError;
use crate::datapath::guard::Guard as Kernel;
use crate::tamper::Record;

use state::State;

/// The guard, for all who have to do with it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guards(Arc<Mutex<State>>);

/// What changed since it was asked last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Something was not told: look at everything.
    pub lost: bool,
    /// Other guarded interfaces, or they lead elsewhere.
    pub doors: bool,
    /// An address of the agent's own namespace.
    pub own: bool,
    /// Namespaces in which an interface or an address changed, by number.
    pub namespaces: BTreeSet<i32>,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Interfaces that the guard is on.
    pub interfaces: u64,
    /// Times that it could not be put on one.
    pub failures: u64,
}

impl Guards {
    /// Not on any interface yet.
    pub fn new(config: &GuardConfig) -> Self {
        Self(Arc::new(Mutex::new(State::new(config.clone()))))
    }

    /// Guards what is there, and from now on what comes. Ends with what it answers. Who was at it is told to
    /// `record`.
    pub fn start(&self, kernel: Kernel, record: &Arc<Record>) -> Result<Running, DatapathError> {
        let own = NetNs::current()?;
        // Told first, then looked at: a change in between is seen twice rather than never.
        let monitor = Monitor::open(&own)?;
        let mut state = self.lock();
        state.begin(kernel, &own.interfaces()?, Arc::clone(record))?;
        drop(state);
        let guards = self.clone();
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || watch::run(&guards, monitor, &own))
            .map_err(|error| DatapathError::Io {
                action: "start the thread of",
                path: "guard".into(),
                error,
            })?;
        Ok(Running(self.clone()))
    }

    /// There is no guard, though there should be one; tells why.
    pub fn fail(&self, why: &DatapathError) {
        tracing::error!(error = %why, "there is no guard: what goes round sockets is not judged");
        self.lock().fail(why.to_string());
    }

    /// What changed since the last call.
    pub fn news(&self) -> News {
        std::mem::take(&mut self.lock().news)
    }

    /// The far ends of guarded interfaces: by the number of the namespace, the interfaces in there.
    pub fn doors(&self) -> BTreeMap<i32, BTreeSet<u32>> {
        self.lock().doors()
    }

    /// The cookies of the namespaces that are known, by number.
    pub fn set_namespaces(&self, namespaces: BTreeMap<i32, u64>) {
        self.lock().set_namespaces(namespaces);
    }

    /// What is counted.
    pub fn counts(&self) -> Counts {
        self.lock().counts()
    }

    /// How it is, for people.
    pub fn view(&self) -> GuardView {
        self.lock().view()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running guard. When it is dropped, what hangs stays, and nothing is hung any more.
#[derive(Debug)]
pub struct Running(Guards);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().stop();
    }
}
