//! Findings of a running agent over real traffic: found, told, shown, acknowledged, ended, remembered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use bulkhead::control::Request;
use bulkhead::control::protocol::{Acknowledge, FindingFilter, FindingView};
use bulkhead_tests::harness::packet::{Ip, Tcp, flags};
use bulkhead_tests::harness::{Agent, Cgroup, Dial, Kind, Peer, Setup, Topology, wait_until};
use bulkhead_tests::require_agent;
use power::at;

/// Time for a finding to show: counters are read every five seconds, and the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

const SERVER: &str = "10.63.2.2";

const POLICY: &str = r#"
    [zone.web]
    cidrs = ["10.63.1.0/24"]
    [zone.db]
    cidrs = ["10.63.2.0/24"]
    [[allow]]
    from = "web"
    to = "db"
    ports = ["udp/7001"]
"#;

/// Dropped from the top: peers, then the agent, then what they live in.
struct Lab {
    web: Peer,
    _db: Peer,
    agent: Agent,
    _node: Cgroup,
    _net: Topology,
}

impl Lab {
    fn new(more: impl FnOnce(Setup) -> Setup) -> Lab {
        let net = Topology::flat(&[("web", &["10.63.1.1/24"]), ("db", &["10.63.2.2/24"])]).unwrap();
        let node = Cgroup::new("node").unwrap();
        let agent = more(Agent::prepare(&node, POLICY).with_metrics()).start().unwrap();
        let peer = |name: &str| Peer::spawn(Some(net.ns(name).unwrap()), Some(&node)).unwrap();
        Lab { web: peer("web"), _db: peer("db"), agent, _node: node, _net: net }
    }

    /// One datagram to each of so many ports, none of which is open to `web`.
    fn scan(&self, ports: std::ops::Range<u16>) {
        let socket = self.web.open(Kind::Udp, None, false).unwrap();
        for port in ports {
            self.web.send(&socket, b"?", Some(at(SERVER, port))).unwrap_err();
        }
    }

    fn findings(&self, filter: FindingFilter) -> Vec<FindingView> {
        self.agent.findings(filter).unwrap()
    }

    /// The finding of that kind, when it is there.
    fn found(&self, kind: &str) -> FindingView {
        let filter = FindingFilter { kind: Some(kind.to_owned()), ..FindingFilter::default() };
        let mut found = None;
        wait_until(SOON, &format!("a finding of kind {kind}"), || {
            found = self.findings(filter.clone()).pop();
            found.is_some()
        })
        .unwrap();
        found.unwrap()
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let page = self.agent.metrics().unwrap();
        let line = page.lines().find(|line| line.starts_with(name))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }
}

/// From another machine, where no agent looks at what leaves: 300 requests a second for a connection, from
/// addresses that never answer, and beside them connections of programs that mean it.
#[test]
fn requests_that_nobody_goes_on_with_are_a_flood_and_short_connections_are_not() {
    require_agent!();
    let net = Topology::flat(&[("web", &["10.63.1.1/24"]), ("db", &["10.63.2.2/24"])]).unwrap();
    let node = Cgroup::new("node").unwrap();
    let agent = Agent::prepare(&node, &POLICY.replace("udp/7001", "tcp/7002")).start().unwrap();
    let web = Peer::spawn(Some(net.ns("web").unwrap()), None).unwrap();
    let db = Peer::spawn(Some(net.ns("db").unwrap()), Some(&node)).unwrap();
    let echo = db.tcp_echo(at(SERVER, 7002)).unwrap();
    let floods = || {
        let filter = FindingFilter { kind: Some("syn-flood".to_owned()), ..FindingFilter::default() };
        agent.findings(filter).unwrap()
    };
    let connect = || {
        let connection = web.connect(&Dial::tcp(echo.local)).unwrap();
        web.send(&connection, b"hello", None).unwrap();
        assert_eq!(web.recv(&connection, SOON).unwrap().0, b"hello");
        web.close(&connection).unwrap();
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(12) {
        connect();
    }
    assert_eq!(floods(), [], "each is answered and ends");

    let raw = web.raw(false).unwrap();
    let (mut sent, begun) = (0u32, Instant::now());
    wait_until(SOON, "the flood is found", || {
        for _ in 0..30 {
            let [.., high, low] = sent.to_be_bytes();
            let src = format!("10.63.1.{}", 100 + sent % 100);
            let header = Tcp { flags: flags::SYN, seq: sent, ..Tcp::default() };
            let syn = Ip::new(&src, SERVER).tcp(u16::from_be_bytes([high | 0x80, low]), 7002, header, b"");
            let _ = web.send(&raw, &syn, Some(at(SERVER, 0)));
            sent += 1;
        }
        std::thread::sleep((begun + Duration::from_millis(u64::from(sent) * 10 / 3)) - Instant::now());
        !floods().is_empty()
    })
    .unwrap();
    let flood = &floods()[0];
    assert_eq!((&*flood.severity, &*flood.state), ("high", "open"), "{flood:?}");
    assert!(sent > 1000, "200 a second, for some seconds: {sent}");
}

#[test]
fn a_scan_is_found_told_shown_and_acknowledged() {
    require_agent!();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("findings.jsonl");
    let flag = format!("--findings-log={}", journal.display());
    let lab = Lab::new(|setup| setup.flag(&flag).log_level("info"));

    assert!(lab.findings(FindingFilter::default()).is_empty());
    let quiet = lab.agent.run("findings", &[]).unwrap();
    assert!(quiet.status.success() && quiet.stdout == b"nothing to look at\n", "{quiet:?}");

    lab.scan(20_000..20_040);
    let scan = lab.found("port-scan");
    assert_eq!((&*scan.from, &*scan.to, &*scan.subject), ("web", "any", "10.63.1.1"));
    assert_eq!((&*scan.severity, &*scan.state), ("high", "open"));
    assert!(scan.count >= 15 && scan.first_seen <= scan.last_seen, "{scan:?}");
    assert_eq!(scan.evidence["last-zone"], "db");

    // Told: in the log without the address, which is told at DEBUG only, in the file with it.
    let line = lab.agent.wait_log("the finding's line", |line| line["finding"] == "port-scan").unwrap();
    assert_eq!(
        (&line["level"], &line["event"], &line["id"]),
        (&"WARN".into(), &"opened".into(), &scan.id.clone().into())
    );
    assert!(!line.to_string().contains("10.63."), "{line}");
    wait_until(SOON, "the file has it", || {
        fs::read_to_string(&journal).unwrap_or_default().contains("\"subject\":\"10.63.1.1\"")
    })
    .unwrap();
    assert_eq!(fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);

    // Shown.
    let shown = lab.agent.run("findings", &["--zone", "web"]).unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(1), "there is something to look at");
    assert!(text.contains(&scan.id) && text.contains("port-scan"), "{text}");
    let json = lab.agent.run("findings", &["--kind", "port-scan", "--format", "json"]).unwrap();
    let view: FindingView = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(view.id, scan.id);
    let other = lab.agent.run("findings", &["--zone", "nobody"]).unwrap();
    assert_eq!(other.stdout, b"nothing to look at\n");
    let series =
        "bulkhead_findings_open{from_zone=\"web\",kind=\"port-scan\",severity=\"high\",to_zone=\"any\"}";
    assert_eq!(lab.metric(series), Some(1.0));

    // Acknowledged.
    let ack =
        lab.agent.run("findings", &["ack", &scan.id, "--for", "7d", "--note", "our own scanner"]).unwrap();
    assert!(ack.status.success(), "{ack:?}");
    assert!(lab.agent.run("findings", &["--kind", "port-scan"]).unwrap().status.success());
    assert_eq!(lab.metric(series), None);
    assert_eq!(lab.metric("bulkhead_findings_acknowledged{kind=\"port-scan\"}"), Some(1.0));
    let everything = lab.agent.run("findings", &[&*scan.id]).unwrap();
    assert!(String::from_utf8(everything.stdout).unwrap().contains("our own scanner"));

    // And taken back: it is open again, and told again.
    let unack = lab.agent.run("findings", &["unack", &scan.id]).unwrap();
    assert!(unack.status.success() && String::from_utf8_lossy(&unack.stdout).contains("open"), "{unack:?}");
    assert_eq!(lab.found("port-scan").state, "open");
    assert_eq!(lab.metric(series), Some(1.0));
    assert!(!lab.agent.run("findings", &["unack", &scan.id]).unwrap().status.success());
    let unknown = Acknowledge { id: "0".into(), seconds: None, note: None };
    let refused = lab.agent.ask(&Request::Acknowledge(unknown)).unwrap_err().to_string();
    assert!(refused.contains("no finding"), "{refused}");
}

#[test]
fn findings_and_what_was_said_of_them_outlive_the_agent_and_a_damaged_file_does_not_stop_it() {
    require_agent!();
    let mut lab = Lab::new(|setup| setup);
    lab.scan(20_000..20_040);
    let scan = lab.found("port-scan");
    let file = lab.agent.state_folder().join("findings.json");
    lab.agent
        .ask(&Request::Acknowledge(Acknowledge { id: scan.id.clone(), seconds: Some(600), note: None }))
        .unwrap();

    // Ended properly, it saves at the end.
    lab.agent.terminate().unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&lab.agent.state_folder()), mode(&file)), (0o700, 0o600));
    lab.agent.restart().unwrap();
    let everything = FindingFilter { acknowledged: true, ..FindingFilter::default() };
    let after = lab.findings(everything.clone());
    let again = after.iter().find(|finding| finding.id == scan.id).expect("it is remembered");
    assert_eq!((&*again.state, again.first_seen), ("acknowledged", scan.first_seen));

    // Killed, it has saved shortly after the last change.
    lab.scan(21_000..21_040);
    let burst = || lab.findings(everything.clone()).iter().any(|finding| finding.count > scan.count);
    wait_until(SOON, "it goes on", burst).unwrap();
    lab.agent.kill9().unwrap();

    // Damaged, it is put aside, and the agent runs.
    fs::write(&file, "{\"version\":1,\"findings\":[{]").unwrap();
    lab.agent.restart().unwrap();
    assert!(lab.findings(everything).is_empty());
    assert!(file.with_extension("json.damaged").exists());
    lab.agent.wait_log("it is told", |line| line.to_string().contains("put aside")).unwrap();
}

#[test]
fn a_burst_of_denials_is_found_by_its_numbers_and_a_kind_that_is_off_is_not() {
    require_agent!();
    let lab = Lab::new(|setup| setup.flag("--findings-off=port-scan"));
    // Two ports only, from many sockets: each is a flow of its own.
    for _ in 0..300 {
        let socket = lab.web.open(Kind::Udp, None, false).unwrap();
        lab.web.send(&socket, b"?", Some(at(SERVER, 9000))).unwrap_err();
        lab.web.close(&socket).unwrap();
    }
    lab.scan(20_000..20_040);
    let burst = lab.found("denied-burst");
    assert_eq!((&*burst.from, &*burst.to, &*burst.subject), ("web", "db", "-"));
    assert_eq!((&*burst.evidence["verdict"], &*burst.evidence["reason"]), ("deny", "default"));
    let everything = FindingFilter { acknowledged: true, resolved: true, ..FindingFilter::default() };
    assert!(lab.findings(everything).iter().all(|finding| finding.kind != "port-scan"));
}

#[test]
fn tampering_and_a_full_table_are_findings_too() {
    require_agent!();
    let lab = Lab::new(|setup| setup.flag("--flow-capacity=64"));
    let pin = fs::read_dir(lab.agent.pins().join("links")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&pin).unwrap();
    let tampering = lab.found("tampering");
    assert_eq!((&*tampering.severity, &*tampering.from), ("critical", "node"));
    assert!(tampering.subject.starts_with("link-pin"), "{}", tampering.subject);

    // What may be sent, and nobody answers, fills the table: one flow for each socket.
    let sockets: Vec<_> = (0..100).map(|_| lab.web.open(Kind::Udp, None, false).unwrap()).collect();
    for socket in &sockets {
        let _ = lab.web.send(socket, b"!", Some(at(SERVER, 7001)));
    }
    let pressure = lab.found("flow-table-pressure");
    assert_eq!(pressure.subject, "FLOWS");
}
