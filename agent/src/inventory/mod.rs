//! The inventory in the running agent: the kernel tells how handshakes begin, `bulkhead-detect` reads
//! them, and what was read goes into the inventory, to the findings, to the metrics, and, where a rule
//! names a floor that only the whole ServerHello shows, to whoever ends the flow.
//!
//! A thread of its own reads the ring: parsing what strangers sent delays nobody. The kernel has let the
//! first bytes pass by then, so a floor is enforced here a moment after the ServerHello and not before it;
//! what is lost from the ring is counted, not read, and does not end a flow.

mod floor;
mod metrics;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_abi::{App, Class, Event, EventKind, Identity, Tls, Verdict};
use bulkhead_detect::hello::{Handshake, Opening, Stage};
use bulkhead_detect::inventory::{EdgeClass, Inventory, Line, Service};
use bulkhead_policy::model::tls_name;

use crate::control::protocol::InventoryFilter;
use crate::daemon::labels::Labels;
use crate::daemon::snapshot::Snapshot;
use crate::datapath::{DatapathError, Reader};

pub use metrics::InventoryCollector;
pub use watch::{Sources, Watch};

/// Where everything about handshakes meets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Book(Arc<Mutex<Pages>>);

/// What the book holds.
#[derive(Debug, Default)]
struct Pages {
    inventory: Inventory,
    /// Handshakes since the agent started.
    handshakes: BTreeMap<Agreed, u64>,
    /// Flows below their rule's floor since the agent started.
    below: BTreeMap<(Arc<str>, Arc<str>, Verdict), u64>,
    /// Openings that had to make room before they were understood.
    evicted: u64,
}

/// What two ends agreed on, by the words of the metrics: closed sets, but for the zones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Agreed {
    from: Arc<str>,
    to: Arc<str>,
    version: &'static str,
    strength: &'static str,
    group: &'static str,
}

impl Book {
    /// Begins with what an earlier agent knew.
    pub fn new(inventory: Inventory) -> Self {
        Self(Arc::new(Mutex::new(Pages { inventory, ..Pages::default() })))
    }

    /// The kernel told of something; what has a class is taken in.
    pub fn events(&self, events: &[Event], snapshot: &Snapshot) {
        let named = |event: &&Event| event.class != Class::Unknown as u8;
        let told = |event: &&Event| {
            let kind = EventKind::from_code(event.kind);
            matches!(kind, Some(EventKind::Classified | EventKind::Verdict))
        };
        let mut events = events.iter().filter(told).filter(named).peekable();
        if events.peek().is_none() {
            return;
        }
        let (now, mut pages) = (now(), self.lock());
        for event in events {
            let service = Service {
                from: snapshot.labels.get(event.from),
                to: snapshot.labels.get(event.to),
                protocol: event.protocol,
                port: event.dst_port,
            };
            pages.inventory.class(service, Class::from_code(event.class), App::from_code(event.app), now);
        }
    }

    /// What is known, first what the kernel counted by edge, then each service.
    pub fn lines(
        &self,
        reader: &Reader,
        labels: &Labels,
        filter: &InventoryFilter,
    ) -> Result<Vec<Line>, DatapathError> {
        let edges = edges(reader, labels)?.into_iter().map(Line::Edge);
        let mut lines: Vec<Line> = edges.collect();
        lines.extend(self.lock().inventory.services().map(|service| Line::Service(Box::new(service))));
        lines.retain(|line| filter.matches(line));
        Ok(lines)
    }

    /// A handshake was read to its end.
    fn settled(&self, opening: &Opening, labels: &Labels) {
        if opening.stage != Stage::Settled {
            return;
        }
        let (stream, handshake) = (&opening.stream, &opening.handshake);
        let (from, to) = (labels.get(stream.from), labels.get(stream.to));
        let service =
            Service { from: from.clone(), to: to.clone(), protocol: stream.protocol, port: stream.dst.1 };
        let mut pages = self.lock();
        pages.inventory.handshake(service, App::from_code(stream.app), handshake, now());
        *pages.handshakes.entry(agreed(from, to, handshake)).or_default() += 1;
    }

    fn below_floor(&self, from: Arc<str>, to: Arc<str>, verdict: Verdict) {
        *self.lock().below.entry((from, to, verdict)).or_default() += 1;
    }

    fn set_evicted(&self, evicted: u64) {
        self.lock().evicted = evicted;
    }

    fn inventory(&self) -> Inventory {
        self.lock().inventory.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InventoryFilter {
    fn matches(&self, line: &Line) -> bool {
        let (from, to) = match line {
            Line::Edge(edge) => (&edge.from, &edge.to),
            Line::Service(service) => (&service.from, &service.to),
        };
        let zone = |wanted: &Option<String>, found: &str| {
            let is = |wanted: &String| wanted == found || found.split('+').any(|part| part == wanted);
            wanted.as_ref().is_none_or(is)
        };
        zone(&self.from, from) && zone(&self.to, to)
    }
}

fn agreed(from: Arc<str>, to: Arc<str>, handshake: &Handshake) -> Agreed {
    let seen = handshake.server.as_ref().filter(|server| !server.retry);
    Agreed {
        from,
        to,
        version: seen.map_or("unknown", |server| server.version.as_str()),
        strength: seen.map_or("unknown", |server| server.cipher.strength().as_str()),
        group: handshake.group_kind().as_str(),
    }
}

/// What the kernel counted, with names; identities of one name are one.
fn edges(reader: &Reader, labels: &Labels) -> Result<Vec<EdgeClass>, DatapathError> {
    let mut sums: BTreeMap<_, u64> = BTreeMap::new();
    for (key, flows) in reader.classes()? {
        let label = |identity: Identity| labels.get(identity);
        let row = (label(key.from), label(key.to), key.class, key.app, key.level, key.verdict);
        *sums.entry(row).or_default() += flows;
    }
    let rows = sums.into_iter().map(|((from, to, class, app, level, verdict), flows)| EdgeClass {
        from: from.to_string(),
        to: to.to_string(),
        class: Class::from_code(class).as_str().to_owned(),
        protocol: App::from_code(app).as_str().to_owned(),
        tls: tls_name(Tls::from_code(level)).to_owned(),
        verdict: Verdict::from_code(verdict).as_str().to_owned(),
        flows,
    });
    Ok(rows.collect())
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
