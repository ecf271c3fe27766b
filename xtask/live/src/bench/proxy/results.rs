//! The figures, as they are written to JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::subject::{Known, Subject};
use crate::machine::Machine;
use crate::spread::Spread;

/// All of them.
#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Processors that client, server and both hops share.
    pub(crate) cpus: Vec<usize>,
    pub(crate) rounds: usize,
    /// Length of one measurement.
    pub(crate) seconds: f64,
    pub(crate) subjects: Vec<Known>,
    pub(crate) figures: Vec<Figure>,
    /// What went wrong.
    pub(crate) notes: Vec<Note>,
}

/// One thing that was measured of one subject.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) subject: Subject,
    pub(crate) measure: Measure,
    /// In the measure's unit.
    pub(crate) value: Spread,
    /// The ratio to the same round's direct connection, where there is one.
    pub(crate) to_direct: Option<Spread>,
}

/// Why a figure is missing, or is of fewer rounds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) subject: Subject,
    pub(crate) what: String,
}

impl Results {
    /// What was measured of a subject.
    pub(crate) fn find(&self, subject: Subject, measure: Measure) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.subject == subject && figure.measure == measure)
    }
}

/// Values by subject and measure, with their rounds.
#[derive(Default)]
pub(crate) struct Samples(BTreeMap<(Subject, Measure), BTreeMap<usize, f64>>);

impl Samples {
    pub(crate) fn add(&mut self, subject: Subject, measure: Measure, round: usize, value: f64) {
        self.0.entry((subject, measure)).or_default().insert(round, value);
    }

    /// Medians, and medians of the rounds' own ratios.
    pub(crate) fn figures(&self) -> Result<Vec<Figure>> {
        let figure = |(&(subject, measure), values): (&(Subject, Measure), &BTreeMap<usize, f64>)| {
            let direct = self.0.get(&(Subject::Direct, measure)).filter(|_| subject != Subject::Direct);
            let ratios: Vec<f64> = direct.map_or_else(Vec::new, |direct| {
                let of = |(round, value): (&usize, &f64)| direct.get(round).map(|direct| value / direct);
                values.iter().filter_map(of).collect()
            });
            let to_direct = if ratios.is_empty() { None } else { Some(Spread::new(ratios)?) };
            Ok(Figure {
                subject,
                measure,
                value: Spread::new(values.values().copied().collect())?,
                to_direct,
            })
        };
        self.0.iter().map(figure).collect()
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    OneStream,
    EightStreams,
    Connections,
    FreshConnections,
    ConnectP50,
    ConnectP99,
    RequestP50,
    RequestP99,
    Requests,
    CpuPerGb,
    CpuPerGbOfEight,
    CpuPerConnection,
    CpuPerFreshConnection,
    CpuPerRequest,
    CpuPerRequestOfMany,
    RestNear,
    RestFar,
    ProxyRestNear,
    ProxyRestFar,
    PeakNear,
    PeakFar,
    IdleNear,
    IdleFar,
}

/// What is hoped for, of Bulkhead.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// As ratio to direct, or more.
    RatioAtLeast(f64),
    /// As ratio to direct, or less.
    RatioAtMost(f64),
    /// In the measure's unit, or less.
    AtMost(f64),
}

impl Measure {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Measure; 23] = [
        Measure::OneStream,
        Measure::EightStreams,
        Measure::Connections,
        Measure::FreshConnections,
        Measure::ConnectP50,
        Measure::ConnectP99,
        Measure::RequestP50,
        Measure::RequestP99,
        Measure::Requests,
        Measure::CpuPerGb,
        Measure::CpuPerGbOfEight,
        Measure::CpuPerConnection,
        Measure::CpuPerFreshConnection,
        Measure::CpuPerRequest,
        Measure::CpuPerRequestOfMany,
        Measure::RestNear,
        Measure::RestFar,
        Measure::ProxyRestNear,
        Measure::ProxyRestFar,
        Measure::PeakNear,
        Measure::PeakFar,
        Measure::IdleNear,
        Measure::IdleFar,
    ];

    /// What it is, for people, and how many digits are told behind the point.
    pub(crate) fn told(self) -> (&'static str, usize) {
        match self {
            Measure::OneStream => ("one stream, Gbit/s", 2),
            Measure::EightStreams => ("8 streams, Gbit/s", 2),
            Measure::Connections => ("new connections, 16 at a time, 1/s", 0),
            Measure::FreshConnections => ("  a fresh tunnel each, 1/s", 0),
            Measure::ConnectP50 => ("connect and echo, p50, us", 0),
            Measure::ConnectP99 => ("  p99, us", 0),
            Measure::RequestP50 => ("request and answer, p50, us", 1),
            Measure::RequestP99 => ("  p99, us", 1),
            Measure::Requests => ("requests, 16 connections, 1/s", 0),
            Measure::CpuPerGb => ("CPU-s per GB, one stream", 2),
            Measure::CpuPerGbOfEight => ("  8 streams", 2),
            Measure::CpuPerConnection => ("CPU us per connection", 0),
            Measure::CpuPerFreshConnection => ("  a fresh tunnel each", 0),
            Measure::CpuPerRequest => ("CPU us per request, one connection", 1),
            Measure::CpuPerRequestOfMany => ("  16 connections", 1),
            Measure::RestNear => ("MiB at rest, client's node", 1),
            Measure::RestFar => ("  server's node", 1),
            Measure::ProxyRestNear => ("  the proxy alone, client's node", 1),
            Measure::ProxyRestFar => ("  the proxy alone, server's node", 1),
            Measure::PeakNear => ("MiB at the peak, client's node", 1),
            Measure::PeakFar => ("  server's node", 1),
            Measure::IdleNear => ("kB per idle connection, client's node", 1),
            Measure::IdleFar => ("  server's node", 1),
        }
    }

    pub(crate) fn aim(self) -> Option<Aim> {
        Some(match self {
            Measure::OneStream => Aim::RatioAtLeast(0.40),
            Measure::Connections => Aim::RatioAtLeast(0.50),
            Measure::RequestP50 => Aim::RatioAtMost(6.0),
            Measure::CpuPerGb => Aim::AtMost(2.0),
            Measure::CpuPerRequest => Aim::AtMost(50.0),
            Measure::ProxyRestNear | Measure::ProxyRestFar => Aim::AtMost(20.0),
            Measure::IdleNear | Measure::IdleFar => Aim::AtMost(4.0),
            _ => return None,
        })
    }

    /// Whether more is better.
    pub(crate) fn is_speed(self) -> bool {
        self <= Measure::FreshConnections || self == Measure::Requests
    }
}

impl Aim {
    /// The aim, and whether a figure meets it.
    pub(crate) fn judge(self, figure: &Figure) -> (String, bool) {
        let ratio = figure.to_direct.map_or(f64::NAN, |ratio| ratio.median);
        match self {
            Aim::RatioAtLeast(aim) => (format!(">= {aim:.2} of direct"), ratio >= aim),
            Aim::RatioAtMost(aim) => (format!("<= {aim:.0} x direct"), ratio <= aim),
            Aim::AtMost(aim) => (format!("<= {aim:.0}"), figure.value.median <= aim),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Measure, Samples};
    use crate::proxy::subject::Subject;

    #[test]
    fn a_ratio_is_of_the_same_round() {
        let mut samples = Samples::default();
        for (round, direct, ours) in [(0, 10.0, Some(5.0)), (1, 100.0, None), (2, 20.0, Some(4.0))] {
            samples.add(Subject::Direct, Measure::OneStream, round, direct);
            if let Some(ours) = ours {
                samples.add(Subject::Bulkhead, Measure::OneStream, round, ours);
            }
        }
        let figures = samples.figures().unwrap();
        let ours = figures.iter().find(|figure| figure.subject == Subject::Bulkhead).unwrap();
        let ratio = ours.to_direct.unwrap();
        assert_eq!((ratio.min, ratio.max, ratio.count), (0.2, 0.5, 2));
        assert!(
            figures.iter().all(|figure| figure.to_direct.is_none() == (figure.subject == Subject::Direct))
        );
    }
}
