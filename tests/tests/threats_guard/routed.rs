//! A node that routes for others: between two machines that are in no zone everything passes as it is, whatever it
//! is, and leaves nothing.

use bulkhead_tests::harness::packet::{Ip, Tcp, flags, protocol};
use bulkhead_tests::harness::threat::{Lab, OUTSIDE, OUTSIDE6, SPARE, SPARE6, Try};
use bulkhead_tests::harness::{Agent, Peer};
use bulkhead_tests::require_agent;

use crate::lab::{guarding, policy};

/// Packets between two machines, of which many are nobody's idea of a beginning.
fn packets(src: &str, dst: &str) -> Vec<(&'static str, Vec<u8>)> {
    let ip = || Ip::new(src, dst);
    let v6 = ip().is_v6();
    let segment = |flags: u8, data: &[u8]| ip().tcp(4000, 5000, Tcp { flags, ..Tcp::default() }, data);
    let part = |offset: u16, more: bool| {
        let payload = ip().udp_payload(4000, 5000, b"the first half, the second");
        let range = if more { &payload[..16] } else { &payload[16..] };
        ip().fragment(7, offset, more).carry(protocol::UDP, range)
    };
    let unreachable = ip().unreachable(&Ip::new(dst, src).udp(1, 2, b"never sent"), b"more of it");
    let mut all = vec![
        ("a datagram", ip().udp(4000, 5000, b"hello")),
        ("a SYN", segment(flags::SYN, b"")),
        ("a SYN with data", segment(flags::SYN, b"early")),
        ("a SYN-ACK", segment(flags::SYN | flags::ACK, b"")),
        ("data in the middle of a stream", segment(flags::ACK, b"more")),
        ("a reset with data", segment(flags::RST, b"and more")),
        ("a later fragment", part(16, false)),
        ("a first fragment", part(0, true)),
        ("GRE", ip().carry(protocol::GRE, b"\0\0\x08\0whatever")),
        ("SCTP", ip().carry(protocol::SCTP, &[0x0f, 0xa0, 0x13, 0x88, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("a protocol for experiments", ip().carry(protocol::EXPERIMENT, b"whatever it is")),
        ("a ping", ip().echo(false, 7, b"question")),
        ("a reply to none", ip().echo(true, 8, b"an answer")),
        ("an error about nothing", unreachable),
    ];
    if v6 {
        let chain = (0..8).fold(ip(), |ip, _| ip.extension(protocol::DESTINATION, &[1, 4, 0, 0, 0, 0]));
        all.push(("a long chain of headers", chain.udp(4000, 5000, b"behind them")));
    } else {
        all.push(("options", ip().options(&[7, 7, 4, 0, 0, 0, 0]).udp(4000, 5000, b"recorded")));
    }
    all
}

/// What does not come through.
fn lost(lab: &Lab, machine: &Peer, number: u16) -> Vec<String> {
    let run = Try::by_hand(lab, number);
    let mut lost = Vec::new();
    for (here, there) in [(OUTSIDE, SPARE), (OUTSIDE6, SPARE6)] {
        for (from, to, src, dst) in
            [(&lab.outside, machine, here, there), (machine, &lab.outside, there, here)]
        {
            for (name, packet) in packets(src, dst) {
                if !run.crosses(from, to, &[packet]).unwrap() {
                    lost.push(format!("{name} from {src} to {dst}"));
                }
            }
        }
    }
    lost
}

#[test]
fn row_29_a_node_that_routes_for_others_is_in_nobodys_way() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let machine = Peer::spawn(Some(lab.ns("spare").unwrap()), Some(&lab.elsewhere)).unwrap();
    let without = lost(&lab, &machine, 0);
    let agent = guarding(Agent::prepare(&lab.root, &policy()).in_ns(lab.node().unwrap())).start().unwrap();
    let before = agent.counters().unwrap();
    // A router's own stack may refuse some of it by itself.
    assert_eq!(lost(&lab, &machine, 1), without);
    assert!(without.len() < 8, "{without:?}");
    let moved = agent.counters().unwrap().since(&before);
    assert_eq!(moved.iter().count(), 0, "{moved:?}");
    let maps = agent.reader().unwrap();
    let kept = [maps.maps().transit.entries().unwrap().len(), maps.maps().fragments.entries().unwrap().len()];
    assert_eq!(kept, [0, 0]);
}
