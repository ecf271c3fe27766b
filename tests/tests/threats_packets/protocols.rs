//! Rows 19, 21 and 31: protocols that nobody named, packets that no `connect` announced, and one protocol
//! inside another.

use bulkhead_tests::harness::packet::{Ip, Tcp, flags, protocol};
use bulkhead_tests::harness::threat::{Case, DB, DB6, Lab, Threat, Try, WEB, WEB_AND_DB, WEB6, at};
use bulkhead_tests::harness::{Agent, Dial, Pair};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT, open_ports};

/// Protocols beside TCP, UDP and ICMP, and how a rule names them.
const OTHERS: [(u8, &str); 9] = [
    (protocol::SCTP, "sctp"),
    (protocol::DCCP, "dccp"),
    (protocol::UDPLITE, "udplite"),
    (protocol::GRE, "proto/47"),
    (protocol::ESP, "proto/50"),
    (protocol::AH, "proto/51"),
    (protocol::IPIP, "proto/4"),
    (protocol::IPV6, "proto/41"),
    (protocol::EXPERIMENT, "proto/253"),
];

/// Ports and protocols of what is no packet of any of these: two ports, then what marks the try.
fn content(run: &Try<'_>) -> Vec<u8> {
    let [high, low] = run.port(OPEN).to_be_bytes();
    [&[0x0f, 0xa0, high, low][..], b"any protocol ", &run.number.to_be_bytes(), &[0; 16]].concat()
}

#[test]
fn row_19_leaving_by_a_protocol_that_no_rule_names_is_denied() {
    unknown_protocols(true, &[false]);
}

#[test]
fn row_19_leaving_by_ipv6_by_a_protocol_that_no_rule_names_is_denied() {
    unknown_protocols(true, &[true]);
}

#[test]
fn row_19_arriving_by_a_protocol_that_no_rule_names_is_denied() {
    unknown_protocols(false, &[false, true]);
}

/// A policy that is generous with the protocols that everybody knows, in the one direction, and names
/// the others in the other.
fn unknown_protocols(leaving: bool, families: &[bool]) {
    require_agent!();
    let lab = Lab::new().unwrap();
    let named: Vec<String> = OTHERS.iter().map(|(_, name)| format!("\"{name}\"")).collect();
    let known = "ports = [\"tcp/1-65535\", \"udp/1-65535\", \"icmp\"]";
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"world\"\n{known}\n\
         [[allow]]\nfrom = \"world\"\nto = \"db\"\n{known}\n\
         [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [{}]\n",
        named.join(", ")
    );
    let twin = |run: &Try<'_>, number: u8, v6: bool| {
        let ip = if v6 { Ip::new(WEB6, DB6) } else { Ip::new(WEB, DB) };
        run.crosses(&run.lab.web, &run.lab.db, &[ip.carry(number, &content(run))])
    };
    let mut threat = Threat::new(&policy);
    for &v6 in families {
        for (number, name) in OTHERS.into_iter().take(if leaving { 9 } else { 5 }) {
            let attempt = move |run: &Try<'_>| {
                let stranger = run.stranger(v6);
                if leaving {
                    let packet = Ip::new(if v6 { WEB6 } else { WEB }, &stranger).carry(number, &content(run));
                    return run.crosses(&run.lab.web, &run.lab.outside, &[packet]);
                }
                let packet = Ip::new(&stranger, if v6 { DB6 } else { DB }).carry(number, &content(run));
                run.at_raw_socket(&run.lab.db, (number, v6), &content(run), || {
                    bulkhead_tests::harness::threat::send_raw(&run.lab.outside, &[packet])
                })
            };
            let (from, to) = if leaving { ("web", "world") } else { ("world", "db") };
            // Those with ports have rules like TCP's; of the others only the number can be named.
            let reason = if name.starts_with("proto/") { "unknown-protocol" } else { "default" };
            threat = threat.case(
                Case::new(&format!("{name}, IPv{}", if v6 { 6 } else { 4 }))
                    .attempt(attempt)
                    .twin(move |run| twin(run, number, v6))
                    .counts(from, to, "deny", reason, 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_21_packets_of_ones_own_making_are_judged_like_all_others() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let syn = Tcp { flags: flags::SYN, seq: 1, ack: 0 };
    let mut threat = Threat::new(&open_ports());
    for v6 in [false, true] {
        let db = if v6 { DB6 } else { DB };
        let near = move || Ip::new(if v6 { WEB6 } else { WEB }, db);
        let far = move |run: &Try<'_>| Ip::new(if v6 { WEB6 } else { WEB }, &run.stranger(v6));
        let datagram = move |run: &Try<'_>, port: u16| {
            run.reaches(&run.lab.web, &run.lab.db, at(db, port), &[near().udp(4000, port, b"raw")])
        };
        let segment = move |run: &Try<'_>, port: u16| {
            run.crosses(&run.lab.web, &run.lab.outside, &[far(run).tcp(4000 + run.number, port, syn, b"")])
        };
        threat = threat
            .case(
                Case::new("a datagram to a workload of the node")
                    .attempt(move |run| datagram(run, run.port(SHUT)))
                    .twin(move |run| datagram(run, run.port(OPEN)))
                    .counts("web", "db", "deny", "default", 1),
            )
            .case(
                Case::new("a SYN to another machine")
                    .attempt(move |run| segment(run, run.port(SHUT)))
                    .twin(move |run| segment(run, run.port(OPEN)))
                    .counts("web", "world", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_31_a_rule_for_tcp_is_none_for_quic() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let last = OPEN + 99;
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"world\"\nports = [\"tcp/{OPEN}-{last}\"]\n\
         [[allow]]\nfrom = \"world\"\nto = \"db\"\nports = [\"tcp/{OPEN}-{last}\"]\n"
    );
    let out = |run: &Try<'_>| {
        run.connection(&run.lab.web, &run.lab.outside, &Dial::tcp(at(&run.stranger(false), run.port(OPEN))))
    };
    let inward =
        |run: &Try<'_>| run.connection(&run.lab.outside, &run.lab.db, &Dial::tcp(at(DB, run.port(OPEN))));
    Threat::new(&policy)
        .case(
            Case::new("leaving")
                .attempt(|run| {
                    run.datagram(&run.lab.web, &run.lab.outside, at(&run.stranger(false), run.port(OPEN)))
                })
                .twin(out)
                .counts("web", "world", "deny", "default", 1),
        )
        .case(
            Case::new("arriving")
                .attempt(|run| run.datagram(&run.lab.outside, &run.lab.db, at(DB, run.port(OPEN))))
                .twin(inward)
                .counts("world", "db", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_31_a_tunnel_is_judged_by_what_carries_it() {
    require_agent!();
    let lab = Lab::new().unwrap();
    // What is inside would be allowed by itself.
    let inner = |run: &Try<'_>| Ip::new(WEB, &run.stranger(false)).udp(4000, run.port(OPEN), b"inside");
    let vxlan = move |run: &Try<'_>| {
        let frame = bulkhead_tests::harness::packet::frame([2; 6], [4; 6], &inner(run));
        [&[8, 0, 0, 0, 0, 0, 7, 0][..], &frame].concat()
    };
    let by_udp = move |run: &Try<'_>, port: u16| {
        let to = run.stranger(false);
        let packet = Ip::new(WEB, &to).udp(4000, port, &vxlan(run));
        run.reaches(&run.lab.web, &run.lab.outside, at(&to, port), &[packet])
    };
    let carried = move |run: &Try<'_>, number: u8, head: &[u8]| {
        let packet = Ip::new(WEB, &run.stranger(false)).carry(number, &[head, &inner(run)].concat());
        run.crosses(&run.lab.web, &run.lab.outside, &[packet])
    };
    let plain = move |run: &Try<'_>| run.crosses(&run.lab.web, &run.lab.outside, &[inner(run)]);
    Threat::new(&open_ports())
        .case(
            Case::new("VXLAN")
                .attempt(move |run| by_udp(run, run.port(SHUT)))
                // In an allowed port it passes: the policy says ports, and this is one.
                .twin(move |run| by_udp(run, run.port(OPEN)))
                .counts("web", "world", "deny", "default", 1),
        )
        .case(
            Case::new("GRE")
                .attempt(move |run| carried(run, protocol::GRE, &[0, 0, 8, 0]))
                .twin(plain)
                .counts("web", "world", "deny", "unknown-protocol", 1),
        )
        .case(Case::new("IP in IP").attempt(move |run| carried(run, protocol::IPIP, &[])).twin(plain).counts(
            "web",
            "world",
            "deny",
            "unknown-protocol",
            1,
        ))
        .run(&lab)
        .unwrap();
}

#[test]
fn row_31_an_encryption_that_cannot_be_enforced_is_refused_at_load() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let agent = Agent::prepare(&lab.root, WEB_AND_DB).in_ns(lab.node().unwrap()).start().unwrap();
    let generation = agent.reader().unwrap().generation();
    let terminate = open_ports().replace("[[allow]]\n", "[[allow]]\ntls = \"terminate\"\n");
    let error = agent.apply(&terminate).unwrap_err().to_string();
    assert!(error.contains("tls"), "{error}");
    assert_eq!(agent.reader().unwrap().generation(), generation, "the last good policy stays");

    let before = agent.counters().unwrap();
    let dial = Dial::tcp(at(DB, OPEN));
    lab.db.tcp_echo(at(DB, OPEN)).unwrap();
    lab.web.connect(&dial).unwrap_err();
    let moved = agent.counters().unwrap().since(&before).flows();
    assert_eq!(moved, [(Pair::new("web", "db", "deny", "default"), 1)].into());
    agent.apply(&open_ports()).unwrap();
    lab.web.connect(&dial).unwrap();
}
