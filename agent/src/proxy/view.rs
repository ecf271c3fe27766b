//! How the proxy is, for metrics, `status` and the command line: what the supervising thread knows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::wire::{Edge, Record, Stats};
use crate::control::protocol::ProxyView;

/// Records that are remembered for `bulkhead proxy trace`.
const REMEMBERED: usize = 1024;

/// See the module's comment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<Mutex<State>>);

/// How it is at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    /// Whether one runs and talks.
    pub running: bool,
    /// Its process.
    pub pid: Option<u32>,
    /// How often one was lost.
    pub lost: u64,
    /// Namespaces with listeners.
    pub places: usize,
    /// What it last told.
    pub stats: Stats,
    /// Certificates that it was given.
    pub certificates: Vec<Certificate>,
    /// The last ones that ended or were refused, numbered.
    traced: VecDeque<(u64, Record)>,
    /// How many there were.
    ended: u64,
}

/// A certificate that the proxy shows.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Certificate {
    /// Whose it is.
    pub name: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Beginning of its validity, in seconds since 1970.
    pub not_before: i64,
    /// End of its validity, in seconds since 1970.
    pub not_after: i64,
    /// Where it is from: `authority`, `files` or `workload-api`.
    pub source: String,
    /// Why its renewal does not succeed.
    pub problem: Option<String>,
}

impl State {
    /// For `bulkhead status`.
    pub fn status(&self) -> ProxyView {
        ProxyView {
            running: self.running,
            pid: self.pid,
            namespaces: self.places,
            open: self.stats.edges.iter().map(|(.., edge)| edge.open).sum(),
            certificates: self.certificates.iter().filter(|one| !one.serial.is_empty()).count(),
            lost: self.lost,
            problem: self.certificates.iter().find_map(|one| one.problem.clone()),
        }
    }
}

impl View {
    /// How it is.
    pub fn state(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a proxy runs and talks.
    pub fn is_running(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).running
    }

    /// Changes what others see.
    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The records with numbers above `after`.
    pub fn traced(&self, after: u64) -> Vec<(u64, Record)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.traced.iter().filter(|(number, _)| *number > after).cloned().collect()
    }

    /// Writes the access log, and remembers.
    pub(super) fn ended(&self, records: Vec<Record>) {
        records.iter().for_each(log);
        self.update(|state| {
            for record in records {
                state.ended += 1;
                state.traced.push_back((state.ended, record));
            }
            while state.traced.len() > REMEMBERED {
                state.traced.pop_front();
            }
        });
    }
}

/// One line for each connection that has ended.
fn log(record: &Record) {
    let edge = record.edge.as_ref();
    let part = |part: fn(&Edge) -> &String| edge.map_or("", |edge| part(edge).as_str());
    let said = !record.text.is_empty();
    tracing::info!(
        target: "bulkhead::access",
        direction = record.direction,
        client = %record.client,
        destination = %record.destination,
        client_name = record.client_name.as_deref().unwrap_or(""),
        server_name = record.server_name.as_deref().unwrap_or(""),
        from = part(|edge| &edge.from),
        to = part(|edge| &edge.to),
        rule = part(|edge| &edge.rule),
        sent = record.sent,
        received = record.received,
        seconds = record.seconds,
        outcome = record.outcome,
        why = if said { record.text.as_str() } else { "" },
        "connection ended"
    );
}
