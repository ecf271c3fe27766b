//! Row 29: addresses that are nobody's, nobody's own, or everybody's: judged by who really talks to whom.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use bulkhead_tests::harness::threat::{Case, DB, HOST, Lab, Threat, Try, WEB, WEB_AND_DB, at};
use bulkhead_tests::harness::{Dial, Kind, Peer, Serve, wait_until};
use bulkhead_tests::require_agent;

use super::lab::{OPEN, SHUT, guarding, lab};

/// Virtual addresses: translated to `db`; the same with the source masked; to `web` itself, masked.
const PLAIN: &str = "10.99.200.1";
const MASKED: &str = "10.99.200.2";
const HAIRPIN: &str = "10.99.200.3";

/// A node that translates as kube-proxy's nftables mode does.
fn translating() -> Lab {
    let lab = lab();
    let rules = format!(
        "table ip service {{\n\
         chain pre {{\n type nat hook prerouting priority dstnat;\n\
         ip daddr {{ {PLAIN}, {MASKED} }} dnat to {DB}\n\
         ip daddr {HAIRPIN} dnat to {WEB}\n\
         iifname port2 ip daddr {HOST} udp dport 7000-9999 dnat to {DB}\n }}\n\
         chain out {{\n type nat hook output priority -100;\n ip daddr {PLAIN} dnat to {DB}\n }}\n\
         chain post {{\n type nat hook postrouting priority srcnat;\n\
         ct original ip daddr {{ {MASKED}, {HAIRPIN} }} masquerade\n }}\n}}\n"
    );
    lab.node().unwrap().ip("route add 10.99.200.0/24 dev port2").unwrap();
    let mut nft = lab.node().unwrap().command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
    lab
}

fn policy(extra: &str) -> String {
    let last = OPEN + 99;
    let ports = format!("ports = [\"udp/{OPEN}-{last}\", \"tcp/{OPEN}-{last}\"]\n");
    format!(
        "{WEB_AND_DB}{extra}[virtual]\ncidrs = [\"10.99.200.0/24\"]\n\
         [[allow]]\nfrom = [\"web\", \"node\", \"world\"]\nto = \"db\"\n{ports}"
    )
}

/// A connection to `to`; whether the program that listens at the same port of `receiver` got it.
fn connection(run: &Try<'_>, from: &Peer, receiver: &Peer, to: &str, port: u16) -> anyhow::Result<bool> {
    let server = receiver.listen(Kind::Tcp, at("0.0.0.0", port), Serve::Echo)?;
    let client = from.connect(&Dial::tcp(at(to, port)).within(run.patience));
    let limit = if client.is_ok() { run.patience } else { Duration::ZERO };
    let accepted = || receiver.served(&server).is_ok_and(|served| served.accepted > 0);
    let served = wait_until(limit, "the program gets the connection", accepted).is_ok();
    if let Ok(client) = client {
        from.close(&client)?;
    }
    receiver.close(&server)?;
    Ok(served)
}

#[test]
fn row_29_a_virtual_address_is_judged_by_who_really_receives() {
    require_agent!();
    let lab = translating();
    let mut threat = Threat::new(&policy("")).setup(guarding);
    for (how, service) in [("", PLAIN), (", behind a mask", MASKED)] {
        threat = threat
            .case(
                Case::new(&format!("a datagram{how}"))
                    .attempt(move |run| run.datagram(&run.lab.web, &run.lab.db, at(service, run.port(SHUT))))
                    .twin(move |run| run.datagram(&run.lab.web, &run.lab.db, at(service, run.port(OPEN))))
                    .counts("web", "db", "deny", "default", 1),
            )
            .case(
                Case::new(&format!("a connection{how}"))
                    .attempt(move |run| connection(run, &run.lab.web, &run.lab.db, service, run.port(SHUT)))
                    .twin(move |run| connection(run, &run.lab.web, &run.lab.db, service, run.port(OPEN)))
                    .counts("web", "db", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_29_a_hairpin_is_judged_by_who_really_receives() {
    require_agent!();
    let lab = translating();
    // Somebody else in web's own namespace, who receives what web sends to the service.
    let side = lab.spawn("web", "api").unwrap();
    let zone = "[zone.api]\ncgroups = [\"api\"]\n";
    let last = OPEN + 99;
    let allow =
        format!("[[allow]]\nfrom = \"web\"\nto = [\"api\", \"web\"]\nports = [\"udp/{OPEN}-{last}\"]\n");
    // The receiver's address is in `web`, its cgroup in `api`: it is in both, and `web` isolates itself.
    let policy = policy(zone).replacen("[zone.web]\n", "[zone.web]\nisolated = true\n", 1) + &allow;
    Threat::new(&policy)
        .setup(guarding)
        .case(
            Case::new("back into the namespace that it came from")
                .attempt(|run| run.datagram(&run.lab.web, &side, at(HAIRPIN, run.port(SHUT))))
                .twin(|run| run.datagram(&run.lab.web, &side, at(HAIRPIN, run.port(OPEN))))
                .counts("web", "api+web", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_29_node_ports_the_node_itself_and_loopback() {
    require_agent!();
    let lab = translating();
    let system = lab.spawn("node", "system").unwrap();
    let side = lab.spawn("web", "db/side").unwrap();
    Threat::new(&policy(""))
        .setup(guarding)
        .case(
            Case::new("a node port, from outside")
                .attempt(|run| run.datagram(&run.lab.outside, &run.lab.db, at(HOST, run.port(SHUT))))
                .twin(|run| run.datagram(&run.lab.outside, &run.lab.db, at(HOST, run.port(OPEN))))
                .counts("world", "db", "deny", "default", 1),
        )
        .case(
            Case::new("the node to a workload")
                .attempt(|run| run.datagram(&system, &run.lab.db, at(DB, run.port(SHUT))))
                .twin(|run| run.datagram(&system, &run.lab.db, at(DB, run.port(OPEN))))
                .counts("node", "db", "deny", "default", 1),
        )
        .case(
            Case::new("the node to a virtual address")
                .attempt(|run| run.datagram(&system, &run.lab.db, at(PLAIN, run.port(SHUT))))
                .twin(|run| run.datagram(&system, &run.lab.db, at(PLAIN, run.port(OPEN))))
                .counts("node", "db", "deny", "default", 1),
        )
        .case(
            Case::new("loopback, to another workload in the same namespace")
                .attempt(|run| run.datagram(&run.lab.web, &side, at("127.0.0.1", run.port(SHUT))))
                .twin(|run| run.datagram(&run.lab.web, &side, at("127.0.0.1", run.port(OPEN))))
                .counts("web", "db", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}
