//! The proxy as metrics: by zone pair, direction and closed sets of words, so their number is bounded by
//! the policy; certificates by name, of which each zone has one.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::view::{State, View};

const FIRST_BYTE: &str = "bulkhead_proxy_first_byte_seconds";
const FIRST_BYTE_HELP: &str = "Time from a connection's beginning to the first byte of its answer.";

/// Reads what the supervisor knows for each scrape.
#[derive(Debug)]
pub struct ProxyCollector {
    view: View,
    descriptions: Vec<Desc>,
}

impl ProxyCollector {
    /// A collector over `view`.
    pub fn new(view: View) -> Result<Self, prometheus::Error> {
        let families = Families::new()?;
        let mut descriptions: Vec<Desc> =
            families.all().iter().flat_map(|family| family.desc()).cloned().collect();
        let labels = EDGE.map(str::to_owned).to_vec();
        descriptions.push(Desc::new(FIRST_BYTE.into(), FIRST_BYTE_HELP.into(), labels, Default::default())?);
        Ok(Self { view, descriptions })
    }
}

impl Collector for ProxyCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(families) = Families::new() else { return Vec::new() };
        let state = self.view.state();
        families.fill(&state);
        let mut collected: Vec<_> = families.all().iter().flat_map(|family| family.collect()).collect();
        collected.push(first_bytes(&state));
        collected
    }
}

const EDGE: [&str; 3] = ["from_zone", "to_zone", "direction"];

struct Families {
    up: IntGauge,
    lost: IntCounter,
    places: IntGauge,
    pooled: IntGauge,
    handshakes: IntCounterVec,
    failures: IntCounterVec,
    refused: IntCounterVec,
    audited: IntCounterVec,
    unlogged: IntCounter,
    connections: IntCounterVec,
    open: IntGaugeVec,
    bytes: IntCounterVec,
    expiry: IntGaugeVec,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let counters = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauges = |name, help, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        Ok(Self {
            up: IntGauge::new("bulkhead_proxy_up", "1 while the proxy answers its agent.")?,
            lost: IntCounter::new(
                "bulkhead_proxy_lost_total",
                "How often the agent lost its proxy, and with it the connections.",
            )?,
            places: IntGauge::new(
                "bulkhead_proxy_namespaces",
                "Network namespaces in which the proxy listens.",
            )?,
            pooled: IntGauge::new("bulkhead_proxy_tunnels", "Tunnels to other nodes that are open.")?,
            handshakes: counters(
                "bulkhead_proxy_handshakes_total",
                "Mutual TLS handshakes that were made; zones as far as they are known.",
                &EDGE,
            )?,
            failures: counters(
                "bulkhead_proxy_handshake_failures_total",
                "Handshakes that failed, by reason; zones as far as they are known.",
                &["from_zone", "to_zone", "direction", "reason"],
            )?,
            refused: counters(
                "bulkhead_proxy_refused_total",
                "Connections that were refused, by reason; zones as far as they are known.",
                &["from_zone", "to_zone", "reason"],
            )?,
            audited: counters(
                "bulkhead_proxy_audited_total",
                "Connections that were let in by a dry run and would be refused, by reason.",
                &["from_zone", "to_zone", "reason"],
            )?,
            unlogged: IntCounter::new(
                "bulkhead_proxy_records_lost_total",
                "Lines of the access log that were dropped because they came too fast.",
            )?,
            connections: counters(
                "bulkhead_proxy_connections_total",
                "Connections over mutual TLS that were begun.",
                &EDGE,
            )?,
            open: gauges(
                "bulkhead_proxy_connections_open",
                "Connections over mutual TLS that are open.",
                &EDGE,
            )?,
            bytes: counters(
                "bulkhead_proxy_bytes_total",
                "Bytes of connections over mutual TLS, to the server (sent) and to the client (received).",
                &["from_zone", "to_zone", "direction", "way"],
            )?,
            expiry: gauges(
                "bulkhead_proxy_certificate_expiry_seconds",
                "End of the validity of the certificate that is shown under a name, in seconds since 1970.",
                &["name"],
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 13] {
        [
            &self.up,
            &self.lost,
            &self.places,
            &self.pooled,
            &self.handshakes,
            &self.failures,
            &self.refused,
            &self.audited,
            &self.unlogged,
            &self.connections,
            &self.open,
            &self.bytes,
            &self.expiry,
        ]
    }

    fn fill(&self, state: &State) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.up.set(i64::from(state.running));
        self.lost.inc_by(state.lost);
        self.places.set(i64::try_from(state.places).unwrap_or(i64::MAX));
        self.pooled.set(signed(state.stats.pooled));
        self.unlogged.inc_by(state.stats.lost);
        for (from, to, direction, count) in &state.stats.handshakes {
            self.handshakes.with_label_values(&[from, to, direction]).inc_by(*count);
        }
        for (from, to, direction, reason, count) in &state.stats.failures {
            self.failures.with_label_values(&[from, to, direction, reason]).inc_by(*count);
        }
        for (from, to, reason, count) in &state.stats.refused {
            self.refused.with_label_values(&[from, to, reason]).inc_by(*count);
        }
        for (from, to, reason, count) in &state.stats.audited {
            self.audited.with_label_values(&[from, to, reason]).inc_by(*count);
        }
        for (from, to, direction, edge) in &state.stats.edges {
            let labels = [from, to, direction].map(String::as_str);
            self.connections.with_label_values(&labels).inc_by(edge.connections);
            self.open.with_label_values(&labels).set(signed(edge.open));
            let [from, to, direction] = labels;
            self.bytes.with_label_values(&[from, to, direction, "sent"]).inc_by(edge.sent);
            self.bytes.with_label_values(&[from, to, direction, "received"]).inc_by(edge.received);
        }
        for certificate in &state.certificates {
            self.expiry.with_label_values(&[&certificate.name]).set(certificate.not_after);
        }
    }
}

/// What was counted elsewhere, as a histogram.
fn first_bytes(state: &State) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(FIRST_BYTE.into());
    family.set_help(FIRST_BYTE_HELP.into());
    family.set_field_type(MetricType::HISTOGRAM);
    let metrics = state.stats.edges.iter().map(|(from, to, direction, edge)| {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(edge.first_byte_count);
        histogram.set_sample_sum(edge.first_byte_sum);
        let buckets = edge.first_byte.iter().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        let mut metric = Metric::from_label(labels([from, to, direction]));
        metric.set_histogram(histogram);
        metric
    });
    family.set_metric(metrics.collect());
    family
}

fn labels(values: [&String; 3]) -> Vec<LabelPair> {
    let pairs = EDGE.into_iter().zip(values).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value.clone());
        pair
    });
    pairs.collect()
}
