//! Rows 6, 7 and 9: addresses that stand for others, and addresses that are nobody's.

use std::net::Ipv6Addr;

use bulkhead_tests::harness::packet::Ip;
use bulkhead_tests::harness::threat::{
    Case, DB, DB6, HOST, HOST6, Lab, Threat, Try, WEB, WEB_AND_DB, WEB6, at,
};
use bulkhead_tests::harness::{Dial, Kind, Peer};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT, open_ports, web_to_db};

#[test]
fn row_06_a_mapped_address_at_a_socket_is_the_ipv4_address() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let connect = |run: &Try<'_>, port: u16| {
        run.connection(&run.lab.web, &run.lab.db, &Dial::tcp(at(DB, port)).v6_socket())
    };
    let unconnected = |run: &Try<'_>, port: u16| {
        run.at_program(&run.lab.db, at(DB, port), || {
            let socket = run.lab.web.open(Kind::Udp, None, true)?;
            let _refused = run.lab.web.send(&socket, b"mapped", Some(at(DB, port)));
            Ok(run.lab.web.close(&socket)?)
        })
    };
    Threat::new(&open_ports())
        .case(
            Case::new("connect")
                .attempt(move |run| connect(run, run.port(SHUT)))
                .twin(move |run| connect(run, run.port(OPEN)))
                .counts("web", "db", "deny", "default", 1),
        )
        .case(
            Case::new("sendto")
                .attempt(move |run| unconnected(run, run.port(SHUT)))
                .twin(move |run| unconnected(run, run.port(OPEN)))
                .counts("web", "db", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_06_a_mapped_address_on_the_wire_is_denied() {
    require_agent!();
    let lab = Lab::new().unwrap();
    // The next machine's kernel refuses such packets too: what counts is that they left.
    let host = lab.spawn("node", "host").unwrap();
    let mapped = |address: &str| address.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().to_string();
    let leaves = |run: &Try<'_>, from: &str, to: &str| {
        run.crosses(&run.lab.web, &host, &[Ip::new(from, to).udp(4000, run.port(OPEN), b"mapped")])
    };
    Threat::new(&open_ports())
        .case(
            Case::new("source")
                .attempt(|run| leaves(run, &mapped(WEB), &run.stranger(true)))
                .twin(|run| leaves(run, WEB6, &run.stranger(true)))
                .counts("web", "world", "deny", "mapped-address", 1),
        )
        .case(
            Case::new("destination")
                .attempt(|run| leaves(run, WEB6, &mapped(&run.stranger(false))))
                .twin(|run| leaves(run, WEB6, &run.stranger(true)))
                .counts("web", "world", "deny", "mapped-address", 1),
        )
        .run(&lab)
        .unwrap();
}

/// `db`'s IPv4 address, and `web`'s, as they would be written in IPv6 by three ways of old.
const TRANSLATED: [(&str, &str, &str); 3] = [
    ("NAT64", "64:ff9b::10.99.2.1", "64:ff9b::10.99.1.1"),
    ("6to4", "2002:a63:201::1", "2002:a63:101::1"),
    ("IPv4-compatible", "::10.99.2.1", "::10.99.1.1"),
];

#[test]
fn row_07_an_embedded_ipv4_address_lends_no_rights() {
    require_agent!();
    let lab = Lab::new().unwrap();
    for (_, as_db, as_web) in TRANSLATED {
        for address in [as_db, as_web] {
            let address: Ipv6Addr = address.parse().unwrap();
            lab.net.ns("outside").unwrap().ip(&format!("addr add {address}/128 dev eth0 nodad")).unwrap();
            let route = format!("route add {address}/128 via fd00:99:9::1 dev port2");
            lab.node().unwrap().ip(&route).unwrap();
        }
    }
    let twin = |run: &Try<'_>| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(OPEN)));
    let mut threat = Threat::new(&web_to_db());
    for (name, as_db, as_web) in TRANSLATED {
        threat = threat
            .case(
                Case::new(&format!("{name}, towards what looks like db"))
                    .attempt(move |run| {
                        run.datagram(&run.lab.web, &run.lab.outside, at(as_db, run.port(OPEN)))
                    })
                    .twin(twin)
                    .counts("web", "world", "deny", "default", 1),
            )
            .case(
                Case::new(&format!("{name}, from what looks like web"))
                    .attempt(move |run| {
                        let packet = Ip::new(as_web, DB6).udp(4000, run.port(OPEN), b"translated");
                        run.reaches(&run.lab.outside, &run.lab.db, at(DB6, run.port(OPEN)), &[packet])
                    })
                    .twin(twin)
                    .counts("world", "db", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
}

/// Where cloud machines ask for their credentials.
const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];

#[test]
fn row_09_special_addresses_need_a_rule_like_all_others() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let host = lab.spawn("node", "host").unwrap();
    let node = lab.node().unwrap();
    node.ip(&format!("addr add {}/32 dev lo\naddr add {}/128 dev lo", METADATA[0], METADATA[1])).unwrap();
    node.ip("addr add fe80::1/64 dev port0 nodad").unwrap();
    let send = |run: &Try<'_>, to: &str, port: u16| {
        let from = if to.contains(':') { WEB6 } else { WEB };
        run.reaches(&run.lab.web, &host, at(to, port), &[Ip::new(from, to).udp(4000, port, b"special")])
    };
    let mut threat = Threat::new(&format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = [\"world\", \"node\"]\nports = [\"udp/{OPEN}-{}\"]\n",
        OPEN + 99
    ));
    for (to, zone) in [
        ("255.255.255.255", "world"),
        ("224.0.0.1", "world"),
        ("ff02::1", "world"),
        ("fe80::1", "node"),
        (HOST, "node"),
        (HOST6, "node"),
        (METADATA[0], "node"),
        (METADATA[1], "node"),
    ] {
        threat = threat.case(
            Case::new(to)
                .attempt(move |run| send(run, to, run.port(SHUT)))
                .twin(move |run| send(run, to, run.port(OPEN)))
                .counts("web", zone, "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_09_what_is_sent_to_many_needs_a_rule_at_each_receiver() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let host = lab.spawn("node", "host").unwrap();
    lab.node()
        .unwrap()
        .ip("route add 224.0.0.1/32 dev port1\nroute add 255.255.255.255/32 dev port1\n\
             route add multicast ff02::1/128 dev port1 table local metric 1")
        .unwrap();
    let send = |run: &Try<'_>, host: &Peer, to: &str, port: u16| {
        let from = if to.contains(':') { HOST6 } else { HOST };
        run.reaches(host, &run.lab.db, at(to, port), &[Ip::new(from, to).udp(4000, port, b"to many")])
    };
    let mut threat = Threat::new(&format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"node\"\nto = \"db\"\nports = [\"udp/{OPEN}-{}\"]\n",
        OPEN + 99
    ));
    for to in ["255.255.255.255", "224.0.0.1", "ff02::1"] {
        let host = &host;
        threat = threat.case(
            Case::new(to)
                .attempt(move |run| send(run, host, to, run.port(SHUT)))
                .twin(move |run| send(run, host, to, run.port(OPEN)))
                .counts("node", "db", "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}
