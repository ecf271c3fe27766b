//! A real Prometheus scrapes a real agent, with the rules that ship, and its alerts fire on real traffic;
//! and the rules say what they say they do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bulkhead_tests::harness::{Agent, Cgroup, Dial, Kind, Launch, Ns, Peer, Program, Topology, wait_until};
use bulkhead_tests::require_agent;
use power::{LONG, at};
use serde_json::Value;

/// Time for an alert to fire: a minute of patience in the rule, and the machine may be busy.
const ALERT: Duration = Duration::from_secs(240);

const SERVER: &str = "10.64.2.2";

/// Answers HTTP in clear; asked for nothing better than a report.
const REPORTED: u16 = 8080;
/// As clear, and nobody's business.
const IGNORED: u16 = 8081;

fn policy() -> String {
    format!(
        r#"
        [zone.web]
        cidrs = ["10.64.1.0/24"]
        [zone.api]
        cidrs = ["10.64.2.0/24"]
        [zone.batch]
        cidrs = ["10.64.3.0/24"]
        [[allow]]
        from = "web"
        to = "api"
        ports = ["tcp/{REPORTED}"]
        tls = "report"
        [[allow]]
        from = "batch"
        to = "api"
        ports = ["tcp/{IGNORED}"]
        "#
    )
}

fn rules() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").canonicalize().unwrap()
}

/// Prometheus with the rules that ship, which evaluates them every second.
struct Prometheus {
    program: Program,
    address: SocketAddr,
}

impl Prometheus {
    fn start(ns: &Ns, cgroup: &Cgroup, agent: SocketAddr) -> Prometheus {
        let free = ns.enter(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let address = free.unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [\"{}/bulkhead.rules.yml\"]\n\
             scrape_configs:\n  - job_name: bulkhead\n    static_configs: [{{ targets: [\"{agent}\"] }}]\n",
            rules().display()
        );
        let launch = Launch::new([
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--log.level=warn",
        ]);
        let mut program = launch
            .and([format!("--web.listen-address={address}")])
            .file("prometheus.yml", config)
            .start(ns, cgroup.path())
            .unwrap();
        program.wait_until(LONG * 12, || get(ns, address, "/-/ready").is_some()).unwrap();
        Prometheus { program, address }
    }

    /// Alerts that fire, as `name from to`.
    fn firing(&self, ns: &Ns) -> Vec<String> {
        let Some(answer) = get(ns, self.address, "/api/v1/alerts") else { return Vec::new() };
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let alerts = answer.pointer("/data/alerts").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |alert: &Value, label: &str| alert["labels"][label].as_str().unwrap_or("-").to_owned();
        alerts
            .iter()
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| {
                format!(
                    "{} {} {}",
                    text(alert, "alertname"),
                    text(alert, "from_zone"),
                    text(alert, "to_zone")
                )
            })
            .collect()
    }
}

/// The body of an answer with status 200.
fn get(ns: &Ns, address: SocketAddr, path: &str) -> Option<String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, LONG)?;
        stream.set_read_timeout(Some(LONG))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ns.enter(ask).ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

/// Dropped from the top.
struct Lab {
    prometheus: Prometheus,
    web: Peer,
    batch: Peer,
    api: Peer,
    _agent: Agent,
    _cgroups: Vec<Cgroup>,
    net: Topology,
}

impl Lab {
    fn new() -> Lab {
        let net = Topology::flat(&[
            ("web", &["10.64.1.1/24"]),
            ("api", &["10.64.2.2/24"]),
            ("batch", &["10.64.3.3/24"]),
            ("node", &["10.64.4.4/24"]),
        ])
        .unwrap();
        let (node, outside) = (Cgroup::new("node").unwrap(), Cgroup::new("outside").unwrap());
        let in_node = net.ns("node").unwrap();
        let agent = Agent::prepare(&node, &policy()).in_ns(in_node).with_metrics().start().unwrap();
        let prometheus = Prometheus::start(in_node, &outside, agent.metrics_address().unwrap());
        let peer = |name: &str| Peer::spawn(Some(net.ns(name).unwrap()), Some(&node)).unwrap();
        Lab {
            prometheus,
            web: peer("web"),
            batch: peer("batch"),
            api: peer("api"),
            _agent: agent,
            _cgroups: vec![node, outside],
            net,
        }
    }

    fn firing(&self) -> Vec<String> {
        self.prometheus.firing(self.net.ns("node").unwrap())
    }

    /// Waits until `alert` fires, doing something in between.
    fn wait_alert(&self, alert: &str, mut meanwhile: impl FnMut()) {
        let seen = wait_until(ALERT, alert, || {
            meanwhile();
            self.firing().iter().any(|firing| firing == alert)
        });
        if let Err(error) = seen {
            let (ns, address) = (self.net.ns("node").unwrap(), self.prometheus.address);
            let targets = get(ns, address, "/api/v1/targets").unwrap_or_default();
            let (firing, errors) = (self.firing(), self.prometheus.program.errors());
            panic!("{error}; firing: {firing:?}; targets: {targets}; {errors}");
        }
    }
}

#[test]
fn the_rules_that_ship_pass_their_tests() {
    let promtool = |arguments: &[&str]| {
        let output = Command::new("promtool").args(arguments).current_dir(rules()).output();
        let output = output.expect("promtool is there: `cargo xtask setup` installs it");
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "promtool {arguments:?}:\n{text}");
    };
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "bulkhead.rules.yml"]);
    promtool(&["test", "rules", "bulkhead.rules.test.yml"]);
}

#[test]
fn every_kind_of_finding_has_an_alert() {
    let text = fs::read_to_string(rules().join("bulkhead.rules.yml")).unwrap();
    // Told by metrics of their own.
    let others = ["tampering", "event-loss"];
    for kind in bulkhead_detect::findings::Kind::ALL.iter().map(|kind| kind.as_str()) {
        assert!(others.contains(&kind) || text.contains(kind), "nobody is told of {kind}");
    }
}

#[test]
fn an_alert_fires_on_real_denials_and_on_real_tries() {
    require_agent!();
    let lab = Lab::new();
    // Ports that nobody may use, some a second, each from a socket of its own.
    let (web, mut port) = (&lab.web, 20_000);
    let scan = || {
        for _ in 0..40 {
            let socket = web.open(Kind::Udp, None, false).unwrap();
            web.send(&socket, b"?", Some(at(SERVER, port))).unwrap_err();
            web.close(&socket).unwrap();
            port = 20_000 + (port + 1) % 20_000;
        }
    };
    lab.wait_alert("BulkheadScan web any", scan);
    let firing = lab.firing();
    assert!(!firing.iter().any(|alert| alert.starts_with("BulkheadPlaintext")), "{firing:?}");
    assert!(!firing.iter().any(|alert| alert.contains("AgentDown")), "{firing:?}");
}

#[test]
fn an_alert_fires_on_real_plaintext_and_names_its_edge() {
    require_agent!();
    let lab = Lab::new();
    let request = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n";
    for port in [REPORTED, IGNORED] {
        lab.api.tcp_echo(at(SERVER, port)).unwrap();
    }
    let (web, batch) = (&lab.web, &lab.batch);
    let talk = || {
        for (peer, port) in [(web, REPORTED), (batch, IGNORED)] {
            let stream = peer.connect(&Dial::tcp(at(SERVER, port))).unwrap();
            peer.send(&stream, request, None).unwrap();
            // Under `report`, it goes through.
            assert_eq!(peer.recv(&stream, LONG).unwrap().0, request);
            peer.close(&stream).unwrap();
        }
    };
    lab.wait_alert("BulkheadPlaintext web api", talk);
    let firing = lab.firing();
    assert!(!firing.iter().any(|alert| alert.starts_with("BulkheadPlaintext batch")), "{firing:?}");
}
