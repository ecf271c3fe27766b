//! `bulkhead-corpus`: records how real programs begin to talk, and keeps the opening bytes as vectors.
//!
//! Each scenario of `corpus/scenarios.toml` is a server and a client, run in a network namespace of their
//! own while dumpcap listens; what tshark finds of the flows to the scenario's port becomes vectors, with
//! the truth that the scenario states beside them. A scenario whose program is missing or fails keeps the
//! vectors that it had, and is named at the end.

mod capture;
mod run;
mod scenario;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bulkhead_tests::corpus::{self, Vector};

use crate::scenario::Scenario;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    match record(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Records the scenarios whose names begin with one of `wanted`, or all; whether all worked.
fn record(wanted: &[String]) -> Result<bool> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let scenarios = scenario::load(&folder.join("scenarios.toml"))?;
    let chosen: Vec<&Scenario> = scenarios
        .iter()
        .filter(|scenario| wanted.is_empty() || wanted.iter().any(|name| scenario.name.starts_with(name)))
        .collect();
    if chosen.is_empty() {
        bail!("no scenario of that name; corpus/scenarios.toml has all");
    }
    let path = folder.join("vectors.jsonl");
    let mut vectors: BTreeMap<String, Vector> = corpus::load(&path)
        .unwrap_or_default()
        .into_iter()
        .map(|vector| (vector.name.clone(), vector))
        .collect();
    let certificates = run::Certificates::make()?;
    let mut failed = Vec::new();
    for scenario in &chosen {
        match one(scenario, &certificates) {
            Ok(recorded) => {
                println!("{:28} {} vectors", scenario.name, recorded.len());
                vectors.retain(|_, vector| vector.scenario != scenario.name);
                vectors.extend(recorded.into_iter().map(|vector| (vector.name.clone(), vector)));
            }
            Err(error) => {
                println!("{:28} FAILED: {error:#}", scenario.name);
                failed.push(scenario.name.as_str());
            }
        }
    }
    vectors.retain(|_, vector| scenarios.iter().any(|scenario| scenario.name == vector.scenario));
    corpus::store(&path, vectors.into_values())?;
    if !failed.is_empty() {
        println!("kept as they were: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn one(scenario: &Scenario, certificates: &run::Certificates) -> Result<Vec<Vector>> {
    if !scenario.bytes.is_empty() {
        return Ok(vec![scenario.written()?]);
    }
    let run = run::Run::new(certificates)?;
    let captured = run.perform(scenario)?;
    let flows = capture::flows(&captured, scenario).context("cannot read the capture")?;
    if flows.is_empty() {
        bail!("nobody talked; the log says\n{}", run.log());
    }
    Ok(scenario.vectors(flows))
}
