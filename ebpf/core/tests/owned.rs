//! Flows that sockets own, and sockets that listen.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod common;

use bulkhead_abi::{
    Addr, Control, FlowKey, FlowState, ListenerKey, LocalAddress, Protocol, Reason, SocketFlow, Verdict,
    Workload,
    flow::{Listener, TcpState},
};
use bulkhead_core::{
    host::{
        Node, Sock,
        wire::{ACK, RST, SYN, Wire},
    },
    track::Socket,
};
use common::*;

const UDP: Protocol = Protocol::UDP;
const TCP: Protocol = Protocol::TCP;
use Verdict::{Allow, Audit, Deny};

fn asking(protocol: Protocol) -> Node {
    let mut node = node();
    answer(&mut node, (WEB, DB), (protocol, 80), (RULE, DENY));
    node
}

fn serving(protocol: Protocol) -> Node {
    let mut node = node();
    answer(&mut node, (WEB, DB), (protocol, 80), (DENY, RULE));
    node
}

fn syn() -> Wire {
    Wire::new(TCP, (WEB_ADDR, 4000), (DB_ADDR, 80))
}

fn connected(sock: &Sock) -> Sock {
    Sock { state: Socket::Other, ..sock.clone() }
}

/// Db's receiver is on this node.
fn with_receiver(node: &mut Node, protocol: Protocol) {
    node.locals.insert(DB_ADDR, LocalAddress { addr: DB_ADDR, netns: 8 });
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(ListenerKey::new(8, DB_ADDR, 80, protocol), Listener { workload, cookie: 1 });
}

#[test]
fn a_connection_is_owned_by_its_socket_from_its_syn_on() {
    let node = asking(TCP);
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn()), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
    let flow = sock.flow().unwrap();
    assert_eq!(flow.flags, SocketFlow::FLAG_OPENER);
    assert_eq!((flow.peer_addr, flow.peer_port, flow.local_port), (DB_ADDR, 80, 4000));
    assert_eq!((flow.from, flow.to, flow.rule, flow.protocol), (WEB, DB, 5, 6));
    assert_eq!(flow.generation, node.control.generation);
    assert_eq!(node.flows().len(), 0, "nothing in the table");
    assert_eq!(into(&node, &connected(&sock), &syn().reversed().flags(SYN | ACK)), Allow);
    assert_eq!(out(&node, &connected(&sock), &syn().flags(ACK)), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 0, 2)]);
}

#[test]
fn a_stream_that_was_disconnected_is_judged_again() {
    let node = asking(TCP);
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    let answer = syn().reversed().flags(SYN | ACK);
    assert_eq!((out(&node, &sock, &syn()), into(&node, &connected(&sock), &answer)), (Allow, Allow));
    // Of the same socket, whose storage stays: to another host, another port, from another address.
    for again in
        [Wire { dst: LAX_ADDR, ..syn() }, Wire { dst_port: 81, ..syn() }, Wire { src: LAX_ADDR, ..syn() }]
    {
        assert_eq!((out(&node, &sock, &syn()), out(&node, &sock, &again)), (Allow, Deny), "{again:?}");
    }
}

#[test]
fn a_denied_connection_is_put_on_the_list() {
    let node = node();
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!((out(&node, &sock, &syn()), out(&node, &sock, &syn())), (Deny, Deny));
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::Default, 1, 2)]);
    let doomed = node.doomed.borrow()[&sock.cookie];
    assert_eq!(
        (doomed.local, doomed.local_port, doomed.remote, doomed.remote_port),
        (WEB_ADDR, 4000, DB_ADDR, 80)
    );
    assert_eq!((doomed.netns, doomed.protocol, doomed.reason), (NETNS, 6, Reason::Default as u8));
    assert_eq!(out(&node, &sock, &syn().flags(RST)), Allow, "a reset still goes out");
}

#[test]
fn an_accepted_connection_is_inbound_and_was_counted_when_it_knocked() {
    let node = serving(TCP);
    let listener = Sock::listening(DB_CGROUP, NETNS);
    assert_eq!(into(&node, &listener, &syn()), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
    assert_eq!(out(&node, &listener, &syn().reversed().flags(SYN | ACK)), Allow);
    assert_eq!(into(&node, &listener, &syn().flags(ACK)), Allow, "a SYN cookie's ACK is no stray");
    let child = Sock::stream(DB_CGROUP, NETNS);
    assert_eq!(into(&node, &child, &syn().flags(ACK).payload(b"GET")), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 0, 3)]);
    assert_eq!(child.flow().unwrap().flags & SocketFlow::FLAG_OPENER, 0);
    assert_eq!(listener.flow(), None, "a listener holds nothing");
    assert_eq!(node.flows().len(), 0);
}

#[test]
fn a_listener_is_judged_at_every_packet() {
    let mut node = serving(TCP);
    let listener = Sock::listening(DB_CGROUP, NETNS);
    assert_eq!(into(&node, &listener, &syn()), Allow);
    let _ = moved(&node);
    answer(&mut node, (WEB, DB), (TCP, 80), (RULE, DENY_RULE));
    next_generation(&mut node);
    let reply = syn().reversed().flags(SYN | ACK);
    assert_eq!((out(&node, &listener, &reply), into(&node, &listener, &syn())), (Deny, Deny));
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::DenyRule, 1, 2)]);
    assert_eq!(into(&node, &listener, &syn().flags(RST)), Allow);
    assert!(node.doomed.borrow().is_empty(), "the opener's socket is elsewhere");
}

#[test]
fn a_local_opener_is_handed_over_and_ended_when_its_receiver_says_no() {
    let mut node = node();
    allow(&mut node, (WEB, DB), (TCP, 80));
    with_receiver(&mut node, TCP);
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn()), Allow);
    assert_eq!(moved(&node), [], "counted at the receiver");
    assert!(sock.flow().unwrap().flags & SocketFlow::FLAG_LOCAL != 0);
    let [flow] = node.flows().into_values().collect::<Vec<_>>()[..] else { unreachable!() };
    assert_eq!((flow.opener.cgroup, flow.cookie, flow.netns), (WEB_CGROUP, sock.cookie, NETNS));
    let listener = Sock::listening(DB_CGROUP, 8);
    assert_eq!(into(&node, &listener, &syn()), Allow);
    let child = Sock::stream(DB_CGROUP, 8);
    answer(&mut node, (WEB, DB), (TCP, 80), (RULE, DENY_RULE));
    next_generation(&mut node);
    assert_eq!(into(&node, &listener, &syn()), Deny);
    assert!(node.doomed.borrow().contains_key(&sock.cookie), "its program hears of it at once");
    allow(&mut node, (WEB, DB), (TCP, 80));
    next_generation(&mut node);
    assert_eq!(into(&node, &child, &syn().flags(ACK)), Allow);
    assert_eq!(child.flow().unwrap().peer.cgroup, WEB_CGROUP, "the child keeps it");
    assert_eq!(node.flows().len(), 0, "and the table does not any more");
}

#[test]
fn a_connection_whose_hand_over_finds_no_room_is_refused() {
    let mut node = node();
    allow(&mut node, (WEB, DB), (TCP, 80));
    with_receiver(&mut node, TCP);
    node.flow_capacity = 0;
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn()), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::FlowTableFull, 1, 1)]);
}

#[test]
fn a_new_generation_judges_anew() {
    let mut node = asking(TCP);
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn()), Allow);
    let sock = connected(&sock);
    let _ = moved(&node);
    next_generation(&mut node);
    assert_eq!(out(&node, &sock, &syn().flags(ACK)), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 0, 1)], "the same verdict is no new flow");
    answer(&mut node, (WEB, DB), (TCP, 80), (DENY_RULE, DENY));
    next_generation(&mut node);
    assert_eq!(into(&node, &sock, &syn().reversed().flags(ACK)), Deny, "in either direction");
    assert_eq!(out(&node, &sock, &syn().flags(ACK)), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::DenyRule, 1, 2)]);
    assert!(node.doomed.borrow().contains_key(&sock.cookie));
    assert_eq!(sock.flow().unwrap().flags & SocketFlow::FLAG_OPENER, 1, "direction stays");
    answer(&mut node, (WEB, DB), (TCP, 80), (AUDIT, DENY));
    next_generation(&mut node);
    assert_eq!(out(&node, &sock, &syn().flags(ACK)), Audit);
    assert_eq!(moved(&node), [(WEB, DB, Audit, Reason::Default, 1, 1)]);
}

#[test]
fn an_audited_stream_takes_the_short_path_too() {
    let mut node = node();
    answer(&mut node, (WEB, DB), (TCP, 80), (AUDIT, DENY));
    let sock = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn()), Audit);
    assert!(out(&node, &connected(&sock), &syn().flags(ACK)).passes());
    assert_eq!(moved(&node), [(WEB, DB, Audit, Reason::Default, 1, 2)]);
    assert_eq!(node.take_events().len(), 1);
}

#[test]
fn a_socket_without_a_flow_passes_its_resets_and_nothing_more() {
    let node = node();
    let sock = Sock::stream(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn().flags(RST)), Allow);
    assert_eq!(sock.flow(), None);
    assert_eq!(moved(&node), []);
    assert_eq!(out(&node, &sock, &syn().flags(ACK)), Deny);
}

#[test]
fn a_connected_datagram_socket_owns_what_it_sends_to_its_peer() {
    let node = asking(UDP);
    let sock = Sock::datagrams(WEB_CGROUP, NETNS);
    let ask = Wire::new(UDP, (WEB_ADDR, 4000), (DB_ADDR, 80));
    assert_eq!((out(&node, &sock, &ask), into(&node, &sock, &ask.clone().reversed())), (Allow, Allow));
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 2)]);
    assert_eq!(sock.flow().unwrap().peer_addr, DB_ADDR);
    assert_eq!(node.flows().len(), 0);
}

#[test]
fn a_connected_datagram_socket_that_sends_elsewhere_is_judged_for_that() {
    let node = asking(UDP);
    let sock = Sock::datagrams(WEB_CGROUP, NETNS);
    let ask = Wire::new(UDP, (WEB_ADDR, 4000), (DB_ADDR, 80));
    assert_eq!(out(&node, &sock, &ask), Allow);
    let _ = moved(&node);
    for elsewhere in [
        Wire { dst_port: 81, ..ask.clone() },
        Wire { dst: LAX_ADDR, ..ask.clone() },
        Wire { dst: Addr::v4([10, 0, 2, 2]), dst_port: 81, ..ask.clone() },
        // From another address of its host.
        Wire { src: LAX_ADDR, ..ask.clone() },
    ] {
        assert_eq!(out(&node, &sock, &elsewhere), Deny, "{elsewhere:?}");
        assert_eq!(moved(&node)[0].4, 1, "a flow of its own");
    }
    assert_eq!(out(&node, &sock, &ask), Allow, "and the first is judged again");
    // Other protocols of the same socket are none of its flows.
    let echo = Wire::new(Protocol::ICMP, (WEB_ADDR, 7), (DB_ADDR, 7)).icmp(8, 0);
    assert_eq!(out(&node, &sock, &echo), Deny);
}

#[test]
fn a_server_that_connects_back_answers() {
    // The request came to an unconnected socket, so its flow is in the table.
    let node = serving(UDP);
    let ask = Wire::new(UDP, (WEB_ADDR, 4000), (DB_ADDR, 80));
    assert_eq!(into(&node, &Sock::plain(DB_CGROUP, NETNS), &ask), Allow);
    let _ = moved(&node);
    let sock = Sock::datagrams(DB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &ask.clone().reversed()), Allow);
    assert_eq!(sock.flow().unwrap().flags & SocketFlow::FLAG_OPENER, 0);
    assert_eq!((sock.flow().unwrap().from, sock.flow().unwrap().to), (WEB, DB));
    let alone = Sock::datagrams(DB_CGROUP, NETNS);
    let node = serving(UDP);
    assert_eq!(out(&node, &alone, &ask.reversed()), Deny, "without a request it is none");
}

#[test]
fn an_adopted_connection_keeps_its_direction_and_is_no_new_flow() {
    for opener in [true, false] {
        let mut node = if opener { asking(TCP) } else { serving(TCP) };
        let (key, low) = FlowKey::new((WEB_ADDR, 4000), (DB_ADDR, 80), TCP, 0);
        let flags = FlowState::FLAG_ADOPTED | if low { FlowState::FLAG_OPENER_LOW } else { 0 };
        let tcp = TcpState::Established as u8;
        node.set_flow(key, FlowState { flags, tcp, tag: key.tag(), ..FlowState::default() });
        let sock = Sock::stream(if opener { WEB_CGROUP } else { DB_CGROUP }, NETNS);
        node.control.flags = Control::FLAG_ADOPTING;
        let data = syn().flags(ACK);
        assert_eq!(if opener { out(&node, &sock, &data) } else { into(&node, &sock, &data) }, Allow);
        assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 0, 1)]);
        let flow = sock.flow().unwrap();
        assert_eq!(flow.flags & SocketFlow::FLAG_OPENER != 0, opener);
        assert!(flow.flags & SocketFlow::FLAG_ADOPTED != 0);
    }
}

#[test]
fn an_entry_of_another_tuple_grants_nothing() {
    let mut node = node();
    let (key, low) = FlowKey::new((WEB_ADDR, 4000), (DB_ADDR, 80), UDP, 0);
    allow(&mut node, (WEB, DB), (UDP, 80));
    let flags = if low { FlowState::FLAG_OPENER_LOW } else { 0 };
    let flow = FlowState {
        judged: [node.control.generation; 2],
        verdict: [Allow as u8; 2],
        seen: node.now.get(),
        flags,
        tag: key.tag() ^ 1,
        ..FlowState::default()
    };
    node.set_flow(key, flow);
    let reply = Wire::new(UDP, (DB_ADDR, 80), (WEB_ADDR, 4000));
    assert_eq!(into(&node, &Sock::plain(WEB_CGROUP, NETNS), &reply), Deny);
}

#[test]
fn failsafe_ports_hold_for_the_nodes_own_sockets() {
    let node = node();
    let key = bulkhead_abi::tables::FailsafeKey { side: 1, protocol: TCP.0, port: 80 };
    node.failsafe.borrow_mut().insert(key, 0);
    assert_eq!(into(&node, &Sock::listening(DB_CGROUP, NETNS), &syn()), Deny);
    assert_eq!(into(&node, &Sock::listening(DB_CGROUP, HOST), &syn()), Allow);
    assert_eq!(moved(&node)[0].3, Reason::Failsafe);
}

#[test]
fn an_outcome_survives_the_border_between_two_functions() {
    use bulkhead_core::track::{Judged, Outcome};
    let verdicts = Verdict::ALL.iter().map(|verdict| Outcome::Verdict(*verdict));
    let anomalies = Reason::ALL.iter().map(|reason| Outcome::Anomaly(*reason));
    for outcome in verdicts.chain(anomalies).chain([Outcome::Untracked]) {
        assert_eq!(Outcome::from_code(outcome.to_code()), outcome);
        let done = Judged::done(outcome);
        for judged in [done, Judged { slot: 7, first: 1, ..done }, Judged { packet: 1, ..done }] {
            assert_eq!(Judged::from_code(judged.to_code()), judged);
        }
    }
}

#[test]
fn a_listener_takes_an_opener_from_its_own_flow_only() {
    let mut node = node();
    allow(&mut node, (WEB, DB), (TCP, 80));
    let (key, low) = FlowKey::new((LOOPBACK, 4000), (LOOPBACK, 80), TCP, NETNS);
    let knock = Wire::new(TCP, (LOOPBACK, 4000), (LOOPBACK, 80));
    let opener_low = if low { FlowState::FLAG_OPENER_LOW } else { 0 };
    let opener = Workload { cgroup: WEB_CGROUP, anchor: WEB_CGROUP };
    let flow = FlowState { flags: opener_low, tag: key.tag(), opener, cookie: 5, ..FlowState::default() };
    let listener = Sock::listening(DB_CGROUP, NETNS);
    for (flow, verdict) in [
        (flow, Allow),
        (FlowState { flags: opener_low | FlowState::FLAG_REPLIED, ..flow }, Allow),
        // The listener's own end opened it, or it is another tuple's.
        (FlowState { flags: FlowState::FLAG_OPENER_LOW ^ opener_low, ..flow }, Deny),
        (FlowState { flags: FlowState::FLAG_REPLIED | (1 ^ opener_low), ..flow }, Deny),
        (FlowState { tag: key.tag() ^ 1, ..flow }, Deny),
    ] {
        node.set_flow(key, flow);
        assert_eq!(into(&node, &listener, &knock), verdict, "{flow:?}");
        assert!(node.doomed.borrow().is_empty(), "what passes, and whom nobody knows, is not ended");
    }
}

#[test]
fn an_accepted_connection_keeps_its_direction() {
    let mut node = serving(TCP);
    let child = Sock::stream(DB_CGROUP, NETNS);
    assert_eq!(into(&node, &child, &syn().flags(ACK)), Allow);
    let opened = child.flow().unwrap().opened;
    node.now.set(node.now.get() + 5);
    next_generation(&mut node);
    assert_eq!(out(&node, &child, &syn().reversed().flags(ACK)), Allow);
    let flow = child.flow().unwrap();
    assert_eq!((flow.flags & SocketFlow::FLAG_OPENER, flow.opened), (0, opened));
}

#[test]
fn an_old_hand_over_says_nothing_of_a_new_connection() {
    // A stream that opens has its own storage: an entry that names it the opener is another one's.
    let mut node = node();
    allow(&mut node, (WEB, DB), (TCP, 80));
    let (key, low) = FlowKey::new((WEB_ADDR, 4000), (DB_ADDR, 80), TCP, 0);
    let flags = if low { FlowState::FLAG_OPENER_LOW } else { 0 };
    let entry = FlowState { flags, tag: key.tag(), ..FlowState::default() };
    node.set_flow(key, entry);
    let sock = Sock::stream(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn().flags(ACK)), Deny, "it is no opener that never sent a SYN");
    // Of another tuple: no direction either.
    let node = serving(TCP);
    let flags = FlowState::FLAG_ADOPTED | flags;
    node.set_flow(key, FlowState { flags, tag: key.tag() ^ 1, ..entry });
    let child = Sock::stream(DB_CGROUP, NETNS);
    assert_eq!(into(&node, &child, &syn().flags(ACK)), Allow);
    assert_eq!(child.flow().unwrap().flags & SocketFlow::FLAG_ADOPTED, 0);
}

#[test]
fn before_enforcement_a_guessed_direction_does_not_stick() {
    let mut node = asking(TCP);
    node.control.flags = Control::FLAG_ADOPTING;
    let old = Sock::stream(WEB_CGROUP, NETNS);
    assert!(out(&node, &old, &syn().flags(ACK)).passes());
    assert_eq!(old.flow(), None, "who opened it is not known");
    let new = Sock::opening(WEB_CGROUP, NETNS);
    assert_eq!(out(&node, &new, &syn()), Allow);
    assert!(new.flow().is_some(), "its SYN was seen");
    node.control.flags = 0;
    let guessed = Sock::stream(DB_CGROUP, NETNS);
    answer(&mut node, (WEB, DB), (TCP, 80), (DENY, RULE));
    assert_eq!(into(&node, &guessed, &syn().flags(ACK)), Allow);
    assert!(guessed.flow().is_some());
}

#[test]
fn the_upper_end_of_a_tuple_may_be_the_opener() {
    let mut node = node();
    answer(&mut node, (DB, WEB), (TCP, 4000), (RULE, DENY));
    let (key, web_is_low) = FlowKey::new((WEB_ADDR, 4000), (DB_ADDR, 80), TCP, 0);
    assert!(web_is_low);
    let flow = FlowState { flags: FlowState::FLAG_ADOPTED, tag: key.tag(), ..FlowState::default() };
    node.set_flow(key, flow);
    let sock = Sock::stream(DB_CGROUP, NETNS);
    assert_eq!(out(&node, &sock, &syn().reversed().flags(ACK)), Allow);
    assert_eq!(sock.flow().unwrap().flags & SocketFlow::FLAG_OPENER, SocketFlow::FLAG_OPENER);
}
