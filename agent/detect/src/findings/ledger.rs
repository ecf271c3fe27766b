//! The findings themselves: opened, kept, ended, acknowledged; and kept from becoming a flood.
//!
//! * **Grouping**: sightings of the same kind, edge and subject are one finding with a count.
//! * **Holding**: a finding ends when its kind's hold time has passed without a sighting. One that comes
//!   back is the same finding again, with its first day and its number.
//! * **Rates**: so many new ones per kind and edge, so many per kind, so many at all within ten minutes.
//!   What is beyond goes into one finding "more of the same" of that kind and edge, so that a storm on one
//!   edge hides nothing on another.
//! * **Telling**: an open finding is told again when its count is ten times what was told, or it became
//!   graver; never more than once a minute for its count.
//!
//! Memory is bounded by [`LIVE`] and [`RESOLVED`]. What is left out is counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::finding::{Acknowledgement, Evidence, Finding, Key, Kind, Severity, State, Subject};
use super::observation::Edge;
use super::time::{Time, days, hours, minutes};
use super::window::Bucket;

/// Most live findings of one kind.
const LIVE: usize = 128;
/// Most live findings of one kind on one edge.
const LIVE_ON_EDGE: usize = 16;
/// Most resolved findings that are remembered.
const RESOLVED: usize = 512;
/// How long resolved findings are remembered.
const REMEMBERED: Duration = days(30);
/// Time over which rates are measured.
const REFILL: Duration = minutes(10);
/// New findings within [`REFILL`]: of one kind on one edge, of one kind, at all.
const RATES: [u32; 3] = [8, 30, 90];
/// Edges whose rates are remembered.
const BUCKETS: usize = 1024;
/// Changes that wait to be taken.
const CHANGES: usize = 1024;
/// Evidence is renewed no more often than this.
const EVIDENCE: Duration = Duration::from_secs(10);
/// A count is told again no more often than this.
const AGAIN: Duration = minutes(1);
/// Longest note in characters.
const NOTE: usize = 500;

/// How long after its last sighting a finding of this kind ends.
pub const fn hold(kind: Kind) -> Duration {
    match kind {
        Kind::Plaintext | Kind::EncryptionStopped | Kind::Tampering => hours(1),
        Kind::TlsTooOld | Kind::WeakCipher => hours(6),
        Kind::CertificateExpired | Kind::CertificateExpiring => hours(48),
        Kind::DeniedBurst | Kind::EventLoss => minutes(10),
        Kind::PortScan | Kind::HostSweep => hours(2),
        Kind::NewEdge => hours(24),
        Kind::UnusualRate | Kind::UnusualVolume | Kind::AuthenticationFailures => minutes(30),
        Kind::SynFlood | Kind::FlowTablePressure => minutes(5),
    }
}

/// What happened to a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It is new, came back, or its acknowledgement ran out.
    Opened,
    /// It grew.
    Updated,
    /// Somebody has seen it.
    Acknowledged,
    /// It ended.
    Resolved,
}

impl What {
    /// The word of the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }
}

/// One line of the log stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What happened.
    pub what: What,
    /// The finding as it is now.
    pub finding: Finding,
}

/// Why a finding cannot be acknowledged, or its acknowledgement taken back.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AcknowledgeError {
    /// There is none with that number.
    #[error("there is no finding `{0}`; `bulkhead findings --all` lists them")]
    Unknown(String),
    /// It is over, and no time was named for which it is to stay silent.
    #[error("finding `{0}` has ended; say for how long it is to be silent if it comes back, as `--for 7d`")]
    Ended(String),
    /// Nobody has acknowledged it.
    #[error("finding `{0}` is not acknowledged, so there is nothing to take back")]
    NotAcknowledged(String),
}

#[derive(Clone, Debug)]
struct Entry {
    finding: Finding,
    told: u64,
    told_at: Time,
    renewed: Time,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    off: BTreeSet<Kind>,
    entries: BTreeMap<Key, Entry>,
    changes: VecDeque<Change>,
    overall: Bucket,
    kinds: BTreeMap<Kind, Bucket>,
    edges: BTreeMap<(Kind, Edge), Bucket>,
    suppressed: BTreeMap<Kind, u64>,
    totals: BTreeMap<(Kind, Severity), u64>,
}

impl Ledger {
    /// Without findings; those of kinds in `off` are never made.
    pub(crate) fn new(off: BTreeSet<Kind>) -> Self {
        let [_, _, overall] = RATES;
        Self {
            off,
            entries: BTreeMap::new(),
            changes: VecDeque::new(),
            overall: Bucket::new(overall, REFILL),
            kinds: BTreeMap::new(),
            edges: BTreeMap::new(),
            suppressed: BTreeMap::new(),
            totals: BTreeMap::new(),
        }
    }

    /// A sighting: `count` more of it. `evidence` is asked for only when it is needed.
    pub(crate) fn raise(
        &mut self,
        at: Time,
        key: Key,
        severity: Severity,
        count: u64,
        evidence: impl FnOnce() -> Evidence,
    ) {
        if self.off.contains(&key.kind) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.finding.is_live()
        {
            let change = entry.grow(at, severity, count, evidence);
            self.push(change);
            return;
        }
        if self.is_silenced(&key, at) || self.admit(at, &key, severity) {
            self.open(at, key, severity, count, evidence());
            return;
        }
        *self.suppressed.entry(key.kind).or_default() += 1;
        let example =
            if key.subject.is_address() { "an address".to_owned() } else { key.subject.to_string() };
        let edge = if self.rests(&key) { key.edge.clone() } else { Edge::any() };
        let rest = Key::new(key.kind, edge, Subject::Others);
        let evidence = || evidence().with("for-example", format!("{} {example}", key.edge));
        match self.entries.get_mut(&rest) {
            Some(entry) if entry.finding.is_live() => {
                let change = entry.grow(at, severity, count, evidence);
                self.push(change);
            }
            _ => self.open(at, rest, severity, count, evidence()),
        }
    }

    /// Whether there is a live finding of this kind, edge and subject.
    pub(crate) fn is_live(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.finding.is_live())
    }

    /// It is over, and known to be.
    pub(crate) fn clear(&mut self, at: Time, key: &Key) {
        let change = self.entries.get_mut(key).and_then(|entry| entry.resolve(at));
        self.push(change);
    }

    /// Ends what was not seen for long enough, and what was silenced for long enough.
    pub(crate) fn tick(&mut self, at: Time) {
        let mut changes = Vec::new();
        for entry in self.entries.values_mut() {
            let finding = &mut entry.finding;
            if finding.is_live() && at.since(finding.last_seen) >= hold(finding.key.kind) {
                changes.extend(entry.resolve(at));
                continue;
            }
            let ran_out = |ack: &Acknowledgement| ack.until.is_some_and(|until| until <= at);
            if finding.acknowledged.as_ref().is_some_and(ran_out) {
                finding.acknowledged = None;
                if finding.state == State::Acknowledged {
                    finding.state = State::Open;
                    changes.push(entry.tell(at, What::Opened));
                }
            }
        }
        for change in changes {
            self.push(Some(change));
        }
        self.forget(at);
    }

    /// Somebody has seen it, and wants to hear no more of it: until it ends, or until a moment.
    pub(crate) fn acknowledge(
        &mut self,
        at: Time,
        id: &str,
        until: Option<Time>,
        note: Option<String>,
    ) -> Result<Finding, AcknowledgeError> {
        let entry = self.entries.values_mut().find(|entry| entry.finding.id == id);
        let entry = entry.ok_or_else(|| AcknowledgeError::Unknown(id.to_owned()))?;
        let finding = &mut entry.finding;
        if !finding.is_live() && until.is_none() {
            return Err(AcknowledgeError::Ended(id.to_owned()));
        }
        let note = note.map(|note| note.chars().filter(|c| !c.is_control()).take(NOTE).collect());
        finding.acknowledged = Some(Acknowledgement { at, until, note });
        if finding.is_live() {
            finding.state = State::Acknowledged;
        }
        let change = entry.tell(at, What::Acknowledged);
        let finding = change.finding.clone();
        self.push(Some(change));
        Ok(finding)
    }

    /// What somebody said of it holds no more: it is open again, if it goes on.
    pub(crate) fn unacknowledge(&mut self, at: Time, id: &str) -> Result<Finding, AcknowledgeError> {
        let entry = self.entries.values_mut().find(|entry| entry.finding.id == id);
        let entry = entry.ok_or_else(|| AcknowledgeError::Unknown(id.to_owned()))?;
        let finding = &mut entry.finding;
        if finding.acknowledged.take().is_none() {
            return Err(AcknowledgeError::NotAcknowledged(id.to_owned()));
        }
        if finding.state != State::Acknowledged {
            return Ok(finding.clone());
        }
        finding.state = State::Open;
        let change = entry.tell(at, What::Opened);
        let finding = change.finding.clone();
        self.push(Some(change));
        Ok(finding)
    }

    /// Every finding that is remembered.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.entries.values().map(|entry| &entry.finding)
    }

    /// What happened since this was last asked.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        self.changes.drain(..).collect()
    }

    /// Findings opened since the start, by kind and severity.
    pub(crate) fn totals(&self) -> &BTreeMap<(Kind, Severity), u64> {
        &self.totals
    }

    /// Findings that went into "more of the same", by kind.
    pub(crate) fn suppressed(&self) -> &BTreeMap<Kind, u64> {
        &self.suppressed
    }

    /// Takes findings over from an earlier life. Nothing is told of them.
    pub(crate) fn restore(&mut self, findings: Vec<Finding>) {
        let most = LIVE * Kind::ALL.len() + RESOLVED;
        self.entries = findings
            .into_iter()
            .take(most)
            .map(|mut finding| {
                finding.id = finding.key.id();
                let (told, told_at, renewed) = (finding.count, finding.last_seen, finding.last_seen);
                (finding.key.clone(), Entry { finding, told, told_at, renewed })
            })
            .collect();
    }

    fn open(&mut self, at: Time, key: Key, severity: Severity, count: u64, evidence: Evidence) {
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            finding: Finding {
                id: key.id(),
                key,
                severity,
                state: State::Resolved,
                evidence: Evidence::new(),
                first_seen: at,
                opened: at,
                last_seen: at,
                resolved: None,
                count: 0,
                times: 0,
                acknowledged: None,
            },
            told: 0,
            told_at: at,
            renewed: at,
        });
        let finding = &mut entry.finding;
        let silenced = finding.acknowledged.is_some();
        finding.state = if silenced { State::Acknowledged } else { State::Open };
        (finding.severity, finding.evidence, finding.resolved) = (severity, evidence, None);
        (finding.opened, finding.last_seen, entry.renewed) = (at, at, at);
        finding.count = finding.count.saturating_add(count);
        finding.times = finding.times.saturating_add(1);
        if silenced {
            return;
        }
        *self.totals.entry((finding.key.kind, severity)).or_default() += 1;
        let change = entry.tell(at, What::Opened);
        self.push(Some(change));
    }

    /// Whether somebody asked to hear nothing of it, and that still holds.
    fn is_silenced(&self, key: &Key, at: Time) -> bool {
        let ack = self.entries.get(key).and_then(|entry| entry.finding.acknowledged.as_ref());
        ack.and_then(|ack| ack.until).is_some_and(|until| until > at)
    }

    fn admit(&mut self, at: Time, key: &Key, severity: Severity) -> bool {
        let [on_edge, of_kind, _] = RATES;
        if self.edges.len() >= BUCKETS {
            // Whoever comes back gets a full bucket; the two wider ones still hold.
            self.edges.clear();
        }
        let bucket = |size| Bucket::new(size, REFILL);
        let edge = self.edges.entry((key.kind, key.edge.clone())).or_insert_with(|| bucket(on_edge));
        let kind = self.kinds.entry(key.kind).or_insert_with(|| bucket(of_kind));
        // The cheapest question first: in a storm it is asked for every packet. What is critical is not
        // held back by what is not.
        edge.take(at)
            && kind.take(at)
            && (severity == Severity::Critical || self.overall.take(at))
            && self.has_room(key)
    }

    fn has_room(&self, key: &Key) -> bool {
        let (mut there, mut all) = (0, 0);
        for (other, entry) in &self.entries {
            if other.kind == key.kind && other.subject != Subject::Others && entry.finding.is_live() {
                all += 1;
                there += usize::from(other.edge == key.edge);
            }
        }
        there < LIVE_ON_EDGE && all < LIVE
    }

    /// Whether the edge may have a "more of the same" of its own: not with too many of them.
    fn rests(&self, key: &Key) -> bool {
        let rests = |(other, entry): &(&Key, &Entry)| {
            other.kind == key.kind && other.subject == Subject::Others && entry.finding.is_live()
        };
        self.is_live(&Key::new(key.kind, key.edge.clone(), Subject::Others))
            || self.entries.iter().filter(rests).take(LIVE_ON_EDGE).count() < LIVE_ON_EDGE
    }

    fn forget(&mut self, at: Time) {
        let ended = |entry: &Entry| entry.finding.resolved.filter(|_| !entry.finding.is_live());
        let silenced = |entry: &Entry| {
            entry.finding.acknowledged.as_ref().and_then(|ack| ack.until).is_some_and(|until| until > at)
        };
        self.entries.retain(|_, entry| {
            ended(entry).is_none_or(|when| at.since(when) < REMEMBERED) || silenced(entry)
        });
        let mut resolved: Vec<(Time, Key)> =
            self.entries.iter().filter_map(|(key, entry)| Some((ended(entry)?, key.clone()))).collect();
        if resolved.len() > RESOLVED {
            resolved.sort();
            for (_, key) in resolved.iter().take(resolved.len() - RESOLVED) {
                self.entries.remove(key);
            }
        }
    }

    fn push(&mut self, change: Option<Change>) {
        let Some(change) = change else { return };
        if self.changes.len() >= CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }
}

impl Entry {
    fn grow(
        &mut self,
        at: Time,
        severity: Severity,
        count: u64,
        evidence: impl FnOnce() -> Evidence,
    ) -> Option<Change> {
        let finding = &mut self.finding;
        finding.last_seen = finding.last_seen.max(at);
        finding.count = finding.count.saturating_add(count);
        let graver = severity > finding.severity;
        finding.severity = finding.severity.max(severity);
        if graver || at.since(self.renewed) >= EVIDENCE {
            finding.evidence = evidence();
            self.renewed = at;
        }
        let grown = finding.count / 10 >= self.told && at.since(self.told_at) >= AGAIN;
        (finding.state == State::Open && (graver || grown)).then(|| self.tell(at, What::Updated))
    }

    fn resolve(&mut self, at: Time) -> Option<Change> {
        let finding = &mut self.finding;
        if !finding.is_live() {
            return None;
        }
        let silent = finding.state == State::Acknowledged;
        (finding.state, finding.resolved) = (State::Resolved, Some(at));
        // Without a time, an acknowledgement lasts as long as the finding.
        finding.acknowledged = finding.acknowledged.take().filter(|ack| ack.until.is_some());
        (!silent).then(|| self.tell(at, What::Resolved))
    }

    fn tell(&mut self, at: Time, what: What) -> Change {
        (self.told, self.told_at) = (self.finding.count, at);
        Change { what, finding: self.finding.clone() }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
#[path = "ledger_tests.rs"]
mod tests;
