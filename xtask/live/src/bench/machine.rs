//! The machine that figures belong to.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// What it is.
#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    memory_mib: u64,
    /// What the kernel does against speculation; each makes calls dearer.
    mitigations: Vec<String>,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Machine {
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
            mitigations: mitigations(),
        }
    }
}

impl Machine {
    /// In a few words.
    pub(crate) fn short(&self) -> String {
        format!("Linux {}, {}, {} cores", self.kernel, self.processor, self.cores)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, processor, cores, memory_mib, mitigations } = self;
        write!(f, "Linux {kernel}, {processor}, {cores} cores, {:.1} GiB", *memory_mib as f64 / 1024.0)?;
        if !mitigations.is_empty() {
            write!(f, "; {}", mitigations.join("; "))?;
        }
        Ok(())
    }
}

/// `name: what is done`, for each that is on.
fn mitigations() -> Vec<String> {
    let Ok(folder) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return Vec::new() };
    let mut found: Vec<String> = folder
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let done = text.trim().strip_prefix("Mitigation: ").or_else(|| {
                let done = text.trim().strip_prefix("Vulnerable: ")?;
                Some(done)
            })?;
            Some(format!("{}: {done}", entry.file_name().to_string_lossy()))
        })
        .collect();
    found.sort();
    found
}
