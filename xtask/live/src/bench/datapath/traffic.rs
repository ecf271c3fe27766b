//! The rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use super::load::{Load, Outcome};
use super::policy::Policy;
use super::results::{Figure, Loaded, Measure};
use super::stage::{Place, Stage, Variant};
use crate::spread::Spread;

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) sizes: Vec<usize>,
    pub(crate) runs: usize,
    /// Length of one measurement.
    pub(crate) seconds: f64,
    /// Of the asking and the serving end.
    pub(crate) cpus: (usize, usize),
    /// The loads that are wanted; all where none is said.
    pub(crate) only: Vec<Load>,
}

impl Plan {
    /// Length of one measurement.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Those of `steps` that are wanted.
    pub(crate) fn wanted(&self, steps: &[(Load, Place)]) -> Vec<(Load, Place)> {
        let is_wanted = |load: &Load| self.only.is_empty() || self.only.contains(load);
        steps.iter().filter(|(load, _)| is_wanted(load)).copied().collect()
    }
}

/// Requests and connections are made with both ends on one processor: no sleeping and waking between two
/// processors hides what they cost, and the rate is the processor time of both ends together. Streams and
/// datagrams have a processor for each end, and are as fast as the busier one, which is the sender's: it
/// also carries a packet up to the receiver's socket.
pub(crate) const STEPS: [(Load, Place); 8] = [
    (Load::Stream, Place::Apart),
    (Load::Connect, Place::Together),
    (Load::Round, Place::Together),
    (Load::UdpRound, Place::Together),
    (Load::Udp, Place::Apart),
    (Load::UdpUnconnected, Place::Apart),
    (Load::Flood, Place::Apart),
    (Load::FloodArriving, Place::Stranger),
];

/// Values by size, variant and measure, one for each round.
type Samples = BTreeMap<(usize, Variant, Measure), Vec<f64>>;

/// A stage for each size.
pub(crate) fn stages(plan: &Plan) -> Result<Vec<(usize, Stage)>> {
    plan.sizes.iter().map(|size| Ok((*size, Stage::new(Policy::new(*size), plan.cpus)?))).collect()
}

/// All rounds.
pub(crate) fn measure(plan: &Plan, stages: &mut [(usize, Stage)]) -> Result<(Vec<Figure>, Vec<Loaded>)> {
    let (mut samples, mut loads) = (Samples::new(), BTreeMap::new());
    for round in 0..plan.runs {
        for (size, stage) in stages.iter_mut() {
            for turn in 0..Variant::ALL.len() {
                // Who begins changes from round to round.
                let Some(variant) = Variant::ALL.get((turn + round) % Variant::ALL.len()) else { continue };
                let loaded = stage.switch(*variant)?;
                eprint!("[bench] round {} of {}, {size} rules, {variant}", round + 1, plan.runs);
                eprintln!(", loaded in {:.2} s", loaded.as_secs_f64());
                loads.entry((*size, *variant)).or_insert_with(Vec::new).push(loaded.as_secs_f64());
                for (load, place) in plan.wanted(&STEPS) {
                    let outcome = stage.run(load, place, plan.time())?;
                    for (measure, value) in values(load, &outcome) {
                        samples.entry((*size, *variant, measure)).or_default().push(value);
                    }
                }
            }
            stage.switch(Variant::None)?;
        }
    }
    let figures =
        samples.iter().map(|(key, values)| figure(*key, values, &samples)).collect::<Result<_>>()?;
    let loads = loads.into_iter().map(|((size, variant), seconds)| {
        Ok(Loaded { size, variant, seconds: Spread::new(seconds)?, agent_kib: 0, maps_kib: 0 })
    });
    Ok((figures, loads.collect::<Result<_>>()?))
}

pub(crate) fn values(load: Load, outcome: &Outcome) -> Vec<(Measure, f64)> {
    let rate = outcome.count as f64 / outcome.seconds;
    let nanos = outcome.cpu_seconds * 1e9 / outcome.count as f64;
    match load {
        Load::Stream | Load::TlsStream => vec![(Measure::Throughput, rate * 8.0 / 1e9)],
        Load::Connect | Load::TlsConnect => vec![(Measure::Connections, rate)],
        Load::Round => vec![
            (Measure::Rounds, rate),
            (Measure::RoundP50, outcome.p50_us),
            (Measure::RoundP99, outcome.p99_us),
        ],
        Load::UdpRound => vec![(Measure::UdpRounds, rate)],
        Load::Udp => vec![(Measure::Udp, rate)],
        Load::UdpUnconnected => vec![(Measure::UdpUnconnected, rate)],
        Load::Flood => vec![(Measure::DeniedSent, nanos)],
        Load::FloodArriving => vec![(Measure::DeniedReceived, nanos)],
    }
}

fn figure(key: (usize, Variant, Measure), values: &[f64], samples: &Samples) -> Result<Figure> {
    let (size, variant, measure) = key;
    let ratio = |other: Variant| -> Result<Spread> {
        let Some(others) = samples.get(&(size, other, measure)) else { bail!("{other} was not measured") };
        Spread::new(values.iter().zip(others).map(|(value, other)| value / other).collect())
    };
    let (to_none, to_nftables) = (ratio(Variant::None)?, ratio(Variant::Nftables)?);
    Ok(Figure { size, variant, measure, value: Spread::new(values.to_vec())?, to_none, to_nftables })
}
