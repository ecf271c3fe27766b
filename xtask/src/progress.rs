//! What the user sees of long work: the step, why it is done, and how long it took.
//!
//! Everything goes to standard error, so that a command's own result stays alone on standard output.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Prints the steps of one command.
pub(crate) struct Progress {
    command: &'static str,
    verbose: bool,
    started: Instant,
}

impl Progress {
    /// Tells every step, also those with nothing to do.
    pub(crate) fn verbose(command: &'static str) -> Progress {
        Progress { command, verbose: true, started: Instant::now() }
    }

    /// Tells only the steps that do something.
    pub(crate) fn quiet(command: &'static str) -> Progress {
        Progress { verbose: false, ..Progress::verbose(command) }
    }

    /// A step that has nothing to do.
    pub(crate) fn found(&self, step: &str, what: &str) {
        if self.verbose {
            eprintln!("[{}] {step}: {what}", self.command);
        }
    }

    /// Does a step, between a line that says what it does and one that says how long it took.
    pub(crate) fn step<T>(&self, step: &str, does: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("[{}] {step}: {does}", self.command);
        let started = Instant::now();
        let result = work();
        let end = if result.is_ok() { "done" } else { "failed" };
        eprintln!("[{}] {step}: {end} in {}", self.command, seconds(started.elapsed()));
        result
    }

    /// The closing line.
    pub(crate) fn end(&self, what: &str) {
        if self.verbose {
            eprintln!("[{}] {what} ({})", self.command, seconds(self.started.elapsed()));
        }
    }
}

/// A duration for people.
pub(crate) fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}
