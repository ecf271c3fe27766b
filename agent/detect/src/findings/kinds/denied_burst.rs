//! Far more denied flows on an edge than it usually has. Counted by the kernel, so nothing is missed.
//!
//! A client that is denied again and again at the same pace is one finding while it is new, and stays one
//! until it stops or somebody acknowledges it.

use std::collections::HashMap;
use std::time::Duration;

use bulkhead_abi::{Reason, Verdict};

use super::{EDGES, Machine, make_room};
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::{Time, minutes};
use crate::findings::window::Window;

/// Denied flows within [`SPAN`] that open a finding.
const LEAST: f64 = 120.0;
const SPAN: Duration = minutes(1);
/// So many times what is usual.
const TIMES: f64 = 8.0;
/// Of what opened it, so much keeps it open.
const KEEPS: f64 = 0.3;
/// A usual pace is learned over so many minutes.
const LEARNING: f64 = 120.0;

#[derive(Debug, Default)]
pub(super) struct DeniedBurst {
    edges: HashMap<Edge, State>,
}

#[derive(Debug)]
struct State {
    window: Window,
    minute: u64,
    in_minute: f64,
    usual: f64,
    threshold: f64,
    last: Time,
}

impl Machine for DeniedBurst {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        let Observation::Counted { edge, verdict, reason, flows, .. } = seen else { return };
        if *verdict == Verdict::Allow || *flows == 0 || !tells(*reason) {
            return;
        }
        if !self.edges.contains_key(edge) {
            make_room(&mut self.edges, EDGES, |state| state.last);
        }
        let state = self.edges.entry(edge.clone()).or_insert_with(|| State {
            window: Window::new(SPAN),
            minute: at.span(SPAN),
            in_minute: 0.0,
            usual: 0.0,
            threshold: LEAST,
            last: at,
        });
        state.last = at;
        let key = Key::new(Kind::DeniedBurst, edge.clone(), Subject::Edge);
        let open = ledger.is_live(&key);
        state.turn(at, open);
        state.in_minute += *flows as f64;
        let now = state.window.add(at, *flows);
        if !open {
            state.threshold = LEAST.max(TIMES * state.usual);
        }
        let wanted = if open { state.threshold * KEEPS } else { state.threshold };
        if now < wanted {
            return;
        }
        // In audit mode they pass, and enforcing would break something: just as well worth a look.
        let severity = if now >= 10.0 * state.threshold { Severity::High } else { Severity::Medium };
        let count = if open { *flows } else { now as u64 };
        let usual = state.usual;
        ledger.raise(at, key, severity, count, || {
            Evidence::new()
                .with("flows-a-minute", now.round())
                .with("usual", usual.round())
                .with("verdict", verdict.as_str())
                .with("reason", reason.as_str())
        });
    }
}

impl State {
    /// Learns from the minutes that have passed; not from those of a finding.
    fn turn(&mut self, at: Time, open: bool) {
        let minute = at.span(SPAN);
        let passed = minute.saturating_sub(self.minute);
        if passed == 0 {
            return;
        }
        if !open {
            let sample = self.in_minute.min(4.0 * self.usual + 10.0);
            self.usual += (sample - self.usual) / LEARNING;
            // The silent ones.
            let silent = i32::try_from(passed - 1).unwrap_or(i32::MAX);
            self.usual *= (1.0 - 1.0 / LEARNING).powi(silent);
        }
        (self.minute, self.in_minute) = (minute, 0.0);
    }
}

/// Whether it says something about who wants to talk to whom. What belongs to no flow comes in bursts
/// after each restart, and a full table is a finding of its own.
const fn tells(reason: Reason) -> bool {
    !matches!(reason, Reason::Stray | Reason::IcmpError | Reason::FlowTableFull | Reason::Fragment)
}
