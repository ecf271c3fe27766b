//! Machines without a socket whose address is translated between where the guard first sees their packets
//! and where it judges them: they are themselves, and get their answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod common;

use bulkhead_abi::{Addr, FlowState, Identity, Protocol, Reason, Verdict, flow::Workload};
use bulkhead_core::{
    guard::{Mark, Network, Sender},
    host::{
        Frame, Node, Sock,
        wire::{ACK, SYN, Wire},
    },
};
use common::{
    DB, DB_ADDR, DB_CGROUP, DENY, RULE, WEB, WORLD_ADDR, answer,
    guarded::{
        FAR_WEB, NODE_ADDR, PORT, TO_DB, TO_VM, VM, WIRE, forwarded, guarded, one_denial, tcp, udp,
        with_service,
    },
};

/// Through the node, where it becomes another packet.
fn becomes(node: &Node, (from, packet): (u32, &Wire), (to, after): (u32, &Wire)) -> Verdict {
    let frame = Frame::forwarded();
    match node.comes_in(from, &frame, &Sock::none(), &packet.bytes()) {
        Verdict::Deny => Verdict::Deny,
        _ => node.goes_out(to, &frame, &Sock::none(), &after.bytes()),
    }
}

/// Out by the wire, as the node.
fn masqueraded(node: &Node, packet: &Wire) -> Verdict {
    becomes(node, (TO_VM, packet), (WIRE, &Wire { src: NODE_ADDR, ..packet.clone() }))
}

/// The answer to that.
fn answered(node: &Node, packet: &Wire) -> Verdict {
    let back = packet.clone().reversed();
    becomes(node, (WIRE, &Wire { dst: NODE_ADDR, ..back.clone() }), (TO_VM, &back))
}

fn db_may_ask_the_world(node: &mut Node) {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        answer(node, (DB, Identity::WORLD), (protocol, PORT), (RULE, DENY));
    }
}

#[test]
fn a_masqueraded_machine_is_itself() {
    let node = guarded();
    for packet in [tcp(VM, WORLD_ADDR).flags(SYN), udp(VM, WORLD_ADDR)] {
        assert_eq!(masqueraded(&node, &packet), Verdict::Deny);
        let counters = node.take_counters();
        let (key, counter) = counters.first_key_value().unwrap();
        assert_eq!((key.from, key.to, key.reason), (DB, Identity::WORLD, Reason::Default as u8), "{key:?}");
        assert_eq!((counters.len(), counter.packets), (1, 1));
    }
    // Whose address is in no zone is judged as what arrives, as ever.
    assert_eq!(masqueraded(&node, &udp(WORLD_ADDR, WORLD_ADDR)), Verdict::Allow);
    assert!(node.transit().is_empty() && !node.routes.get());
}

#[test]
fn its_answers_find_it() {
    let mut node = guarded();
    db_may_ask_the_world(&mut node);
    let syn = tcp(VM, WORLD_ADDR).flags(SYN);
    assert_eq!(masqueraded(&node, &syn), Verdict::Allow);
    assert_eq!(answered(&node, &syn.clone().flags(SYN | ACK)), Verdict::Allow);
    assert_eq!(masqueraded(&node, &syn.clone().flags(ACK).payload(b"ask")), Verdict::Allow);
    assert_eq!(answered(&node, &syn.clone().flags(ACK).payload(b"told")), Verdict::Allow);
    let counters = node.take_counters();
    let (key, counter) = counters.first_key_value().unwrap();
    assert_eq!((key.from, key.to, counter.flows, counter.packets), (DB, Identity::WORLD, 1, 4));
    assert_eq!(counters.len(), 1, "{counters:?}");

    // Not those that nobody asked for.
    let stray = Wire { src_port: 1, ..syn.flags(ACK) };
    assert_eq!(answered(&node, &stray), Verdict::Deny);
    one_denial(&node, Reason::Stray);
    let (_, flow) = node.transit().pop().unwrap();
    assert_eq!(flow.flags & (FlowState::FLAG_ROUTED | FlowState::FLAG_CARRIED), 64 | 16);
}

#[test]
fn errors_and_fragments_come_back_too() {
    let mut node = guarded();
    db_may_ask_the_world(&mut node);
    let packet = udp(VM, WORLD_ADDR);
    assert_eq!(masqueraded(&node, &packet), Verdict::Allow);
    node.take_counters();
    let error = |to: Addr, quoted: &Wire| {
        Wire::new(Protocol::ICMP, (WORLD_ADDR, 0), (to, 0)).icmp(3, 3).payload(&quoted.bytes())
    };
    let outside = Wire { src: NODE_ADDR, ..packet.clone() };
    let back = becomes(&node, (WIRE, &error(NODE_ADDR, &outside)), (TO_VM, &error(VM, &packet)));
    assert_eq!(back, Verdict::Allow);
    let other = Wire { src_port: 7, ..outside };
    let back = becomes(&node, (WIRE, &error(NODE_ADDR, &other)), (TO_VM, &error(VM, &packet)));
    assert_eq!(back, Verdict::Deny);
    one_denial(&node, Reason::IcmpError);
}

#[test]
fn a_policy_that_takes_the_right_away_stops_both_ways() {
    let mut node = guarded();
    db_may_ask_the_world(&mut node);
    let packet = udp(VM, WORLD_ADDR);
    assert_eq!(masqueraded(&node, &packet), Verdict::Allow);
    assert_eq!(answered(&node, &packet), Verdict::Allow);
    answer(&mut node, (DB, Identity::WORLD), (Protocol::UDP, PORT), (DENY, DENY));
    node.control.generation += 2;
    assert_eq!(answered(&node, &packet), Verdict::Deny);
    assert_eq!(masqueraded(&node, &packet), Verdict::Deny);
    // By a machine that has left its zone the same flow is another's.
    answer(&mut node, (DB, Identity::WORLD), (Protocol::UDP, PORT), (RULE, DENY));
    node.control.generation += 2;
    assert_eq!(masqueraded(&node, &packet), Verdict::Allow);
    let unzoned = Frame { mark: Mark::ROUTED.into(), ..Frame::forwarded() };
    let after = Wire { src: NODE_ADDR, ..packet };
    assert_eq!(node.goes_out(WIRE, &unzoned, &Sock::none(), &after.bytes()), Verdict::Allow);
    let (_, flow) = node.transit().pop().unwrap();
    assert_eq!(flow.from, Identity::WORLD);
}

#[test]
fn a_receiver_on_the_node_is_told_who_it_is() {
    let mut node = with_service();
    answer(&mut node, (DB, DB), (Protocol::TCP, PORT), (RULE, RULE));
    let syn = tcp(VM, DB_ADDR).flags(SYN);
    let after = Wire { src: NODE_ADDR, ..syn.clone() };
    assert_eq!(becomes(&node, (TO_VM, &syn), (TO_DB, &after)), Verdict::Allow);
    let flow = node.flows().into_values().next().unwrap();
    assert_eq!(flow.opener, Workload::carried(DB));
}

/// It goes by the address that arrives where the translation is of the target alone.
#[test]
fn an_answer_finds_its_way_when_the_target_was_translated() {
    let mut node = guarded();
    answer(&mut node, (DB, WEB), (Protocol::UDP, PORT), (RULE, RULE));
    let packet = udp(VM, WORLD_ADDR);
    let after = Wire { dst: FAR_WEB, ..packet.clone() };
    assert_eq!(becomes(&node, (TO_VM, &packet), (WIRE, &after)), Verdict::Allow);
    assert_eq!(
        becomes(&node, (WIRE, &after.reversed()), (TO_VM, &packet.clone().reversed())),
        Verdict::Allow
    );
    // Without translation nothing changes.
    let plain = udp(VM, FAR_WEB);
    assert_eq!(forwarded(&node, TO_VM, WIRE, &plain), Verdict::Allow);
    assert_eq!(forwarded(&node, WIRE, TO_VM, &plain.reversed()), Verdict::Allow);
}

/// The tuple may be that of a flow which somebody else began: before the machine was in its zone, or from
/// the same port behind the same translation.
#[test]
fn it_is_not_taken_for_who_began_the_flow() {
    let mut node = guarded();
    answer(&mut node, (Identity::WORLD, WEB), (Protocol::UDP, PORT), (RULE, RULE));
    let leaves = |node: &Node, mark: Mark| {
        let frame = Frame { mark: mark.into(), ..Frame::forwarded() };
        node.goes_out(WIRE, &frame, &Sock::none(), &udp(NODE_ADDR, FAR_WEB).bytes())
    };
    assert_eq!(leaves(&node, Mark::ROUTED), Verdict::Allow);
    assert_eq!(leaves(&node, Mark::routed(DB)), Verdict::Deny);
    node.control.generation += 2;
    assert_eq!(leaves(&node, Mark::routed(DB)), Verdict::Deny);
    assert_eq!(leaves(&node, Mark::ROUTED), Verdict::Allow);

    // Where it may, it has a flow of its own, and its answers.
    answer(&mut node, (DB, WEB), (Protocol::UDP, PORT), (RULE, RULE));
    node.control.generation += 2;
    let packet = udp(VM, FAR_WEB);
    assert_eq!(masqueraded(&node, &packet), Verdict::Allow);
    assert_eq!(answered(&node, &packet), Verdict::Allow);
    let [(_, flow)] = node.transit()[..] else { panic!() };
    assert_eq!(flow.from, DB);
}

/// A socket's frame may carry IP inside of something else.
#[test]
fn only_ip_comes_back() {
    let mut node = with_service();
    answer(&mut node, (DB, DB), (Protocol::UDP, PORT), (RULE, RULE));
    let packet = udp(VM, DB_ADDR);
    assert_eq!(forwarded(&node, TO_VM, TO_DB, &packet), Verdict::Allow);
    for (network, mark) in [(Network::Other, Mark::JUDGED), (Network::Ip, Mark::BACK)] {
        let frame = Frame { sender: Sender::Socket, network, ..Frame::forwarded() };
        let sock = Sock::plain(DB_CGROUP, 0);
        assert_eq!(node.comes_in(TO_DB, &frame, &sock, &packet.clone().reversed().bytes()), Verdict::Allow);
        assert_eq!(frame.mark.get(), mark);
    }
}
