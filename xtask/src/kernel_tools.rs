//! The tools that build the kernel half, and the one command line that does it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::compiler::{Compiler, Core, TARGET};
use crate::process;

/// Name of the kernel crate's binary, and so of the object file.
const OBJECT: &str = "bulkhead-ebpf";

/// Compiler flags. v3 is the instruction set of kernels since 5.12: atomic operations that answer the
/// old value, and 32-bit registers. The next two are for type information (BTF) in the object. The last
/// one keeps zeroing and comparing of memory in place: what the linker asks for otherwise makes LLVM call
/// functions for that, which go byte by byte.
const FLAGS: [&str; 4] =
    ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order"];

/// A compiler and its linker.
pub(crate) struct KernelTools {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// A bpf-linker for the compiler's LLVM.
    pub(crate) linker: PathBuf,
}

impl KernelTools {
    /// Builds the kernel programs of the crate in `folder` and answers where the object is.
    ///
    /// Always optimised: without optimisation the verifier would refuse the programs.
    pub(crate) fn build(&self, folder: &Path) -> Result<PathBuf> {
        let target = folder.join("target");
        let mut cargo = self.cargo(folder, "build")?;
        cargo.arg("--target-dir").arg(&target);
        process::run(&mut cargo)?;
        let object = target.join(TARGET).join("release").join(OBJECT);
        if !object.is_file() {
            bail!("the build left no {}: the crate's binary must be named {OBJECT}", object.display());
        }
        Ok(object)
    }

    /// A cargo command for the kernel half, with everything set that it needs.
    pub(crate) fn cargo(&self, folder: &Path, subcommand: &str) -> Result<Command> {
        // Cargo would look for a manifest in the folders above, and build what it finds there.
        if !folder.join("Cargo.toml").is_file() {
            bail!("there is no kernel crate in {}: is the checkout complete?", folder.display());
        }
        let mut cargo = process::foreign_cargo(&self.compiler.cargo);
        cargo.current_dir(folder).args([subcommand, "--release", "--target", TARGET]);
        if self.compiler.core == Core::FromSource {
            cargo.args(["-Z", "build-std=core"]);
        }
        if folder.join("Cargo.lock").is_file() {
            cargo.arg("--locked");
        }
        // aya-ebpf uses one unstable feature, and build-std is another.
        cargo.env("RUSTC_BOOTSTRAP", "1");
        cargo.env("RUSTC", &self.compiler.rustc);
        cargo.env("LD_LIBRARY_PATH", &self.compiler.llvm_folder);
        cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
        Ok(cargo)
    }
}
