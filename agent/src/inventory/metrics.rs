//! The inventory as metrics: zones and closed sets of words, so their number is bounded by the policy.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts};
use std::sync::Arc;

use super::{Book, now};
use crate::daemon::snapshot::Shared;
use crate::datapath::Reader;

/// A certificate that no handshake showed for so long says nothing any more, in seconds.
const RECENT: u64 = 24 * 3600;

/// Reads the book, and the kernel's counters of classes, for each scrape.
#[derive(Debug)]
pub struct InventoryCollector {
    book: Book,
    reader: Reader,
    shared: Arc<Shared>,
    descriptions: Vec<Desc>,
}

impl InventoryCollector {
    /// A collector over `book` and the counters of `reader`.
    pub fn new(book: Book, reader: Reader, shared: Arc<Shared>) -> Result<Self, prometheus::Error> {
        let families = Families::new()?;
        let descriptions = families.all().iter().flat_map(|family| family.desc()).cloned().collect();
        Ok(Self { book, reader, shared, descriptions })
    }

    fn fill(&self, families: &Families) {
        let labels = Arc::clone(&self.shared.snapshot().labels);
        match super::edges(&self.reader, &labels) {
            Ok(edges) => {
                for edge in edges {
                    let labels =
                        [&edge.from, &edge.to, &edge.class, &edge.protocol, &edge.tls, &edge.verdict];
                    families.classes.with_label_values(&labels.map(String::as_str)).inc_by(edge.flows);
                }
            }
            // A family that is missing is noticed.
            Err(error) => tracing::warn!(%error, "the counters of classes cannot be read for a scrape"),
        }
        let pages = self.book.lock();
        for (agreed, count) in &pages.handshakes {
            let labels = [&*agreed.from, &*agreed.to, agreed.version, agreed.strength, agreed.group];
            families.handshakes.with_label_values(&labels).inc_by(*count);
        }
        for ((from, to, verdict), count) in &pages.below {
            families.below.with_label_values(&[&**from, &**to, verdict.as_str()]).inc_by(*count);
        }
        for ((from, to), end) in pages.inventory.expiries(now().saturating_sub(RECENT)) {
            families.expiry.with_label_values(&[&*from, &*to]).set(end);
        }
        families.evicted.inc_by(pages.evicted);
    }
}

impl Collector for InventoryCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Made anew each time: a counter that the kernel forgot must not live on in here.
        let Ok(families) = Families::new() else { return Vec::new() };
        self.fill(&families);
        let families = families.all().into_iter().flat_map(|family| family.collect());
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

struct Families {
    classes: IntCounterVec,
    handshakes: IntCounterVec,
    below: IntCounterVec,
    expiry: IntGaugeVec,
    evicted: IntCounter,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("bulkhead_{name}"), help), labels)
        };
        Ok(Self {
            classes: counters(
                "flow_classes_total",
                "Flows by what their first bytes say, by what their rule asks for and what came of it.",
                &["from_zone", "to_zone", "class", "protocol", "tls", "verdict"],
            )?,
            handshakes: counters(
                "tls_flows_total",
                "TLS and DTLS handshakes that were read, by what both ends agreed on.",
                &["from_zone", "to_zone", "version", "cipher_strength", "group_kind"],
            )?,
            below: counters(
                "tls_below_floor_total",
                "Handshakes that agreed on an older version than their rule asks for, seen behind the \
                 kernel's first bytes: ended (deny) or reported (audit).",
                &["from_zone", "to_zone", "verdict"],
            )?,
            expiry: IntGaugeVec::new(
                Opts::new(
                    "bulkhead_tls_certificate_expiry_seconds",
                    "Unix time at which the first of the certificates ends that servers showed within a day.",
                ),
                &["from_zone", "to_zone"],
            )?,
            evicted: IntCounter::new(
                "bulkhead_tls_openings_evicted_total",
                "Openings of flows that had to make room before they were understood.",
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 5] {
        [&self.classes, &self.handshakes, &self.below, &self.expiry, &self.evicted]
    }
}
