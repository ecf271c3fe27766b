//! Rows 4 and 5: what stands between the IP header and the transport.

use bulkhead_tests::harness::packet::{Ip, protocol};
use bulkhead_tests::harness::threat::{Case, DB, DB6, Lab, Threat, Try, WEB, WEB6, at};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT, open_ports};

/// The longest chain that is followed to its end is shorter than this.
const TOO_LONG: usize = 8;

/// A datagram by a raw socket from `web` to the outside machine, dressed up.
fn out(run: &Try<'_>, v6: bool, port: u16, dress: impl Fn(Ip) -> Ip) -> anyhow::Result<bool> {
    let stranger = run.stranger(v6);
    let packet = dress(Ip::new(if v6 { WEB6 } else { WEB }, &stranger)).udp(4000, port, b"dressed up");
    run.reaches(&run.lab.web, &run.lab.outside, at(&stranger, port), &[packet])
}

/// The same from the outside machine to `db`.
fn inward(run: &Try<'_>, v6: bool, port: u16, dress: impl Fn(Ip) -> Ip) -> anyhow::Result<bool> {
    let to = if v6 { DB6 } else { DB };
    let packet = dress(Ip::new(&run.stranger(v6), to)).udp(4000, port, b"dressed up");
    run.reaches(&run.lab.outside, &run.lab.db, at(to, port), &[packet])
}

/// Destination options that say nothing, as often as told.
fn chain(headers: usize) -> impl Fn(Ip) -> Ip {
    move |ip| (0..headers).fold(ip, |ip, _| ip.extension(protocol::DESTINATION, &[1, 4, 0, 0, 0, 0]))
}

#[test]
fn row_04_behind_extension_headers_the_true_transport_is_judged() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&open_ports());
    for headers in [1, TOO_LONG - 1] {
        threat = threat
            .case(
                Case::new(&format!("{headers} of them, leaving"))
                    .attempt(move |run| out(run, true, run.port(SHUT), chain(headers)))
                    .twin(move |run| out(run, true, run.port(OPEN), chain(headers)))
                    .counts("web", "world", "deny", "default", 1),
            )
            .case(
                Case::new(&format!("{headers} of them, arriving"))
                    .attempt(move |run| inward(run, true, run.port(SHUT), chain(headers)))
                    .twin(move |run| inward(run, true, run.port(OPEN), chain(headers)))
                    .counts("world", "db", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_04_a_chain_that_is_not_followed_to_its_end_is_denied() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let lying = |ip: Ip| ip.extension(protocol::DESTINATION, &[1, 4, 0, 0, 0, 0]);
    let lie = move |run: &Try<'_>| {
        let mut packet =
            lying(Ip::new(WEB6, &run.stranger(true))).udp(4000, run.port(OPEN), b"longer than the packet");
        // The header says that it is 256 bytes longer than it is.
        packet[41] = 32;
        run.crosses(&run.lab.web, &run.lab.outside, &[packet])
    };
    Threat::new(&open_ports())
        .case(
            Case::new("too long, leaving")
                .attempt(|run| out(run, true, run.port(OPEN), chain(TOO_LONG)))
                .twin(|run| out(run, true, run.port(OPEN), chain(TOO_LONG - 1)))
                .counts("web", "world", "deny", "unparsable", 1),
        )
        .case(
            Case::new("too long, arriving")
                .attempt(|run| inward(run, true, run.port(OPEN), chain(TOO_LONG)))
                .twin(|run| inward(run, true, run.port(OPEN), chain(TOO_LONG - 1)))
                .counts("world", "db", "deny", "unparsable", 1),
        )
        .case(
            Case::new("a header that ends behind the packet")
                .attempt(lie)
                .twin(|run| out(run, true, run.port(OPEN), chain(1)))
                .counts("web", "world", "deny", "unparsable", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_05_ipv4_options_are_denied() {
    require_agent!();
    let lab = Lab::new().unwrap();
    // Routers and hosts drop source routes unless they are told not to.
    for machine in ["node", "db", "outside"] {
        for interface in ["all", "default", "eth0", "port0", "port1", "port2"] {
            let setting = format!("ipv4/conf/{interface}/accept_source_route");
            let _only_some_exist = lab.ns(machine).unwrap().sysctl(&setting, "1");
        }
    }
    let record_route = |ip: Ip| ip.options(&[7, 7, 4, 0, 0, 0, 0]);
    let nothing = |ip: Ip| ip.options(&[1, 1, 1, 1]);
    // A source route whose pointer is behind its end: the packet has arrived.
    let source_route = |ip: Ip| ip.options(&[131, 7, 8, 10, 99, 1, 1]);
    let mut threat = Threat::new(&open_ports());
    for (name, option) in [
        ("record route", &record_route as &dyn Fn(Ip) -> Ip),
        ("no operation", &nothing),
        ("loose source route", &source_route),
    ] {
        threat = threat
            .case(
                Case::new(&format!("{name}, leaving"))
                    .attempt(move |run| out(run, false, run.port(OPEN), option))
                    .twin(move |run| out(run, false, run.port(OPEN), |ip| ip))
                    .counts("web", "world", "deny", "ip-options", 1),
            )
            .case(
                Case::new(&format!("{name}, arriving"))
                    .attempt(move |run| inward(run, false, run.port(OPEN), option))
                    .twin(move |run| inward(run, false, run.port(OPEN), |ip| ip))
                    .counts("world", "db", "deny", "ip-options", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_05_ipv6_source_routes_are_denied() {
    require_agent!();
    let lab = Lab::new().unwrap();
    // Type 0, no segment left: the packet has arrived.
    let spent = |ip: Ip| ip.extension(protocol::ROUTING, &[0, 0, 0, 0, 0, 0]);
    // One segment left: the destination in the header is only a stop on the way.
    let onward = |kind: u8| {
        move |ip: Ip| {
            let mut body = vec![kind, 1, 0, 0, 0, 0];
            body.extend("fd00:99:2::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
            ip.extension(protocol::ROUTING, &body)
        }
    };
    let crossing = |run: &Try<'_>, kind: u8| {
        let packet = onward(kind)(Ip::new(WEB6, &run.stranger(true)));
        run.crosses(&run.lab.web, &run.lab.outside, &[packet.udp(4000, run.port(OPEN), b"onward")])
    };
    let plain = |run: &Try<'_>| out(run, true, run.port(OPEN), |ip| ip);
    let mut threat = Threat::new(&open_ports())
        .case(
            Case::new("type 0, leaving")
                .attempt(|run| out(run, true, run.port(OPEN), spent))
                .twin(plain)
                .counts("web", "world", "deny", "ip-options", 1),
        )
        .case(
            Case::new("type 0, arriving")
                .attempt(|run| inward(run, true, run.port(OPEN), spent))
                .twin(|run| inward(run, true, run.port(OPEN), |ip| ip))
                .counts("world", "db", "deny", "ip-options", 1),
        );
    // Types of RFC 5095, RFC 6275, RFC 6554, RFC 8754.
    for kind in [0, 2, 3, 4] {
        threat = threat.case(
            Case::new(&format!("type {kind} with a stop to go"))
                .attempt(move |run| crossing(run, kind))
                .twin(plain)
                .counts("web", "world", "deny", "ip-options", 1),
        );
    }
    threat.run(&lab).unwrap();
}
