//! Debian packages: which ones, what for, and how they are installed.
//!
//! Nothing is asked of apt while everything is there: a package is known by a file it brings.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::Progress;

/// A package that tests or the demo run a program of.
struct Package {
    name: &'static str,
    /// The program, or its path, in which one folder may be `*`.
    program: &'static str,
    reason: &'static str,
    /// What it would start at boot.
    services: &'static [&'static str],
}

impl Package {
    const fn new(name: &'static str, program: &'static str, reason: &'static str) -> Package {
        Package { name, program, reason, services: &[] }
    }

    const fn with_services(self, services: &'static [&'static str]) -> Package {
        Package { services, ..self }
    }

    fn is_there(&self) -> bool {
        match self.program.split_once("/*/") {
            None => process::find(self.program).is_some(),
            Some((folder, below)) => fs::read_dir(folder)
                .is_ok_and(|versions| versions.flatten().any(|version| version.path().join(below).is_file())),
        }
    }
}

const NEEDED: [Package; 3] = [
    Package::new("iproute2", "ip", "tests make network namespaces with it"),
    Package::new("bpftool", "bpftool", "tests dump the kernel object's BTF with it"),
    Package::new("nftables", "nft", "tests translate addresses with it, the benchmark measures beside it"),
];

/// Programs whose traffic tests look into. Only their programs are of use: none of them is left running,
/// or to be started at boot.
const SPEAKERS: [Package; 16] = [
    Package::new("openssl", "openssl", "speaks every version of TLS to tests, and makes their certificates"),
    Package::new("gnutls-bin", "gnutls-serv", "speaks TLS of another library"),
    Package::new("curl", "curl", "speaks HTTP to tests"),
    Package::new("nginx", "nginx", "answers HTTP in tests").with_services(&["nginx.service"]),
    Package::new("postgresql", "/usr/lib/postgresql/*/bin/initdb", "speaks PostgreSQL in tests")
        .with_services(&["postgresql.service"]),
    Package::new("redis-server", "redis-server", "speaks Redis in tests")
        .with_services(&["redis-server.service"]),
    Package::new("openssh-server", "sshd", "speaks SSH in tests")
        .with_services(&["ssh.service", "ssh.socket"]),
    Package::new("openssh-client", "ssh", "speaks SSH to tests"),
    Package::new("dnsmasq-base", "dnsmasq", "answers DNS in tests"),
    Package::new("bind9-dnsutils", "dig", "asks DNS in tests"),
    Package::new("prometheus", "prometheus", "scrapes the agent in tests, and checks the alert rules")
        .with_services(&["prometheus.service"]),
    Package::new("tshark", "tshark", "captures what goes over the wire in tests, and says what it is"),
    Package::new("libnghttp2-dev", "/usr/include/nghttp2/nghttp2.h", "speaks HTTP/2 of another library"),
    Package::new("libssl-dev", "/usr/include/openssl/ssl.h", "carries it over TLS"),
    Package::new("gcc", "cc", "builds what speaks it"),
    Package::new("python3-venv", "/usr/lib/*/ensurepip/__init__.py", "runs SMTP and QUIC for tests"),
];

/// Proxies that `cargo xtask bench proxy` measures beside.
const PEERS: [Package; 4] = [
    Package::new("nginx", "nginx", "is measured beside the proxy").with_services(&["nginx.service"]),
    Package::new(
        "libnginx-mod-stream",
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "lets nginx carry what is not HTTP",
    ),
    Package::new("haproxy", "haproxy", "is measured beside the proxy").with_services(&["haproxy.service"]),
    Package::new("stunnel4", "stunnel4", "is measured beside the proxy"),
];

/// What only `cargo xtask test vm` needs, and only it installs.
const NEEDED_FOR_VM: [Package; 4] = [
    Package::new("qemu-system-x86", "qemu-system-x86_64", "boots the other kernel"),
    Package::new("busybox-static", "busybox", "is the other kernel's user space"),
    Package::new("binutils", "strip", "takes from test binaries what only a debugger reads"),
    Package::new("xz-utils", "xz", "unpacks kernel modules"),
];

/// The compiler with a ready `core` for the BPF target.
pub(crate) const KERNEL_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Installs what is missing of [`NEEDED`].
pub(crate) fn ensure(progress: &Progress) -> Result<()> {
    ensure_all(&NEEDED, progress)
}

/// Installs what is missing of [`SPEAKERS`].
pub(crate) fn ensure_speakers(progress: &Progress) -> Result<()> {
    ensure_all(&SPEAKERS, progress)
}

/// Installs what is missing of [`PEERS`].
pub(crate) fn ensure_peers(progress: &Progress) -> Result<()> {
    ensure_all(&PEERS, progress)
}

/// Installs what is missing of [`NEEDED_FOR_VM`].
pub(crate) fn ensure_for_vm(progress: &Progress) -> Result<()> {
    ensure_all(&NEEDED_FOR_VM, progress)
}

fn ensure_all(needed: &[Package], progress: &Progress) -> Result<()> {
    let missing: Vec<&Package> = needed.iter().filter(|package| !package.is_there()).collect();
    if missing.is_empty() {
        let names = needed.iter().map(|p| p.name).collect::<Vec<_>>().join(", ");
        progress.found("packages", &format!("{names} are there"));
        return Ok(());
    }
    for package in &missing {
        eprintln!("[packages] {} is missing: {}", package.name, package.reason);
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
    if !can_install() {
        bail!("install these first: {}", command_line(&names));
    }
    let services: Vec<&str> = missing.iter().flat_map(|package| package.services).copied().collect();
    progress.step("packages", &format!("installing {}", names.join(", ")), || {
        let _quiet = if services.is_empty() { None } else { Some(NoStart::new()?) };
        install(&names)?;
        services.iter().try_for_each(|service| disable(service))
    })
}

/// As long as it lives, packages that are installed start nothing.
struct NoStart {
    ours: bool,
}

/// Asked by packages before they start a service; 101 says no (Debian Policy 9.3.3.1).
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoStart {
    fn new() -> Result<NoStart> {
        // Whoever has one has decided already.
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
            fs::set_permissions(POLICY, Permissions::from_mode(0o755))?;
        }
        Ok(NoStart { ours })
    }
}

impl Drop for NoStart {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// A service that nobody had before is not to come with the next boot.
fn disable(service: &str) -> Result<()> {
    match process::find("deb-systemd-helper") {
        // It does nothing for whoever is not a package's script.
        Some(helper) => process::run(
            Command::new(helper).args(["disable", service]).env("DPKG_MAINTSCRIPT_PACKAGE", "bulkhead"),
        ),
        None => Ok(()),
    }
}

/// Whether this process may install Debian packages.
pub(crate) fn can_install() -> bool {
    process::find("apt-get").is_some() && process::ask(Command::new("id").arg("-u")).as_deref() == Some("0")
}

/// Installs packages, with a fresh list of what there is.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    apt(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(names);
    apt(&arguments)
}

/// As [`install`], and nothing of it is started.
pub(crate) fn install_quietly(names: &[&str]) -> Result<()> {
    let _quiet = NoStart::new()?;
    install(names)
}

/// What a user would type to install `names`.
pub(crate) fn command_line(names: &[&str]) -> String {
    format!("sudo apt-get install --no-install-recommends {}", names.join(" "))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    // Standard error: standard output belongs to the command that called for the packages.
    command.args(["-q", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdout(std::io::stderr());
    process::run(&mut command)
}
