//! Streams whose ends are both on this node: below the levels that stop anything, the receiver's end alone
//! reads them; and what a receiver's hook has taken over is not asked again.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use bulkhead_abi::{
    Class, Demand, FlowState, ListenerKey, LocalAddress, Protocol, SocketFlow, Tls, Verdict, Workload,
    flow::Listener,
};
use bulkhead_core::host::{
    Node, Sock,
    wire::{ACK, SYN, Wire},
};
use common::*;

use Verdict::{Allow, Deny};
const TCP: Protocol = Protocol::TCP;
const FAR: u64 = 8;
const CLEAR: &[u8] = b"GET / HTTP/1.1\r\nHost: db\r\n\r\n";
const REPORT: Demand = Demand { level: Tls::Report, ..Demand::REQUIRE };

/// Web may ask db, which listens on this node.
fn world(demand: Demand) -> Node {
    let mut node = node();
    allow_as(&mut node, (WEB, DB), (TCP, 80), demand);
    node.locals.insert(DB_ADDR, LocalAddress { netns: FAR, addr: DB_ADDR });
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(ListenerKey::new(FAR, DB_ADDR, 80, TCP), Listener { workload, cookie: 1 });
    node
}

fn syn() -> Wire {
    Wire::new(TCP, (WEB_ADDR, 4000), (DB_ADDR, 80))
}

/// Opens a connection up to its first bytes; the opener's socket, and the one that is accepted.
fn open(node: &Node) -> (Sock, Sock) {
    let opener = Sock::opening(WEB_CGROUP, NETNS);
    let listener = Sock::listening(DB_CGROUP, FAR);
    let reply = syn().reversed().flags(SYN | ACK);
    assert_eq!((out(node, &opener, &syn()), into(node, &listener, &syn())), (Allow, Allow));
    assert_eq!((out(node, &listener, &reply), into(node, &opener, &reply)), (Allow, Allow));
    let mut accepted = Sock::stream(DB_CGROUP, FAR);
    accepted.starts = (Some(0), Some(0));
    (opener, accepted)
}

fn asks() -> Wire {
    syn().flags(ACK).payload(CLEAR)
}

fn classes(node: &Node) -> Vec<(u8, u64)> {
    node.classes().into_iter().map(|(key, count)| (key.class, count)).collect()
}

#[test]
fn below_require_the_receivers_end_reads_alone() {
    for demand in [Demand::OFF, REPORT] {
        let node = world(demand);
        let (opener, accepted) = open(&node);
        let flow = opener.flow().unwrap();
        assert_eq!(flow.flags, SocketFlow::FLAG_OPENER | SocketFlow::FLAG_LOCAL);
        assert_ne!(flow.reading.settled, 0, "nothing is left to be read here");
        assert_eq!(node.flows().values().map(|flow| flow.flags & FlowState::FLAG_READ).max(), Some(0));
        assert_eq!((out(&node, &opener, &asks()), into(&node, &accepted, &asks())), (Allow, Allow));
        assert_eq!(classes(&node), [(Class::Clear as u8, 1)], "and is counted once");
        assert_eq!(opener.flow().unwrap().inspection.class, Class::Unknown as u8);
    }
}

#[test]
fn under_require_both_do_and_either_stops_it() {
    let node = world(Demand::REQUIRE);
    let (opener, accepted) = open(&node);
    assert_ne!(opener.flow().unwrap().flags & SocketFlow::FLAG_READ, 0);
    assert_eq!(opener.flow().unwrap().reading.settled, 0);
    assert_eq!(into(&node, &accepted, &asks()), Deny, "as from a node that has no agent");
    assert_ne!(accepted.flow().unwrap().flags & SocketFlow::FLAG_READ, 0, "as it was handed over");
    let (opener, _) = open(&node);
    assert_eq!(out(&node, &opener, &asks()), Deny);
}

#[test]
fn what_is_required_later_is_stopped_where_it_was_read() {
    let mut node = world(Demand::OFF);
    let (opener, accepted) = open(&node);
    assert_eq!((out(&node, &opener, &asks()), into(&node, &accepted, &asks())), (Allow, Allow));
    allow_as(&mut node, (WEB, DB), (TCP, 80), Demand::REQUIRE);
    next_generation(&mut node);
    // The opener's end has read nothing and cannot tell; the receiver's can, and comes behind it.
    assert_eq!(out(&node, &opener, &asks()), Allow);
    assert_eq!(into(&node, &accepted, &asks()), Deny);
}

#[test]
fn a_connection_in_the_making_is_compared_once() {
    let mut node = world(Demand::OFF);
    let opener = Sock::opening(WEB_CGROUP, NETNS);
    let listener = Sock::listening(DB_CGROUP, FAR);
    assert_eq!((out(&node, &opener, &syn()), into(&node, &listener, &syn())), (Allow, Allow));
    // Whoever looked again would find another receiver, and a rule that forbids it.
    answer(&mut node, (WEB, DB), (TCP, 80), (DENY_RULE, DENY_RULE));
    node.parents.insert(DB_CGROUP, WEB_CGROUP);
    node.tables.workloads.remove(&DB_CGROUP);
    let reply = syn().reversed().flags(SYN | ACK);
    assert_eq!((out(&node, &listener, &reply), into(&node, &listener, &syn().flags(ACK))), (Allow, Allow));
    let other = Sock::listening(OTHER_CGROUP, FAR);
    assert_eq!(into(&node, &other, &syn().flags(ACK)), Deny, "another's socket is another receiver");
    next_generation(&mut node);
    assert_eq!(into(&node, &listener, &syn().flags(ACK)), Deny, "and another generation another answer");
}
