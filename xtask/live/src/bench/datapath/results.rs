//! The figures, as they are written to JSON.

use serde::{Deserialize, Serialize};

use super::programs::{self, ByHand, Live};
use super::reading::Cost;
use super::stage::Variant;
use crate::machine::Machine;
use crate::spread::Spread;

/// All of them.
#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Rounds.
    pub(crate) runs: usize,
    /// Length of one measurement.
    pub(crate) seconds: f64,
    pub(crate) traffic: Vec<Figure>,
    /// What it costs that first bytes are read; nothing in figures that are older.
    #[serde(default)]
    pub(crate) reading: Vec<Cost>,
    pub(crate) loads: Vec<Loaded>,
    pub(crate) programs: Vec<programs::Size>,
    pub(crate) by_hand: Vec<ByHand>,
    pub(crate) live: Vec<Live>,
}

/// What it took to put a policy between the ends.
#[derive(Serialize, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) size: usize,
    pub(crate) variant: Variant,
    /// Both namespaces' rulesets; or the agent's start, to enforcing.
    pub(crate) seconds: Spread,
    /// Resident memory of the agent, in KiB.
    pub(crate) agent_kib: u64,
    /// Memory of the kernel's tables, in KiB.
    pub(crate) maps_kib: u64,
}

/// One thing that was measured with one variant at one size of policy.
#[derive(Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) size: usize,
    pub(crate) variant: Variant,
    pub(crate) measure: Measure,
    /// In the measure's unit.
    pub(crate) value: Spread,
    /// The ratio to the same round's "none".
    pub(crate) to_none: Spread,
    /// The ratio to the same round's nftables.
    pub(crate) to_nftables: Spread,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    Throughput,
    Connections,
    Rounds,
    RoundP50,
    RoundP99,
    UdpRounds,
    Udp,
    UdpUnconnected,
    DeniedSent,
    DeniedReceived,
}

impl Measure {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Measure; 10] = [
        Measure::Throughput,
        Measure::Connections,
        Measure::Rounds,
        Measure::RoundP50,
        Measure::RoundP99,
        Measure::UdpRounds,
        Measure::Udp,
        Measure::UdpUnconnected,
        Measure::DeniedSent,
        Measure::DeniedReceived,
    ];

    /// What it is, for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Measure::Throughput => "TCP throughput, one stream, Gbit/s",
            Measure::Connections => "TCP connect, request, close, 1/s",
            Measure::Rounds => "TCP request and answer, 1/s",
            Measure::RoundP50 => "  round trip p50, us",
            Measure::RoundP99 => "  round trip p99, us",
            Measure::UdpRounds => "UDP request and answer, 1/s",
            Measure::Udp => "UDP small packets, connected, 1/s",
            Measure::UdpUnconnected => "UDP small packets, unconnected, 1/s",
            Measure::DeniedSent => "denied at the sender, CPU ns/packet",
            Measure::DeniedReceived => "denied at the receiver, CPU ns/packet",
        }
    }

    /// Digits behind the point.
    pub(crate) fn digits(self) -> usize {
        match self {
            Measure::Throughput | Measure::RoundP50 | Measure::RoundP99 => 1,
            _ => 0,
        }
    }
}
