//! Precision and recall.
//!
//! A finding that was opened is right if something of its kind and edge was going on then. Something is
//! found if at least one such finding was opened. What is only tolerated counts for neither.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bulkhead_detect::findings::{Change, Edge, Kind, Subject};

use crate::world::{DAYS, Truth};

/// How long after its end something may still be found.
const LATE: Duration = Duration::from_secs(900);

#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    episodes: u64,
    found: u64,
    right: u64,
    wrong: u64,
    delay: Duration,
}

#[derive(Default, Debug)]
pub(crate) struct Score {
    kinds: BTreeMap<Kind, Counts>,
    scenarios: u64,
    mistakes: Vec<String>,
}

impl Score {
    pub(crate) fn new(truths: &[Truth], openings: &[Change]) -> Self {
        let mut score = Self { scenarios: 1, ..Self::default() };
        let fits = |truth: &Truth, change: &Change| {
            let found = &change.finding;
            truth.kind == found.kind()
                && (same(&truth.edge, &found.key.edge) || found.key.subject == Subject::Others)
                && truth.from <= found.opened
                && found.opened <= truth.until.plus(LATE)
        };
        for truth in truths.iter().filter(|truth| truth.wanted) {
            let counts = score.kinds.entry(truth.kind).or_default();
            counts.episodes += 1;
            match openings.iter().find(|change| fits(truth, change)) {
                Some(change) => {
                    counts.found += 1;
                    counts.delay += change.finding.opened.since(truth.from);
                }
                None if std::env::var_os("QUALITY_TELL").is_some() => score.mistakes.push(format!(
                    "missed {} {} for {} s",
                    truth.kind,
                    truth.edge,
                    truth.until.since(truth.from).as_secs()
                )),
                None => {}
            }
        }
        for change in openings {
            let counts = score.kinds.entry(change.finding.kind()).or_default();
            let mut fitting = truths.iter().filter(|truth| fits(truth, change)).peekable();
            if fitting.peek().is_none() {
                counts.wrong += 1;
                let found = &change.finding;
                score.mistakes.push(format!(
                    "wrong {} {} {} at {} s: {:?}",
                    found.kind(),
                    found.key.edge,
                    found.key.subject,
                    found.opened.since(crate::world::start()).as_secs(),
                    found.evidence
                ));
            } else if fitting.any(|truth| truth.wanted) {
                counts.right += 1;
            }
        }
        score
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (kind, counts) in other.kinds {
            let sum = self.kinds.entry(kind).or_default();
            sum.episodes += counts.episodes;
            sum.found += counts.found;
            sum.right += counts.right;
            sum.wrong += counts.wrong;
            sum.delay += counts.delay;
        }
        self.scenarios += other.scenarios;
        self.mistakes.extend(other.mistakes);
    }

    /// Precision and recall; a kind that never happened and was never found has neither.
    pub(crate) fn of(&self, kind: Kind) -> (f64, f64) {
        let counts = self.kinds.get(&kind).copied().unwrap_or_default();
        (share(counts.right, counts.right + counts.wrong), share(counts.found, counts.episodes))
    }

    pub(crate) fn wrong_a_week(&self) -> f64 {
        let wrong: u64 = self.kinds.values().map(|counts| counts.wrong).sum();
        wrong as f64 / (self.scenarios as f64 * DAYS as f64 / 7.0)
    }
}

fn same(truth: &Edge, found: &Edge) -> bool {
    let end = |truth: &str, found: &str| truth == found || found == "any";
    end(&truth.from, &found.from) && end(&truth.to, &found.to)
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} companies for {DAYS} days each", self.scenarios)?;
        writeln!(f, "| kind | happened | found | wrong | precision | recall | found after |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for kind in Kind::ALL {
            let counts = self.kinds.get(kind).copied().unwrap_or_default();
            let (precision, recall) = self.of(*kind);
            let delay = counts.delay.as_secs_f64() / counts.found.max(1) as f64;
            let (happened, found, wrong) = (counts.episodes, counts.found, counts.wrong);
            writeln!(
                f,
                "| {kind} | {happened} | {found} | {wrong} | {precision:.2} | {recall:.2} | {delay:.0} s |"
            )?;
        }
        for mistake in self.mistakes.iter().take(40) {
            writeln!(f, "{mistake}")?;
        }
        Ok(())
    }
}
