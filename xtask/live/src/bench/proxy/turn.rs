//! One subject's turn within a round.

use std::time::Duration;

use anyhow::Result;

use super::load::{Load, Outcome};
use super::results::{Measure, Samples};
use super::stage::{ADDRESSES, MORE, Running, Stage};
use super::subject::Subject;
use crate::interrupt::Interrupt;

/// Connections that are held idle.
const IDLE: usize = 1_000;
/// Connections or requests at a time.
const AT_ONCE: usize = 16;
const STREAMS: usize = 8;

/// See [`Turn::take`].
pub(crate) struct Turn<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) subject: Subject,
    pub(crate) round: usize,
    /// Length of one measurement.
    pub(crate) seconds: f64,
}

impl Turn<'_> {
    /// Starts the subject, measures everything once, and ends it; what could not be measured, and why.
    pub(crate) fn take(&self, interrupt: &Interrupt, samples: &mut Samples) -> Result<Vec<String>> {
        let mut failures = Vec::new();
        let running = match self.stage.start(self.subject) {
            Ok(running) => running,
            Err(error) => {
                interrupt.check()?;
                return Ok(vec![format!("it does not start: {error:#}")]);
            }
        };
        let hops = self.subject != Subject::Direct;
        // Before anything else, while no memory is there that was used before and given back.
        if hops && let Err(error) = self.at_rest(&running, samples) {
            failures.push(format!("idle connections: {error:#}"));
        }
        let mut loads = vec![
            Load::Stream { streams: 1 },
            Load::Stream { streams: STREAMS },
            Load::Connect { at_once: AT_ONCE },
            Load::Connect { at_once: 1 },
            Load::Round { connections: 1 },
            Load::Round { connections: AT_ONCE },
        ];
        // Others have a tunnel for each connection anyway. It is the last, since its tunnels stay.
        if self.subject == Subject::Bulkhead {
            loads.push(Load::ConnectEverywhere { at_once: AT_ONCE, first: MORE, addresses: ADDRESSES });
        }
        for load in loads {
            interrupt.check()?;
            if hops && matches!(load, Load::ConnectEverywhere { .. }) {
                self.peak(&running, samples)?;
            }
            match running.run(load, Duration::from_secs_f64(self.seconds)) {
                Ok((outcome, cpu)) => self.add(samples, load, &outcome, cpu),
                Err(error) => failures.push(format!("{load:?}: {error:#}")),
            }
        }
        if hops && self.subject != Subject::Bulkhead {
            self.peak(&running, samples)?;
        }
        // What failed because of a signal is no finding.
        interrupt.check()?;
        Ok(failures)
    }

    fn at_rest(&self, running: &Running<'_>, samples: &mut Samples) -> Result<()> {
        let memory = || Ok([running.memory(0)?.resident, running.memory(1)?.resident]);
        let before = memory()?;
        let alone = [running.proxy_memory(0)?.resident, running.proxy_memory(1)?.resident];
        let mut add = |measures: [Measure; 2], values: [f64; 2]| {
            for (measure, value) in measures.into_iter().zip(values) {
                samples.add(self.subject, measure, self.round, value);
            }
        };
        add([Measure::RestNear, Measure::RestFar], before.map(|kib| kib / 1024.0));
        add([Measure::ProxyRestNear, Measure::ProxyRestFar], alone.map(|kib| kib / 1024.0));
        let held = running.hold(IDLE, memory)?;
        let of = |node: usize| {
            let grown = held.get(node).zip(before.get(node)).map_or(f64::NAN, |(held, before)| held - before);
            grown * 1.024 / IDLE as f64
        };
        add([Measure::IdleNear, Measure::IdleFar], [of(0), of(1)]);
        Ok(())
    }

    fn peak(&self, running: &Running<'_>, samples: &mut Samples) -> Result<()> {
        for (node, measure) in [Measure::PeakNear, Measure::PeakFar].into_iter().enumerate() {
            samples.add(self.subject, measure, self.round, running.memory(node)?.peak / 1024.0);
        }
        Ok(())
    }

    fn add(&self, samples: &mut Samples, load: Load, outcome: &Outcome, cpu: f64) {
        let rate = outcome.count as f64 / outcome.seconds;
        let (gbits, per_gb) = (rate * 8.0 / 1e9, cpu * 1e9 / outcome.count as f64);
        let each = cpu * 1e6 / outcome.count as f64;
        let values = match load {
            Load::Stream { streams: 1 } => vec![(Measure::OneStream, gbits), (Measure::CpuPerGb, per_gb)],
            Load::Stream { .. } => vec![(Measure::EightStreams, gbits), (Measure::CpuPerGbOfEight, per_gb)],
            Load::Connect { at_once: 1 } => {
                vec![(Measure::ConnectP50, outcome.p50_us), (Measure::ConnectP99, outcome.p99_us)]
            }
            Load::Connect { .. } => {
                let mut values = vec![(Measure::Connections, rate), (Measure::CpuPerConnection, each)];
                if self.subject != Subject::Bulkhead {
                    values.push((Measure::FreshConnections, rate));
                    values.push((Measure::CpuPerFreshConnection, each));
                }
                values
            }
            Load::ConnectEverywhere { .. } => {
                vec![(Measure::FreshConnections, rate), (Measure::CpuPerFreshConnection, each)]
            }
            Load::Round { connections: 1 } => vec![
                (Measure::RequestP50, outcome.p50_us),
                (Measure::RequestP99, outcome.p99_us),
                (Measure::CpuPerRequest, each),
            ],
            Load::Round { .. } => vec![(Measure::Requests, rate), (Measure::CpuPerRequestOfMany, each)],
            Load::Hold { .. } => Vec::new(),
        };
        for (measure, value) in values {
            let of_hops = measure >= Measure::CpuPerGb;
            if !(of_hops && self.subject == Subject::Direct) {
                samples.add(self.subject, measure, self.round, value);
            }
        }
    }
}
