//! The figures, as text and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::machine::Machine;
use crate::spread::Spread;

/// All that was measured, and where.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    sizes: Vec<Size>,
}

/// The figures of one policy. Times in milliseconds.
#[derive(Serialize)]
pub(crate) struct Size {
    pub(crate) name: String,
    pub(crate) aim_ms: f64,
    pub(crate) zones: usize,
    pub(crate) rules: usize,
    pub(crate) prefixes: usize,
    /// From starting the process to its answer that it enforces, programs verified by the kernel included.
    pub(crate) first_load_ms: f64,
    /// From the rename to the new generation, seen from outside.
    pub(crate) saved_to_enforced: Spread,
    /// The same by the agent's own account, from noticing on.
    pub(crate) agent_enforced: Spread,
    /// From then on until nothing of the old policy is left.
    pub(crate) agent_cleaned_up: Spread,
    /// By the last change.
    pub(crate) entries_written: u64,
    pub(crate) rss_after_start_kib: u64,
    pub(crate) rss_kib: u64,
    pub(crate) rss_peak_kib: u64,
    pub(crate) maps_kib: u64,
    pub(crate) maps: usize,
}

impl Report {
    pub(crate) fn new(sizes: Vec<Size>) -> Report {
        Report { machine: Machine::here(), sizes }
    }

    /// A table with a column for each size.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        let mut row = |name: &str, cell: &dyn Fn(&Size) -> String| {
            let cells: String = self.sizes.iter().map(|size| format!("{:>26}", cell(size))).collect();
            let _ = writeln!(text, "{name:<34}{cells}");
        };
        row("policy", &|size| size.name.clone());
        row("zones", &|size| size.zones.to_string());
        row("prefixes", &|size| size.prefixes.to_string());
        row("rules", &|size| size.rules.to_string());
        row("start to enforcing, ms", &|size| format!("{:.0}", size.first_load_ms));
        row("one rule: saved to enforced, ms", &|size| size.saved_to_enforced.text());
        row("  aim, ms", &|size| {
            let verdict = if size.saved_to_enforced.median <= size.aim_ms { "met" } else { "missed" };
            format!("{:.0}, {verdict}", size.aim_ms)
        });
        row("  by the agent's own clock, ms", &|size| size.agent_enforced.text());
        row("  then cleaned up in, ms", &|size| size.agent_cleaned_up.text());
        row("  table entries written", &|size| size.entries_written.to_string());
        row("daemon, resident after start, MiB", &|size| {
            format!("{:.1}", float(size.rss_after_start_kib) / 1024.0)
        });
        row("daemon, resident at the end, MiB", &|size| format!("{:.1}", float(size.rss_kib) / 1024.0));
        row("daemon, peak, MiB", &|size| format!("{:.1}", float(size.rss_peak_kib) / 1024.0));
        row("maps, MiB", &|size| format!("{:.1} in {}", float(size.maps_kib) / 1024.0, size.maps));
        text
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn float(number: u64) -> f64 {
    number as f64
}
