//! What a running agent reads of real handshakes: the inventory, its metrics, and floors that only the
//! hello itself shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use bulkhead::control::protocol::InventoryFilter;
use bulkhead::control::{Reply, Request};
use bulkhead_detect::inventory::{Line, ServiceView};
use bulkhead_tests::harness::{Agent, Cgroup, Launch, Program, Said, Topology, wait_until};
use bulkhead_tests::require_agent;
use rustix::fs::OFlags;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
    [zone.web]
    cidrs = ["10.65.1.0/24"]
    [zone.api]
    cidrs = ["10.65.2.0/24"]
    [[allow]]
    from = "web"
    to = "api"
    ports = ["tcp/8443", "udp/8443"]
    tls = "report"
    [[allow]]
    from = "web"
    to = "api"
    ports = ["tcp/9443", "tcp/9444"]
    tls = { require = "1.3" }
"#;

/// How a client says that the kernel has ended its connection: `ECONNABORTED` where it was ended at its own
/// socket, `ECONNRESET` where it was at the server's.
const CUT: [&str; 2] = ["errno=103", "errno=104"];

/// A key, a certificate of two days, and a server that answers every request with a page.
const SERVE: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                     -subj /CN=api.test -keyout key -out cert 2>/dev/null && touch ready && \
                     exec openssl s_server -quiet -WWW -accept $0 -cert cert -key key -groups P-384:X25519";

/// Dropped from the top: programs, then the agent, then what they live in.
struct Lab {
    _servers: Vec<Program>,
    agent: Agent,
    node: Cgroup,
    net: Topology,
}

impl Lab {
    fn new(ports: &[&str]) -> Lab {
        let net = Topology::flat(&[("web", &["10.65.1.1/24"]), ("api", &["10.65.2.2/24"])]).unwrap();
        let node = Cgroup::new("node").unwrap();
        let agent = Agent::prepare(&node, POLICY).with_metrics().start().unwrap();
        let serve = |port: &str| {
            let server = Launch::new(["sh", "-c", SERVE, port]);
            let mut server = server.start(net.ns("api").unwrap(), node.path()).unwrap();
            let ready = server.folder().join("ready");
            server.wait_until(LONG, || ready.exists()).unwrap();
            server
        };
        let servers = ports.iter().map(|port| serve(port)).collect();
        Lab { _servers: servers, agent, node, net }
    }

    /// A server of ours on port 8443.
    fn serve_script(&self, python: &str, script: &str) -> Program {
        const SERVE: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                             -subj /CN=api.test -keyout key -out cert 2>/dev/null && touch ready && \
                             exec $0 $1 serve 8443 cert key";
        let launch = Launch::new(["sh", "-c", SERVE, python, script]);
        let mut server = launch.start(self.net.ns("api").unwrap(), self.node.path()).unwrap();
        let ready = server.folder().join("ready");
        server.wait_until(LONG, || ready.exists()).unwrap();
        server
    }

    /// Asks for a page until the server listens.
    fn fetch(&self, port: u16, options: &[&str]) -> Said {
        let target = format!("10.65.2.2:{port}");
        let client =
            Launch::new(["openssl", "s_client", "-connect", &target, "-servername", "api.test", "-brief"])
                .and(options.iter().copied())
                .input(b"GET /ready HTTP/1.0\r\n\r\n");
        let mut said = None;
        wait_until(LONG, "the server listens", || {
            let answer = client.run(self.net.ns("web").unwrap(), self.node.path(), LONG).unwrap();
            let refused = answer.errors.contains("Connection refused");
            said = Some(answer);
            !refused
        })
        .unwrap();
        said.unwrap()
    }

    /// Connects, and says nothing until it is told to.
    fn hold(&self, port: u16, version: &str, how: &str) -> Held {
        const CONNECT: &str = "mkfifo said && exec openssl s_client -connect $0 -servername api.test \
                               -ign_eof $1 $2 <said";
        let client = Launch::new(["sh", "-c", CONNECT, &format!("10.65.2.2:{port}"), version, how]);
        let program = client.start(self.net.ns("web").unwrap(), self.node.path()).unwrap();
        let (fifo, mut says) = (program.folder().join("said"), None);
        wait_until(LONG, "the client has begun", || {
            // There is nobody to write to until it reads.
            const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;
            says = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(&fifo).ok();
            says.is_some()
        })
        .unwrap();
        Held { program, says: says.unwrap() }
    }

    /// What the inventory says of a port, once it says what is wanted.
    fn service(&self, port: u16, wanted: impl Fn(&ServiceView) -> bool) -> ServiceView {
        let mut found = None;
        let mut last = Vec::new();
        let seen = wait_until(LONG, "the inventory knows of the service", || {
            last = self.agent.ask(&Request::Inventory(InventoryFilter::default())).unwrap();
            found = last.iter().find_map(|reply| match reply {
                Reply::Inventory(line) => match &**line {
                    Line::Service(service) if service.port == port && wanted(service) => {
                        Some((**service).clone())
                    }
                    _ => None,
                },
                _ => None,
            });
            found.is_some()
        });
        seen.unwrap_or_else(|error| panic!("{error}: {last:#?}"));
        found.unwrap()
    }

    fn metric(&self, begins: &str, contains: &str) -> f64 {
        let page = self.agent.metrics().unwrap();
        let mut lines = page.lines().filter(|line| line.starts_with(begins) && line.contains(contains));
        lines.next().and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
    }
}

/// Python with what our programs need; without it a test is left.
fn python() -> Option<String> {
    let python = std::env::var("BULKHEAD_PYTHON").ok();
    if python.is_none() {
        eprintln!("skipped: BULKHEAD_PYTHON is not set; `cargo xtask test` sets it");
        assert!(
            std::env::var_os("CI").is_none(),
            "BULKHEAD_PYTHON is not set, and CI says that this must run"
        );
    }
    python
}

/// A client with an open connection.
struct Held {
    program: Program,
    says: File,
}

impl Held {
    /// Waits until it has said something to its user.
    fn wait_said(&mut self, what: &str) {
        let errors = self.program.folder().join(".errors");
        let said = || fs::read_to_string(&errors).is_ok_and(|said| said.contains(what));
        self.program.wait_until(LONG, said).unwrap();
    }
}

/// QUIC's ClientHello and ServerHello are encrypted with keys that follow from its first packet.
#[test]
fn quics_handshake_is_listed_too() {
    require_agent!();
    let Some(python) = python() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/python/quic.py");
    let lab = Lab::new(&[]);
    let _server = lab.serve_script(&python, script);
    let client = Launch::new([&python, script, "ask", "10.65.2.2", "8443"]).input(b"hello");
    wait_until(LONG, "the server answers", || {
        client.run(lab.net.ns("web").unwrap(), lab.node.path(), LONG).unwrap().output == b"hello"
    })
    .unwrap();
    let known = |service: &ServiceView| !service.handshakes.is_empty();
    let service = lab.service(8443, known);
    let [agreed] = &service.handshakes[..] else { panic!("{service:#?}") };
    assert_eq!((&*agreed.class, &*agreed.version), ("quic", "1.3"), "{service:#?}");
    assert_eq!(agreed.group, "secp256r1", "{service:#?}");
    assert_eq!(service.server_names.names[0].0, "bulkhead.test", "{service:#?}");
    assert_eq!(service.alpn.names[0].0, "bulkhead-echo", "{service:#?}");
    assert!(service.ja4.names[0].0.starts_with("q13d"), "{service:#?}");
}

/// Which edges withstand a quantum computer: what was offered, and what was chosen.
#[test]
fn a_post_quantum_key_exchange_is_listed_as_chosen() {
    require_agent!();
    let Some(python) = python() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/python/postquantum.py");
    let lab = Lab::new(&[]);
    let _server = lab.serve_script(&python, script);
    let client = Launch::new([&python, script, "ask", "10.65.2.2", "8443"]).input(b"hello");
    wait_until(LONG, "the server answers", || {
        client.run(lab.net.ns("web").unwrap(), lab.node.path(), LONG).unwrap().output == b"hello"
    })
    .unwrap();
    let service = lab.service(8443, |service| !service.handshakes.is_empty());
    let agreed = &service.handshakes[0];
    assert_eq!((&*agreed.version, &*agreed.group), ("1.3", "X25519MLKEM768"), "{service:#?}");
    assert_eq!(agreed.group_kind, "hybrid", "{service:#?}");
    assert!(service.post_quantum_offered >= 1, "{service:#?}");
    assert!(lab.metric("bulkhead_tls_flows_total", "group_kind=\"hybrid\"") >= 1.0);
}

/// DTLS' handshake comes in datagrams.
#[test]
fn dtlss_handshake_is_listed_too() {
    require_agent!();
    const SERVE: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=api.test -keyout key -out cert \
                         2>/dev/null && touch ready && \
                         exec gnutls-serv --udp --echo --quiet --port 8443 --x509certfile cert --x509keyfile key";
    const ASK: &str = "mkfifo input && { openssl s_client -dtls1_2 -connect 10.65.2.2:8443 -servername api.test \
                       <input & } && client=$! && exec 3>input && echo hello-back >&3; \
                       while kill -0 $client 2>/dev/null && ! grep -q hello-back .output; do sleep 0.05; done; \
                       exec 3>&-; wait $client";
    let lab = Lab::new(&[]);
    let serve = Launch::new(["sh", "-c", SERVE]);
    let mut server = serve.start(lab.net.ns("api").unwrap(), lab.node.path()).unwrap();
    let ready = server.folder().join("ready");
    server.wait_until(LONG, || ready.exists()).unwrap();
    let client = Launch::new(["sh", "-c", ASK]);
    wait_until(LONG, "the server answers", || {
        let said = client.run(lab.net.ns("web").unwrap(), lab.node.path(), LONG).unwrap();
        String::from_utf8_lossy(&said.output).contains("hello-back")
    })
    .unwrap();
    let service = lab.service(8443, |service| !service.handshakes.is_empty());
    let agreed = &service.handshakes[0];
    assert_eq!((&*agreed.class, &*agreed.version), ("dtls", "1.2"), "{service:#?}");
    assert_eq!((&*agreed.cipher_strength, &*agreed.group_kind), ("strong", "classic"), "{service:#?}");
    assert!(service.certificates[0].subject.contains("api.test"), "{service:#?}");
    assert_eq!(service.server_names.names[0].0, "api.test", "{service:#?}");
}

#[test]
fn handshakes_are_listed_by_what_was_agreed_on() {
    require_agent!();
    let lab = Lab::new(&["8443"]);
    let said = lab.fetch(8443, &["-tls1_3"]);
    assert!(said.errors.contains("TLSv1.3"), "{}", said.errors);
    let row = |service: &ServiceView, version: &str| {
        service.handshakes.iter().find(|row| row.version.contains(version)).cloned()
    };
    let service = lab.service(8443, |service| row(service, "1.3").is_some());
    let newest = row(&service, "1.3").unwrap();
    assert_eq!((service.from.as_str(), service.to.as_str()), ("web", "api"));
    assert_eq!((newest.cipher_strength.as_str(), newest.group_kind.as_str()), ("strong", "classic"));
    assert_eq!(service.server_names.names, [("api.test".to_owned(), 1)]);
    assert_eq!(service.ja4.names.len(), 1, "{:?}", service.ja4);
    assert!(service.certificates.is_empty(), "TLS 1.3 shows none: {:?}", service.certificates);

    let said = lab.fetch(8443, &["-tls1_2"]);
    assert!(said.errors.contains("TLSv1.2"), "{}", said.errors);
    let service =
        lab.service(8443, |service| row(service, "1.2").is_some() && !service.certificates.is_empty());
    assert_eq!(row(&service, "1.2").unwrap().flows, 1);
    assert!(service.certificates[0].subject.contains("api.test"), "{:?}", service.certificates);
    assert!(lab.metric("bulkhead_tls_flows_total", "1.3") >= 1.0);
    assert!(lab.metric("bulkhead_tls_flows_total", "1.2") >= 1.0);
    assert!(lab.metric("bulkhead_tls_certificate_expiry_seconds", "api") > 0.0);
    assert_eq!(lab.metric("bulkhead_flow_classes_total", "class=\"tls\""), 2.0);
}

#[test]
fn a_floor_that_only_the_hello_shows_ends_the_flow() {
    require_agent!();
    let lab = Lab::new(&["9443", "9444"]);
    for port in [9443, 9444] {
        let said = lab.fetch(port, &["-tls1_3"]);
        assert!(said.errors.contains("TLSv1.3"), "{}", said.errors);
    }
    let mut above = lab.hold(9443, "-tls1_3", "-brief");
    above.wait_said("TLSv1.3");
    assert_eq!(lab.metric("bulkhead_tls_below_floor_total", "web"), 0.0);

    let below = lab.hold(9444, "-tls1_2", "-quiet");
    let said = below.program.wait_ended(LONG).unwrap();
    let cut = CUT.iter().any(|error| said.errors.contains(error));
    assert!(said.status.is_some_and(|status| !status.success()) && cut, "{}", said.errors);
    wait_until(LONG, "the flow below the floor is counted", || {
        lab.metric("bulkhead_tls_below_floor_total", "web") == 1.0
    })
    .unwrap();

    // The same flow, but for its version, lives.
    above.says.write_all(b"GET /ready HTTP/1.0\r\n\r\n").unwrap();
    let said = above.program.wait_ended(LONG).unwrap();
    assert!(said.output.starts_with(b"HTTP/1.0 200"), "{}", said.errors);
}
