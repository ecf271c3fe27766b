//! Entries of the kernel's tables that somebody else changed, as people read them.

use bulkhead_abi::verdict::Side;
use bulkhead_abi::{Identity, Protocol};
use bulkhead_policy::prefix::to_ip;

use super::reconcile::Verified;
use crate::config::display_failsafe;
use crate::control::protocol::{DriftEntryView, DriftView};
use crate::datapath::drift::{Drift, DriftEntry, Key};

/// Entries that are told one by one; of more, the number is told.
const TOLD: usize = 10;
/// Entries that an answer lists.
const LISTED: usize = 1000;

/// Tells the log what was found.
pub(super) fn tell(drift: &Drift, label: impl Fn(Identity) -> String) {
    let entries = drift.entries.len();
    tracing::warn!(
        finding = "drift",
        entries,
        "the kernel's tables are not what was written to them: somebody else changed them"
    );
    for entry in drift.entries.iter().take(TOLD) {
        let DriftEntryView { table, key, held, wanted } = view(entry, &label);
        tracing::warn!(finding = "drift", table, key, held, wanted, "an entry differs");
    }
}

/// What a look came to, for an answer.
pub(super) fn answer(verified: &Verified, label: impl Fn(Identity) -> String) -> DriftView {
    let entries = &verified.drift.entries;
    DriftView {
        differing: entries.len(),
        repaired: verified.repaired,
        took: verified.took.as_secs_f64(),
        entries: entries.iter().take(LISTED).map(|entry| view(entry, &label)).collect(),
    }
}

fn view(entry: &DriftEntry, label: impl Fn(Identity) -> String) -> DriftEntryView {
    DriftEntryView {
        table: entry.table.to_owned(),
        key: key(&entry.key, label),
        held: entry.held.clone(),
        wanted: entry.wanted.clone(),
    }
}

fn key(key: &Key, label: impl Fn(Identity) -> String) -> String {
    match key {
        Key::Prefix(prefix) => prefix.to_string(),
        Key::Workload(cgroup) => format!("cgroup {cgroup}"),
        Key::Identity(identity) => label(*identity),
        Key::Pair(pair) => format!("{} -> {}", label(pair.from), label(pair.to)),
        Key::Rule { ruleset, bits, protocol, port } => {
            let word = bulkhead_policy::ports::word_of(Protocol(*protocol));
            let protocol = word.map_or_else(|| protocol.to_string(), str::to_owned);
            format!("ruleset {ruleset}, {protocol}/{port}, {bits} bits")
        }
        Key::Failsafe(key) => {
            let side = if key.side == Side::Egress as u8 { "egress" } else { "ingress" };
            format!("{side} {}", display_failsafe(key))
        }
        Key::Control(word) => (*word).to_owned(),
        Key::Local(addr) => to_ip(*addr).to_string(),
        Key::Home(netns) => format!("namespace {netns}"),
        Key::Interface(index) => format!("interface {index}"),
    }
}
