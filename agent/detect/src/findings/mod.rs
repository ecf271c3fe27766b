//! Findings: what somebody should look at, made of what was seen.
//!
//! [`Findings`] is fed with [`Observation`]s and the time. One small machine for each kind decides; the
//! ledger groups, holds and limits; [`Findings::take_changes`] is the log stream, [`Findings::memory`] is
//! what must outlive the process. Nothing here knows a clock, a file or a socket, so that days can be
//! replayed in seconds: `tests/quality` does, and measures how often it is right.
//!
//! Invariants: memory is bounded whatever is fed; what is said is bounded however long it is fed; a count
//! is never higher than what happened. It fails towards silence about one more of the same, never towards
//! silence about a kind: what is left out is counted and shows as "more of the same".

mod finding;
mod habit;
mod kinds;
mod ledger;
mod novelty;
mod observation;
mod settings;
mod time;
mod window;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use finding::{Acknowledgement, Evidence, Finding, Key, Kind, Severity, State, Subject};
pub use ledger::{AcknowledgeError, Change, What, hold};
pub use observation::{Edge, Flow, GroupKind, Observation, Strength, TlsFacts, Zone};
pub use settings::Settings;
pub use time::Time;

use kinds::Machines;
use ledger::Ledger;

/// A clock that was set back by more than this is believed.
const SET_BACK: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub struct Findings {
    machines: Machines,
    ledger: Ledger,
    now: Time,
}

/// What must outlive the process: findings, known edges, habits. JSON; a field that is missing is empty.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    findings: Vec<Finding>,
    machines: kinds::Memory,
}

impl Findings {
    /// Begins at `at` with what an earlier life remembered.
    pub fn new(settings: &Settings, memory: Memory, at: Time) -> Self {
        let mut ledger = Ledger::new(settings.off.clone());
        ledger.restore(memory.findings);
        Self { machines: Machines::new(settings, memory.machines, at), ledger, now: at }
    }

    /// Something was seen at `at`. Moments may come a little out of order; they are taken as now.
    pub fn observe(&mut self, at: Time, seen: &Observation) {
        let at = self.turn(at);
        self.machines.observe(at, seen, &mut self.ledger);
    }

    /// Time passed: ends what was not seen for long enough. To be called every few seconds.
    pub fn tick(&mut self, at: Time) {
        let at = self.turn(at);
        self.machines.tick(at, &mut self.ledger);
        self.ledger.tick(at);
    }

    /// Somebody has seen a finding: nothing is told of it until it ends, or until a moment, whatever
    /// happens before.
    pub fn acknowledge(
        &mut self,
        at: Time,
        id: &str,
        until: Option<Time>,
        note: Option<String>,
    ) -> Result<Finding, AcknowledgeError> {
        let at = self.turn(at);
        self.ledger.acknowledge(at, id, until, note)
    }

    /// Takes that back: it is open again, if it goes on.
    pub fn unacknowledge(&mut self, at: Time, id: &str) -> Result<Finding, AcknowledgeError> {
        let at = self.turn(at);
        self.ledger.unacknowledge(at, id)
    }

    /// What happened to findings since this was last asked, oldest first. At most a thousand; should
    /// nobody ask, the oldest are dropped.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.ledger.take_changes()
    }

    /// Every finding that is remembered: open, acknowledged, and resolved within the last month.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.ledger.iter()
    }

    /// Findings opened since the beginning, by kind and severity.
    pub fn totals(&self) -> &BTreeMap<(Kind, Severity), u64> {
        self.ledger.totals()
    }

    /// Sightings that went into "more of the same" since the beginning, by kind.
    pub fn suppressed(&self) -> &BTreeMap<Kind, u64> {
        self.ledger.suppressed()
    }

    /// What the next life should know.
    pub fn memory(&self) -> Memory {
        Memory { findings: self.ledger.iter().cloned().collect(), machines: self.machines.memory() }
    }

    fn turn(&mut self, at: Time) -> Time {
        if at > self.now || self.now.since(at) > SET_BACK {
            self.now = at;
        }
        self.now
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
