//! `cargo xtask clean`: removes what was built, in both halves, and the tools that setup built.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};

use crate::workspace::Workspace;

/// The command.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let folders =
        [workspace.target().to_path_buf(), workspace.kernel_crate().join("target"), workspace.tools()];
    for folder in folders {
        match fs::remove_dir_all(&folder) {
            Ok(()) => eprintln!("[clean] removed {}", folder.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", folder.display())),
        }
    }
    Ok(())
}
