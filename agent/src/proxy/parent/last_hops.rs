//! What last hops need in the workloads' namespaces: a rule and a route by which answers to a client's
//! address find their way back to the proxy. Tried again where it could not be made.
//!
//! It stays while an agent is away, since the proxy goes on; what ends for good takes it along.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use bulkhead_sys::netns::{self, LastHop, Marking};

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

/// Takes away what agents and proxies left in the namespaces of those who live below the cgroup `root`; in
/// how many there was something.
pub fn close_below(root: &Path) -> bulkhead_sys::Result<usize> {
    let found = netns::discover(bulkhead_sys::cgroup::processes(root)?)?;
    let mut closed = 0;
    for ns in found.namespaces {
        closed += usize::from(ns.close_last_hop(MARKING)?);
    }
    Ok(closed)
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
