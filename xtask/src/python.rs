//! A Python of the project's own, with the few packages that tests speak SMTP, QUIC, HTTP/2, gRPC,
//! WebSocket and post-quantum TLS with.
//!
//! It is a virtual environment in the tools folder: nothing is installed into the machine's Python. The
//! versions are fixed, so that a test that fails today did not pass because of another version yesterday.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// What is installed. pyOpenSSL takes OpenSSL from `cryptography`, which brings a newer one than Debian 12:
/// it offers X25519MLKEM768.
const PACKAGES: [&str; 7] = [
    "aioquic==1.7.2",
    "aiosmtpd==1.4.6",
    "cryptography==50.0.2",
    "grpcio==1.85.1",
    "h2==4.4.1",
    "pyOpenSSL==26.4.0",
    "websockets==17.4",
];

/// The interpreter, with everything that it needs.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let folder = workspace.tools().join("python");
    let python = folder.join("bin/python");
    let wanted = PACKAGES.join("\n");
    let complete = folder.join("bulkhead-packages.txt");
    if fs::read_to_string(&complete).is_ok_and(|installed| installed == wanted) && works(&python) {
        progress.found("python", &format!("{} has {}", python.display(), PACKAGES.join(", ")));
        return Ok(python);
    }
    let does = format!("installing {} into {}", PACKAGES.join(", "), folder.display());
    progress.step("python", &does, || {
        install(&folder, &python)?;
        fs::write(&complete, &wanted).with_context(|| format!("cannot write {}", complete.display()))
    })?;
    Ok(python)
}

fn works(python: &Path) -> bool {
    process::ask(Command::new(python).args(["-c", "import aioquic, aiosmtpd, grpc, h2, OpenSSL, websockets"]))
        .is_some()
}

fn install(folder: &Path, python: &Path) -> Result<()> {
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))
        .context("tests need Python 3 with `venv`: install python3-venv")?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    process::run(pip.args(PACKAGES))
}
