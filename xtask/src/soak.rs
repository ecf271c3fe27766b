//! `cargo xtask soak`: builds the agent with optimisations, then becomes the endurance run (`xtask/live`).

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::workspace::Workspace;
use crate::{build, process, setup};

/// The command; `args` are the run's own. Comes back only when it fails.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let tools = setup::for_tests(workspace)?;
    let object = tools.build(&workspace.kernel_crate())?;
    let mut cargo = build::host_cargo(workspace, &object);
    cargo.args(["build", "--release", "--quiet", "--bins"]);
    cargo.args(["--package", "bulkhead", "--package", "bulkhead-tests", "--package", "bulkhead-live"]);
    eprintln!("[soak] building the agent with optimisations");
    process::run(&mut cargo)?;

    let mut soak = Command::new(workspace.binary("release", "bulkhead-soak"));
    let error = soak.args(args).exec();
    Err(anyhow!(error).context("cannot start the endurance run"))
}
