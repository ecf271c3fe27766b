//! `bulkhead test`.

use std::path::PathBuf;

use bulkhead_policy::Capabilities;
use bulkhead_policy::expect::{self, ExpectError, Outcome, Report};
use serde::Serialize;

use super::{Format, Result, Verdict};

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 every expectation holds, 1 one does not or a file is wrong, 2 wrong \
                        usage.")]
pub(super) struct Args {
    /// Files of expectations (TOML), each naming the policy that it is about
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How results are printed; JSON is one line a file
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What `--format json` prints for a file that could not be run.
#[derive(Serialize)]
struct Refused<'a> {
    path: &'a PathBuf,
    error: String,
    diagnostics: Option<serde_json::Value>,
}

impl Args {
    pub(super) fn run(self) -> Result<Verdict> {
        let mut verdict = Verdict::Fine;
        for path in &self.files {
            let result = expect::run(path, &Capabilities::this_build());
            if !matches!(&result, Ok(report) if report.failed() == 0) {
                verdict = Verdict::Findings;
            }
            match (self.format, &result) {
                (Format::Json, Ok(report)) => super::print_json(report)?,
                (Format::Json, Err(error)) => super::print_json(&Refused {
                    path,
                    error: error.to_string(),
                    diagnostics: error.diagnostics().map(bulkhead_policy::Diagnostics::to_json),
                })?,
                (Format::Text, Ok(report)) => super::print(&text(report))?,
                (Format::Text, Err(error)) => super::print(&refusal(path, error))?,
            }
        }
        Ok(verdict)
    }
}

fn text(report: &Report) -> String {
    let mut text = report.warnings.render(super::colored());
    for result in report.results.iter().filter(|result| !result.passed) {
        text.push_str(&failure(result));
    }
    let (all, failed) = (report.results.len(), report.failed());
    let word = if failed == 0 { "ok" } else { "FAILED" };
    text.push_str(&format!("{}: {word}, {} of {all} hold\n", report.path.display(), all - failed));
    text
}

fn failure(result: &Outcome) -> String {
    let Outcome { name, location, expected, got, decision, .. } = result;
    let mut text = format!("{location}: {name}: expected {expected}, got {got}\n");
    if let Some(rule) = &result.expected_rule {
        text.push_str(&format!("  expected rule: {rule}\n"));
    }
    for (side, says) in [("egress", &decision.egress), ("ingress", &decision.ingress)] {
        let rule = says.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
        let (verdict, reason) = (says.verdict.as_str(), says.reason.as_str());
        text.push_str(&format!("  {side}: {verdict} ({reason}){rule}\n"));
    }
    text
}

fn refusal(path: &std::path::Path, error: &ExpectError) -> String {
    match error.diagnostics() {
        Some(diagnostics) => {
            format!("{}{}: FAILED, it cannot be run\n", diagnostics.render(super::colored()), path.display())
        }
        None => format!("{}: FAILED, {error}\n", path.display()),
    }
}
