//! Rows 1, 2 and 3: fragments, which hide the ports from whoever looks at one packet.
//!
//! At the socket layer only a raw socket's are seen: an ordinary socket's packets are judged before they
//! are cut, and what comes by the wire after it was put together. Fragments on the wire are the guard's.

use bulkhead_tests::harness::packet::{Ip, Tcp, flags, protocol};
use bulkhead_tests::harness::threat::{Case, DB6, Lab, OUTSIDE6, Threat, Try, WEB, WEB6, at};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT, open_ports};

/// From `web` to an address of this try's own.
fn leaving(run: &Try<'_>, v6: bool) -> Ip {
    Ip::new(if v6 { WEB6 } else { WEB }, &run.stranger(v6))
}

/// A whole datagram by a raw socket, to an open port.
fn whole(run: &Try<'_>) -> anyhow::Result<bool> {
    let (to, port) = (run.stranger(false), run.port(OPEN));
    run.reaches(
        &run.lab.web,
        &run.lab.outside,
        at(&to, port),
        &[leaving(run, false).udp(4000, port, b"whole")],
    )
}

#[test]
fn row_01_a_first_fragment_too_short_for_its_ports_is_denied() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let segment = |run: &Try<'_>| {
        let header = Tcp { flags: flags::SYN, ..Tcp::default() };
        leaving(run, false).tcp_payload(4000, run.port(OPEN), header, &[], b"")
    };
    let first = |run: &Try<'_>, bytes: usize| {
        leaving(run, false).fragment(1, 0, true).carry(protocol::TCP, &segment(run)[..bytes])
    };
    Threat::new(&open_ports())
        .case(
            Case::new("ports without flags")
                .attempt(|run| run.crosses(&run.lab.web, &run.lab.outside, &[first(run, 8)]))
                .twin(whole)
                .counts("web", "world", "deny", "fragment", 1),
        )
        .case(
            Case::new("half of the ports")
                .attempt(|run| run.crosses(&run.lab.web, &run.lab.outside, &[first(run, 2)]))
                .twin(whole)
                .counts("web", "world", "deny", "fragment", 1),
        )
        .run(&lab)
        .unwrap();
}

/// A datagram to an open port in two fragments, which both carry `web`'s marker.
fn halves(run: &Try<'_>, v6: bool) -> [Vec<u8>; 2] {
    let ip = leaving(run, v6);
    let payload = ip.udp_payload(4000, run.port(OPEN), b"the first half, the second");
    let id = run.number + 1;
    let cut = |from: usize, to: usize, more: bool| {
        ip.clone().fragment(id, u16::try_from(from).unwrap(), more).carry(protocol::UDP, &payload[from..to])
    };
    [cut(0, 16, true), cut(16, payload.len(), false)]
}

#[test]
fn row_02_fragments_in_any_order_are_denied() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let to = |run: &Try<'_>, v6: bool| at(&run.stranger(v6), run.port(OPEN));
    let overlapping = |run: &Try<'_>| {
        let ip = leaving(run, false);
        let honest = ip.udp_payload(4000, run.port(OPEN), b"to an open port");
        let hidden = ip.udp_payload(4000, run.port(SHUT), b"to a closed one");
        let first = ip.clone().fragment(9, 0, true).carry(protocol::UDP, &honest[..16]);
        let over = ip.clone().fragment(9, 0, true).carry(protocol::UDP, &hidden[..16]);
        let inside = ip.clone().fragment(9, 8, true).carry(protocol::UDP, &hidden[8..16]);
        let last = ip.fragment(9, 16, false).carry(protocol::UDP, &hidden[16..]);
        vec![first, over, inside, last]
    };
    let mut threat = Threat::new(&open_ports());
    for v6 in [false, true] {
        let reaches = move |run: &Try<'_>, packets: &[Vec<u8>]| {
            run.reaches(&run.lab.web, &run.lab.outside, to(run, v6), packets)
        };
        let twin = move |run: &Try<'_>| {
            reaches(run, &[leaving(run, v6).udp(4000, run.port(OPEN), b"the first half, the second")])
        };
        threat = threat
            .case(
                Case::new("in order")
                    .attempt(move |run| reaches(run, &halves(run, v6)))
                    .twin(twin)
                    .counts("web", "world", "deny", "fragment", 1),
            )
            .case(
                Case::new("the later one first")
                    .attempt(move |run| {
                        let [first, later] = halves(run, v6);
                        reaches(run, &[later, first])
                    })
                    .twin(twin)
                    .counts("web", "world", "deny", "fragment", 1),
            )
            .case(
                Case::new("a later one alone")
                    .attempt(move |run| run.crosses(&run.lab.web, &run.lab.outside, &halves(run, v6)[1..]))
                    .twin(twin)
                    .counts("web", "world", "deny", "fragment", 1),
            );
    }
    threat
        .case(
            Case::new("overlapping")
                .attempt(|run| run.crosses(&run.lab.web, &run.lab.outside, &overlapping(run)))
                .twin(whole)
                .counts("web", "world", "deny", "fragment", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_03_an_atomic_fragment_is_judged_as_the_packet_that_it_is() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let out = |run: &Try<'_>, port: u16| {
        let to = at(&run.stranger(true), port);
        let packet = leaving(run, true).fragment(7, 0, false).udp(4000, port, b"atomic");
        run.reaches(&run.lab.web, &run.lab.outside, to, &[packet])
    };
    let inward = |run: &Try<'_>, port: u16| {
        let packet = Ip::new(OUTSIDE6, DB6).fragment(7, 0, false).udp(4000, port, b"atomic");
        run.reaches(&run.lab.outside, &run.lab.db, at(DB6, port), &[packet])
    };
    Threat::new(&open_ports())
        .case(
            Case::new("leaving")
                .attempt(move |run| out(run, run.port(SHUT)))
                .twin(move |run| out(run, run.port(OPEN)))
                .counts("web", "world", "deny", "default", 1),
        )
        .case(
            Case::new("arriving")
                .attempt(move |run| inward(run, run.port(SHUT)))
                .twin(move |run| inward(run, run.port(OPEN)))
                .counts("world", "db", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}
