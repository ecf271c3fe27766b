//! What could leak, counted.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use bulkhead_tests::harness::Agent;

use crate::churn::Lived;
use crate::lab::Lab;
use crate::process;

/// More of the agent's memory than this is a leak, in KiB; less is the allocator's.
const SLACK_KIB: u64 = 4096;

/// What comes and goes with the load.
const PASSING: [&str; 4] = ["FLOWS", "TRANSIT", "DOOMED", "FRAGMENTS"];

/// A table of flows with no more entries than these is at rest.
const IDLE: u64 = 16;

/// The figures of one moment.
pub(crate) struct Figures {
    /// Entries of each table.
    tables: BTreeMap<&'static str, (u64, u64)>,
    /// Programs that use this agent's tables.
    programs: u64,
    /// Tables that the agent holds, and their memory in KiB.
    maps: (u64, u64),
    rss_kib: u64,
    descriptors: u64,
    /// Everything of the machine, others' too: programs, maps, links.
    machine: [u64; 3],
}

impl Figures {
    /// Those of now.
    pub(crate) fn take(lab: &Lab) -> Result<Figures> {
        let reader = lab.agent.reader()?;
        let pid = lab.agent.pid().context("no agent runs")?;
        let (map_kib, maps) = process::map_memory(pid)?;
        let usage = reader.usage()?;
        Ok(Figures {
            tables: usage.into_iter().map(|map| (map.name, (map.entries, map.capacity))).collect(),
            programs: reader.programs()?.len() as u64,
            maps: (maps as u64, map_kib),
            rss_kib: process::memory(pid, "VmRSS:")?,
            descriptors: descriptors(&lab.agent) as u64,
            machine: [
                aya::programs::loaded_programs().count() as u64,
                aya::maps::loaded_maps().count() as u64,
                aya::programs::loaded_links().count() as u64,
            ],
        })
    }

    /// Whether what comes and goes with the load has gone; some neighbour discovery goes on.
    pub(crate) fn is_idle(&self) -> bool {
        PASSING.iter().all(|name| self.entries(name) <= IDLE)
    }

    fn entries(&self, table: &str) -> u64 {
        self.tables.get(table).map_or(0, |(entries, _)| *entries)
    }
}

/// How many entries more than before are no leak: a counter's place is never given back, and there is one
/// for each pair of zones that was ever seen; a table at rest holds what the machine itself says.
fn slack(table: &str) -> u64 {
    match table {
        "SLOTS" | "CLASSES" => 64,
        _ if PASSING.contains(&table) => IDLE,
        _ => 0,
    }
}

/// The agent's resident memory, in KiB.
pub(crate) fn rss(agent: &Agent) -> u64 {
    agent.pid().and_then(|pid| process::memory(pid, "VmRSS:").ok()).unwrap_or_default()
}

/// How many descriptors the agent holds.
pub(crate) fn descriptors(agent: &Agent) -> usize {
    let folder = agent.pid().and_then(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
    folder.map(Iterator::count).unwrap_or_default()
}

/// Prints both beside each other; whether nothing leaked.
pub(crate) fn compare(before: &Figures, after: &Figures, lived: Option<Lived>) -> bool {
    println!("\n{:<44}{:>12}{:>12}", "before and after", "before", "after");
    let mut whole = true;
    let mut row = |name: &str, was: u64, is: u64, most: Option<u64>| {
        let leaks = most.is_some_and(|most| is > most);
        whole &= !leaks;
        println!("  {name:<42}{was:>12}{is:>12}{}", if leaks { "  LEAK" } else { "" });
    };
    for (name, (entries, _)) in &after.tables {
        let was = before.entries(name);
        row(&format!("entries of {name}"), was, *entries, Some(was + slack(name)));
    }
    row("programs of this agent", before.programs, after.programs, Some(before.programs));
    row("tables that the agent holds", before.maps.0, after.maps.0, Some(before.maps.0));
    // Tables that take memory as entries come keep some of it for the next ones.
    row("their memory, KiB", before.maps.1, after.maps.1, None);
    row("a fresh agent's memory, KiB", before.rss_kib, after.rss_kib, Some(before.rss_kib + SLACK_KIB));
    row("a fresh agent's descriptors", before.descriptors, after.descriptors, Some(before.descriptors + 2));
    if let Some(Lived { rss_kib, descriptors, seconds }) = lived {
        println!("  an agent that lived on under load, over {seconds} s:");
        row("  its memory, KiB", rss_kib.0, rss_kib.1, Some(rss_kib.0 + SLACK_KIB));
        let (was, is) = (descriptors.0 as u64, descriptors.1 as u64);
        row("  its descriptors", was, is, Some(was + 8));
    }
    println!("  the whole machine, with whatever else runs on it:");
    for (name, (was, is)) in
        ["  programs", "  maps", "  links"].iter().zip(before.machine.iter().zip(&after.machine))
    {
        row(name, *was, *is, None);
    }
    whole
}
