//! What last hops need in the workloads' namespaces: a rule and a route by which answers to a client's
//! address find their way back to the proxy. Tried again where it could not be made.
//!
//! It stays while an agent is away, since the proxy goes on; what ends for good takes it along.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bulkhead_sys::cgroup;
use bulkhead_sys::netns::{self, LastHop, Marking};

use crate::instance::Instance;
use crate::proxy::places::Place;

/// What tells the packets of last hops in a workload's namespace, and the table that they go by.
pub(super) const MARKING: Marking = Marking { mark: 0x1508, table: 15008, priority: 150 };

/// The namespaces that were made ready.
#[derive(Debug, Default)]
pub(super) struct LastHops {
    open: BTreeMap<u64, (Place, LastHop)>,
    /// Where it could not be done, and was told of.
    failed: BTreeSet<u64>,
}

impl LastHops {
    /// Opens and closes until just the `wanted` namespaces are ready.
    pub(super) fn follow(&mut self, wanted: &BTreeMap<u64, Place>) {
        self.failed.retain(|cookie| wanted.contains_key(cookie));
        self.open.retain(|cookie, (place, open)| {
            let stays = wanted.contains_key(cookie);
            if !stays {
                close(*cookie, place, open);
            }
            stays
        });
        for (&cookie, place) in wanted {
            if self.open.contains_key(&cookie) {
                continue;
            }
            match open(cookie, place) {
                Ok(open) => {
                    self.failed.remove(&cookie);
                    self.open.insert(cookie, (place.clone(), open));
                }
                Err(error) if self.failed.insert(cookie) => tracing::warn!(
                    netns = cookie,
                    pid = place.pid,
                    %error,
                    "last hops cannot be opened in a workload's namespace: what comes in there under \
                     tls = \"mutual\" is refused; tried again"
                ),
                Err(_) => {}
            }
        }
    }

    /// Whether a namespace is to be tried again.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }
}

/// Takes away what agents and proxies of `instance` left in the namespaces of those who live below its root; in
/// how many there was something. Whoever lives below the root of another instance is that one's.
pub fn close_all(instance: &Instance) -> Result<usize, CloseError> {
    let others = crate::datapath::others(&instance.pins)?;
    let own = cgroup::id(&instance.cgroup_root)?;
    let apart = others.into_iter().filter(|&other| other != own).collect();
    let found = netns::discover(cgroup::processes_outside(&instance.cgroup_root, &apart)?)?;
    let mut closed = 0;
    for ns in found.namespaces {
        closed += usize::from(ns.close_last_hop(MARKING)?);
    }
    Ok(closed)
}

/// Why [`close_all`] could not look everywhere, or take something away.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The other instances' pins.
    #[error(transparent)]
    Pins(#[from] crate::datapath::DatapathError),
    /// Cgroups, or namespaces.
    #[error(transparent)]
    System(#[from] bulkhead_sys::Error),
}

fn open(cookie: u64, place: &Place) -> io::Result<LastHop> {
    super::enter(cookie, place.pid)?.open_last_hop(MARKING).map_err(io::Error::other)
}

fn close(cookie: u64, place: &Place, open: &LastHop) {
    // A namespace that has gone took it along.
    let Ok(ns) = super::enter(cookie, place.pid) else { return };
    if let Err(error) = open.close(&ns) {
        tracing::warn!(netns = cookie, %error, "what last hops needed in a workload's namespace is still there");
    }
}
