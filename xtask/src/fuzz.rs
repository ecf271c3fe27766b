//! `cargo xtask fuzz`: mutated openings against everything that reads what strangers send.
//!
//! On the stable compiler and so without coverage: it makes up for that by speed. A panic fails the run and
//! prints the input.

use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{build, process, setup};

/// The command.
pub(crate) fn run(workspace: &Workspace, minutes: u64, seed: u64) -> Result<()> {
    let tools = setup::for_build(workspace)?;
    let object = tools.build(&workspace.kernel_crate())?;
    let mut cargo = build::host_cargo(workspace, &object);
    cargo.args(["build", "--release", "--quiet", "--package", "bulkhead-tests", "--bin", "bulkhead-fuzz"]);
    // A wrong sum is a defect as well.
    cargo.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    process::run(&mut cargo)?;
    let mut fuzz = Command::new(workspace.binary("release", "bulkhead-fuzz"));
    process::run(fuzz.arg(minutes.to_string()).arg(seed.to_string()))
}
