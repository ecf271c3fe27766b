//! What the whole promises, apart from the quality of its judgement (`tests/quality`).

use std::net::{IpAddr, Ipv4Addr};

use bulkhead_abi::{App, Class, Reason, Tls, Verdict};

use super::time::days;
use super::*;

fn at(seconds: u64) -> Time {
    Time::from_secs(1_700_000_000 + seconds)
}

fn begun() -> Findings {
    Findings::new(&Settings::default(), Memory::default(), at(0))
}

fn flow(from: &str, to: &str, host: u8, port: u16) -> Flow {
    let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    Flow { edge: Edge::new(from, to), src: address(1), dst: address(host), port, protocol: 6 }
}

fn counted(from: &str, to: &str, verdict: Verdict, flows: u64) -> Observation {
    let edge = Edge::new(from, to);
    Observation::Counted {
        edge,
        verdict,
        reason: Reason::Default,
        flows,
        packets: flows * 10,
        bytes: flows * 5000,
    }
}

fn classified(class: Class, level: Tls, verdict: Verdict) -> Observation {
    Observation::Classified { flow: flow("web", "db", 2, 5432), class, app: App::Postgresql, level, verdict }
}

/// Kinds that are live.
fn live(findings: &Findings) -> Vec<Kind> {
    findings.iter().filter(|finding| finding.is_live()).map(Finding::kind).collect()
}

#[test]
fn clear_text_is_a_finding_where_the_rule_says_so_only() {
    let mut findings = begun();
    findings.observe(at(1), &classified(Class::Clear, Tls::Off, Verdict::Allow));
    findings.observe(at(1), &classified(Class::Tls, Tls::Report, Verdict::Allow));
    findings.observe(at(1), &classified(Class::Unknown, Tls::Report, Verdict::Allow));
    assert!(live(&findings).is_empty());
    findings.observe(at(1), &classified(Class::Clear, Tls::Report, Verdict::Allow));
    let found = findings.iter().next().expect("a finding");
    assert_eq!((found.kind(), found.severity), (Kind::Plaintext, Severity::High));
    assert_eq!(found.evidence.get("protocol"), Some("postgresql"));
    assert_eq!(found.evidence.get("stopped"), Some("no"));
}

#[test]
fn a_certificate_goes_from_soon_to_ended_to_renewed() {
    let mut findings = begun();
    let mut shown = |days_left: i64, expected: &[(Kind, Severity)]| {
        let not_after = Time::from_secs(1_700_000_000_u64.saturating_add_signed(days_left * 86_400));
        let facts = TlsFacts { version: Some(3), not_after: Some(not_after), ..TlsFacts::default() };
        findings.observe(at(0), &Observation::Handshake { flow: flow("web", "db", 2, 443), facts });
        let live: Vec<_> = findings
            .iter()
            .filter(|found| found.is_live())
            .map(|found| (found.kind(), found.severity))
            .collect();
        assert_eq!(live, expected);
    };
    shown(30, &[]);
    shown(10, &[(Kind::CertificateExpiring, Severity::Medium)]);
    shown(2, &[(Kind::CertificateExpiring, Severity::High)]);
    shown(-1, &[(Kind::CertificateExpired, Severity::High)]);
    shown(90, &[]);
}

#[test]
fn weak_handshakes_are_found() {
    let mut findings = begun();
    for (version, strength) in [(4, Strength::Strong), (3, Strength::Legacy), (1, Strength::Weak)] {
        let facts = TlsFacts { version: Some(version), strength, ..TlsFacts::default() };
        findings.observe(at(0), &Observation::Handshake { flow: flow("web", "db", 2, 443), facts });
    }
    assert_eq!(live(&findings), [Kind::TlsTooOld, Kind::WeakCipher]);
}

#[test]
fn a_burst_ends_when_it_ends() {
    let mut findings = begun();
    for second in 0..60 {
        findings.observe(at(second), &counted("web", "db", Verdict::Deny, 5));
    }
    assert_eq!(live(&findings), [Kind::DeniedBurst]);
    findings.tick(at(59 + 599));
    assert_eq!(live(&findings), [Kind::DeniedBurst]);
    findings.tick(at(59 + 600));
    assert!(live(&findings).is_empty());
}

#[test]
fn a_monitor_that_loses_its_right_is_no_sweep_and_a_stranger_is() {
    let mut findings = begun();
    for host in 0..100 {
        findings.observe(at(1), &Observation::Opened(flow("monitor", "web", host, 9100)));
    }
    let denied = |zone, host| Observation::Denied {
        flow: flow(zone, "web", host, 9100),
        verdict: Verdict::Deny,
        reason: Reason::Default,
    };
    for host in 0..100 {
        findings.observe(at(2), &denied("monitor", host));
    }
    assert!(live(&findings).is_empty());
    for host in 0..100 {
        findings.observe(at(3), &denied("web", host));
    }
    assert_eq!(live(&findings), [Kind::HostSweep]);
    for port in 0..100 {
        let flow = flow("web", "db", 7, port);
        let reason = Reason::DenyRule;
        findings.observe(at(4), &Observation::Denied { flow, verdict: Verdict::Audit, reason });
    }
    assert_eq!(live(&findings), [Kind::PortScan, Kind::HostSweep]);
}

#[test]
fn edges_are_learned_then_told_and_known_by_the_next_life() {
    let mut findings = begun();
    for zones in [("web", "db"), ("batch", "web")] {
        findings.observe(at(0), &counted(zones.0, zones.1, Verdict::Allow, 1));
    }
    let later = at(0).plus(days(8));
    findings.observe(later, &counted("web", "db", Verdict::Allow, 1));
    findings.observe(later, &counted("batch", "db", Verdict::Deny, 1));
    assert!(live(&findings).is_empty());
    let text = serde_json::to_string(&findings.memory()).expect("it can be written");
    let memory = serde_json::from_str(&text).expect("it can be read");
    let mut findings = Findings::new(&Settings::default(), memory, later);
    findings.observe(later, &counted("batch", "db", Verdict::Allow, 1));
    assert_eq!(live(&findings), [Kind::NewEdge], "learning was over before the restart");
    findings.observe(later, &counted("web", "fresh", Verdict::Allow, 1));
    assert_eq!(live(&findings).len(), 1, "a zone that is new itself is learned first");
    let memory = findings.memory();
    let again = Findings::new(&Settings::default(), memory.clone(), later);
    assert_eq!(again.memory().findings, memory.findings);
}

#[test]
fn pressure_ends_below_where_it_began() {
    let mut findings = begun();
    let mut at_entries = |entries, refusing, expected: Option<Severity>| {
        findings.observe(at(1), &Observation::Table { table: "FLOWS", entries, capacity: 100, refusing });
        let live = findings.iter().find(|finding| finding.is_live()).map(|finding| finding.severity);
        assert_eq!(live, expected, "at {entries}");
    };
    at_entries(79, false, None);
    at_entries(80, false, Some(Severity::Medium));
    at_entries(75, false, Some(Severity::Medium));
    at_entries(100, true, Some(Severity::Critical));
    at_entries(69, false, None);
}

#[test]
fn a_syn_flood_is_told_from_many_short_conversations() {
    let mut findings = begun();
    let counted = |packets: u64, bytes: u64| Observation::Counted {
        edge: Edge::new("world", "web"),
        verdict: Verdict::Allow,
        reason: Reason::AllowRule,
        flows: 5000,
        packets,
        bytes,
    };
    findings.observe(at(0), &counted(50_000, 20_000_000));
    findings.observe(at(100), &counted(10_000, 800_000));
    assert!(live(&findings).is_empty(), "requests and their answers");
    findings.observe(at(200), &counted(5500, 330_000));
    assert_eq!(live(&findings), [Kind::SynFlood]);
}

#[test]
fn the_rest_is_found_at_once() {
    let mut findings = begun();
    findings.observe(at(0), &Observation::Lost { what: "events", count: 3 });
    findings.observe(at(0), &Observation::Lost { what: "doomed", count: 0 });
    let tampered = Observation::Tampered {
        object: "link",
        name: "a".into(),
        how: "missing",
        action: "restored",
        count: 1,
    };
    findings.observe(at(0), &tampered);
    let failed = Observation::AuthenticationFailed {
        edge: Edge::new("web", "api"),
        src: IpAddr::V4(Ipv4Addr::LOCALHOST),
        why: "expired",
    };
    (0..9).for_each(|second| findings.observe(at(second), &failed));
    assert_eq!(live(&findings), [Kind::Tampering, Kind::EventLoss]);
    findings.observe(at(9), &failed);
    assert_eq!(live(&findings).len(), 3);
}

#[test]
fn a_flood_of_strangers_stays_in_bounds() {
    let mut findings = begun();
    for number in 0..200_000_u32 {
        let src = IpAddr::V4(Ipv4Addr::from(number.wrapping_mul(2_654_435_761)));
        let flow = Flow {
            edge: Edge::new("world", format!("zone-{}", number % 3000)),
            src,
            dst: IpAddr::V4(Ipv4Addr::from(number)),
            port: number as u16,
            protocol: 6,
        };
        let now = at(u64::from(number / 10_000));
        findings.observe(now, &counted("world", &flow.edge.to, Verdict::Deny, 1));
        findings.observe(now, &Observation::Denied { flow, verdict: Verdict::Deny, reason: Reason::Default });
    }
    let size = serde_json::to_vec(&findings.memory()).expect("it can be written").len();
    assert!(size < 2_000_000, "{size}");
    assert!(findings.take_changes().len() < 200);
}
