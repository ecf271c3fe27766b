//! What was found and done, for metrics and `status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::IntCounterVec;

use crate::datapath::keep::{How, Object};

/// Kinds of findings that are kept; the one that was quiet for longest makes room.
const KEPT: usize = 64;

/// What was done about a finding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// It is as it was.
    Restored,
    /// It could not be put right; it is tried again.
    Failed,
    /// Somebody insists on the place, and has it.
    GaveWay,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [Self::Restored, Self::Failed, Self::GaveWay];

    /// The word of metrics, `status` and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Failed => "failed",
            Self::GaveWay => "gave-way",
        }
    }
}

/// One kind of finding about one thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The kind of thing.
    pub object: Object,
    /// Which one.
    pub name: String,
    /// What was done to it.
    pub how: How,
    /// What was done about it.
    pub action: Action,
    /// How often.
    pub times: u64,
    /// When last.
    pub last: SystemTime,
    /// How long putting it right took, the last time.
    pub took: Duration,
}

/// Counts findings.
#[derive(Debug)]
pub struct Record {
    counter: IntCounterVec,
    findings: Mutex<BTreeMap<(Object, String, How, Action), Finding>>,
}

impl Record {
    /// A record that also counts in `counter`, by object and action.
    pub fn new(counter: IntCounterVec) -> Self {
        Self { counter, findings: Mutex::default() }
    }

    /// What was found so far, the latest first.
    pub fn findings(&self) -> Vec<Finding> {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut findings: Vec<Finding> = findings.values().cloned().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.last));
        findings
    }

    /// One more finding.
    pub(crate) fn note(&self, object: Object, name: &str, how: How, action: Action, took: Duration) {
        self.counter.with_label_values(&[object.as_str(), action.as_str()]).inc();
        let now = SystemTime::now();
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let finding = findings.entry((object, name.to_owned(), how, action)).or_insert_with(|| Finding {
            object,
            name: name.to_owned(),
            how,
            action,
            times: 0,
            last: now,
            took,
        });
        finding.times += 1;
        (finding.last, finding.took) = (now, took);
        if findings.len() > KEPT
            && let Some(oldest) =
                findings.iter().min_by_key(|(_, finding)| finding.last).map(|(key, _)| key.clone())
        {
            findings.remove(&oldest);
        }
    }
}
