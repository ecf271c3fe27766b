//! `cargo xtask test`: builds everything and runs every test of the workspace.
//!
//! All test binaries run even when one fails, and the last line is the sum over all of them:
//! `N passed, N failed, N skipped`. Tests that need root fail without it where `CI=true`.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{build, process, setup};

/// Tells the kernel tests which agent to start.
const AGENT_VARIABLE: &str = "BULKHEAD_BIN";

/// Tells them which Python has the packages that they speak with.
const PYTHON_VARIABLE: &str = "BULKHEAD_PYTHON";

/// Tells them which Python has sslyze.
const SSLYZE_VARIABLE: &str = "BULKHEAD_SSLYZE";

/// The command; `args` go to `cargo test`.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let tools = setup::for_tests(workspace)?;
    let speakers = setup::for_speakers(workspace)?;
    let object = tools.build(&workspace.kernel_crate())?;
    process::run(build::host_cargo(workspace, &object).args(["build", "--workspace", "--bins"]))?;

    let mut cargo = build::host_cargo(workspace, &object);
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(args);
    cargo.env(AGENT_VARIABLE, workspace.binary("debug", "bulkhead")).env(PYTHON_VARIABLE, speakers.python);
    cargo.env(SSLYZE_VARIABLE, speakers.sslyze);
    let mut child =
        cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no standard output")?;
    let total = follow(BufReader::new(output))?;
    let status = child.wait()?;
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if !status.success() {
        bail!("tests failed: the names are in the output above");
    }
    Ok(())
}

/// Sums of the runners' closing lines.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Total {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Passes the output on, and adds up what the runners say of themselves.
fn follow(mut output: impl BufRead) -> Result<Total> {
    let mut total = Total::default();
    let mut line = Vec::new();
    let mut ours = std::io::stdout().lock();
    while output.read_until(b'\n', &mut line)? > 0 {
        ours.write_all(&line)?;
        ours.flush()?;
        total.add(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(total)
}

impl Total {
    /// Adds what a line says, if it is a runner's closing line.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Total;

    #[test]
    fn closing_lines_are_added_up() {
        let mut total = Total::default();
        total.add("running 3 tests");
        total.add(
            "test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; finished in 0.31s",
        );
        total.add(
            "test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        assert_eq!(total, Total { passed: 13, failed: 3, skipped: 2 });
    }
}
