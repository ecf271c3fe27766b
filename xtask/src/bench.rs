//! `cargo xtask bench`: builds the agent with optimisations, then becomes the benchmark (`xtask/live`).

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::workspace::Workspace;
use crate::{build, process, setup};

/// Tells the benchmark where Envoy is.
const ENVOY: &str = "BULKHEAD_ENVOY";

/// The command; `args` are the benchmark's own. Comes back only when it fails.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let tools = setup::for_tests(workspace)?;
    let proxy = args.first().is_some_and(|what| what == "proxy");
    let envoy = if proxy { setup::for_proxy_bench(workspace) } else { None };
    let object = tools.build(&workspace.kernel_crate())?;
    let mut cargo = build::host_cargo(workspace, &object);
    cargo.args(["build", "--release", "--quiet", "--bins", "--package", "bulkhead"]);
    cargo.args(["--package", "bulkhead-live"]);
    eprintln!("[bench] building the agent with optimisations");
    process::run(&mut cargo)?;

    let mut bench = Command::new(workspace.binary("release", "bulkhead-bench"));
    bench.args(args);
    // A variant of it is measured, too.
    bench.env("BULKHEAD_OBJECT", &object);
    if let Some(envoy) = envoy {
        bench.env(ENVOY, envoy);
    }
    if args.first().is_some_and(|what| what == "reload") {
        bench.arg("--policies").arg(workspace.root().join("policies/shop"));
    }
    let error = bench.exec();
    Err(anyhow!(error).context("cannot start the benchmark"))
}
