//! The guard: which of a flow's two ends it judges, who counts, and what a flow of its own remembers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod common;

use bulkhead_abi::{
    Addr, Direction, Identity, LocalAddress, Protocol, Reason, Verdict,
    tables::{Home, SideAnswer},
};
use bulkhead_core::{
    call::Connect,
    guard::Mark,
    host::{
        Frame, Node, Sock,
        wire::{self, ACK, SYN, Wire},
    },
    track::Ownership,
};
use common::{
    DB, DB_ADDR, DENY, HOST, NETNS, OPEN, RULE, WEB, WEB_ADDR, WEB_CGROUP, WORLD_ADDR, answer,
    guarded::{
        DB_NETNS, FAR_WEB, NODE_ADDR, PORT, TO_DB, TO_VM, TO_WEB, VIP, VM, WIRE, allow_web_to_db, forwarded,
        guarded, one_denial, tcp, udp, with_service,
    },
};

/// A machine of the zone db on another node.
const FAR_DB: Addr = Addr::v4([10, 0, 2, 99]);
/// An address of this node in no zone.
const LOCAL: Addr = Addr::v4([172, 16, 0, 9]);

fn sides(egress: SideAnswer, ingress: SideAnswer) -> Node {
    let mut node = guarded();
    answer(&mut node, (WEB, DB), (Protocol::UDP, PORT), (egress, ingress));
    answer(&mut node, (DB, WEB), (Protocol::UDP, PORT), (egress, ingress));
    node
}

/// A routed packet with this mark, leaving by `interface`.
fn leaves(node: &Node, interface: u32, mark: Mark, packet: &Wire) -> Verdict {
    let frame = Frame { mark: mark.into(), ..Frame::forwarded() };
    node.goes_out(interface, &frame, &Sock::none(), &packet.bytes())
}

fn flows_and_packets(node: &Node) -> Vec<(u64, u64)> {
    node.take_counters().values().map(|counter| (counter.flows, counter.packets)).collect()
}

#[test]
fn each_end_is_judged_by_its_own_node_or_by_its_socket() {
    let far = udp(FAR_WEB, FAR_DB);
    let (sender_refuses, receiver_refuses) = (|| sides(DENY, RULE), || sides(RULE, DENY));

    // From a socket to a machine behind an interface: only the machine is left to judge.
    assert_eq!(leaves(&sender_refuses(), TO_VM, Mark::JUDGED, &udp(WEB_ADDR, VM)), Verdict::Allow);
    assert_eq!(leaves(&receiver_refuses(), TO_VM, Mark::JUDGED, &udp(WEB_ADDR, VM)), Verdict::Deny);
    // From the wire to such a machine: its sender's node has judged.
    assert_eq!(leaves(&sender_refuses(), TO_VM, Mark::WIRE, &udp(FAR_WEB, VM)), Verdict::Allow);
    assert_eq!(leaves(&receiver_refuses(), TO_VM, Mark::WIRE, &udp(FAR_WEB, VM)), Verdict::Deny);
    // From wire to wire nobody knows who judges.
    assert_eq!(leaves(&sender_refuses(), WIRE, Mark::WIRE, &far), Verdict::Deny);
    assert_eq!(leaves(&receiver_refuses(), WIRE, Mark::WIRE, &far), Verdict::Deny);
    // From such a machine out, or to a socket of this node.
    for (to, packet) in [(WIRE, udp(VM, FAR_WEB)), (TO_WEB, udp(VM, WEB_ADDR))] {
        assert_eq!(leaves(&sender_refuses(), to, Mark::ROUTED, &packet), Verdict::Deny);
        assert_eq!(leaves(&receiver_refuses(), to, Mark::ROUTED, &packet), Verdict::Allow);
    }
    // From one such machine to another: both.
    assert_eq!(leaves(&sender_refuses(), TO_VM, Mark::ROUTED, &far), Verdict::Deny);
    assert_eq!(leaves(&receiver_refuses(), TO_VM, Mark::NONE, &far), Verdict::Deny);
}

#[test]
fn a_flow_is_counted_once() {
    let node = sides(RULE, RULE);
    assert_eq!(leaves(&node, TO_VM, Mark::JUDGED, &udp(WEB_ADDR, VM)), Verdict::Allow);
    assert!(node.take_counters().is_empty(), "the sender's layer has counted it");
    assert_eq!(leaves(&node, TO_WEB, Mark::ROUTED, &udp(VM, WEB_ADDR)), Verdict::Allow);
    assert!(node.take_counters().is_empty(), "the receiver's layer will");
    assert_eq!(leaves(&node, WIRE, Mark::ROUTED, &udp(VM, FAR_WEB)), Verdict::Allow);
    assert_eq!(flows_and_packets(&node), [(1, 1)]);
}

#[test]
fn what_cannot_be_judged_passes_only_between_endpoints_in_no_zone() {
    let node = guarded();
    let odd = |src, dst| {
        let mut bytes = wire::v4(src, dst, Protocol::UDP, &[7, 4, 0, 0], 8);
        bytes.extend([0; 8]);
        let frame = Frame::forwarded();
        node.goes_out(TO_VM, &frame, &Sock::none(), &bytes)
    };
    assert_eq!(odd(WORLD_ADDR, VM), Verdict::Deny);
    one_denial(&node, Reason::IpOptions);
    assert_eq!(odd(FAR_WEB, WORLD_ADDR), Verdict::Deny);
    one_denial(&node, Reason::IpOptions);
    assert_eq!(odd(WORLD_ADDR, Addr::v4([203, 0, 113, 1])), Verdict::Allow);
}

#[test]
fn a_nodes_own_address_from_outside_opens_no_door() {
    let mut node = guarded();
    node.locals.insert(LOCAL, LocalAddress { addr: LOCAL, netns: 9 });
    let comes = |dst| node.comes_in(WIRE, &Frame::forwarded(), &Sock::none(), &udp(NODE_ADDR, dst).bytes());
    assert_eq!(comes(LOCAL), Verdict::Deny, "its cgroup's zones are not seen here");
    one_denial(&node, Reason::Spoofed);
    assert_eq!(comes(WORLD_ADDR), Verdict::Allow, "it harms nobody");
}

#[test]
fn a_flow_ends_with_its_silence_and_begins_anew_with_a_syn() {
    const SECOND: u64 = 1_000_000_000;
    let mut node = sides(RULE, RULE);
    allow_web_to_db(&mut node);
    let later = |seconds: u64| node.now.set(node.now.get() + seconds * SECOND);
    let packet = udp(FAR_WEB, VM);
    let goes = |packet: &Wire| assert_eq!(forwarded(&node, WIRE, TO_VM, packet), Verdict::Allow);
    goes(&packet);
    later(31);
    goes(&packet);
    assert_eq!(flows_and_packets(&node), [(2, 2)], "another flow, when none came back");
    assert_eq!(forwarded(&node, TO_VM, WIRE, &packet.clone().reversed()), Verdict::Allow);
    later(31);
    goes(&packet);
    assert_eq!(flows_and_packets(&node), [(0, 2)], "a conversation lasts longer");

    let packet = tcp(FAR_WEB, VM);
    goes(&packet);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &packet.clone().reversed().flags(SYN | ACK)), Verdict::Allow);
    goes(&packet.clone().flags(ACK));
    goes(&packet);
    assert_eq!(flows_and_packets(&node), [(2, 4)], "the tuple is used again");
}

#[test]
fn a_reply_to_no_request_is_a_stray() {
    let mut node = guarded();
    answer(&mut node, (DB, WEB), (Protocol::ICMP, 8 << 8), (RULE, RULE));
    let reply = Wire::new(Protocol::ICMP, (VM, 7), (FAR_WEB, 7)).icmp(0, 0);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &reply), Verdict::Deny);
    one_denial(&node, Reason::Stray);
    let request = Wire::new(Protocol::ICMP, (VM, 8), (FAR_WEB, 8)).icmp(8, 0);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &request), Verdict::Allow);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &request.reversed().icmp(0, 0)), Verdict::Allow);
}

#[test]
fn who_sends_to_a_virtual_address_may_change_in_mid_flow() {
    let mut node = with_service();
    allow_web_to_db(&mut node);
    let packet = udp(NODE_ADDR, VM);
    assert_eq!(leaves(&node, TO_VM, Mark(WEB.0), &packet), Verdict::Allow);
    assert_eq!(leaves(&node, TO_VM, Mark::deferred(Identity::WORLD), &packet), Verdict::Deny);
    assert_eq!(leaves(&node, TO_VM, Mark(WEB.0), &packet), Verdict::Allow);

    // What comes back under a new policy is judged by who sent, too, and not by the translated address.
    node.control.generation += 2;
    assert_eq!(leaves(&node, TO_WEB, Mark::ROUTED, &packet.reversed()), Verdict::Allow);
}

#[test]
fn a_frame_that_keeps_its_socket_on_a_bridge_is_judged_all_the_same() {
    let node = with_service();
    let frame = Frame { mark: Mark(WEB.0).into(), ..Frame::of_socket() };
    let sock = Sock::stream(WEB_CGROUP, NETNS);
    let bytes = tcp(WEB_ADDR, DB_ADDR).bytes();
    assert_eq!(node.goes_out(TO_DB, &frame, &sock, &bytes), Verdict::Deny);
    one_denial(&node, Reason::Default);
    // Where nothing is virtual, the same bits of the mark are somebody else's.
    let plain = guarded();
    assert_eq!(plain.goes_out(TO_DB, &frame, &sock, &bytes), Verdict::Allow);
}

#[test]
fn the_hand_over_is_for_receivers_on_this_node() {
    let mut node = with_service();
    node.locals.insert(LOCAL, LocalAddress { addr: LOCAL, netns: 9 });
    let world = Mark::deferred(Identity::WORLD);
    assert_eq!(leaves(&node, TO_DB, world, &udp(NODE_ADDR, LOCAL)), Verdict::Allow);
    let (_, handed) = node.flows().pop_first().unwrap();
    assert_eq!(handed.opener.identity(), Some(Identity::WORLD), "and not the node");
    node.clear_flows();

    answer(&mut node, (WEB, DB), (Protocol::UDP, PORT), (RULE, DENY));
    assert_eq!(leaves(&node, WIRE, Mark(WEB.0), &udp(NODE_ADDR, FAR_DB)), Verdict::Allow);
    assert!(node.flows().is_empty());
    assert_eq!(flows_and_packets(&node), [(1, 1)]);
}

#[test]
fn a_connected_datagram_socket_may_send_to_a_virtual_address_beside() {
    let mut node = with_service();
    allow_web_to_db(&mut node);
    let sock = Sock::datagrams(WEB_CGROUP, NETNS);
    assert_eq!(node.packet(&sock, Direction::Egress, &udp(WEB_ADDR, DB_ADDR).bytes()), Verdict::Allow);
    assert!(sock.flow().is_some());
    let frame = Frame::of_socket();
    let beside = udp(WEB_ADDR, VIP).bytes();
    assert_eq!(node.comes_in(TO_WEB, &frame, &sock, &beside), Verdict::Allow);
    assert_eq!(frame.mark.get(), Mark(WEB.0));
}

#[test]
fn an_identity_that_does_not_fit_is_closed() {
    let carried = |mark: Mark, room| Mark::from_number(mark.number(room), room);
    for (identity, room, told) in [
        (Identity(127), 255, Identity(127)),
        (Identity(128), 255, Identity::UNKNOWN),
        (Identity(128), 511, Identity(128)),
        (Identity::UNKNOWN, 511, Identity::UNKNOWN),
    ] {
        let socket = carried(Mark::deferred(identity), room);
        assert_eq!((socket.sender(), socket.endpoint(), socket.is_routed()), (Some(told), None, false));
        let endpoint = carried(Mark::routed(identity), room);
        let named = Some(told).filter(|_| identity != Identity::UNKNOWN);
        assert_eq!((endpoint.sender(), endpoint.endpoint(), endpoint.is_routed()), (None, named, true));
    }
    for plain in [Mark::NONE, Mark::JUDGED, Mark::WIRE, Mark::ROUTED, Mark::BACK] {
        assert_eq!((carried(plain, 255), plain.sender(), plain.endpoint()), (plain, None, None));
    }
    let mut node = with_service();
    allow_web_to_db(&mut node);
    let unknown = Mark::deferred(Identity::UNKNOWN);
    assert_eq!(leaves(&node, TO_DB, unknown, &udp(NODE_ADDR, DB_ADDR)), Verdict::Deny);
    one_denial(&node, Reason::Inconsistent);
}

#[test]
fn the_nodes_own_namespace_has_translated_already() {
    let mut node = with_service();
    node.homes.insert(HOST, Home { v4: Addr::ANY, v6: Addr::ANY, flags: Home::FLAG_GUARDED });
    let sock = Sock::plain(WEB_CGROUP, HOST);
    assert_eq!(node.packet(&sock, Direction::Egress, &udp(NODE_ADDR, VIP).bytes()), Verdict::Deny);
}

#[test]
fn a_connect_to_a_virtual_address_is_not_refused_early() {
    let mut node = with_service();
    node.homes.get_mut(&NETNS).unwrap().v4 = WEB_ADDR;
    answer(&mut node, (WEB, Identity::WORLD), (Protocol::TCP, PORT), (DENY, OPEN));
    let connect = |to| {
        let connect = Connect { target: (to, PORT), protocol: Protocol::TCP, bound: (Addr::ANY_V4, 0) };
        node.connect(&Sock::opening(WEB_CGROUP, NETNS), WEB_CGROUP, &connect)
    };
    assert_eq!(connect(WORLD_ADDR), Verdict::Deny);
    assert_eq!(connect(VIP), Verdict::Allow);
}

#[test]
fn errors_about_a_virtual_address_reach_the_socket() {
    let node = with_service();
    let quoted = tcp(WEB_ADDR, VIP);
    let error = |quoted: &Wire| {
        Wire::new(Protocol::ICMP, (WORLD_ADDR, 0), (WEB_ADDR, 0)).icmp(3, 4).payload(&quoted.bytes()).bytes()
    };
    let sock = Sock::stream(WEB_CGROUP, NETNS);
    assert_eq!(node.packet(&sock, Direction::Ingress, &error(&quoted)), Verdict::Allow);
    assert_eq!(node.packet(&sock, Direction::Ingress, &error(&tcp(WEB_ADDR, FAR_DB))), Verdict::Deny);
}

#[test]
fn where_the_namespace_cannot_be_told_an_address_is_taken_as_it_is() {
    let mut node = guarded();
    allow_web_to_db(&mut node);
    let sock = |netns, ownership| Sock { ownership, ..Sock::plain(WEB_CGROUP, netns) };
    let sends = |sock: &Sock| node.packet(sock, Direction::Egress, &udp(WEB_ADDR, FAR_DB).bytes());
    assert_eq!(sends(&sock(0, Ownership::Nothing)), Verdict::Allow);
    node.clear_flows();
    assert_eq!(sends(&sock(DB_NETNS, Ownership::Nothing)), Verdict::Deny);
}
