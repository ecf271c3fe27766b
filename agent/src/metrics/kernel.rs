//! The kernel's own numbers, read when somebody asks.

use std::sync::Arc;

use bulkhead_abi::names::Loss;
use bulkhead_abi::tables::FailsafeKey;
use bulkhead_abi::verdict::Side;
use bulkhead_abi::{Counter, CounterKey, Identity, Reason, Verdict};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use crate::config::display_failsafe;
use crate::datapath::{MapUsage, ProgramStats};
use crate::guard;
use crate::sockets::FlowTable;

/// Rows of a kernel table, or why it could not be read.
pub type Rows<T> = Result<Vec<T>, Box<dyn std::error::Error + Send + Sync>>;

/// Where the kernel's numbers come from. The daemon reads the maps; tests make them up.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// The live generation.
    fn generation(&self) -> u64;
    /// Whether the whole node is in audit mode.
    fn audit(&self) -> bool;
    /// Counters, summed over CPUs.
    fn counters(&self) -> Rows<(CounterKey, Counter)>;
    /// What was lost.
    fn losses(&self) -> Rows<(Loss, u64)>;
    /// How full the maps are.
    fn usage(&self) -> Rows<MapUsage>;
    /// What the programs cost.
    fn programs(&self) -> Rows<ProgramStats>;
    /// Packets that passed by a failsafe port.
    fn failsafe(&self) -> Rows<(FailsafeKey, u64)>;
    /// Live flows that the agent ended, by reason.
    fn flows_ended(&self) -> Vec<(Reason, u64)>;
    /// What the guard counts.
    fn guard(&self) -> guard::Counts;
    /// Whether new flows are denied because the flow table is full.
    fn flow_table(&self) -> FlowTable;
    /// The zones of an identity, as a label.
    fn label(&self, identity: Identity) -> Arc<str>;
}

/// Reads [`Source`] for each scrape.
#[derive(Debug)]
pub struct KernelCollector {
    source: Arc<dyn Source>,
    errors: IntCounter,
    descriptions: Vec<Desc>,
}

impl KernelCollector {
    /// A collector over `source` that counts in `errors` what it could not read.
    pub fn new(source: Arc<dyn Source>, errors: IntCounter) -> Result<Self, prometheus::Error> {
        let families = Families::new()?;
        let descriptions =
            families.all().iter().flat_map(|family| family.desc()).cloned().collect::<Vec<Desc>>();
        Ok(Self { source, errors, descriptions })
    }

    /// The table's rows, or none and one more error.
    fn read<T>(&self, table: &str, rows: Rows<T>) -> Option<Vec<T>> {
        match rows {
            Ok(rows) => Some(rows),
            Err(error) => {
                self.errors.inc();
                tracing::warn!(table, %error, "a kernel table could not be read for a scrape");
                None
            }
        }
    }

    fn fill(&self, families: &Families) {
        let source = &self.source;
        families.generation.set(i64::try_from(source.generation()).unwrap_or(i64::MAX));
        families.audit.set(i64::from(source.audit()));
        for (key, counter) in self.read("counters", source.counters()).unwrap_or_default() {
            let (from, to) = (source.label(key.from), source.label(key.to));
            let verdict = Verdict::from_code(key.verdict).as_str();
            let labels = [&*from, &*to, verdict, Reason::from_code(key.reason).as_str()];
            families.flows.with_label_values(&labels).inc_by(counter.flows);
            families.packets.with_label_values(&labels).inc_by(counter.packets);
            families.bytes.with_label_values(&labels).inc_by(counter.bytes);
        }
        for (loss, count) in self.read("losses", source.losses()).unwrap_or_default() {
            families.lost.with_label_values(&[loss.as_str()]).inc_by(count);
        }
        for map in self.read("map usage", source.usage()).unwrap_or_default() {
            let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            families.entries.with_label_values(&[map.name]).set(number(map.entries));
            families.capacity.with_label_values(&[map.name]).set(number(map.capacity));
        }
        for program in self.read("programs", source.programs()).unwrap_or_default() {
            families.runs.with_label_values(&[&program.name]).inc_by(program.run_count);
            families.run_seconds.with_label_values(&[&program.name]).inc_by(program.run_time.as_secs_f64());
        }
        for (key, packets) in self.read("failsafe", source.failsafe()).unwrap_or_default() {
            let side = if key.side == Side::Egress as u8 { "egress" } else { "ingress" };
            families.failsafe.with_label_values(&[side, &display_failsafe(&key)]).inc_by(packets);
        }
        for (reason, count) in source.flows_ended() {
            families.ended.with_label_values(&[reason.as_str()]).inc_by(count);
        }
        let guard = source.guard();
        families.guarded.set(i64::try_from(guard.interfaces).unwrap_or(i64::MAX));
        families.guard_failures.inc_by(guard.failures);
        let table = source.flow_table();
        families.full.set(i64::from(table.full));
        families.episodes.inc_by(table.episodes);
    }
}

impl Collector for KernelCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Made anew each time: a counter that the kernel forgot must not live on in here.
        let families = match Families::new() {
            Ok(families) => families,
            Err(error) => {
                self.errors.inc();
                tracing::warn!(%error, "the kernel's metrics could not be made");
                return Vec::new();
            }
        };
        self.fill(&families);
        families
            .all()
            .iter()
            .flat_map(|family| family.collect())
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

struct Families {
    flows: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    generation: IntGauge,
    audit: IntGauge,
    entries: IntGaugeVec,
    capacity: IntGaugeVec,
    lost: IntCounterVec,
    runs: IntCounterVec,
    run_seconds: CounterVec,
    failsafe: IntCounterVec,
    ended: IntCounterVec,
    guarded: IntGauge,
    guard_failures: IntCounter,
    full: IntGauge,
    episodes: IntCounter,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("bulkhead_{name}"), help), labels)
        };
        let gauges =
            |name: &str, help: &str| IntGaugeVec::new(Opts::new(format!("bulkhead_{name}"), help), &["map"]);
        let pair = ["from_zone", "to_zone", "verdict", "reason"];
        Ok(Self {
            flows: counters("flows_total", "Flows opened or refused, by the zones of both ends.", &pair)?,
            packets: counters("packets_total", "Packets, by the zones of both ends.", &pair)?,
            bytes: counters("bytes_total", "Bytes of IP packets, by the zones of both ends.", &pair)?,
            generation: IntGauge::new("bulkhead_generation", "Generation of the policy that is enforced.")?,
            audit: IntGauge::new(
                "bulkhead_audit_mode",
                "Whether the whole node only reports (1) or enforces (0).",
            )?,
            entries: gauges("map_entries", "Entries in a kernel table.")?,
            capacity: gauges("map_capacity", "Entries that a kernel table can hold.")?,
            lost: counters("lost_total", "Records that the kernel had no room for.", &["what"])?,
            runs: counters("program_runs_total", "Runs of a kernel program.", &["program"])?,
            run_seconds: CounterVec::new(
                Opts::new("bulkhead_program_run_seconds_total", "Time spent in a kernel program."),
                &["program"],
            )?,
            failsafe: counters(
                "failsafe_packets_total",
                "Packets that passed by a failsafe port of the node.",
                &["side", "port"],
            )?,
            ended: counters("flows_ended_total", "Live flows that the agent ended.", &["reason"])?,
            guarded: IntGauge::new("bulkhead_guarded_interfaces", "Interfaces that the guard is on.")?,
            guard_failures: IntCounter::new(
                "bulkhead_guard_attach_failures_total",
                "Times that the guard could not be put on an interface.",
            )?,
            full: IntGauge::new(
                "bulkhead_flow_table_full",
                "Whether new flows are denied for want of room in a flow table (1), or were in the last seconds.",
            )?,
            episodes: IntCounter::new(
                "bulkhead_flow_table_full_episodes_total",
                "How often a flow table became full since the agent started.",
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 16] {
        [
            &self.flows,
            &self.packets,
            &self.bytes,
            &self.generation,
            &self.audit,
            &self.entries,
            &self.capacity,
            &self.lost,
            &self.runs,
            &self.run_seconds,
            &self.failsafe,
            &self.ended,
            &self.guarded,
            &self.guard_failures,
            &self.full,
            &self.episodes,
        ]
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
