//! The commands that need no root, as a CI job runs them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str = r#"
[zone.web]
cidrs = ["10.1.0.0/16"]

[zone.db]
cidrs = ["10.2.0.0/16"]

[[allow]]
name = "queries"
from = "web"
to = "db"
ports = ["tcp/5432"]
"#;

fn bulkhead(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulkhead")).args(arguments).output().unwrap()
}

fn policy(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shop.toml"), text).unwrap();
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn says(output: &Output, code: i32, expected: &[&str]) {
    let shown = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{shown}");
    for part in expected {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
}

#[test]
fn check_tells_good_from_bad_by_its_exit_code() {
    let good = policy(GOOD);
    says(&bulkhead(&["check", text(good.path())]), 0, &["2 zones, 1 rules"]);
    let bad = policy(&GOOD.replace("to = \"db\"", "to = \"dbs\""));
    says(&bulkhead(&["check", text(bad.path())]), 1, &["shop.toml:11", "did you mean `db`?", "1 errors"]);
    says(&bulkhead(&["check", "/nowhere"]), 1, &["/nowhere"]);
    says(&bulkhead(&["check"]), 2, &[]);
}

#[test]
fn check_speaks_json() {
    let bad = policy(&GOOD.replace("to = \"db\"", "to = \"dbs\""));
    let output = bulkhead(&["check", "--format", "json", text(bad.path())]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(findings["ok"], false);
    assert_eq!(findings["diagnostics"][0]["line"], 11);
    assert_eq!(findings["diagnostics"][0]["code"], "bulkhead::unknown-zone");
}

#[test]
fn explain_answers_from_files_alone() {
    let good = policy(GOOD);
    let ask = |from: &str, to: &str, port: &str| {
        bulkhead(&["explain", from, to, port, "--policy", text(good.path())])
    };
    says(&ask("web", "db", "tcp/5432"), 0, &["allow", "queries", "shop.toml:8"]);
    says(&ask("10.1.2.3", "10.2.3.4", "tcp/22"), 0, &["10.1.2.3 (web) -> 10.2.3.4 (db)", "deny (default)"]);
    says(&ask("wbe", "db", "tcp/22"), 1, &["`wbe`", "zones are db, web"]);
}

#[test]
fn test_runs_expectations() {
    let good = policy(GOOD);
    let file = good.path().join("shop.test.toml");
    let expectation =
        "[[test]]\nname = \"q\"\nfrom = \"web\"\nto = \"db\"\nport = \"tcp/5432\"\nexpect = \"allow\"\n";
    std::fs::write(&file, expectation).unwrap();
    says(&bulkhead(&["test", text(&file)]), 0, &["1 of 1 hold"]);
    std::fs::write(&file, expectation.replace("\"allow\"", "\"deny\"")).unwrap();
    says(&bulkhead(&["test", text(&file)]), 1, &["expected deny, got allow", "FAILED, 0 of 1"]);
    let output = bulkhead(&["test", "--format", "json", text(&file)]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["results"][0]["passed"], false);
    says(&bulkhead(&["test", "/nowhere"]), 1, &["/nowhere"]);
}

#[test]
fn an_absent_agent_is_said_to_be_absent() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let instance = |command: &[&str]| {
        let mut arguments = command.to_vec();
        let (run, pins) = (at("run"), at("pins"));
        arguments.extend(["--run-dir", text(&run), "--pin-dir", text(&pins), "--instance", "nobody"]);
        bulkhead(&arguments)
    };
    says(&instance(&["status"]), 1, &["no agent runs, and nothing is enforced"]);
    says(&instance(&["zones"]), 1, &["no agent answers"]);
    let status = instance(&["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["agent"], &status["enforcing"]), (&false.into(), &false.into()));
}

#[test]
fn a_wrong_configuration_is_shown_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bulkhead.toml");
    std::fs::write(&file, "mode = \"audit\"\nmetrics = \"9642\"\n").unwrap();
    let output = bulkhead(&["--config", text(&file), "status"]);
    says(&output, 1, &["bulkhead.toml:2:11", "^^^^^^"]);
}

#[test]
fn pages_and_completions_are_made() {
    let dir = tempfile::tempdir().unwrap();
    says(&bulkhead(&["man", "--out", text(dir.path())]), 0, &[]);
    assert!(dir.path().join("bulkhead-run.1").exists());
    says(&bulkhead(&["completions", "bash"]), 0, &["complete"]);
    says(&bulkhead(&["man"]), 0, &[".TH bulkhead"]);
}
