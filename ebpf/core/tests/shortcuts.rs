//! What saves work: each shortcut is taken where nothing differs, and nowhere else.
//!
//! Tables are changed here without a new generation, which a node never does: who takes a shortcut does
//! not notice, who looks does.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bulkhead_abi::{
    Addr, ListenerKey, LocalAddress, Protocol, Reason, SocketFlow, Verdict, Workload, flow::Listener,
    tables::Home,
};
use bulkhead_core::{
    call::Connect,
    host::{
        Node, Sock,
        wire::{self, ACK, SYN, Wire},
    },
};
use common::*;

use Verdict::{Allow, Deny};
const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;
const MILLISECOND: u64 = 1_000_000;
const FAR: u64 = 8;
/// What is told from one datagram (a question of DNS): only a flow that need not be read any more is
/// remembered.
const PLAIN: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01";

fn web() -> Sock {
    Sock::plain(WEB_CGROUP, NETNS)
}

fn question(protocol: Protocol) -> (Wire, Wire) {
    let payload = if protocol == UDP { PLAIN } else { b"" };
    let wire = Wire::new(protocol, (WEB_ADDR, 4000), (DB_ADDR, 80)).payload(payload);
    (wire.clone(), wire.reversed().flags(SYN | ACK))
}

/// Web may ask db, which listens on this node.
fn local(protocol: Protocol) -> Node {
    let mut node = node();
    allow(&mut node, (WEB, DB), (protocol, 80));
    node.locals.insert(DB_ADDR, LocalAddress { netns: FAR, addr: DB_ADDR });
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(ListenerKey::new(FAR, DB_ADDR, 80, protocol), Listener { workload, cookie: 1 });
    node
}

fn forbid(node: &mut Node, protocol: Protocol) {
    answer(node, (WEB, DB), (protocol, 80), (RULE, DENY_RULE));
}

fn later(node: &Node, milliseconds: u64) {
    node.now.set(node.now.get() + milliseconds * MILLISECOND);
}

#[test]
fn a_receiver_takes_over_what_the_openers_hook_decided() {
    let mut node = local(TCP);
    let (syn, reply) = question(TCP);
    assert_eq!(out(&node, &Sock::opening(WEB_CGROUP, NETNS), &syn), Allow);
    forbid(&mut node, TCP);
    let listener = Sock::listening(DB_CGROUP, FAR);
    assert_eq!((into(&node, &listener, &syn), out(&node, &listener, &reply)), (Allow, Allow));
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 2)], "and counts it");
    let child = Sock::stream(DB_CGROUP, FAR);
    assert_eq!(into(&node, &child, &syn.clone().flags(ACK)), Allow);
    let flow = child.flow().unwrap();
    assert_eq!((flow.from, flow.to, flow.rule, flow.peer.cgroup), (WEB, DB, 5, WEB_CGROUP));
}

#[test]
fn only_in_the_generation_that_decided() {
    let mut node = local(TCP);
    let (syn, _) = question(TCP);
    assert_eq!(out(&node, &Sock::opening(WEB_CGROUP, NETNS), &syn), Allow);
    forbid(&mut node, TCP);
    next_generation(&mut node);
    assert_eq!(into(&node, &Sock::listening(DB_CGROUP, FAR), &syn), Deny);
}

#[test]
fn only_if_it_is_the_receiver_that_was_found() {
    let mut node = local(TCP);
    let (syn, _) = question(TCP);
    assert_eq!(out(&node, &Sock::opening(WEB_CGROUP, NETNS), &syn), Allow);
    forbid(&mut node, TCP);
    let other = Sock::listening(OTHER_CGROUP, FAR);
    assert_eq!(into(&node, &other, &syn), Deny, "it stands in db by its address alone");
    assert_eq!(into(&node, &Sock::stream(OTHER_CGROUP, FAR), &syn.flags(ACK)), Deny);
}

#[test]
fn a_datagrams_receiver_takes_it_over_too() {
    let mut node = local(UDP);
    let (ask, _) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Allow);
    forbid(&mut node, UDP);
    assert_eq!(into(&node, &Sock::plain(DB_CGROUP, FAR), &ask), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
}

/// Web connects to db, which is elsewhere; its SYN.
fn connecting() -> (Node, Sock, Wire) {
    let mut node = node();
    answer(&mut node, (WEB, DB), (TCP, 80), (RULE, DENY));
    node.homes.insert(NETNS, Home { v4: WEB_ADDR, v6: Addr::ANY, flags: 0 });
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    let connect = Connect { target: (DB_ADDR, 80), protocol: TCP, bound: (Addr::ANY, 0) };
    assert_eq!(node.connect(&sock, WEB_CGROUP, &connect), Allow);
    assert_eq!(moved(&node), [], "its first packet is counted");
    answer(&mut node, (WEB, DB), (TCP, 80), (DENY_RULE, DENY));
    (node, sock, question(TCP).0)
}

#[test]
fn a_syn_is_what_its_connect_was() {
    let (node, sock, syn) = connecting();
    assert_eq!(out(&node, &sock, &syn), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
    let flow = sock.flow().unwrap();
    assert_eq!((flow.flags, flow.protocol, flow.local_port), (SocketFlow::FLAG_OPENER, 6, 4000));
}

#[test]
fn unless_it_goes_elsewhere() {
    for change in [
        |syn: Wire| Wire { dst: LAX_ADDR, ..syn },
        |syn: Wire| Wire { dst_port: 81, ..syn },
        |syn: Wire| Wire { src: WORLD_ADDR, ..syn },
    ] {
        let (node, sock, syn) = connecting();
        assert_eq!(out(&node, &sock, &change(syn)), Deny);
    }
}

#[test]
fn or_the_policy_changed() {
    let (mut node, sock, syn) = connecting();
    next_generation(&mut node);
    assert_eq!(out(&node, &sock, &syn), Deny);
}

#[test]
fn and_only_a_syn() {
    let (node, sock, syn) = connecting();
    let other = Sock { state: bulkhead_core::track::Socket::Other, ..sock };
    assert_eq!(out(&node, &other, &syn.flags(ACK)), Deny, "it is no flow yet");
}

/// An unconnected socket of web's that has asked and was answered.
fn asked() -> (Node, Sock, Wire, Wire) {
    let mut node = node();
    answer(&mut node, (WEB, DB), (UDP, 80), (RULE, DENY));
    let (sock, (ask, reply)) = (web(), question(UDP));
    for _ in 0..2 {
        assert_eq!((out(&node, &sock, &ask), into(&node, &sock, &reply)), (Allow, Allow));
    }
    assert!(sock.flow().unwrap().flags & SocketFlow::FLAG_TABLED != 0);
    let _ = moved(&node);
    (node, sock, ask, reply)
}

#[test]
fn a_socket_knows_the_datagrams_of_the_flow_it_met_last() {
    let (node, sock, ask, reply) = asked();
    node.clear_flows();
    assert_eq!((out(&node, &sock, &ask), into(&node, &sock, &reply)), (Allow, Allow));
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 0, 2)], "no new flow");
    assert_eq!(node.flows().len(), 0, "the table was not asked");
}

#[test]
fn for_a_second() {
    let (node, sock, ask, reply) = asked();
    later(&node, 900);
    assert_eq!(out(&node, &sock, &ask), Allow);
    later(&node, 101);
    assert_eq!(out(&node, &sock, &ask), Allow);
    let [flow] = node.flows().into_values().collect::<Vec<_>>()[..] else { unreachable!() };
    assert_eq!(flow.seen, node.now.get(), "an entry in use does not look silent");
    later(&node, 1_001);
    node.clear_flows();
    assert_eq!(into(&node, &sock, &reply), Deny);
}

#[test]
fn in_one_generation() {
    let (mut node, sock, ask, reply) = asked();
    answer(&mut node, (WEB, DB), (UDP, 80), (DENY_RULE, DENY));
    next_generation(&mut node);
    assert_eq!((into(&node, &sock, &reply), out(&node, &sock, &ask)), (Deny, Deny));
}

#[test]
fn and_no_others() {
    let (node, sock, ask, reply) = asked();
    node.clear_flows();
    for other in [
        Wire { dst_port: 81, ..ask.clone() },
        Wire { dst: LAX_ADDR, ..ask.clone() },
        Wire { src: DB_ADDR, dst: WEB_ADDR, ..ask.clone() },
    ] {
        assert_eq!(out(&node, &sock, &other), Deny, "{other:?}");
    }
    assert_eq!(into(&node, &sock, &Wire { src_port: 81, ..reply.clone() }), Deny);
    assert_eq!(into(&node, &sock, &Wire { dst: LAX_ADDR, ..reply }), Deny, "it came to another address");
    let _ = moved(&node);
    // Options that look like the ports.
    let options = wire::v4(ask.src, ask.dst, UDP, &[15, 160, 0, 80], ask.transport().len());
    let bytes = [options, ask.transport()].concat();
    assert_eq!(node.packet(&sock, bulkhead_abi::Direction::Egress, &bytes), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::IpOptions, 1, 1)]);
}

#[test]
fn an_answer_is_noted_before_it_is_taken_for_granted() {
    let mut node = node();
    answer(&mut node, (WEB, DB), (UDP, 80), (RULE, DENY));
    let (sock, (ask, reply)) = (web(), question(UDP));
    assert_eq!((out(&node, &sock, &ask), out(&node, &sock, &ask)), (Allow, Allow));
    assert_eq!(into(&node, &sock, &reply), Allow);
    let [flow] = node.flows().into_values().collect::<Vec<_>>()[..] else { unreachable!() };
    assert!(flow.flags & bulkhead_abi::FlowState::FLAG_REPLIED != 0, "it lives longer now");
}

#[test]
fn a_copy_is_not_ownership() {
    let (node, sock, ask, _) = asked();
    // Connected, to the one it asked before: nothing says any more that it stays with that flow.
    let sock = Sock { ownership: bulkhead_core::track::Ownership::Datagrams, ..sock };
    later(&node, 1_001);
    assert_eq!(out(&node, &sock, &ask), Allow);
    let flow = sock.flow().unwrap();
    assert_eq!(flow.flags & (SocketFlow::FLAG_TABLED | SocketFlow::FLAG_OPENER), SocketFlow::FLAG_OPENER);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
}

#[test]
fn datagrams_of_ipv6_too() {
    let mut node = node();
    answer(&mut node, (WEB, DB), (UDP, 80), (RULE, DENY));
    let (sock, ask) = (web(), Wire::new(UDP, (v6([1, 1]), 4000), (v6([2, 1]), 80)).payload(PLAIN));
    assert_eq!((out(&node, &sock, &ask), out(&node, &sock, &ask)), (Allow, Allow));
    node.clear_flows();
    assert_eq!(out(&node, &sock, &ask), Allow);
    assert_eq!(out(&node, &sock, &Wire { dst_port: 81, ..ask }), Deny);
    assert_eq!(node.flows().len(), 0);
}

#[test]
fn a_flood_of_what_is_denied_is_denied_for_less_and_counted_all_the_same() {
    let mut node = node();
    let (sock, (ask, _)) = (web(), question(UDP));
    assert_eq!(out(&node, &sock, &ask), Deny);
    allow(&mut node, (WEB, DB), (UDP, 80));
    later(&node, 19);
    assert_eq!(out(&node, &sock, &ask), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::Default, 1, 2)]);
    assert_eq!(node.take_events().len(), 1);
    later(&node, 1);
    assert_eq!(out(&node, &sock, &ask), Allow, "soon it is looked at again");
}

#[test]
fn a_denial_is_nobody_elses() {
    let mut node = node();
    let (ask, reply) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Deny);
    allow(&mut node, (WEB, DB), (UDP, 80));
    allow(&mut node, (DB, WEB), (UDP, 4000));
    assert_eq!(out(&node, &web(), &ask), Deny);
    assert_eq!(into(&node, &Sock::plain(DB_CGROUP, FAR), &ask), Allow, "the other way through a hook");
    node.clear_flows();
    assert_eq!(out(&node, &Sock::plain(NEW_CGROUP, NETNS), &ask), Allow, "of another cgroup");
    node.clear_flows();
    assert_eq!(out(&node, &Sock::plain(DB_CGROUP, FAR), &reply), Allow, "of the other end");
}

#[test]
fn two_ends_of_one_cgroup_are_two() {
    let mut node = node();
    let there = Wire::new(UDP, (WEB_ADDR, 4000), (Addr::v4([10, 0, 1, 2]), 80));
    answer(&mut node, (WEB, WEB), (UDP, 80), (DENY_RULE, DENY));
    answer(&mut node, (WEB, WEB), (UDP, 4000), (RULE, DENY));
    assert_eq!((out(&node, &web(), &there), out(&node, &web(), &there)), (Deny, Deny));
    assert_eq!(out(&node, &web(), &there.reversed()), Allow);
}

#[test]
fn a_denial_does_not_outlive_its_generation() {
    let mut node = node();
    let (ask, _) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Deny);
    allow(&mut node, (WEB, DB), (UDP, 80));
    next_generation(&mut node);
    assert_eq!(out(&node, &web(), &ask), Allow);
}

#[test]
fn an_approved_flow_is_found_before_a_denial() {
    let mut node = node();
    let (ask, _) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Deny);
    allow(&mut node, (WEB, DB), (UDP, 80));
    later(&node, 20);
    assert_eq!((out(&node, &web(), &ask), out(&node, &web(), &ask)), (Allow, Allow));
}

#[test]
fn kinds_of_icmp_are_told_apart() {
    let mut node = node();
    let (src, dst) = ((WEB_ADDR, 0), (DB_ADDR, 0));
    let (mask, stamp) =
        (Wire::new(Protocol::ICMP, src, dst).icmp(17, 0), Wire::new(Protocol::ICMP, src, dst));
    assert_eq!(out(&node, &web(), &mask), Deny);
    answer(&mut node, (WEB, DB), (Protocol::ICMP, 13 << 8), (RULE, DENY));
    assert_eq!(out(&node, &web(), &stamp.icmp(13, 0)), Allow, "the same key, another kind");
}
