//! Finds, or installs, the bpf-linker release that goes with a compiler's LLVM.
//!
//! The linker loads the LLVM of a compiler; a release is made for one major version. Which release
//! goes with which is written down here and nowhere else, and an unknown LLVM is an error, not a
//! guess: a mismatch may link and still write broken type information.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The releases for one LLVM.
pub(crate) struct Series {
    llvm: u32,
    /// How the version of every release of the series begins.
    prefix: &'static str,
    /// What cargo is asked to install.
    install: &'static str,
}

const SERIES: [Series; 2] = [
    Series { llvm: 22, prefix: "0.10.", install: "0.10.3" },
    Series { llvm: 23, prefix: "0.11.", install: "^0.11" },
];

/// The series for an LLVM, when one is known.
pub(crate) fn series(llvm: u32) -> Option<&'static Series> {
    SERIES.iter().find(|series| series.llvm == llvm)
}

/// The LLVM versions for which a release is known, for error texts.
pub(crate) fn known() -> String {
    SERIES.iter().map(|s| format!("LLVM {} with {}x", s.llvm, s.prefix)).collect::<Vec<_>>().join(", ")
}

/// A linker for `llvm`: one in `PATH`, one of ours, or one that is installed now.
pub(crate) fn ensure(workspace: &Workspace, llvm: u32, progress: &Progress) -> Result<PathBuf> {
    let series = series(llvm)
        .with_context(|| format!("no bpf-linker release is known for LLVM {llvm}, only: {}", known()))?;
    let ours = workspace.tools().join(format!("bpf-linker-{llvm}"));
    let own = ours.join("bin/bpf-linker");
    for candidate in process::find("bpf-linker").into_iter().chain([own.clone()]) {
        if let Some(version) = version(&candidate).filter(|version| version.starts_with(series.prefix)) {
            progress.found("linker", &format!("{} is {version}", candidate.display()));
            return Ok(candidate);
        }
    }
    let does = format!("installing bpf-linker {} into {}", series.install, ours.display());
    progress.step("linker", &does, || install(&ours, series))?;
    Ok(own)
}

fn version(linker: &Path) -> Option<String> {
    let says = process::ask(Command::new(linker).arg("--version"))?;
    says.strip_prefix("bpf-linker ").map(str::to_owned)
}

fn install(folder: &Path, series: &Series) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut cargo = process::host_cargo();
    cargo.args(["install", "bpf-linker", "--locked", "--force", "--version", series.install, "--root"]);
    // Its own folder for the build: ours may be locked by the cargo that waits for us.
    cargo.arg(folder).env_remove("CARGO_TARGET_DIR");
    process::run(&mut cargo)
        .with_context(|| format!("try `cargo install bpf-linker --version {} --locked`", series.install))
}

#[cfg(test)]
mod tests {
    use super::series;

    #[test]
    fn an_unknown_llvm_has_no_series() {
        assert_eq!(series(22).map(|s| s.prefix), Some("0.10."));
        assert_eq!(series(23).map(|s| s.prefix), Some("0.11."));
        assert!(series(21).is_none());
    }
}
