//! A kernel table that is nearly full, or full.

use std::collections::BTreeSet;

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::Time;

/// Share of the table that opens a finding, in hundredths.
const OPENS: u64 = 80;
/// Share below which it is over.
const CLOSES: u64 = 70;

#[derive(Debug, Default)]
pub(super) struct Table {
    pressed: BTreeSet<&'static str>,
}

impl Machine for Table {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Table { table, entries, capacity, refusing } = seen else { return };
        let share = entries.saturating_mul(100) / (*capacity).max(1);
        let key = || Key::new(Kind::FlowTablePressure, Edge::node(), Subject::Object((*table).to_owned()));
        let wanted = if self.pressed.contains(table) { CLOSES } else { OPENS };
        if !refusing && share < wanted {
            if self.pressed.remove(table) {
                ledger.clear(at, &key());
            }
            return;
        }
        let is_new = self.pressed.insert(table);
        let severity = if *refusing { Severity::Critical } else { Severity::Medium };
        ledger.raise(at, key(), severity, u64::from(is_new), || {
            Evidence::new()
                .with("entries", entries)
                .with("capacity", capacity)
                .with("refusing", if *refusing { "yes" } else { "no" })
        });
    }
}
