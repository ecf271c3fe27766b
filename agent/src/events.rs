//! The kernel's events as log lines: zones by name, the rule by file and line.
//!
//! A flood of denials must not become a flood of lines: beyond a rate, lines are dropped and counted,
//! and the count is told. The counters of the metrics stay exact either way. Addresses are told at DEBUG
//! only.

use std::time::{Duration, Instant};

use bulkhead_abi::{Event, EventKind, Protocol, Reason, Verdict};
use bulkhead_policy::model::PortMatch;
use bulkhead_policy::prefix::to_ip;

use crate::daemon::snapshot::Snapshot;

/// Lines a second, in the long run.
const RATE: f64 = 50.0;
/// Lines at once.
const BURST: f64 = 200.0;
/// How often dropped lines are told.
const SUMMARY: Duration = Duration::from_secs(5);

/// Writes events to the log.
#[derive(Debug)]
pub struct EventLog {
    tokens: f64,
    filled: Instant,
    dropped: u64,
    told: Instant,
}

impl EventLog {
    /// A log that has said nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now, dropped: 0, told: now }
    }

    /// Logs a verdict; other events are nobody's business.
    pub fn record(&mut self, event: &Event, snapshot: &Snapshot, now: Instant) {
        if EventKind::from_code(event.kind) != Some(EventKind::Verdict) {
            return;
        }
        if self.admit(now) {
            line(event, snapshot);
        }
    }

    /// Tells what was dropped, now and then.
    pub fn summarize(&mut self, now: Instant) {
        if self.dropped > 0 && now.duration_since(self.told) >= SUMMARY {
            tracing::info!(dropped = self.dropped, "more verdicts than are logged; see the metrics for all");
            self.dropped = 0;
            self.told = now;
        }
    }

    fn admit(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled).as_secs_f64() * RATE;
        self.tokens = (self.tokens + gained).min(BURST);
        self.filled = now;
        if self.tokens < 1.0 {
            self.dropped += 1;
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

fn line(event: &Event, snapshot: &Snapshot) {
    let verdict = Verdict::from_code(event.verdict);
    let message = match verdict {
        Verdict::Deny => "flow denied",
        Verdict::Audit => "flow would be denied",
        Verdict::Allow => "flow allowed",
    };
    let (from, to) = (snapshot.labels.get(event.from), snapshot.labels.get(event.to));
    let port = port_name(event.protocol, event.dst_port);
    let reason = Reason::from_code(event.reason).as_str();
    let rule = snapshot.image.as_ref().and_then(|image| image.rules.get(&event.rule));
    let rule_name = rule.map(|rule| rule.label());
    let rule_at = rule.map(|rule| rule.location.to_string());
    let workload = snapshot.facts.cgroups.get(&event.workload.cgroup).map(String::as_str);
    let generation = event.generation;
    let verdict = verdict.as_str();
    if tracing::enabled!(tracing::Level::DEBUG) {
        let src = std::net::SocketAddr::new(to_ip(event.src), event.src_port);
        let dst = std::net::SocketAddr::new(to_ip(event.dst), event.dst_port);
        tracing::info!(%from, %to, port, verdict, reason, rule = rule_name, at = rule_at, workload, generation, %src, %dst, "{message}");
    } else {
        tracing::info!(%from, %to, port, verdict, reason, rule = rule_name, at = rule_at, workload, generation, "{message}");
    }
}

/// `tcp/443`, as in zone files.
pub fn port_name(protocol: u8, port: u16) -> String {
    let protocol = Protocol(protocol);
    // Types of ICMP have names where the code is no more than the usual one.
    let last = if protocol.is_icmp() && port & 0xff == 0 { port | 0xff } else { port };
    if protocol.is_known() {
        return PortMatch { protocol, first: port, last }.to_string();
    }
    PortMatch::whole(protocol).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted_and_the_log_recovers() {
        let start = Instant::now();
        let mut log = EventLog::new(start);
        let admitted = (0..1000).filter(|_| log.admit(start)).count();
        assert_eq!((admitted, log.dropped), (200, 800));
        let later = start + Duration::from_secs(1);
        let admitted = (0..1000).filter(|_| log.admit(later)).count();
        assert_eq!(admitted, 50);
    }

    #[test]
    fn ports_are_named_as_in_zone_files() {
        assert_eq!(port_name(6, 443), "tcp/443");
        assert_eq!(port_name(1, 8 << 8), "icmp/echo");
        assert_eq!(port_name(47, 0), "proto/47");
    }
}
