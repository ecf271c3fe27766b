//! What kernels answer by themselves, without a socket, on its way through the guard: it is heard where the
//! flow that it answers may be, and only there. The agent is not above everything here, so no socket layer
//! sees it.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bulkhead_tests::harness::threat::{
    Case, DB, DB6, HOST, HOST6, Lab, Threat, Try, WEB, WEB_AND_DB, WEB6, at, heard,
};
use bulkhead_tests::harness::{Agent, CallError, Dial, Errno, Kind, Ns, Peer, Serve, wait_until};
use bulkhead_tests::require_agent;

use crate::acts::{By, answers, arrives, guarded};
use crate::lab::guarding;

const OPEN: u16 = 7000;
const LONG: Duration = Duration::from_secs(20);

/// `db` may be asked by everybody, and `web` ask the node: by ping, and by these protocols.
fn policy(more: &str) -> String {
    let rule = |from: &str, to: &str| {
        format!("[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nports = [\"icmp/echo\"{more}]\n")
    };
    let rules =
        [("web", "db"), ("world", "db"), ("node", "db"), ("web", "node")].map(|(from, to)| rule(from, to));
    format!("{WEB_AND_DB}{}", rules.concat())
}

pub(crate) fn pings(run: &Try<'_>, from: &Peer, to: &str, size: usize) -> Result<bool> {
    heard(from.ping_of(to.parse()?, size, run.patience))
}

#[test]
fn row_10_a_ping_is_answered_where_a_rule_says_so() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let host = lab.spawn("node", "host").unwrap();
    let host = &host;
    let mut threat = guarded(&policy(""));
    // The larger one and its answer come in fragments.
    for size in [8, 3000] {
        for (web, db, node) in [(WEB, DB, HOST), (WEB6, DB6, HOST6)] {
            let rest = if size == 8 { None } else { Some(("web", "fragment")) };
            let from_outside = Case::new(&format!("from outside, {size} bytes, to {web}"))
                .attempt(move |run| {
                    if let Some((zone, reason)) = rest {
                        run.counts(zone, "world", "deny", reason, 1);
                    }
                    pings(run, &run.lab.outside, web, size)
                })
                .twin(move |run| pings(run, &run.lab.outside, db, size))
                .counts("world", "web", "deny", "default", 1);
            let from_the_node = Case::new(&format!("from the node, {size} bytes, to {web}"))
                .attempt(move |run| pings(run, host, web, size))
                .twin(move |run| pings(run, host, db, size))
                // Where it begins nobody is seen who would receive it.
                .counts("node", "web", "allow", "open", 1)
                .counts("node", "web", "deny", "default", 1);
            let between = Case::new(&format!("between workloads, {size} bytes, to {db}"))
                .attempt(move |run| pings(run, &run.lab.db, web, size))
                .twin(move |run| pings(run, &run.lab.web, db, size))
                .counts("db", "web", "deny", "default", 1);
            let to_the_node = Case::new(&format!("to the node, {size} bytes, at {node}"))
                .attempt(move |run| pings(run, &run.lab.db, node, size))
                .twin(move |run| pings(run, &run.lab.web, node, size))
                .counts("db", "node", "deny", "default", 1);
            threat = threat.case(from_outside).case(from_the_node).case(between).case(to_the_node);
        }
    }
    threat.run(&lab).unwrap();
}

/// Whether a program hears that nobody is at a port.
pub(crate) fn is_told(run: &Try<'_>, from: &Peer, to: SocketAddr) -> Result<bool> {
    let socket = match from.connect(&Dial::udp(to)) {
        Ok(socket) => socket,
        Err(error) => return heard::<()>(Err(error)),
    };
    heard(from.send(&socket, b"anybody?", None))?;
    let told = match from.recv(&socket, run.patience) {
        Err(CallError::Os { errno: Errno::CONNREFUSED, .. }) => true,
        other => heard(other)?,
    };
    from.close(&socket)?;
    Ok(told)
}

#[test]
fn row_10_who_may_ask_hears_that_nobody_is_there() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = guarded(&policy(", \"udp/7000-7099\""));
    for (web, db) in [(WEB, DB), (WEB6, DB6)] {
        threat = threat
            .case(
                Case::new(&format!("from outside, at {web}"))
                    .attempt(move |run| is_told(run, &run.lab.outside, at(web, run.port(OPEN))))
                    .twin(move |run| is_told(run, &run.lab.outside, at(db, run.port(OPEN))))
                    .counts("web", "world", "deny", "icmp-error", 1),
            )
            .case(
                Case::new(&format!("between workloads, at {db}"))
                    .attempt(move |run| is_told(run, &run.lab.db, at(web, run.port(OPEN))))
                    .twin(move |run| is_told(run, &run.lab.web, at(db, run.port(OPEN))))
                    .counts("db", "web", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
}

/// Under a flood of SYNs the kernel answers them without a socket.
#[test]
fn row_14_a_connection_that_a_syn_cookie_accepts_is_one() {
    require_agent!();
    let lab = Lab::new().unwrap();
    for name in ["web", "db"] {
        lab.ns(name).unwrap().sysctl("ipv4/tcp_syncookies", "2").unwrap();
    }
    let mut threat: Threat<'_> = guarded(&policy(", \"tcp/7000-7099\""));
    for (web, db) in [(WEB, DB), (WEB6, DB6)] {
        let tcp = By::Tcp;
        threat = threat
            .case(
                Case::new(&format!("from outside, to {web}"))
                    .attempt(move |run| {
                        arrives(run, tcp, &run.lab.outside, &run.lab.web, at(web, run.port(OPEN)))
                    })
                    .twin(move |run| answers(run, tcp, &run.lab.outside, &run.lab.db, at(db, run.port(OPEN))))
                    .counts("world", "web", "deny", "default", 1),
            )
            .case(
                Case::new(&format!("between workloads, to {db}"))
                    .attempt(move |run| arrives(run, tcp, &run.lab.db, &run.lab.web, at(web, run.port(OPEN))))
                    .twin(move |run| answers(run, tcp, &run.lab.web, &run.lab.db, at(db, run.port(OPEN))))
                    .counts("db", "web", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
    assert!(cookies(lab.ns("db").unwrap()) >= 4, "the kernel did send cookies");
}

/// How many SYN cookies a namespace has sent.
pub(crate) fn cookies(ns: &Ns) -> u64 {
    let text = ns.enter(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap().unwrap();
    let mut rows = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "SyncookiesSent").unwrap().1.parse().unwrap()
}

/// Whoever closes first has no socket any more when the other one does: its kernel acknowledges that.
#[test]
fn row_13_a_connection_that_both_ends_close_is_over_at_both() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let setup = Agent::prepare(&lab.root, &policy(&format!(", \"tcp/{OPEN}\""))).in_ns(lab.node().unwrap());
    let agent = guarding(setup).start().unwrap();
    let before = agent.counters().unwrap();
    for db in [DB, DB6] {
        for (name, client) in [("web", &lab.web), ("outside", &lab.outside)] {
            let spaces = [lab.ns(name).unwrap(), lab.ns("db").unwrap()];
            closes(client, (&lab.db, at(db, OPEN)), spaces);
        }
    }
    let moved = agent.counters().unwrap().since(&before);
    assert!(moved.iter().all(|(pair, _)| pair.verdict == "allow"), "{moved:?}");
}

/// Opens connections that are closed in order, by either end first, and waits until they are over in the
/// namespaces of both.
pub(crate) fn closes(client: &Peer, (server, to): (&Peer, SocketAddr), spaces: [&Ns; 2]) {
    for client_first in [true, false] {
        let listener = server.listen(Kind::Tcp, to, Serve::Hold).unwrap();
        let socket = client.connect(&Dial::tcp(to)).unwrap();
        let accepted = server.accept(&listener, LONG).unwrap();
        let ends = [(client, &socket), (server, &accepted)];
        let [first, second] = if client_first { ends } else { [ends[1], ends[0]] };
        first.0.close(first.1).unwrap();
        second.0.ended(second.1, LONG).unwrap();
        second.0.close(second.1).unwrap();
        server.close(&listener).unwrap();
        for ns in spaces {
            let what = format!("{to}, {}: nobody waits for a last word", ns.name());
            wait_until(LONG, &what, || !awaits_last_word(ns)).unwrap();
        }
    }
}

/// Whether a namespace has a connection in LAST_ACK: closed by both, and its end not acknowledged.
fn awaits_last_word(ns: &Ns) -> bool {
    let is_it = |line: &str| line.split_whitespace().nth(3) == Some("09");
    ["tcp", "tcp6"].into_iter().any(|table| {
        let path = format!("/proc/thread-self/net/{table}");
        ns.enter(|| fs::read_to_string(path)).unwrap().unwrap().lines().any(is_it)
    })
}
