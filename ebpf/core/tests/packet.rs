//! The parser: strict, and never wrong in silence.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use bulkhead_abi::{Addr, Protocol, Reason};
use bulkhead_core::{
    host::{
        At, Node, Sock,
        wire::{ACK, FIN, RST, SYN, Wire, v4, v6},
    },
    packet::{self, Kind, Packet, Segment},
};
use common::{DB_ADDR, WEB_ADDR};

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;

fn parse(bytes: &[u8]) -> Packet {
    let (node, sock) = (Node::default(), Sock::none());
    packet::parse(&At::packet(&node, &sock, bytes))
}

fn parse_quoted(bytes: &[u8], transport: u32) -> Option<Packet> {
    let (node, sock) = (Node::default(), Sock::none());
    packet::parse_quoted(&At::packet(&node, &sock, bytes), transport)
}

fn wires() -> Vec<Wire> {
    let families = [(WEB_ADDR, DB_ADDR), (common::v6([1, 1]), common::v6([2, 1]))];
    let mut all = Vec::new();
    for (src, dst) in families {
        for protocol in [TCP, UDP, Protocol::SCTP, Protocol::DCCP, Protocol::UDPLITE, Protocol(47)] {
            all.push(Wire::new(protocol, (src, 1000), (dst, 80)));
        }
        let (icmp, echo) = if src.is_v4() { (Protocol::ICMP, 8) } else { (Protocol::ICMPV6, 128) };
        all.push(Wire::new(icmp, (src, 77), (dst, 77)).icmp(echo, 0));
    }
    all
}

fn malformed(bytes: &[u8]) -> Reason {
    match parse(bytes).kind {
        Kind::Malformed(reason) => reason,
        kind => panic!("{kind:?}"),
    }
}

#[test]
fn ends_and_ports_are_read_in_both_families() {
    for wire in wires() {
        let packet = parse(&wire.bytes());
        let context = format!("{wire:?} {packet:?}");
        assert_eq!(
            (packet.src, packet.dst, packet.protocol),
            (wire.src, wire.dst, wire.protocol),
            "{context}"
        );
        let ports = if wire.protocol == Protocol(47) { (0, 0) } else { (wire.src_port, wire.dst_port) };
        assert_eq!((packet.src_port, packet.dst_port), ports, "{context}");
        assert_eq!(packet.transport, if wire.src.is_v4() { 20 } else { 40 }, "{context}");
        assert!(!matches!(packet.kind, Kind::Malformed(_)), "{context}");
    }
}

#[test]
fn a_packet_that_ends_early_is_never_taken_for_another() {
    for wire in wires() {
        let whole = wire.bytes();
        for len in 0..whole.len() {
            assert_eq!(malformed(&whole[..len]), Reason::Unparsable, "{wire:?} cut at {len}");
        }
    }
}

#[test]
fn a_packet_whose_length_lies_small_shows_no_more_than_that() {
    // The same without the header's own length: as much as is read must be there.
    for wire in wires() {
        let whole = wire.bytes();
        let header = if wire.src.is_v4() { 20 } else { 40 };
        for len in header..whole.len() {
            let mut bytes = whole[..len].to_vec();
            let field = if wire.src.is_v4() { 2 } else { 4 };
            let told = if wire.src.is_v4() { len } else { len - 40 } as u16;
            bytes[field..field + 2].copy_from_slice(&told.to_be_bytes());
            let packet = parse(&bytes);
            if matches!(packet.kind, Kind::Malformed(_)) {
                continue;
            }
            assert_eq!((packet.src, packet.dst), (wire.src, wire.dst));
            let ports = if wire.protocol == Protocol(47) { (0, 0) } else { (wire.src_port, wire.dst_port) };
            assert_eq!((packet.src_port, packet.dst_port), ports, "{wire:?} cut at {len}");
            // What is needed of each header.
            let needed = match wire.protocol {
                TCP => 20,
                protocol if protocol.has_ports() => 4,
                protocol if protocol.is_icmp() => 8,
                _ => 0,
            };
            assert!(len - header >= needed, "{wire:?} cut at {len}");
        }
    }
}

#[test]
fn other_versions_and_short_headers_are_refused() {
    let mut bytes = Wire::new(UDP, (WEB_ADDR, 1), (DB_ADDR, 2)).payload(&[0; 64]).bytes();
    for first in [0x00, 0x15, 0x55, 0x75, 0xf5] {
        bytes[0] = first;
        assert_eq!(malformed(&bytes), Reason::Unparsable);
    }
    for words in 0..5 {
        bytes[0] = 0x40 | words;
        assert_eq!(malformed(&bytes), Reason::Unparsable, "a header of {words} words");
    }
    bytes[0] = 0x45;
    // Shorter than its own header, longer than the packet, and the 0 of a packet above 64 KiB.
    for (total, fine) in [(19, false), (93, false), (92, true), (28, true), (0, true)] {
        bytes[2..4].copy_from_slice(&u16::to_be_bytes(total));
        assert_eq!(parse(&bytes).kind == Kind::Datagram, fine, "{total}");
    }
}

#[test]
fn ipv4_options_are_refused_with_their_own_reason() {
    let transport = Wire::new(UDP, (WEB_ADDR, 1), (DB_ADDR, 2)).transport();
    for words in 1..=10 {
        let mut bytes = v4(WEB_ADDR, DB_ADDR, UDP, &vec![1; 4 * words], transport.len());
        bytes.extend(&transport);
        assert_eq!(malformed(&bytes), Reason::IpOptions);
        assert_eq!(parse(&bytes).src, WEB_ADDR, "what was read is there");
    }
}

#[test]
fn ipv4_fragments_are_refused_and_whole_packets_are_not() {
    for (flags, offset, fragment) in [
        (0x00, 0, false),
        (0x40, 0, false),
        (0x20, 0, true),
        (0x00, 1, true),
        (0x1f, 0xff, true),
        (0x01, 0, true),
    ] {
        let mut bytes = Wire::new(UDP, (WEB_ADDR, 1), (DB_ADDR, 2)).bytes();
        (bytes[6], bytes[7]) = (flags, offset);
        match parse(&bytes).kind {
            Kind::Malformed(Reason::Fragment) => assert!(fragment, "{flags:x} {offset}"),
            kind => assert!(kind == Kind::Datagram && !fragment, "{flags:x} {offset}: {kind:?}"),
        }
    }
}

/// An IPv6 UDP packet behind these extension headers: number, length field, third byte, fourth byte.
fn extended(headers: &[(u8, u8, u8, u8)]) -> Vec<u8> {
    let wire = Wire::new(UDP, (common::v6([1, 1]), 1000), (common::v6([2, 1]), 80));
    let nexts: Vec<u8> = headers.iter().map(|header| header.0).chain([UDP.0]).collect();
    let mut chain = Vec::new();
    for ((_, len, third, fourth), next) in headers.iter().zip(&nexts[1..]) {
        chain.extend([*next, *len, *third, *fourth]);
        chain.resize(chain.len() + 4 + 8 * usize::from(*len), 0);
    }
    let mut bytes = v6(wire.src, wire.dst, nexts[0], chain.len() + 8);
    bytes.extend(chain);
    bytes.extend(wire.transport());
    bytes
}

#[test]
fn extension_headers_are_looked_through() {
    for headers in [
        &[(0, 0, 0, 0)][..],
        &[(60, 3, 0, 0)],
        &[(0, 1, 0, 0), (43, 2, 4, 0), (60, 0, 0, 0), (135, 0, 0, 0), (139, 0, 0, 0), (140, 2, 0, 0)],
        &[(0, 0, 0, 0); 7],
    ] {
        let bytes = extended(headers);
        let packet = parse(&bytes);
        assert_eq!((packet.kind, packet.protocol), (Kind::Datagram, UDP), "{headers:?}");
        assert_eq!((packet.src_port, packet.dst_port), (1000, 80), "{headers:?}");
        assert_eq!(packet.transport as usize, bytes.len() - 8, "{headers:?}");
        for len in 0..bytes.len() {
            assert_eq!(malformed(&bytes[..len]), Reason::Unparsable, "{headers:?} cut at {len}");
        }
    }
}

#[test]
fn a_chain_that_is_too_long_is_refused() {
    assert_eq!(parse(&extended(&[(60, 0, 0, 0); 7])).kind, Kind::Datagram);
    assert_eq!(malformed(&extended(&[(60, 0, 0, 0); 8])), Reason::Unparsable);
    assert_eq!(malformed(&extended(&[(60, 0, 0, 0); 30])), Reason::Unparsable);
}

#[test]
fn source_routes_are_refused_and_other_routing_headers_are_not() {
    assert_eq!(malformed(&extended(&[(43, 0, 0, 0)])), Reason::IpOptions);
    assert_eq!(malformed(&extended(&[(0, 0, 0, 0), (43, 2, 0, 1)])), Reason::IpOptions);
    assert_eq!(malformed(&extended(&[(43, 2, 4, 1)])), Reason::IpOptions, "a stop to go");
    assert_eq!(parse(&extended(&[(43, 2, 4, 0)])).kind, Kind::Datagram, "it has arrived");
}

#[test]
fn only_atomic_ipv6_fragments_are_whole_packets() {
    assert_eq!(parse(&extended(&[(44, 0, 0, 0)])).kind, Kind::Datagram);
    // Two bits of the field are reserved.
    assert_eq!(parse(&extended(&[(44, 0, 0, 6)])).kind, Kind::Datagram);
    for (third, fourth) in [(0, 1), (0, 8), (1, 0), (0xff, 0xf8)] {
        assert_eq!(malformed(&extended(&[(44, 0, third, fourth)])), Reason::Fragment, "{third:x} {fourth:x}");
    }
    assert_eq!(malformed(&extended(&[(44, 1, 0, 0)])), Reason::Fragment, "a length that is none");
}

#[test]
fn mapped_addresses_have_no_place_on_the_wire() {
    let (plain, mapped) = (common::v6([1, 1]), WEB_ADDR);
    for (src, dst) in [(plain, mapped), (mapped, plain), (mapped, mapped)] {
        let mut bytes = v6(src, dst, UDP.0, 8);
        bytes.extend(Wire::new(UDP, (src, 1), (dst, 2)).transport());
        assert_eq!(malformed(&bytes), Reason::MappedAddress);
    }
}

#[test]
fn ipv6_lengths_may_be_zero_but_never_too_long() {
    let mut bytes = Wire::new(UDP, (common::v6([1, 1]), 1), (common::v6([2, 1]), 2)).bytes();
    for (payload, fine) in [(0, true), (8, true), (9, false), (65535, false)] {
        bytes[4..6].copy_from_slice(&u16::to_be_bytes(payload));
        assert_eq!(parse(&bytes).kind == Kind::Datagram, fine, "{payload}");
    }
}

#[test]
fn tcp_flags_say_what_a_segment_does() {
    let none = Segment { opens: false, accepts: false, finishes: false, resets: false };
    for (flags, expected) in [
        (0, none),
        (ACK, none),
        (SYN, Segment { opens: true, ..none }),
        (SYN | ACK, Segment { accepts: true, ..none }),
        (FIN, Segment { finishes: true, ..none }),
        (FIN | ACK, Segment { finishes: true, ..none }),
        (RST, Segment { resets: true, ..none }),
        (RST | ACK, Segment { resets: true, ..none }),
        // No honest stack sends these; neither may pass as a mere reset.
        (SYN | RST, Segment { opens: true, ..none }),
        (SYN | ACK | RST, Segment { accepts: true, ..none }),
        (SYN | FIN, Segment { opens: true, finishes: true, ..none }),
    ] {
        for (src, dst) in [(WEB_ADDR, DB_ADDR), (common::v6([1, 1]), common::v6([2, 1]))] {
            let wire = Wire::new(TCP, (src, 1), (dst, 2)).flags(flags);
            assert_eq!(parse(&wire.bytes()).kind, Kind::Segment(expected), "{flags:x}");
        }
    }
}

#[test]
fn a_reset_with_data_is_no_mere_reset() {
    let wire = Wire::new(TCP, (WEB_ADDR, 1), (DB_ADDR, 2)).flags(RST).payload(b"secret");
    let Kind::Segment(segment) = parse(&wire.bytes()).kind else { panic!() };
    assert!(!segment.resets);
}

#[test]
fn tcp_headers_lie_within_the_packet() {
    let wire = Wire::new(TCP, (WEB_ADDR, 1), (DB_ADDR, 2)).payload(&[0; 8]);
    for (words, fine) in [(0, false), (4, false), (5, true), (7, true), (8, false), (15, false)] {
        let mut bytes = wire.bytes();
        bytes[32] = words << 4;
        assert_eq!(matches!(parse(&bytes).kind, Kind::Segment(_)), fine, "{words}");
    }
}

#[test]
fn icmp_kinds_are_told_apart() {
    let cases = [
        (Protocol::ICMP, 0, Kind::EchoReply),
        (Protocol::ICMP, 8, Kind::EchoRequest),
        (Protocol::ICMP, 3, Kind::IcmpError),
        (Protocol::ICMP, 4, Kind::IcmpError),
        (Protocol::ICMP, 5, Kind::IcmpError),
        (Protocol::ICMP, 11, Kind::IcmpError),
        (Protocol::ICMP, 12, Kind::IcmpError),
        (Protocol::ICMP, 13, Kind::Datagram),
        (Protocol::ICMP, 134, Kind::Datagram),
        (Protocol::ICMPV6, 128, Kind::EchoRequest),
        (Protocol::ICMPV6, 129, Kind::EchoReply),
        (Protocol::ICMPV6, 0, Kind::Datagram),
        (Protocol::ICMPV6, 1, Kind::IcmpError),
        (Protocol::ICMPV6, 4, Kind::IcmpError),
        (Protocol::ICMPV6, 5, Kind::Datagram),
        (Protocol::ICMPV6, 8, Kind::Datagram),
        (Protocol::ICMPV6, 130, Kind::Discovery),
        (Protocol::ICMPV6, 137, Kind::Discovery),
        (Protocol::ICMPV6, 138, Kind::Datagram),
        (Protocol::ICMPV6, 143, Kind::Discovery),
    ];
    for (protocol, kind, expected) in cases {
        let (src, dst) = if protocol == Protocol::ICMP {
            (WEB_ADDR, DB_ADDR)
        } else {
            (common::v6([1, 1]), common::v6([2, 1]))
        };
        let packet = parse(&Wire::new(protocol, (src, 77), (dst, 0)).icmp(kind, 3).bytes());
        assert_eq!((packet.kind, packet.icmp), (expected, u16::from(kind) << 8 | 3), "{protocol:?} {kind}");
        let echo = matches!(expected, Kind::EchoRequest | Kind::EchoReply);
        let id = if echo { 77 } else { 0 };
        assert_eq!((packet.src_port, packet.dst_port), (id, id), "{protocol:?} {kind}");
    }
}

#[test]
fn discovery_that_a_router_passed_on_is_none() {
    for (kind, link) in [(130, 1), (135, 255), (136, 255), (143, 1)] {
        let ends = ((common::v6([1, 1]), 0), (common::v6([2, 1]), 0));
        let mut bytes = Wire::new(Protocol::ICMPV6, ends.0, ends.1).icmp(kind, 0).bytes();
        for hops in [0, 1, 2, 64, 254, 255] {
            bytes[7] = hops;
            let expected = if hops == link { Kind::Discovery } else { Kind::Datagram };
            assert_eq!(parse(&bytes).kind, expected, "{kind} with {hops}");
        }
    }
}

#[test]
fn icmp_of_the_other_family_is_refused() {
    for (protocol, src, dst) in
        [(Protocol::ICMPV6, WEB_ADDR, DB_ADDR), (Protocol::ICMP, common::v6([1, 1]), common::v6([2, 1]))]
    {
        let bytes = Wire::new(protocol, (src, 1), (dst, 1)).icmp(128, 0).bytes();
        assert_eq!(malformed(&bytes), Reason::Unparsable);
    }
}

/// An error about `quoted`, of which `len` bytes are quoted; and where its header is.
fn error(quoted: &Wire, len: usize) -> (Vec<u8>, u32) {
    let (protocol, kind) = if quoted.src.is_v4() { (Protocol::ICMP, 3) } else { (Protocol::ICMPV6, 1) };
    let payload = quoted.bytes();
    let wire = Wire::new(protocol, (quoted.dst, 0), (quoted.src, 0)).icmp(kind, 1).payload(&payload[..len]);
    (wire.bytes(), if quoted.src.is_v4() { 20 } else { 40 })
}

#[test]
fn a_quoted_packet_is_read_as_far_as_it_must_be_there() {
    for wire in wires() {
        let needed = if wire.src.is_v4() { 28 } else { 48 };
        let (bytes, transport) = error(&wire, needed);
        let quoted = parse_quoted(&bytes, transport).unwrap();
        assert_eq!(
            (quoted.src, quoted.dst, quoted.protocol),
            (wire.src, wire.dst, wire.protocol),
            "{wire:?}"
        );
        let ports = if wire.protocol == Protocol(47) { (0, 0) } else { (wire.src_port, wire.dst_port) };
        assert_eq!((quoted.src_port, quoted.dst_port), ports, "{wire:?}");
        assert_eq!(quoted.icmp, wire.icmp);
        for len in 0..needed {
            let (bytes, transport) = error(&wire, len);
            assert_eq!(parse_quoted(&bytes, transport), None, "{wire:?} cut at {len}");
        }
    }
}

#[test]
fn a_quoted_packet_with_options_is_not_guessed_at() {
    let transport = Wire::new(UDP, (WEB_ADDR, 1), (DB_ADDR, 2)).transport();
    let mut quoted = v4(WEB_ADDR, DB_ADDR, UDP, &[1; 4], transport.len());
    quoted.extend(transport);
    let wire = Wire::new(Protocol::ICMP, (DB_ADDR, 0), (WEB_ADDR, 0)).icmp(3, 1).payload(&quoted);
    assert_eq!(parse_quoted(&wire.bytes(), 20), None);
    assert_eq!(parse_quoted(&[0x50; 100], 20), None, "no such version");
}

#[test]
fn nothing_is_read_of_nothing() {
    assert_eq!(malformed(&[]), Reason::Unparsable);
    assert_eq!(parse(&[0; 200]).src, Addr::ANY);
}

#[test]
fn an_unknown_length_excuses_no_missing_header() {
    let (src, dst) = (common::v6([1, 1]), common::v6([2, 1]));
    let bare = v6(src, dst, 47, 0);
    assert_eq!(parse(&bare).kind, Kind::Datagram);
    for len in 0..40 {
        assert_eq!(malformed(&bare[..len]), Reason::Unparsable, "cut at {len}");
    }
    // An extension header of which only the first bytes are there.
    let mut bytes = v6(src, dst, 60, 0);
    bytes.extend([47, 0, 0]);
    assert_eq!(malformed(&bytes), Reason::Unparsable);
}

#[test]
fn as_little_as_there_is_to_be_read_is_enough() {
    let bare = v4(WEB_ADDR, DB_ADDR, Protocol(47), &[], 0);
    assert_eq!(parse(&bare).kind, Kind::Datagram, "a header and nothing behind it");
    let mut ports = v4(WEB_ADDR, DB_ADDR, UDP, &[], 4);
    ports.extend([0, 1, 0, 2]);
    assert_eq!((parse(&ports).src_port, parse(&ports).dst_port), (1, 2));
    let mut icmp = v4(WEB_ADDR, DB_ADDR, Protocol::ICMP, &[], 4);
    icmp.extend([13, 0, 0, 0]);
    assert_eq!((parse(&icmp).kind, parse(&icmp).icmp), (Kind::Datagram, 13 << 8));
}

#[test]
fn padding_behind_a_packet_is_no_data() {
    for (src, dst) in [(WEB_ADDR, DB_ADDR), (common::v6([1, 1]), common::v6([2, 1]))] {
        let resets = |bytes: &[u8]| match parse(bytes).kind {
            Kind::Segment(segment) => segment.resets,
            kind => panic!("{kind:?}"),
        };
        let mut bytes = Wire::new(TCP, (src, 1), (dst, 2)).flags(RST).bytes();
        bytes.extend([0; 6]);
        assert!(resets(&bytes));
        // Where the header tells no length, all of it is the packet.
        let at = if src.is_v4() { 2 } else { 4 };
        bytes[at..at + 2].fill(0);
        assert!(!resets(&bytes));
        bytes.truncate(bytes.len() - 6);
        assert!(resets(&bytes));
    }
}
