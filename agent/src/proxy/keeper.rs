//! The proxy's keeper: a process without privileges that starts the proxy, and starts it again when it
//! dies. The agent, whose own filter of system calls knows no `execve`, starts the keeper once; both
//! outlive it.
//!
//! Which way it fails: between two proxies connections that are turned in find a listener that nobody
//! serves and end in a reset, and never go out in clear.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::LogFormat;
use crate::privilege;

/// The hidden command that makes a process the keeper, or with `--serve` the proxy.
pub const COMMAND: &str = "proxy-process";

/// A proxy that lived shorter than this is started again after [`PAUSE`], not at once.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// Well below the second within which it must be back.
const PAUSE: Duration = Duration::from_millis(300);

/// How its log looks: as the agent's.
#[derive(Clone, Debug)]
pub struct Log {
    /// Its form.
    pub format: LogFormat,
    /// Its level.
    pub level: String,
}

/// Starts the keeper, with `listener` as its standard input: the seqpacket socket that the agent connects
/// to. To be called before privileges are given up, and as the one thread.
pub fn start(listener: OwnedFd, log: &Log) -> io::Result<u32> {
    let child = command(listener, false, log).process_group(0).spawn()?;
    Ok(child.id())
}

/// The keeper's life. Ends when the proxy ends well, which it does when it is told to go.
pub fn keep(log: &Log) -> anyhow::Result<()> {
    privilege::become_nobody()?;
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    loop {
        let begun = Instant::now();
        let status = serve_once(&listener, log)?;
        if status.success() {
            return Ok(());
        }
        tracing::warn!(%status, "the proxy ended, and is started again; its connections are gone");
        if begun.elapsed() < SHORT_LIFE {
            thread::sleep(PAUSE);
        }
    }
}

fn serve_once(listener: &OwnedFd, log: &Log) -> io::Result<ExitStatus> {
    command(listener.try_clone()?, true, log).spawn()?.wait()
}

fn command(listener: OwnedFd, serve: bool, log: &Log) -> Command {
    let mut command = Command::new(own_program());
    // What libraries say of every frame and record is for their own developers.
    let level = if log.level.contains('=') {
        log.level.clone()
    } else {
        format!("{},h2=info,rustls=info", log.level)
    };
    command.args([COMMAND, "--log-format", log.format.as_str(), "--log-level", &level]);
    command.stdin(Stdio::from(listener)).stdout(Stdio::null());
    if serve {
        command.arg("--serve");
    }
    command
}

/// Also when the file was replaced by an upgrade: a keeper starts the proxy that it is.
fn own_program() -> &'static Path {
    Path::new("/proc/self/exe")
}

/// The keeper of the calling proxy.
pub fn parent() -> u32 {
    let stat = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let parent = stat.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
