//! `cargo xtask test vm`: the kernel tests on another kernel, in an emulated machine.
//!
//! Debian 12's own kernel is booted in QEMU from a RAM disk that is made here: the agent, the test
//! binaries, the few programs and kernel modules that they use, and a shell script as init. Nothing
//! of this machine is changed, and no image is downloaded but the kernel's package. Without KVM the
//! processor is emulated, which takes minutes: so this is a command of its own and no part of
//! `cargo xtask test`.
//!
//! It fails when a test fails, and also when the guest does not come to its end: what was not run has
//! not passed.

mod archive;
mod guest;
mod kernel;
mod modules;
mod ramdisk;
mod runs;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::progress::{Progress, seconds};
use crate::workspace::Workspace;
use crate::{build, process, setup};

/// What the command line chose.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// A kernel to boot: a Debian package's name, its file, or the folder it was unpacked into
    /// [default: the newest linux-image-6.1.0-*-cloud-amd64 that apt knows]
    #[arg(long, value_name = "PACKAGE|FILE|DIR")]
    kernel: Option<String>,
    /// Give up after so many minutes
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u64,
    /// Let the processor run the guest itself, where KVM works, and not emulate it
    #[arg(long)]
    kvm: bool,
    /// Only test binaries with these names
    #[arg(value_name = "NAME")]
    only: Vec<String>,
}

/// The command.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let started = Instant::now();
    let tools = setup::for_vm(workspace)?;
    let progress = Progress::verbose("vm");
    let kernel = kernel::find(workspace, options.kernel.as_deref(), &progress)?;
    let object = tools.build(&workspace.kernel_crate())?;
    process::run(build::host_cargo(workspace, &object).args(["build", "--workspace", "--bins"]))?;
    let runs = runs::build(workspace, &object, &options.only)?;
    if runs.is_empty() {
        bail!("no test binary is named {}: these are there: {}", options.only.join(", "), runs::names());
    }
    let disk = workspace.target().join("vm/ramdisk.cpio");
    let programs = ["bulkhead", "bulkhead-peer"].map(|name| workspace.binary("debug", name));
    progress.step("ramdisk", "packing the tests, their libraries and the kernel's modules", || {
        ramdisk::make(&disk, &kernel, &programs, &runs)
    })?;
    let limit = Duration::from_secs(60 * options.minutes);
    let end = guest::run(&kernel, &disk, limit, options.kvm)?;
    println!(
        "Linux {}: {} passed, {} failed, {} skipped, in {} (the guest) of {}",
        kernel.release,
        end.total.passed,
        end.total.failed,
        end.total.skipped,
        seconds(end.took),
        seconds(started.elapsed())
    );
    match end.code {
        Some(0) if end.total.failed == 0 && end.total.passed > 0 => Ok(()),
        Some(code) => {
            bail!("tests failed in the guest (exit code {code}): the names are in the output above")
        }
        None => bail!("the guest did not come to its end: its last lines are above"),
    }
}
