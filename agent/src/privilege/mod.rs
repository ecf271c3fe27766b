//! What the agent may do: checked before anything is touched, and given up once it enforces.
//!
//! Loading and attaching programs needs much; keeping the kernel true to the files needs four
//! capabilities and some hundred system calls. After the start the rest is dropped for good
//! ([`confine`]), before any other thread is made, so that every thread has lost it. Whoever takes the
//! agent over by a crafted zone file or request then cannot start a program, load one into the kernel,
//! write code into memory, or open a socket to anybody.
//!
//! Which way it fails: an agent that cannot give up its privileges does not run. A system call outside
//! the list fails with EPERM, and what needed it is told as an error; those that only an intruder makes
//! end the process, and the kernel goes on enforcing.

mod capability;
mod filter;
mod nobody;
mod view;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::config::Sandbox;

pub use capability::{KEPT, Need};
pub use nobody::become_nobody;
pub use view::Privileges;

/// Why the agent does not run with the privileges that it has.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Too few.
    #[error("missing privilege: {0}; run this as root, in the initial user namespace")]
    Missing(String),
    /// Too many, and they cannot be given up.
    #[error("cannot give up {what}: {source}; run this as root, in the initial user namespace")]
    Stuck {
        /// What.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The filter of system calls cannot be made or installed.
    #[error("cannot filter system calls: {0}; set sandbox = \"off\" to run without the filter")]
    Filter(String),
    /// Another thread runs already, which would keep what this one gives up.
    #[error("privileges cannot be given up, because {0} threads run already; report this")]
    Threads(usize),
}

/// Whether this process may load programs, attach them and look into namespaces.
pub fn check() -> Result<(), PrivilegeError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    capability::check(&status)
}

/// The user that this process acts as.
pub fn user() -> io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

/// Files that this process makes are its user's alone.
pub fn make_files_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Gives up for good what a running agent does not need; one with a `proxy` makes sockets for it. No other
/// thread may run yet.
pub fn confine(sandbox: Sandbox, proxy: bool) -> Result<(), PrivilegeError> {
    await_single_thread()?;
    capability::drop_others()?;
    let gained = rustix::thread::set_no_new_privs(true);
    gained.map_err(|error| PrivilegeError::Stuck { what: "new privileges", source: error.into() })?;
    match sandbox {
        Sandbox::On => filter::install(filter::Who::Agent { proxy }),
        Sandbox::Off => {
            tracing::warn!("system calls are not filtered: sandbox = \"off\"");
            Ok(())
        }
    }
}

/// Gives up everything but serving connections that are handed over. No other thread may run yet.
pub fn confine_proxy() -> Result<(), PrivilegeError> {
    await_single_thread()?;
    become_nobody()?;
    filter::install(filter::Who::Proxy)
}

/// The kernel counts a thread that ended for a moment longer than whoever joined it.
fn await_single_thread() -> Result<(), PrivilegeError> {
    let begun = Instant::now();
    loop {
        let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if threads == 1 {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(2) {
            return Err(PrivilegeError::Threads(threads));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests;
