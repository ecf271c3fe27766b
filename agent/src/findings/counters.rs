//! What was counted since the last look, from counters that only grow.
//!
//! What was counted before this agent came is told with no flows: its edges are known, and its numbers are
//! old news. A counter that shrank was made anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use bulkhead_abi::names::Loss;
use bulkhead_abi::{Counter, CounterKey, Reason, Verdict};
use bulkhead_detect::findings::{Edge, Observation};

use crate::daemon::labels::Labels;
use crate::tamper::Finding as Tampering;

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    counters: Option<BTreeMap<CounterKey, Counter>>,
    losses: Option<BTreeMap<&'static str, u64>>,
    tampering: BTreeMap<(&'static str, String, &'static str, &'static str), u64>,
    /// By namespace: SYN cookies sent, requests that a listener had no room for.
    backlog: BTreeMap<PathBuf, [u64; 2]>,
}

impl Seen {
    /// Counters of the edges.
    pub(super) fn counted(&mut self, rows: &[(CounterKey, Counter)], labels: &Labels) -> Vec<Observation> {
        let first = self.counters.is_none();
        let before = self.counters.get_or_insert_default();
        let mut seen = Vec::new();
        for (key, counter) in rows {
            let old = before.insert(*key, *counter).unwrap_or_default();
            let grown = |new: u64, old: u64| new.checked_sub(old).unwrap_or(new);
            let more = Counter {
                flows: grown(counter.flows, old.flows),
                packets: grown(counter.packets, old.packets),
                bytes: grown(counter.bytes, old.bytes),
            };
            let more = if first { Counter::default() } else { more };
            if !first && more == Counter::default() {
                continue;
            }
            let (from, to) = (labels.get(key.from), labels.get(key.to));
            if [&*from, &*to].contains(&"unknown") {
                continue;
            }
            seen.push(Observation::Counted {
                edge: Edge::new(from, to),
                verdict: Verdict::from_code(key.verdict),
                reason: Reason::from_code(key.reason),
                flows: more.flows,
                packets: more.packets,
                bytes: more.bytes,
            });
        }
        seen
    }

    /// What the kernel had no room for.
    pub(super) fn lost(&mut self, rows: &[(Loss, u64)]) -> Vec<Observation> {
        let first = self.losses.is_none();
        let before = self.losses.get_or_insert_default();
        let mut seen = Vec::new();
        for (loss, count) in rows {
            let old = before.insert(loss.as_str(), *count).unwrap_or(0);
            let more = count.checked_sub(old).unwrap_or(*count);
            if !first && more > 0 {
                seen.push(Observation::Lost { what: loss.as_str(), count: more });
            }
        }
        seen
    }

    /// What was done to the agent's kernel objects.
    pub(super) fn tampered(&mut self, findings: Vec<Tampering>) -> Vec<Observation> {
        let mut seen = Vec::new();
        for Tampering { object, name, how, action, times, .. } in findings {
            let (object, how, action) = (object.as_str(), how.as_str(), action.as_str());
            let old = self.tampering.insert((object, name.clone(), how, action), times).unwrap_or(0);
            if times > old {
                seen.push(Observation::Tampered { object, name, how, action, count: times - old });
            }
        }
        seen
    }

    /// What TCP had to do for want of room, by its own counters, in this namespace and those of `workloads`, of
    /// which one process each is named. What a namespace had counted when it was first seen is no news.
    pub(super) fn backlog(&mut self, workloads: impl Iterator<Item = u32>) -> Option<Observation> {
        let processes = workloads.map(|pid| pid.to_string()).chain(["self".to_owned()]);
        let now: BTreeMap<_, _> = processes.filter_map(|process| backlog_of(&process)).collect();
        let (mut cookies, mut overflows) = (0, 0);
        for (namespace, [sent, dropped]) in &now {
            let [old_sent, old_dropped] = self.backlog.get(namespace).copied().unwrap_or([*sent, *dropped]);
            cookies += sent.saturating_sub(old_sent);
            overflows += dropped.saturating_sub(old_dropped);
        }
        self.backlog = now;
        (cookies + overflows > 0).then_some(Observation::Backlog { cookies, overflows })
    }
}

/// The namespace of a process, and its counters; `None` when the process has gone.
fn backlog_of(process: &str) -> Option<(PathBuf, [u64; 2])> {
    let namespace = fs::read_link(format!("/proc/{process}/ns/net")).ok()?;
    let text = fs::read_to_string(format!("/proc/{process}/net/netstat")).ok()?;
    Some((namespace, [tcp_ext(&text, "SyncookiesSent")?, tcp_ext(&text, "ListenDrops")?]))
}

/// A number out of the text of `/proc/net/netstat`: a line of names, a line of numbers.
fn tcp_ext(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|found| found == name)?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use bulkhead_abi::Identity;

    use super::*;

    fn row(to: Identity, flows: u64) -> (CounterKey, Counter) {
        let key = CounterKey { from: Identity::WORLD, to, verdict: Verdict::Deny as u8, reason: 17, ..key() };
        (key, Counter { flows, packets: flows, bytes: flows * 60 })
    }

    fn key() -> CounterKey {
        zerocopy::FromZeros::new_zeroed()
    }

    fn flows(seen: &[Observation]) -> Vec<u64> {
        let flows = seen.iter().map(|seen| match seen {
            Observation::Counted { flows, .. } => *flows,
            other => panic!("{other:?}"),
        });
        flows.collect()
    }

    #[test]
    fn only_what_is_new_is_told() {
        let (mut seen, labels) = (Seen::default(), Labels::default());
        let mut look = |rows: &[_]| flows(&seen.counted(rows, &labels));
        assert_eq!(look(&[row(Identity::NODE, 7)]), [0], "known from before");
        assert_eq!(look(&[row(Identity::NODE, 7)]), Vec::<u64>::new());
        assert_eq!(look(&[row(Identity::NODE, 9), row(Identity::VIRTUAL, 3)]), [2, 3]);
        assert_eq!(look(&[row(Identity::NODE, 4)]), [4], "it was made anew");
        assert_eq!(look(&[row(Identity(77), 4)]), Vec::<u64>::new(), "nobody knows its name");
    }

    #[test]
    fn losses_before_this_agent_are_not_its_news() {
        let mut seen = Seen::default();
        assert!(seen.lost(&[(Loss::Events, 5)]).is_empty());
        assert_eq!(seen.lost(&[(Loss::Events, 8)]), [Observation::Lost { what: "events", count: 3 }]);
    }

    #[test]
    fn netstat_is_read_by_name() {
        let text = "TcpExt: SyncookiesSent ListenDrops\nTcpExt: 3 4\nIpExt: A\nIpExt: 1\n";
        assert_eq!((tcp_ext(text, "ListenDrops"), tcp_ext(text, "A")), (Some(4), None));
        let real = fs::read_to_string("/proc/self/net/netstat").unwrap();
        assert!(tcp_ext(&real, "SyncookiesSent").is_some() && tcp_ext(&real, "ListenDrops").is_some());
    }
}
