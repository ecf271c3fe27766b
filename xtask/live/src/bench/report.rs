//! The figures, as text and as JSON.

use std::fmt::Write;
use std::fs;

use anyhow::{Result, bail};
use serde::Serialize;

/// All that was measured, and where.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    sizes: Vec<Size>,
}

#[derive(Serialize)]
struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    memory_mib: u64,
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

/// Several measurements of one thing.
#[derive(Serialize)]
pub(crate) struct Spread {
    median: f64,
    min: f64,
    max: f64,
    count: usize,
}

impl Spread {
    pub(crate) fn new(mut values: Vec<f64>) -> Result<Spread> {
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max), Some(&median)) =
            (values.first(), values.last(), values.get(values.len() / 2))
        else {
            bail!("nothing was measured");
        };
        Ok(Spread { median, min, max, count: values.len() })
    }

    fn text(&self) -> String {
        format!("{:.1} ({:.1} to {:.1})", self.median, self.min, self.max)
    }
}

impl Report {
    pub(crate) fn new(sizes: Vec<Size>) -> Report {
        Report { machine: Machine::here(), sizes }
    }

    /// A table with a column for each size.
    pub(crate) fn text(&self) -> String {
        let Machine { kernel, processor, cores, memory_mib } = &self.machine;
        let mut text =
            format!("Linux {kernel}, {processor}, {cores} cores, {:.1} GiB\n\n", float(*memory_mib) / 1024.0);
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

impl Machine {
    fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib / 1024,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::new(vec![3.0, 1.0, 100.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max, spread.count), (3.0, 1.0, 100.0, 3));
        assert!(Spread::new(Vec::new()).is_err());
    }
}
