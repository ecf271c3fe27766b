//! `cargo xtask build`: the kernel programs, then the agent that carries them inside.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{process, setup};

/// Tells the agent's build script which object to carry.
const OBJECT_VARIABLE: &str = "BULKHEAD_EBPF_OBJECT";

/// What the command line chose.
pub(crate) struct Options {
    pub(crate) release: bool,
    pub(crate) kernel_only: bool,
    pub(crate) kernel_crate: Option<PathBuf>,
}

/// The command. Standard output gets the paths of what was built, one a line.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let tools = setup::for_build(workspace)?;
    let folder = match &options.kernel_crate {
        Some(folder) => folder.canonicalize()?,
        None => workspace.kernel_crate(),
    };
    let object = tools.build(&folder)?;
    println!("{}", object.display());
    if options.kernel_only {
        return Ok(());
    }
    let mut cargo = host_cargo(workspace, &object);
    cargo.args(["build", "--package", "bulkhead"]);
    if options.release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    let profile = if options.release { "release" } else { "debug" };
    println!("{}", workspace.binary(profile, "bulkhead").display());
    Ok(())
}

/// Cargo for the workspace, with the kernel object for the agent to carry.
pub(crate) fn host_cargo(workspace: &Workspace, object: &Path) -> Command {
    let mut cargo = process::host_cargo();
    cargo.current_dir(workspace.root()).env(OBJECT_VARIABLE, object);
    cargo.env("CARGO_TARGET_DIR", workspace.target());
    cargo
}
