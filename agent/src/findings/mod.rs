//! Findings in the running agent: what is seen goes to the machines of `bulkhead-detect`, what they find
//! goes to the log, to a file, to the metrics and to whoever asks.
//!
//! Three threads meet here: the event loop hands events over, this module's own thread reads counters
//! every few seconds and lets time pass, and the admin answers. One lock, held for microseconds. Nothing
//! in here can stop enforcement or be waited for by it: whatever fails is told and goes on without.

mod counters;
mod journal;
mod metrics;
mod translate;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bulkhead_abi::Event;
use bulkhead_detect::findings::{
    AcknowledgeError, Change, Finding, Findings, Memory, Observation, Settings, State, Time,
};

use crate::daemon::snapshot::Snapshot;

pub use journal::Journal;
pub use metrics::FindingsCollector;
pub use watch::{Sources, Watch};

/// Where everything about findings meets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk(Arc<Mutex<Findings>>);

/// Which findings are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Those that somebody has seen, too.
    pub acknowledged: bool,
    /// Those that are over, too.
    pub resolved: bool,
    /// Of one kind only.
    pub kind: Option<String>,
    /// With one zone at either end only.
    pub zone: Option<String>,
}

impl Desk {
    /// Begins with what an earlier agent remembered.
    pub fn new(settings: &Settings, memory: Memory) -> Self {
        Self(Arc::new(Mutex::new(Findings::new(settings, memory, now()))))
    }

    /// Something was seen now.
    pub fn observe(&self, seen: &Observation) {
        self.lock().observe(now(), seen);
    }

    /// As [`Desk::observe`], for many at once.
    pub fn observe_all(&self, seen: &[Observation]) {
        let (at, mut findings) = (now(), self.lock());
        for seen in seen {
            findings.observe(at, seen);
        }
    }

    /// The kernel told of something.
    pub fn events(&self, events: &[Event], snapshot: &Snapshot) {
        let seen: Vec<Observation> =
            events.iter().filter_map(|event| translate::observation(event, snapshot)).collect();
        if !seen.is_empty() {
            self.observe_all(&seen);
        }
    }

    /// The findings that are wanted, the gravest first, then the latest.
    pub fn list(&self, wanted: &Wanted) -> Vec<Finding> {
        let mut list: Vec<Finding> =
            self.lock().iter().filter(|finding| wanted.matches(finding)).cloned().collect();
        list.sort_by_key(|finding| {
            (!finding.is_live(), std::cmp::Reverse(finding.severity), std::cmp::Reverse(finding.last_seen))
        });
        list
    }

    /// Somebody has seen it; see [`Findings::acknowledge`].
    pub fn acknowledge(
        &self,
        id: &str,
        silence: Option<Duration>,
        note: Option<String>,
    ) -> Result<Finding, AcknowledgeError> {
        let now = now();
        self.lock().acknowledge(now, id, silence.map(|silence| now.plus(silence)), note)
    }

    /// Takes that back; see [`Findings::unacknowledge`].
    pub fn unacknowledge(&self, id: &str) -> Result<Finding, AcknowledgeError> {
        self.lock().unacknowledge(now(), id)
    }

    /// Lets time pass; what happened since the last time.
    fn turn(&self) -> Vec<Change> {
        let mut findings = self.lock();
        findings.tick(now());
        findings.take_changes()
    }

    fn memory(&self) -> Memory {
        self.lock().memory()
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    fn matches(&self, finding: &Finding) -> bool {
        let state = match finding.state {
            State::Open => true,
            State::Acknowledged => self.acknowledged || self.resolved,
            State::Resolved => self.resolved,
        };
        let edge = &finding.key.edge;
        let at = |zone: &str, end: &str| end == zone || end.split('+').any(|part| part == zone);
        state
            && self.kind.as_deref().is_none_or(|kind| finding.kind().as_str() == kind)
            && self.zone.as_deref().is_none_or(|zone| at(zone, &edge.from) || at(zone, &edge.to))
    }
}

fn now() -> Time {
    Time::from(SystemTime::now())
}
