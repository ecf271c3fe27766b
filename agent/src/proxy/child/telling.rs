//! What the proxy tells its agent: ended connections as they end, how things stand twice a second. While no
//! agent is there, what ended is kept as far as there is room.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_proxy::{Proxy, Record as Its, Stats as Theirs};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::link::Link;
use super::node::ChildNode;
use crate::proxy::wire::{Edge, EdgeStats, Record, Report, Stats};

/// Records that may wait to be taken; beyond it they are dropped, and counted.
const WAITING: usize = 4096;
/// Records in one message.
const TOGETHER: usize = 64;
/// Records that are kept while no agent takes them.
const KEPT: usize = 16 * 1024;
/// Time between two reports on how things stand, and the longest that a record waits.
const EVERY: Duration = Duration::from_millis(500);

pub(super) struct Telling {
    link: Link,
    ended: mpsc::Receiver<Its>,
}

impl Telling {
    /// The second is for the proxy.
    pub(super) fn new(link: Link) -> (Self, mpsc::Sender<Its>) {
        let (ended, records) = mpsc::channel(WAITING);
        (Self { link, ended: records }, ended)
    }

    pub(super) fn start(self, proxy: Arc<Proxy<ChildNode>>) {
        tokio::spawn(self.tell(proxy));
    }

    async fn tell(mut self, proxy: Arc<Proxy<ChildNode>>) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut kept: VecDeque<Record> = VecDeque::new();
        let mut last = Stats::default();
        loop {
            tokio::select! {
                record = self.ended.recv() => match record {
                    Some(record) => {
                        kept.push_back(wire(record));
                        while kept.len() < TOGETHER && let Ok(record) = self.ended.try_recv() {
                            kept.push_back(wire(record));
                        }
                        if kept.len() < TOGETHER {
                            continue;
                        }
                    }
                    None => return,
                },
                _ = tick.tick() => {
                    let stats = stats(&proxy.stats());
                    if stats != last && self.link.tell(&Report::Stats(Box::new(stats.clone()))).await.is_ok() {
                        last = stats;
                    }
                }
            }
            while !kept.is_empty() {
                let records: Vec<Record> = kept.iter().take(TOGETHER).cloned().collect();
                let count = records.len();
                if self.link.tell(&Report::Ended { records }).await.is_err() {
                    break;
                }
                kept.drain(..count);
            }
            while kept.len() > KEPT {
                kept.pop_front();
            }
        }
    }
}

/// The live connections.
pub(super) fn connections(proxy: &Proxy<ChildNode>) -> Vec<Record> {
    proxy.connections().into_iter().map(wire).collect()
}

fn wire(record: Its) -> Record {
    Record {
        direction: record.direction.as_str().to_owned(),
        client: record.client,
        destination: record.destination,
        client_name: record.client_name.map(String::from),
        server_name: record.server_name.map(String::from),
        edge: record.edge.as_ref().map(Edge::from),
        sent: record.sent,
        received: record.received,
        seconds: record.age.as_secs_f64(),
        outcome: record.outcome.map(|outcome| outcome.as_str().to_owned()).unwrap_or_default(),
        reason: record.reason.unwrap_or_default().to_owned(),
        text: record.text,
    }
}

fn stats(stats: &Theirs) -> Stats {
    let mut edges: Vec<_> = stats
        .edges
        .iter()
        .map(|(edge, direction, its)| {
            let its = EdgeStats {
                connections: its.connections,
                open: its.open,
                sent: its.sent,
                received: its.received,
                first_byte: its.first_byte.iter().filter(|(bound, _)| bound.is_finite()).copied().collect(),
                first_byte_count: its.first_byte.last().map_or(0, |(_, count)| *count),
                first_byte_sum: its.first_byte_sum,
            };
            ((edge.from.clone(), edge.to.clone(), direction.as_str().to_owned()), its)
        })
        .collect();
    // Rules are no label: edges that differ in their rule alone are one.
    edges.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut summed: Vec<(String, String, String, EdgeStats)> = Vec::new();
    for ((from, to, direction), its) in edges {
        match summed.last_mut() {
            Some((f, t, d, sum)) if (&*f, &*t, &*d) == (&from, &to, &direction) => sum.add(&its),
            _ => summed.push((from, to, direction, its)),
        }
    }
    let (mut handshakes, mut failures) = (BTreeMap::new(), BTreeMap::new());
    for (edge, direction, failed, count) in &stats.handshakes {
        let (from, to) = zones(edge.as_ref());
        let direction = direction.as_str().to_owned();
        *match failed {
            None => handshakes.entry((from, to, direction)).or_default(),
            Some(reason) => failures.entry((from, to, direction, (*reason).to_owned())).or_default(),
        } += count;
    }
    let handshakes = handshakes.into_iter().map(|((from, to, way), count)| (from, to, way, count)).collect();
    let failures =
        failures.into_iter().map(|((from, to, way, why), count)| (from, to, way, why, count)).collect();
    Stats {
        edges: summed,
        handshakes,
        failures,
        refused: by_zones(&stats.refused),
        audited: by_zones(&stats.audited),
        pooled: stats.tunnels,
        lost: stats.lost,
    }
}

/// Sums up what differs in its rule alone.
fn by_zones(
    reasons: &[(Option<bulkhead_proxy::Edge>, &'static str, u64)],
) -> Vec<(String, String, String, u64)> {
    let mut sums = BTreeMap::new();
    for (edge, reason, count) in reasons {
        let (from, to) = zones(edge.as_ref());
        *sums.entry((from, to, (*reason).to_owned())).or_default() += count;
    }
    sums.into_iter().map(|((from, to, reason), count)| (from, to, reason, count)).collect()
}

/// The client's zones and the server's; empty where they are not known.
fn zones(edge: Option<&bulkhead_proxy::Edge>) -> (String, String) {
    edge.map_or_else(Default::default, |edge| (edge.from.clone(), edge.to.clone()))
}
