//! Findings as metrics: kinds, severities and zones, so their number is bounded by the policy.

use std::collections::BTreeMap;

use bulkhead_detect::findings::{Kind, Severity, State};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use super::Desk;

/// Reads the desk for each scrape.
#[derive(Debug)]
pub struct FindingsCollector {
    desk: Desk,
    descriptions: Vec<Desc>,
}

impl FindingsCollector {
    /// A collector over `desk`.
    pub fn new(desk: Desk) -> Result<Self, prometheus::Error> {
        let families = Families::new()?;
        let descriptions = families.all().iter().flat_map(|family| family.desc()).cloned().collect();
        Ok(Self { desk, descriptions })
    }
}

impl Collector for FindingsCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Made anew each time: an edge that has no finding any more has no series.
        let Ok(families) = Families::new() else { return Vec::new() };
        families.fill(&self.desk);
        let families = families.all().into_iter().flat_map(|family| family.collect());
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

struct Families {
    open: IntGaugeVec,
    acknowledged: IntGaugeVec,
    total: IntCounterVec,
    suppressed: IntCounterVec,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("bulkhead_findings_{name}"), help);
        Ok(Self {
            open: IntGaugeVec::new(
                opts("open", "Findings that somebody should look at."),
                &["kind", "severity", "from_zone", "to_zone"],
            )?,
            acknowledged: IntGaugeVec::new(
                opts("acknowledged", "Findings that go on and that somebody has acknowledged."),
                &["kind"],
            )?,
            total: IntCounterVec::new(
                opts("total", "Findings that were opened since the agent started."),
                &["kind", "severity"],
            )?,
            suppressed: IntCounterVec::new(
                opts("suppressed_total", "Sightings that went into `more of the same`."),
                &["kind"],
            )?,
        })
    }

    fn fill(&self, desk: &Desk) {
        let findings = desk.lock();
        let mut open: BTreeMap<_, i64> = BTreeMap::new();
        let mut acknowledged: BTreeMap<_, i64> = Kind::ALL.iter().map(|kind| (*kind, 0)).collect();
        for finding in findings.iter() {
            let (kind, edge) = (finding.kind(), &finding.key.edge);
            match finding.state {
                State::Open => {
                    *open.entry((kind, finding.severity, edge.from.clone(), edge.to.clone())).or_default() +=
                        1;
                }
                State::Acknowledged => *acknowledged.entry(kind).or_default() += 1,
                State::Resolved => {}
            }
        }
        for ((kind, severity, from, to), count) in open {
            self.open.with_label_values(&[kind.as_str(), severity.as_str(), &*from, &*to]).set(count);
        }
        for (kind, count) in acknowledged {
            self.acknowledged.with_label_values(&[kind.as_str()]).set(count);
            let suppressed = findings.suppressed().get(&kind).copied().unwrap_or(0);
            self.suppressed.with_label_values(&[kind.as_str()]).inc_by(suppressed);
            for severity in Severity::ALL {
                let total = findings.totals().get(&(kind, *severity)).copied().unwrap_or(0);
                self.total.with_label_values(&[kind.as_str(), severity.as_str()]).inc_by(total);
            }
        }
    }

    fn all(&self) -> [&dyn Collector; 4] {
        [&self.open, &self.acknowledged, &self.total, &self.suppressed]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use bulkhead_detect::findings::{Memory, Observation, Settings};
    use prometheus::{Encoder, Registry, TextEncoder};

    use super::*;

    #[test]
    fn what_is_open_has_a_series_and_what_ended_has_none() {
        let desk = Desk::new(&Settings::default(), Memory::default());
        let registry = Registry::new();
        registry.register(Box::new(FindingsCollector::new(desk.clone()).unwrap())).unwrap();
        let text = || {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert!(text().contains("bulkhead_findings_total{kind=\"event-loss\",severity=\"low\"} 0"));
        desk.observe(&Observation::Lost { what: "events", count: 3 });
        let line = "bulkhead_findings_open{from_zone=\"node\",kind=\"event-loss\",severity=\"low\",to_zone=\"node\"} 1";
        assert!(text().contains(line), "{}", text());
        let id = desk.list(&super::super::Wanted::default())[0].id.clone();
        desk.acknowledge(&id, None, None).unwrap();
        assert!(!text().contains("bulkhead_findings_open{"));
        assert!(text().contains("bulkhead_findings_acknowledged{kind=\"event-loss\"} 1"));
        assert!(text().contains("bulkhead_findings_total{kind=\"event-loss\",severity=\"low\"} 1"));
    }
}
