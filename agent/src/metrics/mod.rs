//! What Prometheus reads: fixed cardinality, zones × verdict × reason, never addresses.
//!
//! The kernel's numbers are read at scrape time by [`kernel`]; the agent's own are kept by
//! [`AgentMetrics`]. A table that cannot be read leaves its family out and counts one
//! `bulkhead_scrape_errors_total`: a missing number is noticed, a wrong one is believed.

pub mod http;
pub mod kernel;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::datapath::keep::Object;
use crate::tamper::Action;

pub use kernel::Source;

/// The registry with everything in it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The agent's own numbers.
    pub agent: AgentMetrics,
}

/// What the agent counts about itself.
#[derive(Clone, Debug)]
pub struct AgentMetrics {
    reload_success: IntGauge,
    reload_timestamp: Gauge,
    reload_duration: Histogram,
    reloads: IntCounterVec,
    reload_errors: IntCounter,
    scrape_errors: IntCounter,
    drift: IntGauge,
    drift_repaired: IntCounter,
    /// What was tampered with in the kernel, by object and action.
    pub tamper: IntCounterVec,
}

impl Metrics {
    /// Every metric of the agent, reading the kernel's through `source`.
    pub fn new(source: Arc<dyn Source>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let agent = AgentMetrics::new(&registry)?;
        registry.register(Box::new(kernel::KernelCollector::new(source, agent.scrape_errors.clone())?))?;
        let build = IntGaugeVec::new(
            Opts::new("bulkhead_build_info", "Version of the agent; always 1."),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        Ok(Self { registry, agent })
    }

    /// Adds what somebody else keeps.
    pub fn register(
        &self,
        collector: impl prometheus::core::Collector + 'static,
    ) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(collector))
    }

    /// The text that a scrape answers with.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl AgentMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            reload_success: IntGauge::new(
                "bulkhead_policy_last_reload_success",
                "Whether the policy folder as it is now is what the kernel enforces (1), or its last reload failed (0).",
            )?,
            reload_timestamp: Gauge::new(
                "bulkhead_policy_last_reload_timestamp_seconds",
                "Unix time of the last successful reload.",
            )?,
            reload_duration: Histogram::with_opts(
                HistogramOpts::new(
                    "bulkhead_policy_reload_duration_seconds",
                    "Time from noticing a change to the kernel enforcing it, clean-up excluded.",
                )
                .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]),
            )?,
            reloads: IntCounterVec::new(
                Opts::new("bulkhead_policy_reloads_total", "Reloads of the policy, by result."),
                &["result"],
            )?,
            reload_errors: IntCounter::new(
                "bulkhead_policy_reload_errors_total",
                "Reloads that failed and left the last good policy in force.",
            )?,
            scrape_errors: IntCounter::new(
                "bulkhead_scrape_errors_total",
                "Kernel tables that could not be read for a scrape; their metrics were left out.",
            )?,
            drift: IntGauge::new(
                "bulkhead_policy_drift_entries",
                "Entries of the kernel's tables that were not what the policy says, at the last look.",
            )?,
            drift_repaired: IntCounter::new(
                "bulkhead_policy_drift_repaired_total",
                "Entries of the kernel's tables that were written right.",
            )?,
            tamper: IntCounterVec::new(
                Opts::new(
                    "bulkhead_tamper_total",
                    "Kernel objects of this agent that somebody took away or replaced, by what was done about it.",
                ),
                &["object", "action"],
            )?,
        };
        for (object, action) in
            Object::ALL.iter().flat_map(|object| Action::ALL.map(|action| (object, action)))
        {
            metrics.tamper.with_label_values(&[object.as_str(), action.as_str()]);
        }
        for result in ["changed", "unchanged", "failed"] {
            metrics.reloads.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.reload_success.clone()))?;
        registry.register(Box::new(metrics.reload_timestamp.clone()))?;
        registry.register(Box::new(metrics.reload_duration.clone()))?;
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.reload_errors.clone()))?;
        registry.register(Box::new(metrics.scrape_errors.clone()))?;
        registry.register(Box::new(metrics.drift.clone()))?;
        registry.register(Box::new(metrics.drift_repaired.clone()))?;
        registry.register(Box::new(metrics.tamper.clone()))?;
        Ok(metrics)
    }

    /// The policy folder is enforced as it is; `changed` if that took a new generation.
    pub fn reloaded(&self, changed: bool, took: Duration) {
        self.reload_success.set(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.reload_timestamp.set(now.as_secs_f64());
        let result = if changed { "changed" } else { "unchanged" };
        self.reloads.with_label_values(&[result]).inc();
        if changed {
            self.reload_duration.observe(took.as_secs_f64());
        }
    }

    /// The kernel's tables were compared with the policy.
    pub fn verified(&self, differing: usize, repaired: bool) {
        self.drift.set(i64::try_from(differing).unwrap_or(i64::MAX));
        if repaired {
            self.drift_repaired.inc_by(differing as u64);
        }
    }

    /// A reload failed; the last good policy stays.
    pub fn reload_failed(&self) {
        self.reload_success.set(0);
        self.reloads.with_label_values(&["failed"]).inc();
        self.reload_errors.inc();
    }
}
