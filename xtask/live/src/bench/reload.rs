//! Measuring one policy on one agent.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::{Agent, Cgroup, wait_until};
use serde_json::Value;

use crate::policy::Subject;
use crate::process::{map_memory, memory};
use crate::report::Size;
use crate::spread::Spread;

/// For one change to be enforced.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the generation is read: a fraction of what is measured, and light on the other core.
const GLANCE: Duration = Duration::from_micros(50);

/// Loads the policy, then changes one rule of it again and again.
pub(crate) fn measure(subject: &Subject, changes: usize) -> Result<Size> {
    let root = Cgroup::new("bench")?;
    let _units = subject.cgroups.iter().map(|path| root.child(path)).collect::<Result<Vec<_>>>()?;
    let mut agent = Agent::prepare(&root, "").place()?;
    fs::remove_dir_all(agent.policies())?;
    fs::create_dir(agent.policies())?;
    for (name, text) in &subject.files {
        agent.write_file(name, text)?;
    }
    let started = Instant::now();
    agent.restart()?;
    let first = started.elapsed();
    let pid = agent.pid().context("the agent has no process")?;
    let after_start = memory(pid, "VmRSS:")?;

    let mut seen = Vec::new();
    for change in 1..=changes {
        seen.push(enforced(&agent, subject, change)?);
    }
    let own: Vec<_> = enforcements(&agent);
    let own = own.get(own.len().saturating_sub(changes)..).unwrap_or_default();
    let column = |field: &str| -> Vec<f64> {
        own.iter().filter_map(|line| Some(line.get(field)?.as_f64()? / 1e3)).collect()
    };
    let status = agent.status()?;
    let (maps_kib, maps) = map_memory(pid)?;
    let size = Size {
        name: subject.name.to_owned(),
        aim_ms: subject.aim,
        zones: status.policy.zones,
        rules: status.policy.rules,
        prefixes: status.policy.prefixes,
        first_load_ms: millis(first),
        saved_to_enforced: Spread::new(seen.into_iter().map(millis).collect())?,
        agent_enforced: Spread::new(column("enforced_after_us"))?,
        agent_cleaned_up: Spread::new(column("cleaned_up_us"))?,
        entries_written: own.last().and_then(|line| line.get("written")?.as_u64()).unwrap_or_default(),
        rss_after_start_kib: after_start,
        rss_kib: memory(pid, "VmRSS:")?,
        rss_peak_kib: memory(pid, "VmHWM:")?,
        maps_kib,
        maps,
    };
    agent.detach()?;
    Ok(size)
}

/// Saves change `n`, and waits until the kernel has it; then until the agent has cleaned up.
fn enforced(agent: &Agent, subject: &Subject, change: usize) -> Result<Duration> {
    let (name, text) = &subject.changing;
    let reader = agent.reader()?;
    let before = reader.generation();
    let told = enforcements(agent).len();
    // Written beside the folder, so that what is measured begins with the rename.
    let next = agent.policies().with_file_name("next");
    fs::write(&next, text(change))?;
    let target = agent.policies().join(name);
    let saved = Instant::now();
    fs::rename(&next, &target)?;
    while reader.generation() == before {
        if saved.elapsed() > PATIENCE {
            bail!("change {change} of {} is not enforced: {:?}", subject.name, agent.status()?.policy.error);
        }
        std::thread::sleep(GLANCE);
    }
    let elapsed = saved.elapsed();
    wait_until(PATIENCE, "the agent has cleaned up", || enforcements(agent).len() > told)?;
    Ok(elapsed)
}

/// The log's lines about policies that were enforced.
fn enforcements(agent: &Agent) -> Vec<Value> {
    let mut lines = agent.log_lines();
    lines.retain(|line| line.get("message").and_then(Value::as_str) == Some("policy enforced"));
    lines
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
