//! Who is refused, and that everybody hears why.

use std::fs;
use std::time::{Duration, Instant};

use bulkhead::control::protocol::FindingFilter;
use bulkhead::proxy::wire::Record;
use bulkhead_tests::harness::{Agent, Dial, Kind, Pair, Peer, Serve, Socket, wait_until};

use crate::lab::{DB, DB6, FAMILIES, Lab, SOON, WEB, ZONES, at, certificates, policy, proxy, python, traced};
use crate::peers::{Stranger, Told, forge};
use crate::require_python;

const PORT: u16 = 5000;
/// How long nothing is waited for.
const NOTHING: Duration = Duration::from_millis(500);

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

/// Whoever is no program of a node, and speaks for itself.
fn around(lab: &Lab) {
    let listeners =
        FAMILIES.map(|(server, _)| lab.db.listen(Kind::Tcp, at(server, PORT), Serve::Hold).unwrap());
    let stranger = Stranger::new();
    let beside = Peer::spawn(Some(lab.web_ns()), Some(stranger.cgroup())).unwrap();
    for listener in &listeners {
        // From the client's own address, past its node's agent.
        let dial = Dial::tcp(listener.local).within(Duration::from_secs(2));
        let _ = beside.begin_connect(&dial).wait();
        nobody_came(lab, listener);
    }
    Lab::wait_counted(lab.far(), &Pair::new("web", "db", "deny", "outside-proxy"));
    // From within the server's namespace, as the proxy's last hop comes: the client's address, and its mark.
    for (listener, (_, client)) in listeners.iter().zip(FAMILIES) {
        let launch = python("mutual/python/pretend.py").and([client, &listener.local.ip().to_string()]);
        let launch = launch.and([PORT.to_string()]);
        for said in [stranger.run(lab.db_ns(), &launch), lab.ask_beside(&launch)] {
            assert!(!said.succeeded(), "a pretended last hop came through");
            assert!(String::from_utf8_lossy(&said.output).contains("begins"), "{}", said.errors);
        }
        nobody_came(lab, listener);
    }
    // And its twin, by way of the proxy; also right after somebody who lived there has ended.
    for listener in &listeners {
        let near = lab.web.connect(&Dial::tcp(listener.local)).unwrap();
        let far = lab.db.accept(listener, SOON).unwrap();
        lab.web.send(&near, b"a question", None).unwrap();
        assert_eq!(lab.db.recv(&far, SOON).unwrap().0, b"a question");
        assert_eq!(far.peer.map(|peer| peer.ip()), Some(near.local.ip()));
        assert_eq!(near.peer, Some(listener.local));
    }
}

fn nobody_came(lab: &Lab, listener: &Socket) {
    let accepted = lab.db.accept(listener, NOTHING);
    assert!(accepted.is_err(), "{accepted:?} came");
}

#[test]
fn nobody_goes_around_the_proxy_from_another_node() {
    require_python!();
    around(&Lab::two_nodes());
}

#[test]
fn nobody_goes_around_the_proxy_on_the_same_node() {
    require_python!();
    around(&Lab::one_node(&policy("")));
}
