//! Where things are in this repository. The one place that knows folder names.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository, by absolute paths.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the repository that this tool was built from.
    pub(crate) fn find() -> Result<Workspace> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("the xtask crate has no parent folder: run `cargo xtask`")?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => env::current_dir()?.join(dir),
            None => root.join("target"),
        };
        Ok(Workspace { root: root.to_path_buf(), target })
    }

    /// The folder of the root manifest.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The crate of the kernel programs, which is no member of the workspace.
    pub(crate) fn kernel_crate(&self) -> PathBuf {
        self.root.join("ebpf")
    }

    /// Cargo's folder for what it builds for this machine.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where a binary of the workspace is found after a build.
    pub(crate) fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// Tools that this project installed for itself; shared by all target folders.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }
}
