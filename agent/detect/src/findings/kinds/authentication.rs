//! Somebody cannot prove who he is, again and again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{EDGES, Machine, make_room};
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::{Time, hours, minutes};
use crate::findings::window::Window;

/// Stretches of time.
const SPANS: [Duration; 2] = [minutes(5), hours(1)];
/// Failures within each that open a finding.
const FAILURES: [f64; 2] = [10.0, 30.0];

#[derive(Debug, Default)]
pub(super) struct Authentication {
    sources: HashMap<(Edge, IpAddr), State>,
}

#[derive(Debug)]
struct State {
    windows: [Window; 2],
    last: Time,
}

impl Machine for Authentication {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::AuthenticationFailed { edge, src, why } = seen else { return };
        let source = (edge.clone(), *src);
        if !self.sources.contains_key(&source) {
            make_room(&mut self.sources, EDGES, |state| state.last);
        }
        let state =
            self.sources.entry(source).or_insert_with(|| State { windows: SPANS.map(Window::new), last: at });
        state.last = at;
        let counts = state.windows.each_mut().map(|window| window.add(at, 1));
        let key = Key::new(Kind::AuthenticationFailures, edge.clone(), Subject::Source(*src));
        let open = ledger.is_live(&key);
        if !open && !counts.iter().zip(FAILURES).any(|(count, most)| *count >= most) {
            return;
        }
        let [_, hour] = counts;
        let severity = if hour >= 100.0 { Severity::High } else { Severity::Medium };
        let count = if open { 1 } else { hour as u64 };
        ledger.raise(at, key, severity, count, || {
            Evidence::new().with("why", why).with("failures-within-an-hour", hour.round())
        });
    }
}
