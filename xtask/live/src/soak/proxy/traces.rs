//! What the proxies say of how connections ended, counted by their words.

use std::collections::BTreeMap;

use bulkhead::control::{Reply, Request};

use super::site::{NODES, Site};

/// See the module's comment. What ends faster than it is asked for is missing.
#[derive(Default)]
pub(crate) struct Traces {
    /// The last record of each node.
    last: BTreeMap<&'static str, u64>,
    /// By node, direction and word.
    counts: BTreeMap<(&'static str, String, String), u64>,
}

impl Traces {
    /// Asks both agents for what is new.
    pub(crate) fn follow(&mut self, site: &Site) {
        for (node, agent) in NODES.iter().zip(&site.agents) {
            let after = self.last.get(node).copied().unwrap_or_default();
            // One that was killed says nothing, and the next one counts anew.
            let Ok(replies) = agent.ask(&Request::ProxyTrace { after }) else {
                self.last.remove(node);
                continue;
            };
            for reply in replies {
                let Reply::ProxyTraced { number, record } = reply else { continue };
                self.last.insert(node, number);
                let word = if record.reason.is_empty() { record.outcome } else { record.reason };
                *self.counts.entry((node, record.direction, word)).or_default() += 1;
            }
        }
    }

    /// Prints them.
    pub(crate) fn report(&self) {
        println!("  how connections ended, by what the proxies say");
        for ((node, direction, word), count) in &self.counts {
            println!("    {:<42}{count:>12}", format!("{node}, {direction}: {word}"));
        }
    }
}
