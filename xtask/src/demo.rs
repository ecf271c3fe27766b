//! `cargo xtask demo`: builds everything, then becomes the demo.
//!
//! The demo needs the agent's own types, and so the kernel object, while xtask must build before there
//! is either: it is a crate of its own (`xtask/live`). It takes this process' place, so that a signal
//! reaches the one that has something to remove.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::workspace::Workspace;
use crate::{build, process, setup};

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) keep: bool,
    pub(crate) clean: bool,
}

/// The command. Comes back only when it fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let tools = setup::for_tests(workspace)?;
    let object = tools.build(&workspace.kernel_crate())?;
    let mut cargo = build::host_cargo(workspace, &object);
    cargo.args(["build", "--quiet", "--bins"]);
    cargo.args(["--package", "bulkhead", "--package", "bulkhead-tests", "--package", "bulkhead-live"]);
    eprintln!("[demo] building the agent, the shop's programs and the demo");
    process::run(&mut cargo)?;

    let mut demo = Command::new(workspace.binary("debug", "bulkhead-demo"));
    demo.arg("--policies").arg(workspace.root().join("policies/shop"));
    for (wanted, flag) in [(options.keep, "--keep"), (options.clean, "--clean")] {
        if wanted {
            demo.arg(flag);
        }
    }
    let error = demo.exec();
    Err(anyhow!(error).context("cannot start the demo"))
}
