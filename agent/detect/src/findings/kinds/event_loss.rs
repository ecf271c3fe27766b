//! The kernel had no room for what it wanted to tell.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::{Time, minutes};
use crate::findings::window::Window;

const SPAN: Duration = minutes(1);
/// Losses within [`SPAN`] that are worth more than a low word.
const MANY: f64 = 1000.0;

#[derive(Debug, Default)]
pub(super) struct EventLoss {
    windows: BTreeMap<&'static str, Window>,
}

impl Machine for EventLoss {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Lost { what, count } = seen else { return };
        if *count == 0 {
            return;
        }
        let now = self.windows.entry(what).or_insert_with(|| Window::new(SPAN)).add(at, *count);
        let key = Key::new(Kind::EventLoss, Edge::node(), Subject::Object((*what).to_owned()));
        let severity = if now >= MANY { Severity::Medium } else { Severity::Low };
        ledger.raise(at, key, severity, *count, || Evidence::new().with("lost-within-a-minute", now.round()));
    }
}
