//! What could leak, counted: of both nodes of a site, at one moment.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use bulkhead_tests::harness::{Agent, Ns};

use super::site::{NODES, Site, parent, proxy};
use crate::process;

/// More than this is a leak where memory is compared, in KiB; less is the allocator's.
const SLACK_KIB: u64 = 8192;

/// The figures of one moment, by node and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(BTreeMap<String, u64>);

impl Figures {
    /// Those of now.
    pub(crate) fn take(site: &Site) -> Result<Figures> {
        let mut figures = BTreeMap::new();
        for ((node, agent), ns) in NODES.iter().zip(&site.agents).zip(&site.namespaces) {
            let mut put = |name: &str, value: u64| figures.insert(format!("{node} {name}"), value);
            let view = proxy(agent);
            let text = agent.metrics().unwrap_or_default();
            let pids = [("agent", agent.pid()), ("proxy", view.pid), ("keeper", view.pid.and_then(parent))];
            for (name, pid) in pids {
                let Some(pid) = pid else { continue };
                put(&format!("{name}: memory, KiB"), process::memory(pid, "VmRSS:").unwrap_or_default());
                put(&format!("{name}: descriptors"), descriptors(pid));
            }
            put("tunnels in the pool", metric(&text, "bulkhead_proxy_tunnels "));
            put("connections open", metric(&text, "bulkhead_proxy_connections_open"));
            for (name, count) in sockets(ns)? {
                put(&format!("sockets {name}"), count);
            }
            for map in entries(agent)? {
                put(&format!("entries of {}", map.0), map.1);
            }
        }
        Ok(Figures(figures))
    }

    fn get(&self, node: &str, name: &str) -> u64 {
        self.0.get(&format!("{node} {name}")).copied().unwrap_or_default()
    }

    /// Whether no connection is open, and what the kernel keeps of those that were has gone.
    pub(crate) fn is_idle(&self) -> bool {
        let gone = |node: &&str| {
            let rest = ["connections open", "sockets in TIME_WAIT", "entries of FLOWS", "entries of DOOMED"];
            let most = [0, 4, 64, 0];
            rest.iter().zip(most).all(|(name, most)| self.get(node, name) <= most)
        };
        NODES.iter().all(gone)
    }

    /// One line for each node.
    pub(crate) fn tell(&self) {
        for node in NODES {
            println!(
                "    {node:<4} agent {} KiB {} descriptors, proxy {} KiB {} descriptors, {} tunnels, {} open, \
                 {} sockets and {} in TIME_WAIT, {} FLOWS",
                self.get(node, "agent: memory, KiB"),
                self.get(node, "agent: descriptors"),
                self.get(node, "proxy: memory, KiB"),
                self.get(node, "proxy: descriptors"),
                self.get(node, "tunnels in the pool"),
                self.get(node, "connections open"),
                self.get(node, "sockets in use"),
                self.get(node, "sockets in TIME_WAIT"),
                self.get(node, "entries of FLOWS"),
            );
        }
    }

    /// Prints both beside each other; whether nothing grew that must not.
    pub(crate) fn compare(&self, after: &Figures) -> bool {
        println!("  {:<44}{:>12}{:>12}", "before and after", "before", "after");
        let mut whole = true;
        for (name, is) in &after.0 {
            let was = self.0.get(name).copied().unwrap_or_default();
            let leaks = most(name, was).is_some_and(|most| *is > most);
            whole &= !leaks;
            println!("    {name:<42}{was:>12}{is:>12}{}", if leaks { "  LEAK" } else { "" });
        }
        whole
    }
}

/// How much a figure may be at rest, if it was so much before.
fn most(name: &str, was: u64) -> Option<u64> {
    let is = |part: &str| name.contains(part);
    if is("memory") {
        Some(was + SLACK_KIB)
    } else if is("proxy: descriptors") {
        // It keeps up to 48 sockets ready for last hops, and asks for more when fewer than 16 are left.
        Some(was + 48 + 8)
    } else if is("descriptors") || is("sockets in use") || is("tunnels") {
        // One tunnel more or less may just be idle.
        Some(was + 8)
    } else if is("FLOWS") || is("TIME_WAIT") || is("SLOTS") || is("CLASSES") {
        Some(was + 64)
    } else {
        Some(was + 2)
    }
}

fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map(|files| files.count() as u64).unwrap_or_default()
}

/// Sum of a metric over its labels.
fn metric(text: &str, name: &str) -> u64 {
    let values = text.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// What a namespace's kernel says of its TCP sockets.
fn sockets(ns: &Ns) -> Result<Vec<(&'static str, u64)>> {
    let text = ns.enter(|| fs::read_to_string("/proc/thread-self/net/sockstat"))??;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: ")).context("sockstat without TCP")?;
    let words: Vec<&str> = line.split(' ').collect();
    let after = |name: &str| {
        let place = words.iter().position(|word| *word == name)?;
        words.get(place + 1)?.parse().ok()
    };
    Ok(vec![("in use", after("inuse").unwrap_or(0)), ("in TIME_WAIT", after("tw").unwrap_or(0))])
}

/// Entries of the agent's tables that come and go with connections, namespaces and counters.
fn entries(agent: &Agent) -> Result<Vec<(&'static str, u64)>> {
    let watched = ["FLOWS", "TRANSIT", "DOOMED", "LISTENERS", "LOCALS", "HOMES", "SLOTS", "CLASSES"];
    let usage = agent.reader()?.usage()?;
    Ok(usage
        .into_iter()
        .filter(|map| watched.contains(&map.name))
        .map(|map| (map.name, map.entries))
        .collect())
}
