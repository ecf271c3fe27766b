//! Who is refused, and that everybody hears why.

use std::fs;
use std::time::{Duration, Instant};

use bulkhead::control::protocol::FindingFilter;
use bulkhead::proxy::wire::Record;
use bulkhead_tests::harness::{Agent, Dial, Socket, Topology, wait_until};

use crate::lab::{DB, DB6, Lab, SOON, WEB, ZONES, at, certificates, policy, proxy, traced, wait_traced};
use crate::peers::{Stranger, Told, forge};
use crate::require_python;

const PORT: u16 = 5000;

/// One port alone, and a zone of remote peers that may nothing.
fn one_port() -> String {
    format!(
        "{ZONES}[zone.audit]\nnames = [\"spiffe://example.org/ns/host/sa/audit\"]\n\
         [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/{PORT}\"]\ntls = \"mutual\"\n"
    )
}

/// A refused peer: its answer, the record, and the metric with this reason.
struct Refused {
    told: Told,
    record: Record,
}

struct Door {
    lab: Lab,
    stranger: Stranger,
}

impl Door {
    fn new() -> Door {
        let lab = Lab::new(2, &one_port());
        lab.db.tcp_echo(at(DB, PORT)).unwrap();
        lab.db.tcp_echo(at(DB, PORT + 1)).unwrap();
        Door { lab, stranger: Stranger::new() }
    }

    /// Knocks, is refused for this reason, and the reason is told by metric and record.
    fn refuses(&self, shows: Option<&std::path::Path>, authority: &str, way: &str, reason: &str) -> Refused {
        let far = self.lab.far();
        let counted = || {
            let text = far.metrics().unwrap();
            let word = format!("reason=\"{reason}\"");
            let refusals =
                |line: &&str| line.starts_with("bulkhead_proxy_refused_total") && line.contains(&word);
            text.lines()
                .filter(refusals)
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum::<f64>()
        };
        let (before, earlier) = (counted(), traced(far).len());
        let told = self.stranger.knock(&self.lab, DB, shows, authority, way);
        let mut record = None;
        let found = wait_until(SOON, "it is traced", || {
            record = traced(far).into_iter().skip(earlier).find(|record| record.reason == reason);
            record.is_some()
        });
        assert!(found.is_ok(), "no {reason} after {told:?}: {:#?}", traced(far));
        wait_until(SOON, "it is counted", || counted() > before).unwrap();
        let record = record.unwrap();
        assert_eq!((record.direction.as_str(), record.outcome.as_str()), ("inbound", "refused"));
        assert_eq!(record.client.ip(), WEB.parse::<std::net::IpAddr>().unwrap());
        assert!(told.status != Some(200) && told.answer != "a question", "{told:?}");
        Refused { told, record }
    }
}

#[test]
fn peers_that_cannot_prove_who_they_are_are_refused_by_name() {
    require_python!();
    let door = Door::new();
    let target = at(DB, PORT).to_string();
    let web = door.lab.authority.issue_workload("web").unwrap();
    let twin = || {
        let told = door.stranger.knock(&door.lab, DB, Some(&web), &target, "");
        assert_eq!((told.status, told.answer.as_str()), (Some(200), "a question"), "{told:?}");
    };
    twin();
    for (kind, reason, says) in [
        ("wrong-trust-domain", "wrong-trust-domain", "spiffe://example.com/ns/host/sa/web"),
        ("expired", "expired", "expired at"),
        ("not-yet-valid", "not-yet-valid", "not valid before"),
        ("self-signed", "unknown-issuer", "no root of our bundle"),
        ("two-names", "two-names", "issue it with one"),
        ("bad-name", "bad-name", "spiffe://example.org/web"),
        ("wrong-usage", "wrong-usage", "clientAuth"),
    ] {
        let shows = forge(&door.lab, &door.stranger, kind);
        let refused = door.refuses(Some(&shows), &target, "", reason);
        assert!(refused.record.text.contains(says), "{kind}: {}", refused.record.text);
        assert!(!refused.told.handshake, "{kind}: {:?}", refused.told);
        let failed = ["bulkhead_proxy_handshake_failures_total", "inbound", &format!("\"{reason}\"")];
        Lab::wait_metric(door.lab.far(), &failed);
    }
    for (shows, way, reason, says) in [
        (None, "", "no-certificate", "no certificate"),
        (Some(&*web), "tls1.2", "tls-version", "1.3"),
        (Some(&*web), "no-alpn", "no-http2", "h2"),
        (None, "clear", "not-tls", "TLS"),
        (None, "silent", "too-slow", "in time"),
    ] {
        let refused = door.refuses(shows, &target, way, reason);
        assert!(refused.record.text.contains(says), "{way}: {}", refused.record.text);
    }
    twin();
    // Again and again: the operator is told of it.
    for _ in 0..10 {
        door.stranger.knock(&door.lab, DB, None, &target, "");
    }
    let mut findings = Vec::new();
    let found = wait_until(SOON, "it is a finding", || {
        findings = door.lab.far().findings(FindingFilter::default()).unwrap();
        findings.iter().any(|one| one.kind == "authentication-failures" && one.subject.contains(WEB))
    });
    assert!(found.is_ok(), "{findings:#?}");
}

#[test]
fn peers_that_may_not_are_told_who_may() {
    require_python!();
    let door = Door::new();
    let target = at(DB, PORT).to_string();
    let issue = |account: &str| door.lab.authority.issue_workload(account).unwrap();
    let (web, nobody, audit) = (issue("web"), issue("nobody"), issue("audit"));

    let refused = door.refuses(Some(&nobody), &target, "", "unknown-name");
    assert_eq!(refused.told.status, Some(401));
    for says in ["spiffe://example.org/ns/host/sa/nobody", "no zone", "policy.toml:", "web"] {
        assert!(refused.told.answer.contains(says), "no {says} in {}", refused.told.answer);
    }
    let refused = door.refuses(Some(&audit), &target, "", "denied");
    assert_eq!(refused.told.status, Some(401));
    for says in ["spiffe://example.org/ns/host/sa/audit", "audit", "policy.toml:"] {
        assert!(refused.record.text.contains(says), "no {says} in {}", refused.record.text);
    }
    assert_eq!(refused.record.edge.map(|edge| (edge.from, edge.to)), Some(("audit".into(), "db".into())));
    // The right name, and a port that no rule lets it reach.
    let refused = door.refuses(Some(&web), &at(DB, PORT + 1).to_string(), "", "denied");
    assert_eq!(refused.told.status, Some(401));

    // Targets that are not this place's.
    for (authority, says) in [
        (at(WEB, PORT).to_string(), "is not the address that was dialled"),
        (at(DB6, PORT).to_string(), "is not the address that was dialled"),
        ("127.0.0.1:5000".into(), "is not the address that was dialled"),
        (at(DB, 15008).to_string(), "the proxies' own"),
        (at(DB, 15001).to_string(), "the proxies' own"),
        (at(DB, 15006).to_string(), "the proxies' own"),
        ("db.example.org:5000".into(), "no address with a port"),
    ] {
        let refused = door.refuses(Some(&web), &authority, "", "bad-target");
        assert_eq!(refused.told.status, Some(400), "{authority}");
        assert!(refused.told.answer.contains(says), "{authority}: {}", refused.told.answer);
    }
    let refused = door.refuses(Some(&web), &target, "get", "bad-target");
    assert!(refused.told.answer.contains("CONNECT"), "{}", refused.told.answer);

    // Headers without end are taken by nobody, are not kept, and cost nobody else anything.
    let peak = || most_memory(proxy(door.lab.far()).pid.unwrap());
    let before = peak();
    for _ in 0..20 {
        door.refuses(Some(&web), &target, "headers", "protocol");
    }
    assert!(peak() < before + (16 << 10), "from {before} to {} KiB", peak());
    let told = door.stranger.knock(&door.lab, DB, Some(&web), &target, "");
    assert_eq!(told.status, Some(200), "{told:?}");
}

/// A dry run lets in whom it would refuse, and says so; a certificate that is not believed it does not let in.
#[test]
fn a_dry_run_lets_in_and_says_who_would_be_refused() {
    require_python!();
    let trial = one_port().replace("[zone.db]", "[zone.db]\nmode = \"audit\"");
    assert_ne!(trial, one_port());
    for (policy, mode) in [(trial, "enforce"), (one_port(), "audit")] {
        let mut lab = Lab::bare(2, Topology::pair().unwrap()).unwrap();
        lab.start_in(mode, 1, &policy, &lab.authority.config(1)).unwrap();
        lab.wait_ready().unwrap();
        let stranger = Stranger::new();
        lab.db.tcp_echo(at(DB, PORT)).unwrap();
        lab.db.tcp_echo(at(DB, PORT + 1)).unwrap();
        let issue = |account: &str| lab.authority.issue_workload(account).unwrap();
        let (web, nobody, audit) = (issue("web"), issue("nobody"), issue("audit"));
        for (shows, port, reason) in
            [(&nobody, PORT, "unknown-name"), (&audit, PORT, "denied"), (&web, PORT + 1, "denied")]
        {
            let told = stranger.knock(&lab, DB, Some(shows), &at(DB, port).to_string(), "");
            assert_eq!((told.status, &*told.answer), (Some(200), "a question"), "{mode}, {reason}: {told:?}");
            let record = wait_traced(lab.far(), "it is told", |record| {
                record.reason == reason && record.destination == at(DB, port)
            });
            assert!(record.outcome != "refused", "{record:?}");
            assert!(
                record.text.contains("a dry run") && record.text.contains("no zone that may"),
                "{record:?}"
            );
            let word = format!("reason=\"{reason}\"");
            Lab::wait_metric(lab.far(), &["bulkhead_proxy_audited_total", "to_zone=\"db\"", &word]);
        }
        let told = stranger.knock(&lab, DB, None, &at(DB, PORT).to_string(), "");
        assert_eq!(told.status, None, "{told:?}");
        // And its twin is as always.
        let told = stranger.knock(&lab, DB, Some(&web), &at(DB, PORT).to_string(), "");
        assert_eq!(told.status, Some(200), "{told:?}");
        wait_traced(lab.far(), "the twin", |record| {
            record.reason.is_empty() && !record.text.contains("a dry run")
        });
    }
}

/// The most memory that a process has had, in KiB.
fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    most.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A live connection from `web` to `db` that has carried something. What was changed for it counts at once,
/// or a little later.
fn live(lab: &Lab) -> Socket {
    let mut live = None;
    let waited = wait_until(SOON, "a connection lives", || {
        live = lab.web.connect(&Dial::tcp(at(DB, PORT))).ok();
        live.is_some_and(|socket| lab.web.exchange(&socket, 2, Duration::from_secs(20)).is_ok())
    });
    assert!(waited.is_ok(), "{:#?}", traced(lab.far()));
    live.unwrap()
}

/// The best of three: a machine that is busy delays some, a mechanism that is slow all.
fn within_a_second(times: &[Duration]) {
    eprintln!("after {times:?}");
    assert!(times.iter().min().unwrap() < &Duration::from_secs(1), "not once within a second: {times:?}");
}

/// Three times: what makes connections possible (again), a live one, what ends it (which begins the clock by
/// its answer), and the record of it.
fn ends(lab: &Lab, agent: &Agent, outcome: &str, begin: impl Fn(usize), end: impl Fn() -> Instant) -> Record {
    let (mut times, mut last) = (Vec::new(), None);
    for round in 0..3 {
        begin(round);
        let socket = live(lab);
        let waits = lab.web.begin_ended(&socket, SOON);
        let begun = end();
        waits.wait().unwrap();
        times.push(begun.elapsed());
        let mut records = Vec::new();
        let told = wait_until(SOON, "it is told why", || {
            records = traced(agent);
            records.retain(|record| record.outcome == outcome);
            records.len() > round
        });
        assert!(told.is_ok(), "no {outcome}: {:#?}", traced(agent));
        last = records.pop();
    }
    within_a_second(&times);
    last.unwrap()
}

#[test]
fn a_revoked_certificate_ends_live_connections() {
    require_python!();
    let lab = Lab::two_nodes();
    lab.db.tcp_echo(at(DB, PORT)).unwrap();
    let ca = lab.authority.path().join("ca");
    let serial = |node: &str| {
        let shown = lab.authority.run(&["show", "--dir", node, "--format", "json"]).unwrap();
        let mut entries = shown.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let own = entries.find(|entry| entry["kind"] == "node").expect("the node's own certificate");
        own["serial"].as_str().unwrap().to_owned()
    };
    let renew = |round: usize| {
        // Whoever was revoked gets a new one.
        let before = certificates(lab.near());
        lab.authority.issue_node(0, &format!("again-{round}")).unwrap();
        wait_until(SOON, "a new certificate is shown", || certificates(lab.near()) != before).unwrap();
    };
    let ended = ends(&lab, lab.far(), "revoked", renew, || {
        lab.authority.run(&["revoke", &serial("node-0"), "--dir", "ca"]).unwrap();
        let list = lab.authority.node(1).join("crl.pem");
        fs::copy(ca.join("crl.pem"), list.with_extension("next")).unwrap();
        fs::rename(list.with_extension("next"), &list).unwrap();
        Instant::now()
    });
    assert!(ended.text.contains("revoked") && ended.text.contains("sa/web"), "{ended:?}");
    // And nothing of it comes in any more.
    assert!(
        lab.web
            .connect(&Dial::tcp(at(DB, PORT)))
            .and_then(|socket| lab.web.exchange(&socket, 1, SOON))
            .is_err()
    );
    Lab::wait_metric(lab.far(), &["bulkhead_proxy_refused_total", "reason=\"revoked\""]);
}

#[test]
fn a_policy_that_takes_the_right_away_ends_live_connections() {
    require_python!();
    let lab = Lab::two_nodes();
    lab.db.tcp_echo(at(DB, PORT)).unwrap();
    for (agent, direction) in [(lab.far(), "inbound"), (lab.near(), "outbound")] {
        let ended = ends(
            &lab,
            agent,
            "withdrawn",
            |_| agent.apply(&policy("")).unwrap(),
            || {
                let begun = Instant::now();
                agent.write_policy(&policy("").replace("tcp\"]", "tcp/6000\"]")).unwrap();
                begun
            },
        );
        assert_eq!(ended.direction, direction);
        assert!(ended.text.contains("no zone that may reach db:5000"), "{}", ended.text);
        agent.apply(&policy("")).unwrap();
    }
}
