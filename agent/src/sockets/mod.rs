//! The part of the agent that works on sockets.
//!
//! It learns which namespaces and addresses are on this node ([`namespaces`]), adopts what lived before
//! enforcement began ([`adopt`]), ends what lost its right ([`ending`]), clears the flow table of flows
//! that have expired ([`table`]), and raises the alarm when it is full ([`alarm`]). It is driven by state: an event only makes it look sooner.
//!
//! Which way it fails: a socket that it cannot end stays denied by the kernel, packet by packet; an
//! address that it has not seen is judged as one that is elsewhere, by the address alone.

mod adopt;
mod alarm;
mod ending;
mod looking;
mod namespaces;
mod table;

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bulkhead_abi::{Addr, Event, EventKind, Reason, flow::Doomed};
use bulkhead_policy::Image;

pub use alarm::FlowTable;

use crate::daemon::sweep::Sweeper;
use crate::datapath::{DatapathError, Reader, Surroundings};
use crate::guard::Guards;
use crate::proxy::places::Places;
use ending::Ending;
use namespaces::Namespaces;

/// How often namespaces and their addresses are looked at without a reason.
const RESCAN: Duration = Duration::from_secs(1);
/// How often the flow table is cleared of what has expired.
const CLEAR: Duration = Duration::from_secs(1);
/// How often registered receivers that the kernel does not take away itself are looked at.
const PRUNE: Duration = Duration::from_secs(10);

/// The sweeper of a running agent.
#[derive(Debug)]
pub struct SocketSweeper {
    reader: Reader,
    namespaces: Namespaces,
    guards: Guards,
    ending: Ending,
    alarm: alarm::Alarm,
    /// Receivers that were bound before the programs were there to see it.
    early: Vec<adopt::Early>,
    /// Addresses as the kernel was told them last.
    published: BTreeMap<Addr, u64>,
    /// All namespaces were looked at once.
    looked: bool,
    /// Told to the daemon last.
    told: Option<BTreeMap<Addr, u64>>,
    scanned: Instant,
    cleared: Instant,
    pruned: Instant,
}

impl SocketSweeper {
    /// A sweeper for the sockets of the cgroup subtree `root`.
    pub fn new(reader: &Reader, root: &Path, guards: &Guards, places: &Places) -> Self {
        let now = Instant::now();
        let mut sweeper = Self {
            reader: reader.clone(),
            namespaces: Namespaces::new(root, places),
            guards: guards.clone(),
            ending: Ending::default(),
            alarm: alarm::Alarm::default(),
            early: Vec::new(),
            // What changed while no agent was there to see it changes now.
            published: published(reader),
            looked: false,
            told: None,
            scanned: now,
            cleared: now,
            pruned: now,
        };
        sweeper.rescan();
        sweeper.alarm.begin(reader);
        sweeper
    }

    /// Looks at all namespaces, and tells the kernel at once what has changed.
    fn rescan(&mut self) {
        self.scanned = Instant::now();
        match self.namespaces.scan() {
            Ok(()) => self.looked = true,
            Err(error) => {
                tracing::warn!(%error, "cannot look at the network namespaces; new addresses are not known yet");
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        // Who has seen nothing yet knows nothing of what is gone: it would end every flow of this node.
        if !self.looked {
            return;
        }
        let namespaces = &self.namespaces;
        let surroundings = Surroundings {
            known: namespaces.known(),
            guarded: namespaces.guarded(&self.guards.doors()),
            likely: namespaces.likely(),
        };
        let told = self.reader.sockets().set_locals(&surroundings, namespaces.addresses());
        self.guards.set_namespaces(namespaces.numbers());
        if let Err(error) = told {
            tracing::warn!(%error, "cannot tell the kernel the addresses of this node");
            return;
        }
        let left = self.namespaces.left(&self.published);
        if !left.is_empty()
            && let Err(error) = self.forget(&left)
        {
            tracing::warn!(%error, "cannot end what was allowed to an address' last owner; tried again");
            return;
        }
        self.published.clone_from(self.namespaces.addresses());
    }

    /// Looks where something changed, as the guard was told.
    fn follow(&mut self) {
        let news = self.guards.news();
        if news.lost {
            return self.rescan();
        }
        let mut changed = news.doors;
        if news.own {
            changed |= self.namespaces.look_at_own();
        }
        changed |= self.namespaces.look_at_numbers(&news.namespaces, news.doors);
        if changed {
            self.publish();
        }
    }

    /// Ends what was allowed to the last owners of addresses that have another one now, or none.
    fn forget(&mut self, left: &HashSet<Addr>) -> Result<(), DatapathError> {
        let flows = table::forget(&self.reader, left)?;
        self.ending.end_left(&self.reader, &mut self.namespaces, left)?;
        tracing::info!(addresses = left.len(), flows, "addresses left their owners, and their flows ended");
        Ok(())
    }
}

/// The addresses that the kernel knows already.
fn published(reader: &Reader) -> BTreeMap<Addr, u64> {
    let entries = reader.sockets().maps().locals.entries().unwrap_or_default();
    entries.into_iter().map(|(addr, local)| (addr, local.netns)).collect()
}

impl Sweeper for SocketSweeper {
    fn adopt(&mut self, _image: &Image) {
        match adopt::adopt(&self.reader, &mut self.namespaces) {
            Ok(adopted) => {
                tracing::info!(
                    connections = adopted.connections,
                    receivers = adopted.early.len(),
                    "adopted what lived before enforcement"
                );
                self.early = adopted.early;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot adopt the sockets that are open; those that only their direction allows are ended")
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        match EventKind::from_code(event.kind) {
            Some(EventKind::Doomed) => self.ending.end_doomed(&self.reader, &mut self.namespaces),
            Some(EventKind::Bound | EventKind::Namespace) => {
                if self.namespaces.look_at(event.netns, event.pid) {
                    self.publish();
                }
            }
            Some(EventKind::Verdict | EventKind::Classified) | None => {}
        }
    }

    fn end(&mut self, doomed: &[(u64, Doomed)]) {
        self.ending.end_listed(&mut self.namespaces, doomed);
    }

    fn tick(&mut self) {
        self.ending.end_doomed(&self.reader, &mut self.namespaces);
        self.follow();
        if self.scanned.elapsed() >= RESCAN {
            self.rescan();
        }
        if self.cleared.elapsed() >= CLEAR {
            self.cleared = Instant::now();
            match table::clear(&self.reader, &mut self.namespaces) {
                Ok(flows) => self.alarm.look(&self.reader, flows),
                Err(error) => tracing::warn!(%error, "cannot clear the flow table of expired flows"),
            }
        }
        if !self.early.is_empty() && self.pruned.elapsed() >= PRUNE {
            self.pruned = Instant::now();
            adopt::prune(&self.reader, &mut self.namespaces, &mut self.early);
        }
    }

    fn after_commit(&mut self, image: &Arc<Image>) {
        // Judged by what the kernel holds, which is what its packets are judged by.
        self.ending.end_denied(&self.reader, &mut self.namespaces, image);
        match table::forget_denied(&self.reader) {
            Ok(0) => {}
            Ok(flows) => {
                tracing::info!(flows, "flows of workloads that are in another zone now are judged again")
            }
            Err(error) => tracing::warn!(
                %error,
                "cannot look for datagrams' flows that lost their right; those of workloads that just became known go on"
            ),
        }
    }

    fn locals(&mut self) -> Option<BTreeMap<Addr, u64>> {
        let addresses = self.namespaces.addresses();
        if self.told.as_ref() == Some(addresses) {
            return None;
        }
        self.told = Some(addresses.clone());
        self.told.clone()
    }

    fn ended(&self) -> Vec<(Reason, u64)> {
        self.ending.counts()
    }

    fn flow_table(&self) -> FlowTable {
        self.alarm.state()
    }
}
