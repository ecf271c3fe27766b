//! Real programs, unchanged: they understand each other, the server sees who it is, and the wire nothing.

use std::time::Duration;

use bulkhead_tests::harness::{Launch, Pair, Program, Said, wait_until};

use crate::lab::{
    DB, FAMILIES, Lab, SOON, WEB, at, certificates, connections, metric, policy, python, wait_traced,
};
use crate::require_python;
use crate::storm::{self, Storm};
use crate::wire::Capture;

const HTTP: u16 = 8080;
pub(crate) const POSTGRESQL: u16 = 5432;
pub(crate) const REDIS: u16 = 6379;
const SMTP: u16 = 2525;
const WEBSOCKET: u16 = 8081;
const GRPC: u16 = 8082;
const HALVES: u16 = 8083;

/// In what programs say to each other, in both directions.
const MARKER: &str = "a-clear-text-that-nobody-may-read";

/// All servers, for as long as this lives.
struct Servers {
    _all: Vec<Program>,
}

impl Servers {
    fn start(lab: &Lab) -> Servers {
        let own = lab.authority.issue_workload("mail").unwrap();
        let file = |name: &str| own.join(name).to_string_lossy().into_owned();
        let mail = python("tls/python/smtp.py").and(["serve", &SMTP.to_string()]);
        let all = [
            (nginx(), HTTP),
            (postgresql(), POSTGRESQL),
            (redis(), REDIS),
            (mail.and([file("tls.crt"), file("tls.key")]), SMTP),
            (python("mutual/python/websocket.py").and(["serve", &WEBSOCKET.to_string()]), WEBSOCKET),
            (python("mutual/python/stream.py").and(["serve", &GRPC.to_string()]), GRPC),
        ];
        Servers { _all: all.iter().map(|(launch, port)| lab.serve(launch, &[*port])).collect() }
    }
}

/// Every conversation, with what must be in the client's output.
fn conversations() -> Vec<(&'static str, Launch, Vec<String>)> {
    let marker = MARKER.to_owned();
    let curl = Launch::new(["curl", "--silent", "--show-error", "--noproxy", "*"]);
    let http = |address: &str| curl.clone().and([format!("http://{}/", at(address, HTTP))]);
    let http_all: Vec<_> = FAMILIES
        .iter()
        .map(|(server, client)| {
            ("curl to nginx", http(server), vec![marker.clone(), format!("seen {client}.")])
        })
        .collect();
    let query =
        format!("SELECT 'seen ' || host(inet_client_addr()) || '.'; SELECT repeat('{MARKER}', 20000);\n");
    let postgresql = psql().input(query.as_bytes());
    let redis = Launch::new(["redis-cli", "-h", DB, "-p", &REDIS.to_string()]);
    let commands = format!("SET key {MARKER}\nGET key\nCLIENT INFO\n");
    let ask = |script: &str, port: u16| python(script).and(["ask", DB, &port.to_string()]);
    let mail = ask("tls/python/smtp.py", SMTP).and(["clear"]);
    let letter = format!("Subject: {MARKER}\n\n{}\n", format!("{MARKER}\n").repeat(1000));
    let others = [
        ("psql to PostgreSQL", postgresql, vec![marker.repeat(20_000), format!("seen {WEB}.")]),
        ("redis-cli", redis.input(commands.as_bytes()), vec![marker, format!("addr={WEB}:")]),
        // The server speaks first, and last.
        ("SMTP", mail.input(letter.as_bytes()), vec![format!("seen {WEB}")]),
        (
            "WebSocket",
            ask("mutual/python/websocket.py", WEBSOCKET).and([MARKER]),
            vec![format!("hello {WEB}"), "all came back".into()],
        ),
        (
            "gRPC",
            ask("mutual/python/stream.py", GRPC).and([MARKER]),
            vec!["200 answers".into(), format!(" from ipv4:{WEB}:")],
        ),
    ];
    http_all.into_iter().chain(others).collect()
}

fn holds(said: &Said, text: &str) -> bool {
    String::from_utf8_lossy(&said.output).replace("%3A", ":").contains(text)
}

/// Has all of them, and says which failed.
fn converse(lab: &Lab) {
    let mut failures = Vec::new();
    for (name, launch, wanted) in conversations() {
        let said = lab.ask(&launch);
        let missing: Vec<_> = wanted.iter().filter(|text| !holds(&said, text)).collect();
        if !said.succeeded() || !missing.is_empty() {
            let missing: Vec<String> = missing.iter().map(|text| text.chars().take(60).collect()).collect();
            failures.push(format!("{name}: {:?}, without {missing:?}: {}", said.status, said.errors));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn programs_speak_over_mutual_tls_between_two_nodes() {
    require_python!();
    let lab = Lab::two_nodes();
    let _servers = Servers::start(&lab);
    let capture = Capture::new(lab.web_ns());
    converse(&lab);
    let wire = capture.end();
    wire.is_mutual_tls_only(&[MARKER, "a-clear-text"]);
    wire.is_post_quantum();

    // The kernels, and the proxies, name the zones.
    for (agent, direction) in [(lab.near(), "outbound"), (lab.far(), "inbound")] {
        Lab::wait_counted(agent, &Pair::new("web", "db", "allow", "proxied"));
        let edge = ["from_zone=\"web\"", "to_zone=\"db\"", direction];
        let with = |name| [&[name][..], &edge].concat();
        assert!(Lab::wait_metric(agent, &with("bulkhead_proxy_connections_total")) >= 7.0);
        assert!(Lab::wait_metric(agent, &with("bulkhead_proxy_handshakes_total")) >= 1.0);
        for way in ["way=\"sent\"", "way=\"received\""] {
            let bytes = [&with("bulkhead_proxy_bytes_total")[..], &[way]].concat();
            assert!(Lab::wait_metric(agent, &bytes) > 10_000.0);
        }
        Lab::wait_metric(agent, &with("bulkhead_proxy_first_byte_seconds_count"));
        Lab::wait_metric(
            agent,
            &["bulkhead_proxy_certificate_expiry_seconds", "spiffe://example.org/ns/host/sa/"],
        );
        let text = agent.metrics().unwrap();
        assert_eq!(metric(&text, &["bulkhead_proxy_up "]), Some(1.0));
        assert!(metric(&text, &["bulkhead_proxy_refused_total"]).is_none(), "{text}");
    }
    tells_of_itself(&lab);
}

/// `bulkhead proxy` and the access log.
fn tells_of_itself(lab: &Lab) {
    let listener = lab.db.tcp_echo(at(DB, 7000)).unwrap();
    let open = lab.web.connect(&bulkhead_tests::harness::Dial::tcp(listener.local)).unwrap();
    lab.web.exchange(&open, 3, Duration::from_secs(20)).unwrap();
    for (agent, direction) in [(lab.near(), "outbound"), (lab.far(), "inbound")] {
        let live = connections(agent).into_iter().find(|record| record.destination == listener.local);
        let live = live.expect("it is among the live ones");
        assert_eq!((live.direction.as_str(), live.outcome.as_str()), (direction, ""));
        // Beyond the tunnel the client's port is the tunnel's.
        assert_eq!(live.client.ip(), open.local.ip());
        assert!(direction == "inbound" || live.client == open.local, "{live:?}");
        assert_eq!(live.client_name.as_deref(), Some("spiffe://example.org/ns/host/sa/web"));
        assert_eq!(live.server_name.as_deref(), Some("spiffe://example.org/ns/host/sa/db"));
        assert_eq!((live.sent, live.received), (96, 96));
        let edge = live.edge.unwrap();
        assert_eq!((edge.from.as_str(), edge.to.as_str()), ("web", "db"));
        assert!(edge.rule.contains("policy.toml:"), "{}", edge.rule);

        let zone = if direction == "outbound" { "web" } else { "db" };
        let shown = certificates(agent);
        let own = shown.iter().find(|one| one.name.ends_with(zone)).expect("its certificate is shown");
        assert!(own.not_after > own.not_before && own.problem.is_none(), "{own:?}");

        let ended =
            wait_traced(agent, "the WebSocket has ended", |record| record.destination.port() == WEBSOCKET);
        assert_eq!((ended.outcome.as_str(), ended.client.ip()), ("closed", WEB.parse().unwrap()));
        agent
            .wait_log("the access log", |line| {
                let field =
                    |name: &str| line[name].as_str().or(line["fields"][name].as_str()).unwrap_or_default();
                field("destination") == at(DB, REDIS).to_string()
                    && field("client_name").ends_with("/sa/web")
                    && field("server_name").ends_with("/sa/db")
                    && field("from") == "web"
                    && field("outcome") == "closed"
            })
            .unwrap();
    }
}

/// The two namespaces on one node: the same, and the wire between them carries TLS alone.
#[test]
fn one_node_is_its_own_peer() {
    require_python!();
    let lab = Lab::one_node(&policy(""));
    let _servers = Servers::start(&lab);
    let capture = Capture::new(lab.web_ns());
    converse(&lab);
    capture.end().is_mutual_tls_only(&[MARKER]);
    for direction in ["outbound", "inbound"] {
        let edge = ["bulkhead_proxy_connections_total", "from_zone=\"web\"", "to_zone=\"db\"", direction];
        Lab::wait_metric(lab.near(), &edge);
    }
}

/// `local = "attest"`: no proxy where no wire is, and the kernel says so. It is the twin of the test before:
/// what was not seen there is seen here.
#[test]
fn attested_neighbours_need_no_proxy() {
    require_python!();
    let lab = Lab::one_node(&policy("local = \"attest\""));
    let _servers = Servers::start(&lab);
    let capture = Capture::new(lab.web_ns());
    converse(&lab);
    assert!(capture.end().holds(MARKER), "the capture misses what is there");
    let class = ["bulkhead_flow_classes_total", "from_zone=\"web\"", "to_zone=\"db\"", "tls=\"mutual\""];
    Lab::wait_metric(lab.near(), &class);
    Lab::wait_counted(lab.near(), &Pair::new("web", "db", "allow", "attested"));
    let text = lab.near().metrics().unwrap();
    assert!(metric(&text, &["bulkhead_proxy_connections_total"]).is_none(), "{text}");
}

/// Each end may end first, and both see the other's true address, in both families.
#[test]
fn addresses_are_true_and_each_end_may_end_first() {
    require_python!();
    let lab = Lab::two_nodes();
    let server = lab.serve(&python("mutual/python/halves.py").and(["serve", &HALVES.to_string()]), &[HALVES]);
    for (address, client) in FAMILIES {
        for first in ["client", "server"] {
            let ask =
                python("mutual/python/halves.py").and(["ask", address, &HALVES.to_string(), first, MARKER]);
            let said = lab.ask(&ask);
            assert!(said.succeeded(), "{first} first, {address}: {:?} {}", said.status, said.errors);
            let text = String::from_utf8(said.output.clone()).unwrap();
            assert!(text.contains(&format!("peer {address} {HALVES} own {client} ")), "{text}");
            let own = text.split("own ").nth(1).unwrap().lines().next().unwrap();
            // IPv4 comes to a socket of both families in its mapped form; the port is what the program chose
            // or the proxy did.
            let seen = text.split("seen as ").nth(1).unwrap().trim().replace("::ffff:", "");
            assert_eq!(seen.split(' ').next(), own.split(' ').next(), "{text}");
            if let Some(sent) = text.split("sent ").nth(1) {
                let sent = sent.lines().next().unwrap();
                let took = || server.errors().contains(sent);
                wait_until(SOON, "the server took all of it", took).unwrap();
            }
        }
    }
}

/// Ten thousand short connections, one after the other and beside each other.
#[test]
fn ten_thousand_short_connections_are_all_answered() {
    require_python!();
    let lab = Lab::two_nodes();
    let _server = storm::serve(&lab);
    let capture = Capture::new(lab.web_ns());
    let storm = lab.begin(&storm::ask(DB, COUNT, 16, Duration::ZERO));
    let storm = Storm::read(&storm.wait_ended(5 * SOON).unwrap());
    eprintln!("{storm:?}");
    assert!(storm.is_whole(), "{storm:?}");
    assert_eq!(storm.answered(), u64::from(COUNT));
    capture.end().is_mutual_tls_only(&[storm::MARKER]);
    let edge = ["bulkhead_proxy_connections_total", "from_zone=\"web\"", "to_zone=\"db\"", "inbound"];
    assert!(Lab::wait_metric(lab.far(), &edge) >= 1.0);
    wait_until(SOON, "all are counted", || {
        metric(&lab.far().metrics().unwrap(), &edge) == Some(f64::from(COUNT))
    })
    .unwrap();
}

const COUNT: u32 = 10_000;

fn nginx() -> Launch {
    let config = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;\n\
         uwsgi_temp_path t4; scgi_temp_path t5;\n\
         server {{ listen {HTTP}; listen [::]:{HTTP}; location / {{ return 200 \"{MARKER} seen $remote_addr.\"; }} }} }}\n"
    );
    Launch::new(["nginx", "-p", "./", "-e", "stderr", "-c", "nginx.conf"]).file("nginx.conf", config)
}

pub(crate) fn postgresql() -> Launch {
    let script = format!(
        "set -- /usr/lib/postgresql/*/bin && bin=$1 && mkdir data && chown postgres data && \
         as='setpriv --reuid=postgres --regid=postgres --clear-groups' && \
         $as $bin/initdb --pgdata=data --auth=trust --no-sync --no-instructions --locale=C >&2 && \
         echo 'host all all all trust' >>data/pg_hba.conf && \
         exec $as $bin/postgres -D data -p {POSTGRESQL} -h 0.0.0.0 -k '' -c fsync=off"
    );
    Launch::new(["sh", "-c", &script])
}

/// A client of it, that takes its commands from its input.
pub(crate) fn psql() -> Launch {
    Launch::new(["psql", "--no-psqlrc", "--no-align", "--tuples-only", "--file=-"]).and([format!(
        "host={DB} port={POSTGRESQL} user=postgres dbname=postgres sslmode=disable gssencmode=disable"
    )])
}

pub(crate) fn redis() -> Launch {
    Launch::new(["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""])
        .and(["--port", &REDIS.to_string()])
}
