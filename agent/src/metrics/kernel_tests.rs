//! The metrics text of a kernel half of the test's own, and that its labels stay few.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::metrics::Metrics;

#[derive(Debug, Default)]
struct Fake {
    counters: Vec<(CounterKey, Counter)>,
    broken: bool,
}

impl Source for Fake {
    fn generation(&self) -> u64 {
        7
    }
    fn audit(&self) -> bool {
        true
    }
    fn counters(&self) -> Rows<(CounterKey, Counter)> {
        if self.broken { Err("broken".into()) } else { Ok(self.counters.clone()) }
    }
    fn losses(&self) -> Rows<(Loss, u64)> {
        Ok(vec![(Loss::Events, 3)])
    }
    fn usage(&self) -> Rows<MapUsage> {
        Ok(vec![MapUsage { name: "FLOWS", entries: 5, capacity: 10 }])
    }
    fn programs(&self) -> Rows<ProgramStats> {
        Ok(vec![ProgramStats {
            name: "connect4".to_owned(),
            run_count: 4,
            run_time: Duration::from_millis(1500),
            instructions: 9,
        }])
    }
    fn failsafe(&self) -> Rows<(FailsafeKey, u64)> {
        Ok(vec![(FailsafeKey { side: Side::Ingress as u8, protocol: 6, port: 22 }, 8)])
    }
    fn flows_ended(&self) -> Vec<(Reason, u64)> {
        vec![(Reason::Default, 2)]
    }
    fn guard(&self) -> crate::guard::Counts {
        crate::guard::Counts { interfaces: 3, failures: 1 }
    }
    fn flow_table(&self) -> crate::sockets::FlowTable {
        crate::sockets::FlowTable { full: true, episodes: 3 }
    }
    fn label(&self, identity: Identity) -> Arc<str> {
        match identity.0 {
            16 => "web".into(),
            17 => "api+db".into(),
            _ => "unknown".into(),
        }
    }
}

fn row(from: u32, to: u32, flows: u64) -> (CounterKey, Counter) {
    let key = CounterKey {
        from: Identity(from),
        to: Identity(to),
        verdict: Verdict::Deny as u8,
        reason: Reason::Default as u8,
        _reserved: [0; 2],
    };
    (key, Counter { flows, packets: 2 * flows, bytes: 100 * flows })
}

fn text(source: Fake) -> String {
    let metrics = Metrics::new(Arc::new(source)).unwrap();
    String::from_utf8(metrics.text().unwrap()).unwrap()
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
}

#[test]
fn the_kernel_s_numbers_appear_with_zone_names() {
    let text = text(Fake { counters: vec![row(16, 17, 3)], broken: false });
    let labels = r#"{from_zone="web",reason="default",to_zone="api+db",verdict="deny"}"#;
    has(&text, &format!("bulkhead_flows_total{labels} 3"));
    has(&text, &format!("bulkhead_packets_total{labels} 6"));
    has(&text, &format!("bulkhead_bytes_total{labels} 300"));
    has(&text, "bulkhead_generation 7");
    has(&text, "bulkhead_audit_mode 1");
    has(&text, r#"bulkhead_lost_total{what="events"} 3"#);
    has(&text, r#"bulkhead_map_entries{map="FLOWS"} 5"#);
    has(&text, r#"bulkhead_map_capacity{map="FLOWS"} 10"#);
    has(&text, r#"bulkhead_program_runs_total{program="connect4"} 4"#);
    has(&text, r#"bulkhead_program_run_seconds_total{program="connect4"} 1.5"#);
    has(&text, r#"bulkhead_failsafe_packets_total{port="tcp/22",side="ingress"} 8"#);
    has(&text, r#"bulkhead_flows_ended_total{reason="default"} 2"#);
    has(&text, "bulkhead_guarded_interfaces 3");
    has(&text, "bulkhead_guard_attach_failures_total 1");
    has(&text, "bulkhead_flow_table_full 1");
    has(&text, "bulkhead_flow_table_full_episodes_total 3");
    has(&text, "bulkhead_scrape_errors_total 0");
}

#[test]
fn identities_that_share_a_label_are_added_up() {
    let text = text(Fake { counters: vec![row(90, 17, 3), row(91, 17, 4)], broken: false });
    has(
        &text,
        r#"bulkhead_flows_total{from_zone="unknown",reason="default",to_zone="api+db",verdict="deny"} 7"#,
    );
}

#[test]
fn a_table_that_cannot_be_read_is_left_out_and_counted() {
    let metrics = Metrics::new(Arc::new(Fake { counters: vec![], broken: true })).unwrap();
    metrics.text().unwrap();
    let text = String::from_utf8(metrics.text().unwrap()).unwrap();
    assert!(!text.contains("bulkhead_flows_total{"), "{text}");
    has(&text, r#"bulkhead_map_entries{map="FLOWS"} 5"#);
    assert!(!text.contains("bulkhead_scrape_errors_total 0"), "{text}");
}

#[test]
fn a_failed_reload_shows_until_the_next_good_one() {
    let metrics = Metrics::new(Arc::new(Fake::default())).unwrap();
    let shown = || String::from_utf8(metrics.text().unwrap()).unwrap();
    metrics.agent.reloaded(true, Duration::from_millis(3));
    has(&shown(), "bulkhead_policy_last_reload_success 1");
    metrics.agent.reload_failed();
    has(&shown(), "bulkhead_policy_last_reload_success 0");
    has(&shown(), "bulkhead_policy_reload_errors_total 1");
    has(&shown(), r#"bulkhead_policy_reloads_total{result="failed"} 1"#);
    metrics.agent.reloaded(false, Duration::ZERO);
    has(&shown(), "bulkhead_policy_last_reload_success 1");
    has(&shown(), "bulkhead_policy_reload_duration_seconds_count 1");
}
