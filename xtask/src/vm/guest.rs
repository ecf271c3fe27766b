//! The emulated machine: started, followed, ended in time.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use crate::test::Total;

/// How it ended.
pub(crate) struct End {
    pub(crate) total: Total,
    /// What the guest's init told; nothing when it did not come to its end.
    pub(crate) code: Option<i32>,
    pub(crate) took: Duration,
}

const PROCESSORS: &str = "2";
const MEMORY: &str = "4G";

/// Boots the kernel and waits for its end, for `limit` at most. Its console goes to standard output.
pub(crate) fn run(kernel: &Kernel, disk: &Path, limit: Duration, kvm: bool) -> Result<End> {
    let result = disk.with_extension("result");
    let _ = fs::remove_file(&result);
    let started = Instant::now();
    let mut machine = Machine(start(kernel, disk, &result, kvm)?);
    let console = machine.0.stdout.take().context("QEMU has no standard output")?;
    let (lines, arriving) = mpsc::channel();
    let reader = std::thread::spawn(move || read_lines(BufReader::new(console), &lines));
    let total = follow(&arriving, started, limit)?;
    drop(machine);
    let _ = reader.join();
    let code = fs::read_to_string(&result).ok().and_then(|text| text.trim().parse().ok());
    Ok(End { total, code, took: started.elapsed() })
}

fn start(kernel: &Kernel, disk: &Path, result: &Path, kvm: bool) -> Result<Child> {
    let mut qemu = Command::new("qemu-system-x86_64");
    // Not asked of the machine: KVM inside a virtual machine may be there and still not work.
    let accelerator: [&str; 4] =
        if kvm { ["-accel", "kvm", "-cpu", "host"] } else { ["-accel", "tcg,thread=multi", "-cpu", "max"] };
    qemu.args(accelerator).args(["-machine", "q35"]);
    qemu.args(["-smp", PROCESSORS, "-m", MEMORY, "-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-serial"]).arg(format!("file:{}", result.display()));
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(disk);
    // A kernel that panics ends the machine, as -no-reboot has it. On a busy machine the emulated timer is
    // too late for the check at boot that it ticks.
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu-system-x86_64")
}

fn read_lines(mut console: impl BufRead, lines: &mpsc::Sender<String>) {
    let mut line = Vec::new();
    while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if lines.send(text).is_err() {
            break;
        }
        line.clear();
    }
}

/// Passes the console on, each line with the time since the start, and adds up what the runners say.
fn follow(arriving: &mpsc::Receiver<String>, started: Instant, limit: Duration) -> Result<Total> {
    let mut total = Total::default();
    let mut ours = std::io::stdout().lock();
    loop {
        let left = limit.saturating_sub(started.elapsed());
        match arriving.recv_timeout(left) {
            Ok(line) => {
                writeln!(ours, "[{:4} s] {line}", started.elapsed().as_secs())?;
                ours.flush()?;
                total.add(&line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(total),
            Err(RecvTimeoutError::Timeout) => {
                writeln!(ours, "[vm] the time is up: the guest is turned off (--minutes gives it more)")?;
                return Ok(total);
            }
        }
    }
}

/// QEMU, which does not outlive us.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
