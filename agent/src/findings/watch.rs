//! The findings' own thread: looks at counters, lets time pass, tells and saves.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_detect::findings::{Memory, Observation};

use super::counters::Seen;
use super::{Desk, Journal};
use crate::daemon::snapshot::Shared;
use crate::datapath::Reader;
use crate::proxy::places::Places;
use crate::store::Store;
use crate::tamper::Record;

/// Time between two turns; how long a finding waits until it is told.
const TURN: Duration = Duration::from_secs(1);
/// Time between two looks at the counters.
const LOOK: Duration = Duration::from_secs(5);
/// Time between two looks at how full the tables are, which walks them.
const TABLES: Duration = Duration::from_secs(15);
/// Findings are saved so soon after they changed.
const SAVE: Duration = Duration::from_secs(10);
/// Habits are saved so often.
const SAVE_HABITS: Duration = Duration::from_secs(300);

/// Where numbers are read.
#[derive(Debug)]
pub struct Sources {
    /// The kernel's counters and tables.
    pub reader: Reader,
    /// Names of identities; whether the flow table is full.
    pub shared: Arc<Shared>,
    /// What was done to the agent's kernel objects.
    pub tamper: Arc<Record>,
    /// The namespaces whose listeners may be flooded.
    pub places: Places,
}

/// The thread; when this is dropped it saves and ends.
#[derive(Debug)]
pub struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to look and to tell.
    pub fn start(desk: Desk, sources: Sources, journal: Journal, store: Store<Memory>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let mut round = Round { desk, sources, journal, store, seen: Seen::default() };
        let watch = move || {
            let begun = Instant::now();
            let (mut looked, mut walked, mut saved) = (None, None, begun);
            let mut changed = false;
            let due = |last: Option<Instant>, period| last.is_none_or(|last| last.elapsed() >= period);
            loop {
                if due(looked, LOOK) {
                    looked = Some(Instant::now());
                    round.look();
                }
                if due(walked, TABLES) {
                    walked = Some(Instant::now());
                    round.walk();
                }
                changed |= round.tell();
                let patience = if changed { SAVE } else { SAVE_HABITS };
                if saved.elapsed() >= patience {
                    (saved, changed) = (Instant::now(), false);
                    round.store.save(&round.desk.memory());
                }
                if stopped.recv_timeout(TURN) != Err(mpsc::RecvTimeoutError::Timeout) {
                    round.tell();
                    round.store.save(&round.desk.memory());
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("findings".to_owned()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told by its own thread.
            let _ = thread.join();
        }
    }
}

struct Round {
    desk: Desk,
    sources: Sources,
    journal: Journal,
    store: Store<Memory>,
    seen: Seen,
}

impl Round {
    fn look(&mut self) {
        let Sources { reader, shared, tamper, places } = &self.sources;
        let mut seen = self.seen.tampered(tamper.findings());
        match reader.counters() {
            Ok(rows) => seen.extend(self.seen.counted(&rows, &shared.snapshot().labels)),
            Err(error) => tracing::debug!(%error, "the counters cannot be read for findings"),
        }
        match reader.losses() {
            Ok(rows) => seen.extend(self.seen.lost(&rows)),
            Err(error) => tracing::debug!(%error, "the losses cannot be read for findings"),
        }
        // Not while they are held: who finds them does not wait for this thread's reading.
        let inside: Vec<u32> = places.watch().borrow().values().map(|place| place.pid).collect();
        seen.extend(self.seen.backlog(inside.into_iter()));
        self.desk.observe_all(&seen);
    }

    fn walk(&mut self) {
        let Sources { reader, shared, .. } = &self.sources;
        let maps = reader.maps();
        let flows = (maps.flows.name(), maps.flows.count(), maps.flows.capacity());
        let transit = (maps.transit.name(), maps.transit.count(), maps.transit.capacity());
        let refusing = shared.flow_table().full;
        for (table, entries, capacity) in [flows, transit] {
            let (Ok(entries), Ok(capacity)) = (entries, capacity) else { continue };
            let (entries, capacity) = (entries as u64, capacity as u64);
            // The kernel counts refusals for all tables together: the fuller one is meant.
            let refusing = refusing && entries >= capacity / 2;
            self.desk.observe(&Observation::Table { table, entries, capacity, refusing });
        }
    }

    fn tell(&mut self) -> bool {
        let changes = self.desk.turn();
        for change in &changes {
            self.journal.tell(change);
        }
        !changes.is_empty()
    }
}
