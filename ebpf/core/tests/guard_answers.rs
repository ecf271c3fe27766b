//! The guard: what kernels answer by themselves, by no socket.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod common;

use bulkhead_abi::{Addr, Control, Identity, Protocol, Reason, Verdict};
use bulkhead_core::{
    guard::Mark,
    host::{
        Frame, Node, Sock,
        wire::{ACK, FIN, SYN, Wire},
    },
};
use common::{
    DB, DB_ADDR, DENY, OPEN, OTHER_CGROUP, RULE, WEB, WEB_ADDR, WORLD_ADDR, answer,
    guarded::{
        FAR_WEB, NODE_ADDR, PORT, TO_DB, TO_VM, TO_WEB, VM, WIRE, allow_web_to_db, guarded, one_denial, tcp,
        udp, with_service,
    },
};

/// A packet by no socket comes in; whether it passes, and its mark.
fn comes(node: &Node, interface: u32, packet: &Wire) -> (Verdict, Mark) {
    let frame = Frame::forwarded();
    let verdict = node.comes_in(interface, &frame, &Sock::none(), &packet.bytes());
    (verdict, frame.mark.get())
}

const JUDGED: (Verdict, Mark) = (Verdict::Allow, Mark::JUDGED);
const ROUTED: (Verdict, Mark) = (Verdict::Allow, Mark::routed(DB));

fn reply(src: Addr, dst: Addr) -> Wire {
    Wire::new(Protocol::ICMP, (src, 7), (dst, 7)).icmp(0, 0)
}

#[test]
fn a_reply_is_judged_as_the_ping_that_it_answers() {
    let mut node = guarded();
    assert_eq!(comes(&node, TO_DB, &reply(DB_ADDR, FAR_WEB)).0, Verdict::Deny);
    one_denial(&node, Reason::Default);
    // By the side of whoever was pinged alone: the other one was asked where the ping began.
    answer(&mut node, (WEB, DB), (Protocol::ICMP, 8 << 8), (DENY, RULE));
    assert_eq!(comes(&node, TO_DB, &reply(DB_ADDR, FAR_WEB)), JUDGED);
    assert!(node.take_counters().is_empty(), "counted where the ping is");
    // From the other end of the veth alone, and by no socket.
    assert_eq!(comes(&node, TO_VM, &reply(VM, FAR_WEB)), ROUTED);
    let frame = Frame::of_packet_socket();
    let bytes = reply(DB_ADDR, WORLD_ADDR).bytes();
    assert_eq!(node.comes_in(TO_DB, &frame, &Sock::plain(OTHER_CGROUP, 8), &bytes), Verdict::Deny);
    one_denial(&node, Reason::PacketSocket);
}

#[test]
fn the_nodes_own_kernel_answers_where_it_leaves() {
    let mut node = guarded();
    let leaves = |node: &Node, mark: Mark| {
        let frame = Frame { mark: mark.into(), ..Frame::forwarded() };
        node.goes_out(TO_WEB, &frame, &Sock::none(), &reply(NODE_ADDR, WEB_ADDR).bytes())
    };
    answer(&mut node, (WEB, Identity::WORLD), (Protocol::ICMP, 8 << 8), (DENY, OPEN));
    assert_eq!(leaves(&node, Mark::NONE), Verdict::Allow);
    assert_eq!(leaves(&node, Mark::ROUTED), Verdict::Deny, "it came in by an interface");
    one_denial(&node, Reason::Stray);
    answer(&mut node, (WEB, Identity::WORLD), (Protocol::ICMP, 8 << 8), (RULE, DENY));
    assert_eq!(leaves(&node, Mark::NONE), Verdict::Deny);
}

#[test]
fn whoever_asked_is_known_by_what_was_handed_over() {
    let mut node = with_service();
    answer(&mut node, (WEB, DB), (Protocol::ICMP, 8 << 8), (RULE, RULE));
    answer(&mut node, (Identity::WORLD, DB), (Protocol::ICMP, 8 << 8), (OPEN, DENY));
    // A ping to a virtual address, masqueraded.
    let ping = Wire::new(Protocol::ICMP, (WORLD_ADDR, 7), (DB_ADDR, 7)).icmp(8, 0);
    assert_eq!(comes(&node, TO_DB, &reply(DB_ADDR, WORLD_ADDR)).0, Verdict::Deny);
    let frame = Frame { mark: Mark(WEB.0).into(), ..Frame::forwarded() };
    assert_eq!(node.goes_out(TO_DB, &frame, &Sock::none(), &ping.bytes()), Verdict::Allow);
    assert_eq!(comes(&node, TO_DB, &reply(DB_ADDR, WORLD_ADDR)), JUDGED);
    node.now.set(node.now.get() + 31_000_000_000);
    assert_eq!(comes(&node, TO_DB, &reply(DB_ADDR, WORLD_ADDR)).0, Verdict::Deny, "too late");
}

#[test]
fn segments_without_a_socket_pass_where_their_connection_may_be() {
    let mut node = guarded();
    let to_db = |flags| tcp(FAR_WEB, DB_ADDR).reversed().flags(flags).payload(&[]);
    let from_db = |flags| tcp(DB_ADDR, FAR_WEB).flags(flags).payload(&[]);
    for packet in [to_db(SYN | ACK), to_db(ACK), from_db(ACK)] {
        assert_eq!(comes(&node, TO_DB, &packet), ROUTED);
    }
    allow_web_to_db(&mut node);
    // The acceptance by a SYN cookie, and the last acknowledgement of who closed first.
    assert_eq!(comes(&node, TO_DB, &to_db(SYN | ACK)), JUDGED);
    assert_eq!(comes(&node, TO_DB, &to_db(ACK)), JUDGED);
    // A kernel accepts nothing that it opened, closes by a socket, and says nothing more.
    assert_eq!(comes(&node, TO_DB, &from_db(SYN | ACK)), ROUTED);
    assert_eq!(comes(&node, TO_DB, &from_db(ACK)), ROUTED);
    assert_eq!(comes(&node, TO_DB, &to_db(FIN | ACK)), ROUTED);
    assert_eq!(comes(&node, TO_DB, &to_db(ACK).payload(b"x")), ROUTED);
    answer(&mut node, (DB, WEB), (Protocol::TCP, PORT), (RULE, DENY));
    assert_eq!(comes(&node, TO_DB, &from_db(ACK)), JUDGED, "of a connection that it opened");
    assert!(node.take_counters().is_empty());
}

#[test]
fn between_proxies_no_rule_is_asked() {
    const TUNNEL: u16 = 15_008;
    let mut node = guarded();
    let packet = Wire::new(Protocol::TCP, (DB_ADDR, TUNNEL), (FAR_WEB, 40_000)).flags(SYN | ACK);
    assert_eq!(comes(&node, TO_DB, &packet), ROUTED);
    node.control.flags |= Control::FLAG_MUTUAL;
    assert_eq!(comes(&node, TO_DB, &packet), JUDGED);
}

#[test]
fn an_error_is_about_a_flow_that_may_be_and_for_its_sender() {
    let mut node = guarded();
    let error = |dst: Addr, quoted: &Wire| {
        Wire::new(Protocol::ICMP, (DB_ADDR, 0), (dst, 0)).icmp(3, 3).payload(&quoted.bytes())
    };
    let asked = udp(FAR_WEB, DB_ADDR);
    assert_eq!(comes(&node, TO_DB, &error(FAR_WEB, &asked)), ROUTED);
    allow_web_to_db(&mut node);
    assert_eq!(comes(&node, TO_DB, &error(FAR_WEB, &asked)), JUDGED);
    assert_eq!(comes(&node, TO_DB, &error(WORLD_ADDR, &asked)), ROUTED, "not its sender");
    let replied = udp(DB_ADDR, FAR_WEB).reversed();
    assert_eq!(comes(&node, TO_DB, &error(FAR_WEB, &replied)), ROUTED);
    answer(&mut node, (DB, WEB), (Protocol::UDP, PORT), (RULE, DENY));
    assert_eq!(comes(&node, TO_DB, &error(FAR_WEB, &replied)), JUDGED, "about what db asked");
    assert_eq!(comes(&node, WIRE, &error(FAR_WEB, &asked)).0, Verdict::Deny, "forged");
}
