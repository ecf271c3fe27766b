//! Zones that never talked before do, and are let through.
//!
//! Nothing is said while edges are learned: for the first days of all, and for the first day of a zone
//! that is new itself, since whoever makes a zone expects it to be used. What is known is kept in the
//! state directory; an edge that was silent for two months is new again.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_abi::Verdict;
use serde::{Deserialize, Serialize};

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation, Zone};
use crate::findings::time::{Time, days, hours};

/// Edges that are kept; those that were silent for longest make room.
const EDGES: usize = 8192;
/// Zones that are kept.
const ZONES: usize = 8192;
/// A zone is new for so long.
const ZONE_IS_NEW: Duration = days(1);
/// A known edge is forgotten after so long.
const FORGOTTEN: Duration = days(60);
/// How often what is forgotten is looked for.
const LOOK: Duration = hours(1);

/// What must outlive the process.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// When learning began.
    since: Option<Time>,
    /// Known edges, with when they were last seen.
    edges: Vec<(Edge, Time)>,
    /// Known zones, with when they were first seen.
    zones: Vec<(Zone, Time)>,
}

#[derive(Debug)]
pub(super) struct NewEdge {
    learning: Duration,
    since: Time,
    edges: BTreeMap<Edge, Time>,
    zones: BTreeMap<Zone, Time>,
    looked: Time,
}

impl NewEdge {
    pub(super) fn new(learning: Duration, memory: Memory, at: Time) -> Self {
        Self {
            learning,
            since: memory.since.unwrap_or(at),
            edges: memory.edges.into_iter().take(EDGES).collect(),
            zones: memory.zones.into_iter().take(ZONES).collect(),
            looked: at,
        }
    }

    pub(super) fn memory(&self) -> Memory {
        Memory {
            since: Some(self.since),
            edges: self.edges.iter().map(|(edge, last)| (edge.clone(), *last)).collect(),
            zones: self.zones.iter().map(|(zone, first)| (zone.clone(), *first)).collect(),
        }
    }

    /// Whether somebody of it is new here; takes it in.
    fn is_new(&mut self, at: Time, zones: &Zone) -> bool {
        zones.split('+').any(|zone| {
            if let Some(first) = self.zones.get(zone) {
                return at.since(*first) < ZONE_IS_NEW;
            }
            if self.zones.len() < ZONES {
                self.zones.insert(zone.into(), at);
            }
            true
        })
    }
}

impl Machine for NewEdge {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Counted { edge, verdict, reason, flows, bytes, .. } = seen else { return };
        if *verdict == Verdict::Deny {
            return;
        }
        let news = [self.is_new(at, &edge.from), self.is_new(at, &edge.to)].contains(&true);
        if let Some(last) = self.edges.get_mut(edge) {
            *last = at;
            return;
        }
        if self.edges.len() >= EDGES {
            let mut ages: Vec<(Time, Edge)> =
                self.edges.iter().map(|(edge, last)| (*last, edge.clone())).collect();
            ages.sort();
            for (_, edge) in ages.iter().take(EDGES / 8) {
                self.edges.remove(edge);
            }
        }
        self.edges.insert(edge.clone(), at);
        if at.since(self.since) < self.learning || news {
            return;
        }
        let key = Key::new(Kind::NewEdge, edge.clone(), Subject::Edge);
        ledger.raise(at, key, Severity::Low, (*flows).max(1), || {
            Evidence::new()
                .with("verdict", verdict.as_str())
                .with("reason", reason.as_str())
                .with("flows", flows)
                .with("bytes", bytes)
        });
    }

    fn tick(&mut self, at: Time, _ledger: &mut Ledger) {
        if at.since(self.looked) >= LOOK {
            self.looked = at;
            self.edges.retain(|_, last| at.since(*last) < FORGOTTEN);
        }
    }
}
