//! Expectations about a policy, kept beside it: these flows pass, those do not.
//!
//! ```toml
//! policy = "."             # folder or file of the policy, from here; this folder if left out
//!
//! [[test]]
//! name   = "the api queries the database"
//! from   = "api"           # a zone, world, node, an address, or { addr = "…", cgroup = "…" }
//! to     = "10.20.3.5"
//! port   = "tcp/5432"
//! expect = "allow"         # allow, deny or audit
//! rule   = "the api's queries"
//! ```
//!
//! A zone's name stands for an end that is in this zone and no other. It is the oracle that judges.

use std::fmt;
use std::path::{Path, PathBuf};

use bulkhead_abi::Verdict;
use serde::Serialize;

use crate::diagnostic::Diagnostics;
use crate::load::{Capabilities, Loaded, load};
use crate::model::{Facts, Flow, Location};
use crate::oracle::{Decision, judge_parties};
use crate::source::{SourceError, Sources};

mod file;

use file::{Test, TestFile};

/// Why tests could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpectError {
    /// A file could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The test file is wrong.
    #[error("the test file is refused:\n{0}")]
    Tests(Diagnostics),
    /// The policy is wrong.
    #[error("the policy is refused:\n{0}")]
    Policy(Diagnostics),
}

impl ExpectError {
    /// The mistakes, where there are some to show.
    pub const fn diagnostics(&self) -> Option<&Diagnostics> {
        match self {
            Self::Source(_) => None,
            Self::Tests(diagnostics) | Self::Policy(diagnostics) => Some(diagnostics),
        }
    }
}

/// What came out of a test file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// The test file.
    pub path: PathBuf,
    /// Each test, in the file's order.
    pub results: Vec<Outcome>,
    /// What the policy's files warn of.
    pub warnings: Diagnostics,
}

impl Report {
    /// How many tests failed.
    pub fn failed(&self) -> usize {
        self.results.iter().filter(|result| !result.passed).count()
    }
}

/// What came out of one test.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outcome {
    /// The test's name.
    pub name: String,
    /// Where it is written.
    pub location: Location,
    /// Whether it came out as expected.
    pub passed: bool,
    /// The verdict that was expected: allow, audit or deny.
    pub expected: &'static str,
    /// The rule that was expected to decide, if one was.
    pub expected_rule: Option<String>,
    /// The verdict that fell.
    pub got: &'static str,
    /// Both sides of it.
    pub decision: Decision,
}

/// Runs the tests of a file.
pub fn run(path: &Path, capabilities: &Capabilities) -> Result<Report, ExpectError> {
    let sources = Sources::from_paths([path])?;
    let Some(source) = sources.files().first() else {
        return Err(SourceError::Empty { path: path.into() }.into());
    };
    let file = TestFile::parse(source).map_err(ExpectError::Tests)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let policy = match folder.join(&file.policy) {
        joined if joined.as_os_str().is_empty() => PathBuf::from("."),
        joined => joined,
    };
    let Loaded { model, warnings } =
        load(&Sources::from_paths([policy])?, capabilities).map_err(ExpectError::Policy)?;
    file.check(&model).map_err(ExpectError::Tests)?;
    let results = file.tests.iter().map(|test| outcome(test, &model)).collect();
    Ok(Report { path: path.into(), results, warnings })
}

/// A test may stand for several flows (ICMP of both families): it passes if all do, else the first that
/// does not is shown.
fn outcome(test: &Test, model: &crate::model::Model) -> Outcome {
    let facts = Facts::default();
    let (from, to) = (test.from.party(model, &facts), test.to.party(model, &facts));
    let judge = |protocol, port| {
        // Receivers are not virtual, so it does not matter who is in the guard's sight.
        let flow = Flow { from: test.from.end(), to: test.to.end(), protocol, port, guarded: false };
        judge_parties(model, &from, &to, &flow)
    };
    let mut shown: Option<(bool, Decision)> = None;
    for (protocol, port) in &test.ports {
        let decision = judge(*protocol, *port);
        let passed = is_expected(test, &decision);
        if shown.is_none() || !passed {
            shown = Some((passed, decision));
        }
        if !passed {
            break;
        }
    }
    let (passed, decision) = shown.unwrap_or_else(|| (false, judge(bulkhead_abi::Protocol(0), 0)));
    Outcome {
        name: test.name.clone(),
        location: test.location.clone(),
        passed,
        expected: test.expect.as_str(),
        expected_rule: test.rule.as_ref().map(|rule| rule.text.clone()),
        got: decision.verdict().as_str(),
        decision,
    }
}

fn is_expected(test: &Test, decision: &Decision) -> bool {
    let rule = match &test.rule {
        None => true,
        Some(rule) => decision.deciding().any(|found| found.name.as_deref() == Some(&rule.text)),
    };
    decision.verdict() == test.expect && rule
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rules = String::new();
        for rule in self.decision.deciding() {
            // The same rule may decide on both sides.
            let text = format!(" by {rule}");
            if rules != text {
                rules.push_str(&text);
            }
        }
        if self.passed {
            return write!(f, "ok    {}: {}{rules}", self.name, self.got);
        }
        write!(f, "FAIL  {} ({}): expected {}", self.name, self.location, self.expected)?;
        if let Some(rule) = &self.expected_rule {
            write!(f, " by `{rule}`")?;
        }
        write!(f, ", got {}{rules}", self.got)?;
        for (side, decision) in [("egress", &self.decision.egress), ("ingress", &self.decision.ingress)] {
            write!(f, "; {side} {} ({})", decision.verdict.as_str(), decision.reason.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in &self.results {
            writeln!(f, "{result}")?;
        }
        let failed = self.failed();
        writeln!(f, "{}: {} passed, {failed} failed", self.path.display(), self.results.len() - failed)
    }
}

/// The words for verdicts in test files.
const VERDICTS: [(&str, Verdict); 3] =
    [("allow", Verdict::Allow), ("deny", Verdict::Deny), ("audit", Verdict::Audit)];
