//! The guard: what no socket layer sees.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod common;

use bulkhead_abi::{Addr, Direction, FlowState, Identity, Protocol, Reason, Verdict};
use bulkhead_core::{
    guard::Mark,
    host::{
        Frame, Node, Sock, Tables,
        wire::{self, ACK, RST, SYN, Wire},
    },
};
use common::{
    DB, DB_ADDR, DB_CGROUP, DENY, HOST, NETNS, OTHER_CGROUP, RULE, WEB, WEB_ADDR, WEB_CGROUP, WORLD_ADDR,
    answer,
    guarded::{
        DB_NETNS, FAR_WEB, NODE_ADDR, PORT, TO_DB, TO_VM, TO_WEB, VIP, VM, WIRE, allow_web_to_db, forwarded,
        guarded, one_denial, tcp, udp, with_service,
    },
};

#[test]
fn a_judged_sockets_packet_passes_and_is_marked() {
    let node = guarded();
    let (frame, sock) = (Frame::of_socket(), Sock::stream(WEB_CGROUP, NETNS));
    let bytes = tcp(WEB_ADDR, DB_ADDR).bytes();
    assert_eq!(node.comes_in(TO_WEB, &frame, &sock, &bytes), Verdict::Allow);
    assert_eq!(frame.mark.get(), Mark::JUDGED);
    for interface in [TO_DB, WIRE] {
        let routed = Frame { mark: frame.mark.clone(), ..Frame::forwarded() };
        assert_eq!(node.goes_out(interface, &routed, &Sock::none(), &bytes), Verdict::Allow);
    }
    assert!(node.take_counters().is_empty() && node.transit().is_empty());
}

#[test]
fn a_packet_sockets_copy_of_an_approved_flow_is_refused() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let frame = Frame::of_packet_socket();
    let bytes = tcp(WEB_ADDR, DB_ADDR).flags(ACK).payload(b"x").bytes();
    assert_eq!(node.comes_in(TO_WEB, &frame, &Sock::plain(WEB_CGROUP, NETNS), &bytes), Verdict::Deny);
    one_denial(&node, Reason::PacketSocket);
    // By its address alone, too; and where it leaves the node's own namespace.
    assert_eq!(node.comes_in(TO_WEB, &frame, &Sock::plain(OTHER_CGROUP, NETNS), &bytes), Verdict::Deny);
    assert_eq!(node.goes_out(WIRE, &frame, &Sock::plain(WEB_CGROUP, HOST), &bytes), Verdict::Deny);
    let (key, _) = node.take_counters().pop_first().unwrap();
    assert_eq!(key.reason, Reason::PacketSocket as u8);
}

#[test]
fn packet_sockets_of_nobodys_zone_go_on() {
    let node = guarded();
    let frame = Frame::of_packet_socket();
    let bytes = udp(WORLD_ADDR, WORLD_ADDR).bytes();
    let sock = Sock::plain(OTHER_CGROUP, HOST);
    assert_eq!(node.goes_out(WIRE, &frame, &sock, &bytes), Verdict::Allow);
    // Address resolution is never judged; other frames of a zone's workload are.
    let arp = Frame { network: bulkhead_core::guard::Network::Arp, ..Frame::of_packet_socket() };
    let odd = Frame { network: bulkhead_core::guard::Network::Other, ..Frame::of_packet_socket() };
    let web = Sock::plain(WEB_CGROUP, NETNS);
    assert_eq!(node.comes_in(TO_WEB, &arp, &web, &[0; 28]), Verdict::Allow);
    assert_eq!(node.comes_in(TO_WEB, &odd, &web, &[0; 28]), Verdict::Deny);
    assert_eq!(node.comes_in(TO_WEB, &odd, &sock, &[0; 28]), Verdict::Allow);
}

#[test]
fn a_forged_source_is_refused() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let refused = |node: &Node, interface, src| {
        let frame = Frame::forwarded();
        // A port for each, so that each is a flow.
        let bytes = Wire { dst_port: PORT + interface as u16, ..udp(src, DB_ADDR) }.bytes();
        let verdict = node.comes_in(interface, &frame, &Sock::none(), &bytes);
        if verdict == Verdict::Deny {
            one_denial(node, Reason::Spoofed);
        }
        verdict
    };
    assert_eq!(refused(&node, TO_DB, WEB_ADDR), Verdict::Deny, "another's");
    assert_eq!(refused(&node, TO_DB, FAR_WEB), Verdict::Deny, "nobody's here, but in a zone");
    assert_eq!(refused(&node, WIRE, WEB_ADDR), Verdict::Deny, "one of ours, from outside");
    assert_eq!(refused(&node, WIRE, NODE_ADDR), Verdict::Deny, "the node's own, from outside");
    assert_eq!(refused(&node, TO_WEB, WEB_ADDR), Verdict::Allow, "its own");
    assert_eq!(refused(&node, WIRE, FAR_WEB), Verdict::Allow, "another machine's");
    assert_eq!(refused(&node, TO_VM, FAR_WEB), Verdict::Allow, "nothing is known of who is there");
    assert_eq!(refused(&node, TO_VM, WEB_ADDR), Verdict::Deny, "but another has this one");
    assert_eq!(refused(&node, TO_WEB, WORLD_ADDR), Verdict::Allow, "means nothing");
}

#[test]
fn what_is_forwarded_to_a_machine_is_judged_by_address() {
    let mut node = guarded();
    assert_eq!(forwarded(&node, WIRE, TO_VM, &tcp(FAR_WEB, VM)), Verdict::Deny);
    one_denial(&node, Reason::Default);
    allow_web_to_db(&mut node);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &tcp(FAR_WEB, VM)), Verdict::Allow);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &tcp(FAR_WEB, VM).reversed().flags(SYN | ACK)), Verdict::Allow);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &tcp(FAR_WEB, VM).flags(ACK)), Verdict::Allow);
    let counters = node.take_counters();
    assert_eq!(counters.values().map(|c| (c.flows, c.packets)).collect::<Vec<_>>(), [(1, 3)]);

    // What it did not open it may not say.
    assert_eq!(forwarded(&node, TO_VM, WIRE, &tcp(VM, FAR_WEB)), Verdict::Deny);
    one_denial(&node, Reason::Default);
    // And nothing begins in the middle.
    let stray = tcp(FAR_WEB, Addr::v4([10, 0, 2, 78])).flags(ACK);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &stray), Verdict::Deny);
    one_denial(&node, Reason::Stray);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &stray.flags(RST)), Verdict::Allow, "it only ends");
}

#[test]
fn forwarded_flows_are_judged_again_by_a_new_policy() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let packet = udp(FAR_WEB, VM);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &packet), Verdict::Allow);
    answer(&mut node, (WEB, DB), (Protocol::UDP, PORT), (DENY, DENY));
    node.control.generation += 2;
    assert_eq!(forwarded(&node, TO_VM, WIRE, &packet.clone().reversed()), Verdict::Deny, "also the reply");
    assert_eq!(forwarded(&node, WIRE, TO_VM, &packet), Verdict::Deny);
}

#[test]
fn between_endpoints_in_no_zone_nothing_is_kept() {
    let node = guarded();
    let far = Addr::v4([203, 0, 113, 1]);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &tcp(WORLD_ADDR, far).flags(ACK)), Verdict::Allow);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &udp(far, WORLD_ADDR)), Verdict::Allow);
    assert!(node.take_counters().is_empty() && node.transit().is_empty());
}

#[test]
fn to_a_socket_of_this_node_its_own_layer_judges() {
    let node = guarded();
    assert_eq!(forwarded(&node, WIRE, TO_DB, &tcp(FAR_WEB, DB_ADDR)), Verdict::Allow);
    assert!(node.take_counters().is_empty());
    // A machine's own side is judged where it is known.
    assert_eq!(forwarded(&node, TO_VM, TO_WEB, &tcp(VM, WEB_ADDR)), Verdict::Deny);
    one_denial(&node, Reason::Default);
}

#[test]
fn a_full_table_keeps_what_is_in_it() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    node.flow_capacity = 1;
    assert_eq!(forwarded(&node, WIRE, TO_VM, &udp(FAR_WEB, VM)), Verdict::Allow);
    let other = Wire { src_port: 1, ..udp(FAR_WEB, VM) };
    let _ = node.take_counters();
    assert_eq!(forwarded(&node, WIRE, TO_VM, &other), Verdict::Deny);
    one_denial(&node, Reason::FlowTableFull);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &udp(FAR_WEB, VM)), Verdict::Allow);
}

#[test]
fn what_the_node_itself_says_of_a_packet_passes() {
    let node = guarded();
    // Of a socket's flow, or of a packet that was dropped before it left: no flow of the guard's.
    let quoted = udp(WEB_ADDR, WORLD_ADDR);
    let error = |src: Addr, dst: Addr| {
        Wire::new(Protocol::ICMP, (src, 0), (dst, 0)).icmp(3, 4).payload(&quoted.bytes()).bytes()
    };
    let says = |frame: &Frame, bytes: &[u8]| node.goes_out(TO_WEB, frame, &Sock::none(), bytes);
    assert_eq!(says(&Frame::forwarded(), &error(NODE_ADDR, WEB_ADDR)), Verdict::Allow);
    assert!(node.take_counters().is_empty());
    // In another's name, to another, or come in by an interface, it is one like any other.
    let came_in = Frame { mark: Mark::ROUTED.into(), ..Frame::forwarded() };
    for (frame, bytes) in [
        (Frame::forwarded(), error(VM, WEB_ADDR)),
        (Frame::forwarded(), error(NODE_ADDR, DB_ADDR)),
        (came_in, error(NODE_ADDR, WEB_ADDR)),
    ] {
        assert_eq!(says(&frame, &bytes), Verdict::Deny);
    }
}

#[test]
fn an_icmp_error_needs_a_live_flow() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let error =
        |quoted: &Wire| Wire::new(Protocol::ICMP, (VM, 0), (FAR_WEB, 0)).icmp(3, 3).payload(&quoted.bytes());
    let flow = udp(FAR_WEB, VM);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &error(&flow)), Verdict::Deny);
    one_denial(&node, Reason::IcmpError);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &flow), Verdict::Allow);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &error(&flow)), Verdict::Allow);
    // It is for whoever sent what it quotes, and nobody else.
    let elsewhere = Wire { dst: WORLD_ADDR, ..error(&flow) };
    assert_eq!(forwarded(&node, TO_VM, WIRE, &elsewhere), Verdict::Deny);
    // Nor does it pass as what else there is between its two ends.
    answer(&mut node, (DB, WEB), (Protocol::ICMP, 13 << 8), (RULE, RULE));
    let timestamp = Wire::new(Protocol::ICMP, (VM, 0), (FAR_WEB, 0)).icmp(13, 0);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &timestamp), Verdict::Allow);
    let stranger = Wire { src_port: 1, ..flow.clone() };
    assert_eq!(forwarded(&node, TO_VM, WIRE, &error(&stranger)), Verdict::Deny);
    // A flow that lost its right, or that nobody has heard of for long, carries nothing back.
    node.now.set(node.now.get() + 31_000_000_000);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &error(&flow)), Verdict::Deny);
    node.now.set(node.now.get() - 31_000_000_000);
    answer(&mut node, (WEB, DB), (Protocol::UDP, PORT), (DENY, DENY));
    node.control.generation += 2;
    assert_eq!(forwarded(&node, WIRE, TO_VM, &flow), Verdict::Deny);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &error(&flow)), Verdict::Deny);
}

/// A fragment of an IPv4 packet.
fn fragment(packet: &Wire, id: u16, offset: usize, len: usize, more: bool) -> Vec<u8> {
    let transport = packet.transport();
    let part = &transport[offset..transport.len().min(offset + len)];
    let mut bytes = wire::v4(packet.src, packet.dst, packet.protocol, &[], part.len());
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    let field = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
    bytes[6..8].copy_from_slice(&field.to_be_bytes());
    bytes.extend(part);
    bytes
}

#[test]
fn later_fragments_follow_an_allowed_first_one() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let packet = udp(FAR_WEB, VM).payload(&[7; 100]);
    let goes = |node: &Node, bytes: &[u8]| {
        let frame = Frame::forwarded();
        assert_eq!(node.comes_in(WIRE, &frame, &Sock::none(), bytes), Verdict::Allow);
        node.goes_out(TO_VM, &frame, &Sock::none(), bytes)
    };
    let (first, later) = (fragment(&packet, 1, 0, 48, true), fragment(&packet, 1, 48, 60, false));
    assert_eq!(goes(&node, &later), Verdict::Deny, "before its first one");
    one_denial(&node, Reason::Fragment);
    assert_eq!(goes(&node, &first), Verdict::Allow);
    assert_eq!(goes(&node, &later), Verdict::Allow);
    let counters = node.take_counters();
    assert_eq!(counters.values().map(|c| (c.flows, c.packets)).collect::<Vec<_>>(), [(1, 2)]);
    assert_eq!(goes(&node, &fragment(&packet, 1, 8, 48, true)), Verdict::Deny, "over the first one");
    assert_eq!(goes(&node, &fragment(&packet, 2, 48, 60, false)), Verdict::Deny, "of another packet");
    assert_eq!(goes(&node, &fragment(&packet, 3, 0, 4, true)), Verdict::Deny, "not in eights");
    let segment = tcp(FAR_WEB, VM).payload(&[7; 100]);
    assert_eq!(goes(&node, &fragment(&segment, 3, 0, 8, true)), Verdict::Deny, "too short for its header");

    // Thirty seconds later, or under another policy, nobody waits for it.
    node.now.set(node.now.get() + 31_000_000_000);
    assert_eq!(goes(&node, &later), Verdict::Deny);
    node.now.set(node.now.get() - 31_000_000_000);
    node.control.generation += 2;
    assert_eq!(goes(&node, &later), Verdict::Deny);

    // A denied first one opens nothing, and a full table nothing either.
    let denied = Wire { dst_port: 1, ..packet.clone() };
    assert_eq!(goes(&node, &fragment(&denied, 4, 0, 48, true)), Verdict::Deny);
    assert_eq!(goes(&node, &fragment(&denied, 4, 48, 60, false)), Verdict::Deny);
    node.fragment_capacity = 0;
    assert_eq!(goes(&node, &fragment(&packet, 5, 0, 48, true)), Verdict::Deny);
    // Who is in no zone may cut as he likes.
    let free = Wire { src: WORLD_ADDR, dst: Addr::v4([203, 0, 113, 1]), ..packet };
    assert_eq!(goes(&node, &fragment(&free, 6, 48, 60, false)), Verdict::Allow);
}

#[test]
fn what_an_older_flow_left_is_no_first_fragment_of_a_newer_one() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let send = |node: &Node, bytes: &[u8]| {
        let frame = Frame { mark: Mark::WIRE.into(), ..Frame::forwarded() };
        node.goes_out(TO_VM, &frame, &Sock::none(), bytes)
    };
    let open = tcp(FAR_WEB, VM);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &open), Verdict::Allow);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &tcp(FAR_WEB, VM).reversed().flags(SYN | ACK)), Verdict::Allow);
    node.take_counters();

    // Then there is no zone any more, and the tuple comes again.
    node.tables = Tables::default();
    node.control.generation += 2;
    let again = open.payload(&[7; 100]);
    assert_eq!(send(&node, &fragment(&again, 1, 0, 48, true)), Verdict::Allow);
    assert_eq!(send(&node, &fragment(&again, 1, 48, 60, false)), Verdict::Allow);
    assert!(node.take_counters().is_empty(), "nobody's packets count for a zone of before");
    assert!(node.fragments().is_empty());
}

/// From web's socket to the virtual address: as its own layer sees it, and at its interface.
fn sends_to_vip(node: &Node, sock: &Sock, packet: &Wire) -> (Verdict, Mark) {
    let bytes = packet.bytes();
    let verdict = node.packet(sock, Direction::Egress, &bytes);
    let frame = Frame::of_socket();
    assert_eq!(node.comes_in(TO_WEB, &frame, sock, &bytes), Verdict::Allow);
    (verdict, frame.mark.get())
}

#[test]
fn a_flow_to_a_virtual_address_is_judged_by_who_really_receives() {
    let mut node = with_service();
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    let (verdict, mark) = sends_to_vip(&node, &sock, &tcp(WEB_ADDR, VIP));
    assert_eq!((verdict, mark), (Verdict::Allow, Mark(WEB.0)));
    assert!(node.take_counters().is_empty(), "who judges counts");

    // Translated, and masqueraded as from the node.
    let translated = tcp(NODE_ADDR, DB_ADDR).bytes();
    let frame = Frame { mark: mark.into(), ..Frame::forwarded() };
    assert_eq!(node.goes_out(TO_DB, &frame, &Sock::none(), &translated), Verdict::Deny);
    let told = node.take_events();
    assert_eq!((told[0].from, told[0].to), (WEB, DB), "by who really talks to whom");
    let _ = node.take_counters();
    let (cookie, doomed) = node.doomed.borrow_mut().pop_first().unwrap();
    assert_eq!((cookie, doomed.remote), (sock.cookie, VIP), "and its program hears of it");

    node.control.generation += 2;
    allow_web_to_db(&mut node);
    let far = Wire { src_port: 41_000, ..tcp(NODE_ADDR, DB_ADDR) };
    assert_eq!(node.goes_out(TO_DB, &frame, &Sock::none(), &far.bytes()), Verdict::Allow);
    assert!(node.take_counters().is_empty(), "the receiver counts");
    let (_, handed) = node.flows().pop_first().unwrap();
    assert_eq!(handed.opener.identity(), Some(WEB));
    assert_ne!(handed.flags & FlowState::FLAG_LOCAL, 0);

    // The receiver's layer judges by it, and not by the node's address.
    let server = Sock::listening(DB_CGROUP, DB_NETNS);
    assert_eq!(node.packet(&server, Direction::Ingress, &far.bytes()), Verdict::Allow);
    let counters = node.take_counters();
    let (key, counter) = counters.first_key_value().unwrap();
    assert_eq!((key.from, key.to, counter.flows), (WEB, DB, 1));
    let unknown = Wire { src_port: 42_000, ..tcp(NODE_ADDR, DB_ADDR) };
    assert_eq!(node.packet(&server, Direction::Ingress, &unknown.bytes()), Verdict::Deny, "the node itself");
}

#[test]
fn datagrams_to_a_virtual_address_are_left_to_the_guard_one_by_one() {
    let mut node = with_service();
    let sock = Sock::plain(WEB_CGROUP, NETNS);
    assert_eq!(sends_to_vip(&node, &sock, &udp(WEB_ADDR, VIP)), (Verdict::Allow, Mark(WEB.0)));
    let reply = udp(WEB_ADDR, VIP).reversed().bytes();
    assert_eq!(node.packet(&sock, Direction::Ingress, &reply), Verdict::Allow);
    node.control.generation += 2;
    assert_eq!(sends_to_vip(&node, &sock, &udp(WEB_ADDR, VIP)).0, Verdict::Allow);
    assert!(node.take_counters().is_empty(), "nor is a later one counted here");
    // The same socket to a real address is its own layer's affair.
    let frame = Frame::of_socket();
    let elsewhere = udp(WEB_ADDR, WORLD_ADDR).bytes();
    assert_eq!(node.comes_in(TO_WEB, &frame, &sock, &elsewhere), Verdict::Allow);
    assert_eq!(frame.mark.get(), Mark::JUDGED);
}

#[test]
fn where_no_guard_is_a_virtual_address_is_like_any_other() {
    let mut node = with_service();
    node.homes.clear();
    let sock = Sock::plain(WEB_CGROUP, NETNS);
    assert_eq!(node.packet(&sock, Direction::Egress, &udp(WEB_ADDR, VIP).bytes()), Verdict::Deny);
    let (key, _) = node.take_counters().pop_first().unwrap();
    assert_eq!((key.from, key.to), (WEB, Identity::WORLD));
    // As a source it buys nothing, guarded or not.
    let mut node = with_service();
    answer(&mut node, (Identity::WORLD, DB), (Protocol::UDP, PORT), (DENY, DENY));
    let server = Sock::plain(DB_CGROUP, DB_NETNS);
    assert_eq!(node.packet(&server, Direction::Ingress, &udp(VIP, DB_ADDR).bytes()), Verdict::Deny);
    let frame = Frame::forwarded();
    let bytes = udp(VIP, DB_ADDR).bytes();
    assert_eq!(node.comes_in(TO_WEB, &frame, &Sock::none(), &bytes), Verdict::Deny);
}

#[test]
fn what_comes_back_from_a_translation_in_the_own_namespace_is_the_sockets_own() {
    let mut node = with_service();
    answer(&mut node, (WEB, DB), (Protocol::TCP, PORT), (RULE, RULE));
    let sock = Sock::opening(WEB_CGROUP, HOST);
    let out = tcp(NODE_ADDR, DB_ADDR);
    assert_eq!(node.packet(&sock, Direction::Egress, &out.bytes()), Verdict::Allow);
    let back = tcp(NODE_ADDR, VIP).reversed().flags(SYN | ACK).bytes();
    assert_eq!(node.packet(&sock, Direction::Ingress, &back), Verdict::Allow);
    let flow = sock.flow().unwrap();
    assert_eq!(flow.peer_addr, DB_ADDR, "what was judged stands");
    node.control.generation += 2;
    assert_eq!(node.packet(&sock, Direction::Ingress, &back), Verdict::Allow);
    assert_eq!(sock.flow().unwrap(), flow, "until a packet goes out");
    assert_eq!(node.packet(&sock, Direction::Egress, &out.flags(ACK).bytes()), Verdict::Allow);
    assert_eq!(sock.flow().unwrap().generation, node.control.generation);
}

#[test]
fn what_an_accepted_connection_answers_from_a_translated_address_is_its_own() {
    let mut node = with_service();
    answer(&mut node, (WEB, DB), (Protocol::TCP, PORT), (RULE, RULE));
    let server = Sock::stream(common::DB_CGROUP, HOST);
    let into = tcp(FAR_WEB, DB_ADDR).flags(ACK);
    assert_eq!(node.packet(&server, Direction::Ingress, &into.bytes()), Verdict::Allow);
    let out = Wire { src: NODE_ADDR, src_port: 30_080, ..into.clone().reversed() }.bytes();
    assert_eq!(node.packet(&server, Direction::Egress, &out), Verdict::Allow);
    node.control.generation += 2;
    assert_eq!(node.packet(&server, Direction::Egress, &out), Verdict::Allow);
    answer(&mut node, (WEB, DB), (Protocol::TCP, PORT), (DENY, DENY));
    assert_eq!(node.packet(&server, Direction::Ingress, &into.bytes()), Verdict::Deny);
    assert_eq!(node.packet(&server, Direction::Egress, &out), Verdict::Deny);
}

#[test]
fn an_opening_socket_does_not_ride_on_its_last_connection() {
    let mut node = guarded();
    answer(&mut node, (WEB, DB), (Protocol::TCP, PORT), (RULE, RULE));
    let mut sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(node.packet(&sock, Direction::Egress, &tcp(WEB_ADDR, DB_ADDR).bytes()), Verdict::Allow);
    sock.cookie += 1;
    let other = Wire { dst_port: 1, ..tcp(WEB_ADDR, DB_ADDR) };
    assert_eq!(node.packet(&sock, Direction::Egress, &other.bytes()), Verdict::Deny);
}

#[test]
fn a_raw_sockets_forged_source_is_refused_at_its_own_layer() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let raw = Sock { ownership: bulkhead_core::track::Ownership::Raw, ..Sock::plain(OTHER_CGROUP, DB_NETNS) };
    for src in [WEB_ADDR, FAR_WEB] {
        assert_eq!(node.packet(&raw, Direction::Egress, &udp(src, DB_ADDR).bytes()), Verdict::Deny);
        one_denial(&node, Reason::Spoofed);
    }
}
