//! `connect`: refused where both identities are known, left to the packet layer where one is not.
#![allow(missing_docs)]

mod common;

use bulkhead_abi::{
    Addr, ListenerKey, LocalAddress, Protocol, Reason, Side, SocketOwner, Verdict, Workload,
    flow::Listener,
    tables::{FailsafeKey, Home},
};
use bulkhead_core::{
    call::Connect,
    host::{Node, Sock},
};
use common::*;

const TCP: Protocol = Protocol::TCP;

/// Web's namespace sends from web's address; db is elsewhere.
fn world() -> Node {
    let mut node = node();
    node.homes.insert(NETNS, Home { v4: WEB_ADDR, v6: v6([1, 1]), flags: 0 });
    node
}

fn dial(target: Addr) -> Connect {
    Connect { target: (target, 80), protocol: TCP, bound: (Addr::ANY_V4, 0) }
}

fn web() -> Sock {
    Sock::plain(WEB_CGROUP, NETNS)
}

#[test]
fn a_denial_is_heard_counted_and_told() {
    let node = world();
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Deny);
    assert_eq!(moved(&node), [(WEB, DB, Verdict::Deny, Reason::Default, 1, 0)]);
    let [event] = &node.take_events()[..] else { unreachable!() };
    assert_eq!((event.from, event.to, event.dst, event.dst_port), (WEB, DB, DB_ADDR, 80));
    assert_eq!((event.workload.cgroup, event.netns, event.protocol), (WEB_CGROUP, NETNS, 6));
    assert_eq!((event.verdict, event.reason), (Verdict::Deny as u8, Reason::Default as u8));
}

#[test]
fn an_allowed_or_reported_call_leaves_no_trace() {
    let mut node = world();
    allow(&mut node, (WEB, DB), (TCP, 80));
    answer(&mut node, (WEB, LAX), (TCP, 80), (RULE, AUDIT));
    answer(&mut node, (WEB, common::ALL[0]), (TCP, 80), (AUDIT, OPEN));
    for target in [DB_ADDR, LAX_ADDR, WORLD_ADDR] {
        assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(target)), Verdict::Allow);
    }
    assert_eq!(moved(&node), []);
    assert!(node.take_events().is_empty());
}

#[test]
fn only_the_callers_side_counts_where_the_receiver_is_elsewhere() {
    let mut node = world();
    answer(&mut node, (WEB, DB), (TCP, 80), (RULE, DENY_RULE));
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Allow);
    node.locals.insert(DB_ADDR, LocalAddress { addr: DB_ADDR, netns: 8 });
    let workload = Workload { cgroup: OTHER_CGROUP, anchor: 0 };
    let key = ListenerKey::new(8, DB_ADDR, 80, TCP);
    node.listeners.insert(key, Listener { workload, cookie: 1 });
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Deny, "both ends are here");
    assert_eq!(moved(&node), [(WEB, DB, Verdict::Deny, Reason::DenyRule, 1, 0)]);
}

#[test]
fn a_receivers_cgroup_counts_with_its_address() {
    let mut node = world();
    allow(&mut node, (WEB, common::ALL[1]), (TCP, 80));
    let loopback = dial(LOOPBACK);
    assert_eq!(node.connect(&web(), WEB_CGROUP, &loopback), Verdict::Allow, "to the node");
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(ListenerKey::new(NETNS, Addr::ANY, 80, TCP), Listener { workload, cookie: 1 });
    assert_eq!(node.connect(&web(), WEB_CGROUP, &loopback), Verdict::Deny, "to db on loopback");
    assert_eq!(moved(&node), [(WEB, DB, Verdict::Deny, Reason::Default, 1, 0)]);
}

/// Each of these would be denied if its source were known.
#[test]
fn whatever_is_not_known_yet_passes_without_a_word() {
    let unknown = |node: &Node, sock: &Sock, current, connect: &Connect| {
        assert_eq!(node.connect(sock, current, connect), Verdict::Allow, "{connect:?}");
        assert_eq!(moved(node), []);
    };
    let node = world();
    let deny = dial(DB_ADDR);
    assert_eq!(node.connect(&web(), WEB_CGROUP, &deny), Verdict::Deny);
    let _ = moved(&node);

    // Another protocol.
    unknown(&node, &web(), WEB_CGROUP, &Connect { protocol: Protocol::SCTP, ..deny });
    // A bound UDP socket may answer.
    let udp = Connect { protocol: Protocol::UDP, ..deny };
    unknown(&node, &web(), WEB_CGROUP, &Connect { bound: (Addr::ANY_V4, 53), ..udp });
    assert_eq!(node.connect(&web(), WEB_CGROUP, &udp), Verdict::Deny, "and an unbound one may not");
    let _ = moved(&node);
    // A socket older than the programs.
    unknown(&node, &Sock { owner: None, ..web() }, WEB_CGROUP, &deny);
    // A socket of another cgroup, which is not in the tables itself.
    unknown(&node, &Sock::plain(NEW_CGROUP, NETNS), WEB_CGROUP, &deny);
    // A namespace of which no single address is known.
    let nowhere = Sock { owner: Some(SocketOwner { netns: 99, ..web().owner.unwrap_or_default() }), ..web() };
    unknown(&node, &nowhere, WEB_CGROUP, &deny);
    let mut node = world();
    node.homes.insert(NETNS, Home { v4: WEB_ADDR, v6: Addr::ANY, flags: 0 });
    unknown(&node, &web(), WEB_CGROUP, &dial(v6([2, 1])));
    node.homes.insert(NETNS, Home { v4: Addr::ANY, v6: v6([1, 1]), flags: 0 });
    unknown(&node, &web(), WEB_CGROUP, &deny);
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(v6([2, 1]))), Verdict::Deny);
}

#[test]
fn destinations_that_choose_their_source_by_interface_are_left_alone() {
    let mut node = world();
    node.tables.set_prefix(Addr::ANY, 0, DB);
    for (first, second, known) in [
        (0xff, 0x02, false),
        (0xfe, 0x80, false),
        (0xfe, 0xbf, false),
        (0xfe, 0xc0, true),
        (0xfd, 0x80, true),
    ] {
        let target = Addr::from_octets([first, second, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        let verdict = if known { Verdict::Deny } else { Verdict::Allow };
        assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(target)), verdict, "{target:?}");
    }
    // The same bytes in an IPv4 address mean nothing of the kind.
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Deny);
}

#[test]
fn the_source_is_the_bound_address_or_the_targets_own() {
    let mut node = world();
    // Whoever is at db's own address may reach db.
    allow(&mut node, (BOTH, DB), (TCP, 80));
    node.locals.insert(DB_ADDR, LocalAddress { addr: DB_ADDR, netns: NETNS });
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Allow, "its own address");
    let bound = Connect { bound: (WEB_ADDR, 0), ..dial(DB_ADDR) };
    assert_eq!(node.connect(&web(), WEB_CGROUP, &bound), Verdict::Deny, "bound to another one");
    node.locals.insert(DB_ADDR, LocalAddress { addr: DB_ADDR, netns: 8 });
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Deny, "somebody else's address");
    node.homes.clear();
    let bound = Connect { bound: (DB_ADDR, 0), ..dial(DB_ADDR) };
    assert_eq!(node.connect(&web(), WEB_CGROUP, &bound), Verdict::Allow);
}

#[test]
fn a_socket_keeps_the_cgroup_that_it_was_made_in() {
    let mut node = world();
    allow(&mut node, (DB, DB), (TCP, 80));
    node.homes.insert(NETNS, Home { v4: WORLD_ADDR, v6: Addr::ANY, flags: 0 });
    // Made by db, passed on to web.
    let passed_on = Sock::plain(DB_CGROUP, NETNS);
    assert_eq!(node.connect(&passed_on, WEB_CGROUP, &dial(DB_ADDR)), Verdict::Allow);
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Deny);
    // A cgroup that the tables do not know, at home: what is above it answers.
    assert_eq!(node.connect(&Sock::plain(NEW_CGROUP, NETNS), NEW_CGROUP, &dial(DB_ADDR)), Verdict::Deny);
}

#[test]
fn failsafe_ports_are_for_the_nodes_own_namespace() {
    let mut node = world();
    let key = FailsafeKey { side: Side::Egress as u8, protocol: TCP.0, port: 80 };
    node.failsafe.borrow_mut().insert(key, 0);
    node.homes.insert(HOST, Home { v4: WEB_ADDR, v6: Addr::ANY, flags: 0 });
    assert_eq!(node.connect(&Sock::plain(WEB_CGROUP, HOST), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Allow);
    assert_eq!(node.connect(&web(), WEB_CGROUP, &dial(DB_ADDR)), Verdict::Deny);
}
