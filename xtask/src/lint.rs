//! `cargo xtask lint`: format, lints, licences and dependencies, and our own rules for source files.
//!
//! All checks run even when one fails, so that one run shows everything; the command fails at the
//! end, and names those that did.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::kernel_tools::KernelTools;
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{packages, process, rules, setup};

/// The release of cargo-deny that setup installs when there is none.
const CARGO_DENY: &str = "^0.20";

/// The command; `advisories` asks the advisory database too, which must be fetched.
pub(crate) fn run(workspace: &Workspace, advisories: bool) -> Result<()> {
    let tools = setup::for_build(workspace)?;
    let progress = Progress::verbose("lint");
    let mut failed = Vec::new();
    let mut check = |name: &'static str, does: &str, work: &dyn Fn() -> Result<()>| {
        if let Err(error) = progress.step(name, does, work) {
            eprintln!("[lint] {name}: {error:#}");
            failed.push(name);
        }
    };
    check("rules", "comments, sizes and unsafe code of source files", &|| rules::check(workspace.root()));
    check("format", "rustfmt, in every crate", &|| format(workspace));
    check("clippy", "the workspace, all targets, warnings are errors", &|| clippy(workspace));
    check("clippy-kernel", "the kernel programs", &|| clippy_kernel(workspace, &tools));
    check("deny", "licences, banned crates and sources of all dependencies", &|| {
        deny(workspace, &progress, &["bans", "licenses", "sources"])
    });
    if advisories {
        check("advisories", "known flaws of all dependencies", &|| {
            deny(workspace, &progress, &["advisories"])
        });
    }
    if failed.is_empty() {
        progress.end("all checks passed");
        return Ok(());
    }
    bail!("these checks failed: {}", failed.join(", "))
}

fn format(workspace: &Workspace) -> Result<()> {
    let kernel = workspace.kernel_crate().join("Cargo.toml");
    let mut all = process::host_cargo();
    process::run(all.current_dir(workspace.root()).args(["fmt", "--all", "--check"]))?;
    let mut cargo = process::host_cargo();
    process::run(cargo.args(["fmt", "--check", "--manifest-path"]).arg(kernel))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = process::host_cargo();
    cargo.current_dir(workspace.root()).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    process::run(&mut cargo)
}

/// Needs the clippy of the very compiler that builds the kernel half.
fn clippy_kernel(workspace: &Workspace, tools: &KernelTools) -> Result<()> {
    let folder = tools.compiler.cargo.parent().context("a compiler without a folder")?;
    if !folder.join("cargo-clippy").is_file() {
        let package = ["rust-web-clippy"];
        if !tools.compiler.cargo.starts_with("/usr/bin") || !packages::can_install() {
            bail!("there is no clippy in {}: {}", folder.display(), packages::command_line(&package));
        }
        packages::install(&package)?;
    }
    let kernel = workspace.kernel_crate();
    let mut cargo = tools.cargo(&kernel, "clippy")?;
    cargo.arg("--target-dir").arg(kernel.join("target")).args(["--", "-D", "warnings"]);
    // Cargo looks for its subcommands in PATH, where another toolchain's may come first.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&path));
    cargo.env("PATH", std::env::join_paths(folders)?);
    process::run(&mut cargo)
}

fn deny(workspace: &Workspace, progress: &Progress, checks: &[&str]) -> Result<()> {
    let program = cargo_deny(workspace, progress)?;
    let config = workspace.root().join("deny.toml");
    for manifest in [workspace.root().join("Cargo.toml"), workspace.kernel_crate().join("Cargo.toml")] {
        let mut command = Command::new(&program);
        command.arg("--manifest-path").arg(manifest).arg("--config").arg(&config);
        command.args(["--log-level", "error", "check", "--hide-inclusion-graph"]).args(checks);
        process::run(&mut command)?;
    }
    Ok(())
}

/// Only lint needs it, and building it takes minutes: so it is not a part of setup.
fn cargo_deny(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let root = workspace.tools().join("cargo-deny");
    let own = root.join("bin/cargo-deny");
    if let Some(found) = process::find("cargo-deny").or_else(|| own.is_file().then(|| own.clone())) {
        return Ok(found);
    }
    let mut cargo = process::host_cargo();
    cargo.args(["install", "cargo-deny", "--locked", "--version", CARGO_DENY, "--root"]).arg(&root);
    cargo.env_remove("CARGO_TARGET_DIR");
    progress.step("deny", "building cargo-deny (some minutes, once)", || process::run(&mut cargo))?;
    Ok(own)
}
