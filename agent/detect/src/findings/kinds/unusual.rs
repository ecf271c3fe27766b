//! Far more flows, or bytes, on an edge than it is used to at this hour of the day.
//!
//! A quarter of an hour is compared with [`Habit`]; it is found as soon as the quarter so far is more than
//! a whole one ever should be. Small numbers are never unusual: from nothing to a little is no news here.

use std::collections::HashMap;

use bulkhead_abi::Verdict;
use serde::{Deserialize, Serialize};

use super::{Machine, make_room};
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::habit::{Habit, SAMPLE};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::Time;

/// Edges whose habits are kept: some 3 KiB each.
const EDGES: usize = 512;
/// Flows in a quarter of an hour that may be worth a word.
const LEAST_FLOWS: u64 = 500;
/// Bytes likewise.
const LEAST_BYTES: u64 = 100_000_000;

/// What must outlive the process.
pub(super) type Memory = Vec<Known>;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    edge: Edge,
    last: Time,
    flows: Habit,
    bytes: Habit,
}

#[derive(Debug)]
pub(super) struct Unusual {
    edges: HashMap<Edge, State>,
    quarter: Option<u64>,
}

#[derive(Debug)]
struct State {
    known: Known,
    /// In this quarter so far.
    flows: u64,
    bytes: u64,
    /// Limits of this quarter, once they were asked for.
    limits: Option<[Option<(u64, u64)>; 2]>,
    /// Whether the quarter was watched from its beginning, or so that it says something.
    whole: bool,
}

impl State {
    fn new(known: Known, whole: bool) -> Self {
        Self { known, flows: 0, bytes: 0, limits: None, whole }
    }
}

impl Unusual {
    pub(super) fn new(memory: Memory) -> Self {
        let edges = memory.into_iter().take(EDGES);
        let edges = edges.map(|known| (known.edge.clone(), State::new(known, false))).collect();
        Self { edges, quarter: None }
    }

    pub(super) fn memory(&self) -> Memory {
        self.edges.values().map(|state| state.known.clone()).collect()
    }

    /// Closes the quarter if it is over. Quarters in which nobody watched are not learned from.
    fn turn(&mut self, at: Time) {
        let now = at.span(SAMPLE);
        let Some(before) = self.quarter.replace(now) else { return };
        if now == before {
            return;
        }
        let hour = Time::from_millis(before * super::super::time::millis(SAMPLE)).hour();
        for state in self.edges.values_mut() {
            if state.whole && now == before + 1 {
                state.known.flows.learn(hour, state.flows);
                state.known.bytes.learn(hour, state.bytes);
            }
            (state.flows, state.bytes, state.limits, state.whole) = (0, 0, None, true);
        }
    }
}

impl Machine for Unusual {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Counted { edge, verdict, flows, bytes, .. } = seen else { return };
        if *verdict == Verdict::Deny {
            return;
        }
        self.turn(at);
        if !self.edges.contains_key(edge) {
            make_room(&mut self.edges, EDGES, |state| state.known.last);
            let known =
                Known { edge: edge.clone(), last: at, flows: Habit::default(), bytes: Habit::default() };
            self.edges.insert(edge.clone(), State::new(known, true));
        }
        let Some(state) = self.edges.get_mut(edge) else { return };
        state.known.last = at;
        state.flows += flows;
        state.bytes += bytes;
        let known = &state.known;
        let hour = at.hour();
        let limits = state.limits.get_or_insert_with(|| [known.flows.limit(hour), known.bytes.limit(hour)]);
        let sides = [
            (Kind::UnusualRate, state.flows, *flows, LEAST_FLOWS, "flows"),
            (Kind::UnusualVolume, state.bytes, *bytes, LEAST_BYTES, "bytes"),
        ];
        for ((kind, so_far, more, least, unit), limit) in sides.into_iter().zip(*limits) {
            let Some((usual, most)) = limit else { continue };
            if so_far < least || so_far <= most || more == 0 {
                continue;
            }
            let severity = if so_far / 10 > most { Severity::Medium } else { Severity::Low };
            let key = Key::new(kind, edge.clone(), Subject::Edge);
            let count = if ledger.is_live(&key) { more } else { so_far };
            ledger.raise(at, key, severity, count, || {
                Evidence::new()
                    .with(&format!("{unit}-in-this-quarter-hour"), so_far)
                    .with("usual", usual)
                    .with("most-that-is-usual", most)
                    .with("hour-utc", hour)
            });
        }
    }

    fn tick(&mut self, at: Time, _ledger: &mut Ledger) {
        self.turn(at);
    }
}
