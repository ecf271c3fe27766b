//! Debian packages: which ones, what for, and how they are installed.
//!
//! Nothing is asked of apt while everything is there: a package is known by a file it brings.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::progress::Progress;

/// A package that tests or the demo run a program of.
struct Package {
    name: &'static str,
    program: &'static str,
    reason: &'static str,
}

const NEEDED: [Package; 3] = [
    Package { name: "iproute2", program: "ip", reason: "tests make network namespaces with it" },
    Package { name: "bpftool", program: "bpftool", reason: "tests dump the kernel object's BTF with it" },
    Package {
        name: "nftables",
        program: "nft",
        reason: "tests translate addresses with it, the benchmark measures beside it",
    },
];

/// What only `cargo xtask test vm` needs, and only it installs.
const NEEDED_FOR_VM: [Package; 4] = [
    Package { name: "qemu-system-x86", program: "qemu-system-x86_64", reason: "boots the other kernel" },
    Package { name: "busybox-static", program: "busybox", reason: "is the other kernel's user space" },
    Package {
        name: "binutils",
        program: "strip",
        reason: "takes from test binaries what only a debugger reads",
    },
    Package { name: "xz-utils", program: "xz", reason: "unpacks kernel modules" },
];

/// The compiler with a ready `core` for the BPF target.
pub(crate) const KERNEL_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// Installs what is missing of [`NEEDED`].
pub(crate) fn ensure(progress: &Progress) -> Result<()> {
    ensure_all(&NEEDED, progress)
}

/// Installs what is missing of [`NEEDED_FOR_VM`].
pub(crate) fn ensure_for_vm(progress: &Progress) -> Result<()> {
    ensure_all(&NEEDED_FOR_VM, progress)
}

fn ensure_all(needed: &[Package], progress: &Progress) -> Result<()> {
    let missing: Vec<&Package> = needed.iter().filter(|p| process::find(p.program).is_none()).collect();
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
    progress.step("packages", &format!("installing {}", names.join(", ")), || install(&names))
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
