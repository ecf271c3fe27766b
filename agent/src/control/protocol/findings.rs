//! Findings as they are answered, printed and written.

use std::collections::BTreeMap;

use bulkhead_detect::findings::Finding;
use serde::{Deserialize, Serialize};

/// Which findings are wanted; with nothing said, those that somebody should look at.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindingFilter {
    /// Those that somebody has acknowledged, too.
    pub acknowledged: bool,
    /// Those that are over, too.
    pub resolved: bool,
    /// Of one kind only.
    pub kind: Option<String>,
    /// With this zone at either end only.
    pub zone: Option<String>,
}

/// A finding is to be silent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acknowledge {
    /// Its number.
    pub id: String,
    /// For so many seconds, whatever happens; absent: until it ends.
    pub seconds: Option<u64>,
    /// Why.
    pub note: Option<String>,
}

/// Something that somebody should look at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FindingView {
    /// Its number, the same for the same thing everywhere and always.
    pub id: String,
    /// What it is about.
    pub kind: String,
    /// `low`, `medium`, `high`, `critical`.
    pub severity: String,
    /// `open`, `acknowledged`, `resolved`.
    pub state: String,
    /// Zones of the opener.
    pub from: String,
    /// Zones of the receiver.
    pub to: String,
    /// What it is about within kind and zones; `-` for the edge as a whole.
    pub subject: String,
    /// What speaks for it.
    pub evidence: BTreeMap<String, String>,
    /// When it was first seen, ever.
    pub first_seen: f64,
    /// When it was opened last.
    pub opened: f64,
    /// When it was last seen.
    pub last_seen: f64,
    /// When it ended.
    pub resolved: Option<f64>,
    /// Sightings since it was first seen.
    pub count: u64,
    /// How often it was opened.
    pub times: u32,
    /// Who has seen it.
    pub acknowledged: Option<AcknowledgedView>,
    /// What to do.
    pub advice: String,
}

/// Somebody has seen it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AcknowledgedView {
    /// When.
    pub at: f64,
    /// Until when it is silent; absent: until it ends.
    pub until: Option<f64>,
    /// What he said.
    pub note: Option<String>,
}

impl From<&Finding> for FindingView {
    fn from(finding: &Finding) -> Self {
        let facts = finding.evidence.iter();
        Self {
            id: finding.id.clone(),
            kind: finding.kind().as_str().to_owned(),
            severity: finding.severity.as_str().to_owned(),
            state: finding.state.as_str().to_owned(),
            from: finding.key.edge.from.to_string(),
            to: finding.key.edge.to.to_string(),
            subject: finding.key.subject.to_string(),
            evidence: facts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            first_seen: finding.first_seen.seconds(),
            opened: finding.opened.seconds(),
            last_seen: finding.last_seen.seconds(),
            resolved: finding.resolved.map(|at| at.seconds()),
            count: finding.count,
            times: finding.times,
            acknowledged: finding.acknowledged.as_ref().map(|ack| AcknowledgedView {
                at: ack.at.seconds(),
                until: ack.until.map(|until| until.seconds()),
                note: ack.note.clone(),
            }),
            advice: finding.kind().advice().to_owned(),
        }
    }
}
