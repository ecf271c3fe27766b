//! UDP: what datagrams are, and that each has to fit under `require`.

use bulkhead_abi::{Accept, App, Class, Conversation, Demand, Inspection, Reason, Tls};
use bulkhead_core::inspect::{self, Ruling, datagram};
use proptest::prelude::*;

use crate::{flows::recorded, talk::Flow};

const REPORT: Demand = Demand { level: Tls::Report, accept: Accept::NONE, floor: 0 };

fn play(flow: &Flow, demand: Demand) -> (Conversation, Vec<Ruling>) {
    let mut conversation = inspect::conversation(demand);
    let rulings = flow
        .iter()
        .map(|(sender, bytes)| datagram::datagram(&mut conversation, *sender, &bytes.as_slice()))
        .collect();
    (conversation, rulings)
}

fn class(conversation: &Conversation) -> (Class, App) {
    (Class::from_code(conversation.class), App::from_code(conversation.app))
}

fn of(len: usize, head: &[u8]) -> Vec<u8> {
    let mut bytes = head.to_vec();
    while bytes.len() < len {
        bytes.push((bytes.len() * 151 % 251) as u8 | 0x80);
    }
    bytes
}

fn ike(marker: &[u8], exchange: u8, len: usize) -> Vec<u8> {
    let mut bytes = marker.to_vec();
    bytes.extend(b"\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\0\0\0\0\0\x21\x20");
    bytes.extend([exchange, 0x08, 0, 0, 0, 0, 0, 0, 0, len as u8]);
    of(marker.len() + len, &bytes)
}

fn encrypted() -> Vec<(&'static str, Flow, Class)> {
    let initial = of(1200, b"\xc3\0\0\0\x01\x08abcdefgh\x08ijklmnop\0");
    let initial2 = of(1250, b"\xd3\x6b\x33\x43\xcf\x08abcdefgh\0\0");
    let mut initiation = of(132, b"\x01\0\0\0");
    initiation.resize(148, 0);
    vec![
        (
            "QUIC 1",
            vec![
                (0, initial.clone()),
                (1, of(1200, b"\xc1\0\0\0\x01\0\x08ijklmnop")),
                (0, of(40, b"\x41\xff")),
                (1, of(900, b"\x5a")),
            ],
            Class::Quic,
        ),
        (
            "QUIC 2",
            vec![
                (0, initial2),
                (1, of(1200, b"\xd1\x6b\x33\x43\xcf\0\x08ijklmnop")),
                (0, of(40, b"\x01\xff")),
            ],
            Class::Quic,
        ),
        (
            "QUIC, retried",
            vec![(0, initial.clone()), (1, of(120, b"\xff\0\0\0\x01\0\x08ijklmnop")), (0, initial.clone())],
            Class::Quic,
        ),
        ("DTLS 1.2", recorded(include_str!("flows/dtls12.txt")), Class::Dtls),
        (
            "WireGuard",
            vec![
                (0, initiation),
                (1, of(92, b"\x02\0\0\0")),
                (0, of(32, b"\x04\0\0\0")),
                (1, of(128, b"\x04\0\0\0")),
            ],
            Class::WireGuard,
        ),
        (
            "WireGuard under load",
            vec![
                (0, of(148, b"\x01\0\0\0")),
                (1, of(64, b"\x03\0\0\0")),
                (0, of(148, b"\x01\0\0\0")),
                (1, of(92, b"\x02\0\0\0")),
            ],
            Class::WireGuard,
        ),
        ("IKE", vec![(0, ike(b"", 34, 200)), (1, ike(b"", 34, 180))], Class::Ipsec),
        (
            "IKE and ESP",
            vec![
                (0, ike(b"\0\0\0\0", 35, 200)),
                (1, of(100, b"\xc1\x22\x33\x44\0\0\0\x01")),
                (0, b"\xff".to_vec()),
            ],
            Class::Ipsec,
        ),
    ]
}

fn clear() -> Vec<(&'static str, Flow, App)> {
    let one = |bytes: &[u8]| vec![(0, bytes.to_vec())];
    let mut dhcp = of(236, b"\x01\x01\x06\0");
    dhcp.extend(b"\x63\x82\x53\x63\x35\x01\x01\xff");
    let mut radius = b"\x01\x07\0\x2b".to_vec();
    radius.extend([0xa5; 16]);
    radius.extend(b"\x01\x06user\x04\x06\x0a\0\0\x01\x05\x06\0\0\0\x01\x20\x05nas");
    radius[3] = radius.len() as u8;
    let mut netflow = of(20, b"\0\x09\0\x02");
    netflow.extend(b"\0\0\0\x14");
    netflow.extend([0; 16]);
    let inner = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0\x45\0";
    vec![
        ("DNS", one(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01"), App::Dns),
        ("DNS, EDNS", one(b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01"), App::Dns),
        ("DNS, an answer", one(b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01"), App::Dns),
        ("multicast DNS", one(b"\0\0\0\0\0\x01\0\0\0\0\0\0\x05_http\x04_tcp\x05local\0\0\x0c\0\x01"), App::Mdns),
        ("multicast DNS, an answer", one(b"\0\0\x84\0\0\0\0\x01\0\0\0\0\x05_http\x04_tcp\x05local\0\0\x0c\0\x01"), App::Mdns),
        ("NetBIOS", one(b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\0\x20CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\0\x21\0\x01"), App::Netbios),
        ("SIP", one(b"REGISTER sip:example.org SIP/2.0\r\nVia: x\r\n"), App::Sip),
        ("syslog", one(b"<34>1 2026-10-11T22:14:15.003Z host su - - - x"), App::Syslog),
        ("syslog, old", one(b"<13>Oct  1 22:14:15 host su: x"), App::Syslog),
        ("StatsD", one(b"api.requests.count:1|c|#env:prod"), App::Statsd),
        ("StatsD, short", one(b"a:1|c"), App::Statsd),
        ("Graphite", one(b"servers.web1.load 0.25 1700000000\n"), App::Graphite),
        ("NTP", one(&[b"\xe3\0\x06\xec".as_slice(), &[0; 44]].concat()), App::Ntp),
        ("NTP, an answer", one(&[b"\x24\x02\x06\xe9\0\0\x04\xe4\0\0\x0b\x19".as_slice(), &[0x5a; 36]].concat()), App::Ntp),
        ("SNMP 2c", one(b"\x30\x26\x02\x01\x01\x04\x06public\xa0\x19\x02\x04\x11\x22\x33\x44"), App::Snmp),
        ("TFTP", one(b"\0\x01boot/a.cfg\0octet\0"), App::Tftp),
        ("DHCP", one(&dhcp), App::Dhcp),
        ("DHCP for IPv6", one(b"\x01\x11\x22\x33\0\x01\0\x0a\0\x03\0\x01\x02\0\0\0\0\x01\0\x06\0\x04\0\x17\0\x18\0\x08\0\x02\0\0"), App::Dhcp),
        ("RADIUS", one(&radius), App::Radius),
        ("STUN", one(b"\0\x01\0\0\x21\x12\xa4\x42\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"), App::Stun),
        ("NetFlow 5", one(&of(72, b"\0\x05\0\x01")), App::Netflow),
        ("NetFlow 9", one(&netflow), App::Netflow),
        ("IPFIX", one(&of(44, b"\0\x0a\0\x2c\x11\x22\x33\x44\0\0\0\x01\0\0\0\x01\0\x02\0\x1c")), App::Netflow),
        ("sFlow", one(&of(100, b"\0\0\0\x05\0\0\0\x01\x0a\0\0\x01")), App::Netflow),
        ("SSDP", one(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"), App::Ssdp),
        ("VXLAN", one(&[b"\x08\0\0\0\0\0\x2a\0".as_slice(), inner].concat()), App::Vxlan),
        ("GENEVE", one(&[b"\0\0\x65\x58\0\0\x2a\0".as_slice(), inner].concat()), App::Geneve),
        ("GTP", one(&[b"\x30\xff\0\x14\0\0\0\x01\x45\0\0\x14".as_slice(), &[7; 16]].concat()), App::Gtp),
        ("Kerberos", one(b"\x6a\x81\xc5\x30\x81\xc2\xa1\x03\x02\x01\x05\xa2\x03\x02\x01\x0a"), App::Kerberos),
        ("CoAP", vec![(0, b"\x40\x01\x12\x34\xbb.well-known\x04core".to_vec()), (1, b"\x60\x45\x12\x34\xc1\x28\xff</a>".to_vec())], App::Coap),
        ("CoAP, the root", vec![(0, b"\x41\x01\xc1\xe3\x01".to_vec()), (1, b"\x61\x45\xc1\xe3\x01\xff</a>".to_vec())], App::Coap),
        ("SNMP 3, not encrypted", one(b"\x30\x3e\x02\x01\x03\x30\x11\x02\x04\x32\x11\x22\x33\x02\x03\0\xff\xe3\x04\x01\x04\x02\x01\x03\x04\x10"), App::Snmp),
        ("memcached", one(b"\0\x01\0\0\0\x01\0\0get a\r\n"), App::Memcached),
        ("collectd", one(b"\0\0\0\x09host\0\0\x08\0\x0c\x14\x11\x22\x33\x44\x55\x66\x77"), App::Collectd),
        ("Sun RPC", one(b"\x11\x22\x33\x44\0\0\0\0\0\0\0\x02\0\x01\x86\xa0\0\0\0\x02\0\0\0\x03"), App::Rpc),
        ("LDAP without a connection", one(b"\x30\x25\x02\x01\x01\x63\x20\x04\x00\x0a\x01\0\x0a\x01\0\x02\x01\0\x02\x01\0"), App::Ldap),
        ("BitTorrent", one(b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping"), App::Bittorrent),
        ("a text", one(b"hello there, my friend"), App::Text),
    ]
}

#[test]
fn datagrams_are_what_they_are() {
    for demand in [Demand::OFF, REPORT] {
        for (name, flow, truth) in encrypted() {
            let (conversation, rulings) = play(&flow, demand);
            assert_eq!(class(&conversation), (truth, App::Unknown), "{name}");
            assert!(rulings.iter().all(|ruling| *ruling == Ruling::Pass), "{name}");
        }
        let mut wrong = Vec::new();
        for (name, flow, truth) in clear() {
            let (conversation, rulings) = play(&flow, demand);
            if class(&conversation) != (Class::Clear, truth) {
                wrong.push(format!("{name}: {:?}", class(&conversation)));
            }
            assert!(rulings.iter().all(|ruling| *ruling == Ruling::Pass), "{name}");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// Where both ends of a flow are on one node, each of them reads what passes.
#[test]
fn what_is_read_twice_is_the_same() {
    let doubled = |flow: &Flow| flow.iter().flat_map(|said| [said.clone(), said.clone()]).collect::<Flow>();
    for (name, flow, truth) in encrypted() {
        assert_eq!(class(&play(&doubled(&flow), Demand::OFF).0).0, truth, "{name}");
    }
    for (name, flow, truth) in clear() {
        assert_eq!(class(&play(&doubled(&flow), Demand::OFF).0), (Class::Clear, truth), "{name}");
    }
}

#[test]
fn what_is_accepted_passes_and_nothing_else() {
    for (name, flow, truth) in encrypted() {
        let (conversation, rulings) = play(&flow, Demand::REQUIRE);
        assert_eq!(class(&conversation).0, truth, "{name}");
        assert!(rulings.iter().all(|ruling| *ruling == Ruling::Pass), "{name} {rulings:?}");
        let (_, rulings) = play(&flow, Demand { accept: Accept::TLS, ..Demand::REQUIRE });
        assert_eq!(rulings[0], Ruling::Refuse(Reason::WeakEncryption), "{name}");
    }
    for (name, flow, _) in clear() {
        let (_, rulings) = play(&flow, Demand::REQUIRE);
        // A request of CoAP alone could be anything.
        let reason = if name.contains("CoAP") { Reason::Unclassified } else { Reason::ClearText };
        assert!(rulings.iter().all(|ruling| *ruling == Ruling::Refuse(reason)), "{name} {rulings:?}");
    }
}

#[test]
fn clear_text_in_an_encrypted_conversation_is_found() {
    for (name, mut flow, truth) in encrypted() {
        let honest = flow.len();
        flow.push((0, b"GET /secret HTTP/1.1\r\nHost: somewhere.example\r\n\r\n".to_vec()));
        flow.push((1, of(200, b"\x90\x11")));
        let (conversation, rulings) = play(&flow, Demand::REQUIRE);
        assert_eq!(rulings[honest], Ruling::Refuse(Reason::ClearText), "{name}");
        assert_eq!(rulings[honest + 1], Ruling::Refuse(Reason::ClearText), "{name}");
        assert_eq!(conversation.phase, Inspection::REFUSED);
        let (conversation, rulings) = play(&flow, REPORT);
        assert!(rulings.iter().all(|ruling| *ruling == Ruling::Pass));
        assert_eq!(class(&conversation).0, Class::Clear, "{name}");
        let (conversation, _) = play(&flow, Demand::OFF);
        assert_eq!(class(&conversation).0, truth, "{name}");
    }
}

#[test]
fn wireguards_messages_have_their_lengths() {
    let (_, flow, _) = encrypted().remove(4);
    for (kind, len) in [(1u8, 147), (2, 93), (3, 65), (4, 31), (4, 33), (4, 120), (5, 64), (0, 32)] {
        let mut flow = flow[..2].to_vec();
        flow.push((0, of(len, &[kind, 0, 0, 0])));
        assert_eq!(play(&flow, Demand::REQUIRE).1[2], Ruling::Refuse(Reason::Unclassified), "{kind} {len}");
    }
}

#[test]
fn an_answer_of_coap_is_the_answer_to_its_request() {
    let flow = vec![(0, b"\x41\x01\xc1\xe3\x01".to_vec()), (1, b"\x61\x45\xc1\xe4\x01\xff</a>".to_vec())];
    assert_eq!(class(&play(&flow, Demand::OFF).0).0, Class::Unknown);
}

#[test]
fn a_short_header_needs_a_handshake() {
    let flow = vec![(0, of(60, b"\x41\xff"))];
    assert_eq!(play(&flow, Demand::REQUIRE).1, [Ruling::Refuse(Reason::Unclassified)]);
    assert_eq!(class(&play(&flow, Demand::OFF).0).0, Class::Unknown);
    // Of both ends.
    let flow = vec![(0, of(1200, b"\xc3\0\0\0\x01\x08abcdefgh\x08ijklmnop\0")), (0, of(60, b"\x41\xff"))];
    assert_eq!(play(&flow, Demand::REQUIRE).1[1], Ruling::Refuse(Reason::Unclassified));
    // And a client's first flight is long.
    let flow = vec![(0, of(1199, b"\xc3\0\0\0\x01\x08abcdefgh\x08ijklmnop\0"))];
    assert_eq!(play(&flow, Demand::REQUIRE).1[0], Ruling::Refuse(Reason::Unclassified));
}

#[test]
fn a_floor_above_dtls_1_0_refuses_its_hello() {
    let mut flow = recorded(include_str!("flows/dtls12.txt"));
    // The ServerHello, made one of DTLS 1.0.
    let hello = flow.iter_mut().find(|(who, bytes)| *who == 1 && bytes[13] == 2).unwrap();
    hello.1[26] = 0xff;
    assert!(
        play(&flow, Demand { floor: 2, ..Demand::REQUIRE }).1.iter().all(|ruling| *ruling == Ruling::Pass)
    );
    let (_, rulings) = play(&flow, Demand { floor: 3, ..Demand::REQUIRE });
    assert_eq!(rulings[3], Ruling::Refuse(Reason::WeakEncryption));
}

#[test]
fn a_call_that_asks_its_way_first_is_encrypted() {
    let mut flow = vec![
        (0, b"\0\x01\0\0\x21\x12\xa4\x42\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c".to_vec()),
        (1, b"\x01\x01\0\0\x21\x12\xa4\x42\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c".to_vec()),
    ];
    for number in 0..40 {
        // However often it asks, each time by another number.
        let (sender, mut again) = flow[number & 1].clone();
        again[15] = number as u8;
        flow.push((sender, again));
    }
    assert_eq!(class(&play(&flow, Demand::OFF).0), (Class::Clear, App::Stun));
    let mut other = flow.clone();
    flow.extend(recorded(include_str!("flows/dtls12.txt")));
    assert_eq!(class(&play(&flow, Demand::OFF).0), (Class::Dtls, App::Unknown));
    // What follows may be anything.
    other.push((0, of(180, b"\x80\x60")));
    assert_eq!(class(&play(&other, Demand::OFF).0), (Class::Unknown, App::Stun));
}

/// A packet of NTP: its first four bytes, what its sender says of himself, and the seconds of its four times.
fn ntp(head: [u8; 4], of_itself: &[u8; 12], seconds: [u32; 4]) -> Vec<u8> {
    let mut bytes = [head.as_slice(), of_itself].concat();
    for second in seconds {
        bytes.extend(second.to_be_bytes());
        bytes.extend([0x5e, 0x91, 0x7c, 0x03].map(|byte| if second == 0 { 0 } else { byte }));
    }
    bytes
}

#[test]
fn a_packet_of_ntp_has_times_that_go_together() {
    const NOW: u32 = 0xe91a_2b3c;
    let known = b"\0\0\x06\0\0\0\x09\0\xc0\0\x02\x01";
    let right = [
        ("SNTP", ntp([0x1b, 0, 0, 0], &[0; 12], [0; 4])),
        ("a random time, and nothing else", ntp([0x23, 0, 6, 0x20], &[0; 12], [0, 0, 0, 0x1234_5678])),
        ("a client that has a clock", ntp([0x23, 3, 6, 0xe9], known, [NOW - 500, NOW - 64, NOW - 64, NOW])),
        ("Windows", ntp([0xdb, 0, 17, 0xe9], known, [NOW - 300_000, 0, 0, NOW])),
        ("an answer", ntp([0x24, 2, 6, 0xe9], known, [NOW - 900, NOW - 1, NOW, NOW])),
        ("an answer of nobody who knows", ntp([0xe4, 16, 6, 0xe9], known, [0, NOW, NOW, NOW])),
        ("the next era", ntp([0x24, 2, 6, 0xe9], known, [u32::MAX - 80, u32::MAX, 3, 3])),
    ];
    for (name, packet) in right {
        assert_eq!(class(&play(&vec![(0, packet)], Demand::OFF).0), (Class::Clear, App::Ntp), "{name}");
    }
    for seconds in [
        [NOW, NOW - 64, NOW - 64, NOW - 100],
        [NOW - 900, 0x1234_5678, NOW, NOW],
        [NOW - 900, NOW, 0x77aa_0011, NOW],
        [NOW - 40_000_000, NOW, NOW, NOW],
    ] {
        let packet = ntp([0x1b, 2, 6, 0xe9], known, seconds);
        assert_eq!(class(&play(&vec![(0, packet)], Demand::OFF).0).0, Class::Unknown, "{seconds:x?}");
    }
}

#[test]
fn snmp_that_becomes_encrypted_is_not_clear() {
    let of = |flags: u8| {
        let mut bytes =
            b"\x30\x3e\x02\x01\x03\x30\x11\x02\x04\x32\x11\x22\x33\x02\x03\0\xff\xe3\x04\x01".to_vec();
        bytes.extend([flags, 2, 1, 3, 4, 0x10]);
        bytes
    };
    let flow = vec![(0, of(4)), (1, of(0)), (0, of(7)), (1, of(3))];
    assert_eq!(class(&play(&flow, Demand::OFF).0), (Class::Unknown, App::Snmp));
    assert_eq!(play(&flow, Demand::REQUIRE).1[0], Ruling::Refuse(Reason::ClearText));
    assert_eq!(play(&flow[2..].to_vec(), Demand::REQUIRE).1[0], Ruling::Refuse(Reason::Unclassified));
}

#[test]
fn what_cannot_be_told_is_given_up() {
    let flow: Flow = (0..40).map(|number| (number & 1, of(100, &[0x9a, number, 0xee]))).collect();
    let (conversation, _) = play(&flow, Demand::OFF);
    assert_eq!((class(&conversation).0, conversation.phase), (Class::Unknown, Inspection::DONE));
    let demand = Demand { accept: Accept::ENCRYPTED.or(Accept::UNKNOWN), ..Demand::REQUIRE };
    assert!(play(&flow, demand).1.iter().all(|ruling| *ruling == Ruling::Pass));
    assert_eq!(play(&flow, Demand::REQUIRE).1[0], Ruling::Refuse(Reason::Unclassified));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn random_datagrams_are_nothing(one in prop::collection::vec(any::<u8>(), 1..200), two in prop::collection::vec(any::<u8>(), 1..200)) {
        let flow = vec![(0, one.clone()), (1, two), (0, one)];
        prop_assert_eq!(class(&play(&flow, Demand::OFF).0).0, Class::Unknown);
    }
}
