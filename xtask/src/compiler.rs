//! Finds, or installs, a compiler for the kernel half: one that has a `core` for the BPF target.
//!
//! There are two kinds. One brings `core` ready made; the other brings its source, and cargo
//! builds it. Either way the linker must load an LLVM of the compiler's own major version: another
//! one may well produce an object, with broken type information in it, so a compiler without its
//! LLVM counts as not found.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{linker, packages};

/// The target triple of the kernel half.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Where `core` comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Core {
    /// In the compiler's own library folder.
    Prebuilt,
    /// Built by cargo from the sources that the toolchain carries.
    FromSource,
}

/// A compiler that can build the kernel half.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// The compiler itself, never a proxy that could choose another one.
    pub(crate) rustc: PathBuf,
    /// The cargo of the same toolchain.
    pub(crate) cargo: PathBuf,
    /// Where its `core` comes from.
    pub(crate) core: Core,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// A folder whose `libLLVM` is of that major version.
    pub(crate) llvm_folder: PathBuf,
}

/// The best compiler on this machine, or one that is installed now.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<Compiler> {
    if let Some(compiler) = probe(workspace)? {
        progress.found("compiler", &compiler.describe());
        return Ok(compiler);
    }
    install(progress)?;
    let compiler =
        probe(workspace)?.with_context(|| format!("no compiler for {TARGET} was found: {}", advice()))?;
    progress.found("compiler", &compiler.describe());
    Ok(compiler)
}

impl Compiler {
    fn describe(&self) -> String {
        let core = match self.core {
            Core::Prebuilt => "ready-made core",
            Core::FromSource => "core built from rust-src",
        };
        format!("{} with LLVM {} and a {core}", self.rustc.display(), self.llvm)
    }
}

fn probe(workspace: &Workspace) -> Result<Option<Compiler>> {
    let toolchains: Vec<Toolchain> =
        ["rustc", "/usr/bin/rustc"].into_iter().filter_map(Toolchain::ask).collect();
    for core in [Core::Prebuilt, Core::FromSource] {
        for toolchain in &toolchains {
            if toolchain.has(core)
                && linker::series(toolchain.llvm).is_some()
                && let Some(llvm_folder) = llvm_folder(workspace, toolchain.llvm, &toolchains)?
            {
                let Toolchain { ref rustc, ref cargo, llvm, .. } = *toolchain;
                return Ok(Some(Compiler {
                    rustc: rustc.clone(),
                    cargo: cargo.clone(),
                    core,
                    llvm,
                    llvm_folder,
                }));
            }
        }
    }
    Ok(None)
}

fn install(progress: &Progress) -> Result<()> {
    let names = packages::KERNEL_COMPILER;
    if packages::can_install() {
        let does = format!("installing {} (a core for {TARGET})", names.join(", "));
        if progress.step("compiler", &does, || packages::install(&names)).is_ok() {
            return Ok(());
        }
    }
    if process::find("rustup").is_some() {
        let does = "adding rust-src to the rustup toolchain";
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "rust-src"]);
        if progress.step("compiler", does, || process::run(&mut rustup)).is_ok() {
            return Ok(());
        }
    }
    bail!("no compiler for {TARGET} can be installed here: {}", advice())
}

fn advice() -> String {
    format!(
        "either run `{}`, or run `rustup component add rust-src`; the compiler's LLVM must be one that a \
         bpf-linker release is known for ({})",
        packages::command_line(&packages::KERNEL_COMPILER),
        linker::known(),
    )
}

/// What a compiler says about itself.
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    sysroot: PathBuf,
    target_libraries: PathBuf,
    llvm: u32,
}

impl Toolchain {
    fn ask(rustc: &str) -> Option<Toolchain> {
        let paths = process::ask(Command::new(rustc).args([
            "--print",
            "sysroot",
            "--print",
            "target-libdir",
            "--target",
            TARGET,
        ]))?;
        let (sysroot, target_libraries) = paths.split_once('\n')?;
        let sysroot = PathBuf::from(sysroot);
        let (rustc, cargo) = (sysroot.join("bin/rustc"), sysroot.join("bin/cargo"));
        if !rustc.is_file() || !cargo.is_file() {
            return None;
        }
        let llvm = llvm_major(&process::ask(Command::new(&rustc).arg("-vV"))?)?;
        Some(Toolchain { rustc, cargo, sysroot, target_libraries: target_libraries.into(), llvm })
    }

    fn has(&self, core: Core) -> bool {
        match core {
            Core::Prebuilt => self.target_libraries.is_dir(),
            Core::FromSource => self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir(),
        }
    }
}

fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// A folder in which the linker finds an LLVM of this major version, and no other.
fn llvm_folder(workspace: &Workspace, major: u32, toolchains: &[Toolchain]) -> Result<Option<PathBuf>> {
    let shipped = toolchains
        .iter()
        .filter(|toolchain| toolchain.llvm == major)
        .map(|toolchain| toolchain.sysroot.join("lib"))
        .find(|folder| folder != Path::new("/usr/lib") && library(folder, major).is_some());
    if shipped.is_some() {
        return Ok(shipped);
    }
    // The system's folder holds many versions, and the linker takes the first that it sees.
    let Some(found) = system_folders().iter().find_map(|folder| library(folder, major)) else {
        return Ok(None);
    };
    let folder = workspace.tools().join(format!("llvm-{major}"));
    let link = folder.join("libLLVM.so");
    if fs::read_link(&link).ok().as_ref() != Some(&found) {
        fs::create_dir_all(&folder)?;
        let _ = fs::remove_file(&link);
        symlink(&found, &link).with_context(|| format!("cannot write {}", link.display()))?;
    }
    Ok(Some(folder))
}

fn system_folders() -> Vec<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    architectures.filter(|path| path.to_string_lossy().ends_with("-linux-gnu")).collect()
}

fn library(folder: &Path, major: u32) -> Option<PathBuf> {
    let starts = [format!("libLLVM.so.{major}."), format!("libLLVM-{major}.so"), format!("libLLVM-{major}-")];
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            starts.iter().any(|start| name.to_string_lossy().starts_with(start))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.into_iter().next_back()
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn the_llvm_major_is_read_from_the_verbose_version() {
        let text = "rustc 1.95.0 (abc 2026-04-14)\nbinary: rustc\nrelease: 1.95.0\nLLVM version: 22.1.2";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.95.0"), None);
    }
}
