//! Flows that no socket owns: who opened them, how long they live, and what they grant.
//!
//! * [`within`]: both ends on the node.
//! * [`icmp`]: echoes, and the errors of other flows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod icmp;
mod within;

use bulkhead_abi::{
    Addr, Control, FlowState, Identity, ListenerKey, LocalAddress, Protocol, Reason, Verdict, Workload,
    flow::{Listener, TcpState},
};
use bulkhead_core::{
    host::{
        Node, Sock,
        wire::{ACK, FIN, RST, SYN, Wire},
    },
    track::{is_expired, lifetime},
};
use common::*;

const UDP: Protocol = Protocol::UDP;
const TCP: Protocol = Protocol::TCP;
const SECOND: u64 = 1_000_000_000;
use Verdict::{Allow, Audit, Deny};

fn web() -> Sock {
    Sock::plain(WEB_CGROUP, NETNS)
}

fn db() -> Sock {
    Sock::plain(DB_CGROUP, NETNS)
}

/// A question of web's to db, and its answer.
fn question(protocol: Protocol) -> (Wire, Wire) {
    let wire = Wire::new(protocol, (WEB_ADDR, 4000), (DB_ADDR, 80));
    (wire.clone(), wire.reversed().flags(SYN | ACK))
}

/// Web may ask db; db is elsewhere, so it is db's node that judges its side.
fn asking(protocol: Protocol) -> Node {
    let mut node = node();
    answer(&mut node, (WEB, DB), (protocol, 80), (RULE, DENY));
    node
}

#[test]
fn a_reply_passes_because_its_flow_does() {
    for protocol in [UDP, TCP, Protocol::SCTP] {
        let node = asking(protocol);
        let (ask, reply) = question(protocol);
        assert_eq!(into(&node, &web(), &reply), Deny, "nobody asked");
        let _ = moved(&node);
        assert_eq!(out(&node, &web(), &ask), Allow);
        assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
        assert_eq!(into(&node, &web(), &reply), Allow);
        assert_eq!(
            moved(&node),
            [(WEB, DB, Allow, Reason::AllowRule, 0, 1)],
            "counted in the flow's direction"
        );
        let [flow] = node.flows().into_values().collect::<Vec<_>>()[..] else { unreachable!() };
        assert_eq!((flow.opener.cgroup, flow.receiver), (WEB_CGROUP, Workload::UNKNOWN));
        assert!(flow.flags & FlowState::FLAG_REPLIED != 0);
        assert_eq!((flow.from, flow.to, flow.rule), (WEB, DB, 5));
    }
}

#[test]
fn who_opens_is_no_question_of_ports() {
    // The same tuple from the other end is another flow.
    let mut node = node();
    answer(&mut node, (WEB, DB), (UDP, 80), (RULE, DENY));
    let (ask, reply) = question(UDP);
    assert_eq!(into(&node, &web(), &reply), Deny);
    assert_eq!(moved(&node), [(DB, WEB, Deny, Reason::Default, 1, 1)]);
    assert_eq!(out(&node, &web(), &ask), Allow);
    // For every order of the two ends in the key.
    let mut node = common::node();
    answer(&mut node, (DB, WEB), (UDP, 80), (RULE, DENY));
    let ask = Wire::new(UDP, (DB_ADDR, 4000), (WEB_ADDR, 80));
    assert_eq!(out(&node, &db(), &ask), Allow);
    assert_eq!(into(&node, &db(), &ask.clone().reversed()), Allow);
    assert_eq!(into(&node, &db(), &ask), Deny, "the question does not come back");
}

#[test]
fn a_receiver_is_judged_as_one() {
    let mut node = node();
    answer(&mut node, (WEB, DB), (UDP, 80), (DENY, RULE));
    let (ask, reply) = question(UDP);
    assert_eq!(into(&node, &db(), &ask), Allow);
    assert_eq!(out(&node, &db(), &reply), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 2)]);
    let [flow] = node.flows().into_values().collect::<Vec<_>>()[..] else { unreachable!() };
    assert_eq!((flow.opener, flow.receiver.cgroup), (Workload::UNKNOWN, DB_CGROUP));
}

#[test]
fn a_denied_flow_is_counted_once_and_told_once() {
    let node = node();
    let (ask, _) = question(UDP);
    for _ in 0..3 {
        assert_eq!(out(&node, &web(), &ask), Deny);
    }
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::Default, 1, 3)]);
    assert_eq!(node.flows().len(), 0, "and leaves nothing in the table");
    let [event] = &node.take_events()[..] else { unreachable!() };
    assert_eq!((event.src, event.dst, event.src_port, event.dst_port), (WEB_ADDR, DB_ADDR, 4000, 80));
    assert_eq!((event.from, event.to, event.workload.cgroup), (WEB, DB, WEB_CGROUP));
    // A receiver tells of it in the flow's direction too.
    assert_eq!(into(&node, &db(), &Wire::new(UDP, (WEB_ADDR, 4001), (DB_ADDR, 80))), Deny);
    let [event] = &node.take_events()[..] else { unreachable!() };
    assert_eq!((event.src, event.dst, event.dst_port), (WEB_ADDR, DB_ADDR, 80));
    let _ = moved(&node);
    node.now.set(node.now.get() + 36 * SECOND);
    assert_eq!(out(&node, &web(), &ask), Deny);
    assert_eq!(moved(&node).last().unwrap().4, 1, "much later it is another attempt");
}

#[test]
fn an_audited_flow_passes_and_is_told_once() {
    let mut node = node();
    answer(&mut node, (WEB, DB), (UDP, 80), (AUDIT, DENY));
    let (ask, reply) = question(UDP);
    assert_eq!((out(&node, &web(), &ask), into(&node, &web(), &reply)), (Audit, Audit));
    assert_eq!(moved(&node), [(WEB, DB, Audit, Reason::Default, 1, 2)]);
    assert_eq!(node.take_events().len(), 1);
}

#[test]
fn before_enforcement_denials_are_neither_counted_nor_told() {
    let mut node = node();
    node.control.flags = Control::FLAG_ADOPTING;
    let (ask, _) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Audit);
    assert_eq!(moved(&node), []);
    assert!(node.take_events().is_empty());
    assert_eq!(node.flows().len(), 1, "but tracked");
}

#[test]
fn between_ends_in_no_zone_nothing_is_kept() {
    let node = node();
    let other = Sock::plain(OTHER_CGROUP, NETNS);
    let ask = Wire::new(UDP, (WORLD_ADDR, 4000), (LOOPBACK, 80));
    assert_eq!((out(&node, &other, &ask), out(&node, &other, &ask)), (Allow, Allow));
    assert_eq!(moved(&node), [(Identity::WORLD, Identity::NODE, Allow, Reason::Open, 0, 2)]);
    assert_eq!(node.flows().len(), 0);
    // Strays are no flows either.
    let stray = Wire::new(TCP, (WORLD_ADDR, 4000), (LOOPBACK, 80)).flags(ACK);
    assert_eq!(out(&node, &other, &stray), Allow);
    assert_eq!(moved(&node), [(Identity::WORLD, Identity::NODE, Allow, Reason::Open, 0, 1)]);
}

#[test]
fn a_segment_of_no_flow_is_stray() {
    let node = asking(TCP);
    let (ask, reply) = question(TCP);
    for flags in [ACK, FIN | ACK, SYN | ACK, 0] {
        assert_eq!(out(&node, &web(), &ask.clone().flags(flags)), Deny, "{flags:x}");
        assert_eq!(into(&node, &web(), &reply.clone().flags(flags)), Deny, "{flags:x}");
    }
    let both = moved(&node);
    assert_eq!(both, [(WEB, DB, Deny, Reason::Stray, 1, 4), (DB, WEB, Deny, Reason::Stray, 0, 4)]);
    let lax = Sock::plain(OTHER_CGROUP, NETNS);
    let stray = Wire::new(TCP, (LAX_ADDR, 1), (WORLD_ADDR, 2)).flags(ACK);
    assert_eq!(out(&node, &lax, &stray), Audit);
}

#[test]
fn a_reset_passes_and_opens_nothing() {
    let node = node();
    let (ask, _) = question(TCP);
    assert_eq!(out(&node, &web(), &ask.clone().flags(RST)), Allow);
    assert_eq!(out(&node, &web(), &ask.clone().flags(RST | ACK)), Allow);
    assert_eq!(out(&node, &web(), &ask.clone().flags(RST).payload(b"x")), Deny, "not with data");
    assert_eq!(out(&node, &web(), &ask.flags(SYN | RST)), Deny);
    assert_eq!(node.flows().len(), 0);
}

#[test]
fn a_denied_flows_reset_still_goes_out() {
    let mut node = asking(TCP);
    let (ask, _) = question(TCP);
    assert_eq!(out(&node, &web(), &ask), Allow);
    answer(&mut node, (WEB, DB), (TCP, 80), (DENY_RULE, DENY));
    next_generation(&mut node);
    assert_eq!(out(&node, &web(), &ask.clone().flags(ACK)), Deny);
    assert_eq!(out(&node, &web(), &ask.flags(RST)), Allow);
}

#[test]
fn a_new_generation_judges_anew() {
    let mut node = asking(UDP);
    let (ask, reply) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Allow);
    let _ = moved(&node);
    answer(&mut node, (WEB, DB), (UDP, 80), (DENY_RULE, DENY));
    assert_eq!(out(&node, &web(), &ask), Allow, "nothing is live yet");
    let _ = moved(&node);
    next_generation(&mut node);
    assert_eq!(into(&node, &web(), &reply), Deny, "a reply too");
    assert_eq!(out(&node, &web(), &ask), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::DenyRule, 1, 2)]);
    assert_eq!(node.take_events().len(), 1);
    answer(&mut node, (WEB, DB), (UDP, 80), (RULE, DENY));
    next_generation(&mut node);
    assert_eq!(out(&node, &web(), &ask), Allow, "a right that comes back");
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
    next_generation(&mut node);
    assert_eq!(out(&node, &web(), &ask), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 0, 1)], "the same verdict is no new flow");
}

#[test]
fn a_tuple_grants_nothing_to_another_owner() {
    let mut node = asking(UDP);
    node.tables.set_prefix(Addr::v4([10, 0, 1, 0]), 120, Identity::WORLD);
    node.tables.prefixes.retain(|(addr, ..)| *addr != WEB_ADDR);
    let (ask, reply) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Allow);
    let thief = Sock::plain(DB_CGROUP, NETNS);
    assert_eq!(into(&node, &thief, &reply), Deny, "a reply to somebody else");
    assert_eq!(into(&node, &web(), &reply), Allow);
}

#[test]
fn a_silent_flow_expires() {
    let node = asking(UDP);
    let (ask, reply) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Allow);
    node.now.set(node.now.get() + 30 * SECOND);
    assert_eq!(into(&node, &web(), &reply), Allow, "just in time");
    node.now.set(node.now.get() + 180 * SECOND);
    assert_eq!(into(&node, &web(), &reply), Allow, "longer, once it was answered");
    node.now.set(node.now.get() + 180 * SECOND + 1);
    assert_eq!(into(&node, &web(), &reply), Deny);
    assert_eq!(out(&node, &web(), &ask), Allow, "and can be opened again");
    assert_eq!(moved(&node).iter().map(|m| m.4).sum::<u64>(), 3);
}

#[test]
fn lifetimes_go_by_protocol_and_state() {
    let flow = |tcp: TcpState, flags| FlowState { tcp: tcp as u8, flags, ..FlowState::default() };
    let replied = FlowState::FLAG_REPLIED;
    for (protocol, flow, seconds) in [
        (TCP, flow(TcpState::Opening, 0), 60),
        (TCP, flow(TcpState::None, 0), 60),
        (TCP, flow(TcpState::Established, replied), 6 * 3600),
        (TCP, flow(TcpState::Closing, replied), 120),
        (TCP, flow(TcpState::Closed, replied), 10),
        (UDP, flow(TcpState::None, 0), 30),
        (UDP, flow(TcpState::None, replied), 180),
        (Protocol::UDPLITE, flow(TcpState::None, replied), 180),
        (Protocol::ICMP, flow(TcpState::None, replied), 30),
        (Protocol::ICMPV6, flow(TcpState::None, 0), 30),
        (Protocol::SCTP, flow(TcpState::None, 0), 600),
        (Protocol(47), flow(TcpState::None, replied), 600),
    ] {
        assert_eq!(lifetime(&flow, protocol), seconds * SECOND, "{protocol:?} {flow:?}");
        let flow = FlowState { seen: SECOND, ..flow };
        assert!(!is_expired(&flow, SECOND + seconds * SECOND, protocol));
        assert!(is_expired(&flow, SECOND + seconds * SECOND + 1, protocol));
        assert!(!is_expired(&flow, 0, protocol), "a clock that is behind");
    }
    let adopted = flow(TcpState::Established, FlowState::FLAG_ADOPTED);
    assert!(!is_expired(&adopted, u64::MAX - 1, TCP));
}

#[test]
fn tcp_states_follow_the_segments() {
    let state = |segments: &[(bool, u8)]| {
        let node = asking(TCP);
        let (ask, reply) = question(TCP);
        for (outward, flags) in segments {
            let verdict = if *outward {
                out(&node, &web(), &ask.clone().flags(*flags))
            } else {
                into(&node, &web(), &reply.clone().flags(*flags))
            };
            assert_eq!(verdict, Allow, "{segments:?}");
        }
        let flow = node.flows().into_values().next().unwrap();
        TcpState::from_code(flow.tcp)
    };
    let (ask, reply) = ((true, ACK), (false, ACK));
    let open = [(true, SYN), (false, SYN | ACK)];
    assert_eq!(state(&open[..1]), TcpState::Opening);
    assert_eq!(state(&[open[0], open[0]]), TcpState::Opening, "a SYN twice");
    assert_eq!(state(&[open[0], ask]), TcpState::Opening, "one end alone establishes nothing");
    assert_eq!(state(&open), TcpState::Established);
    assert_eq!(state(&[open[0], open[1], ask, reply]), TcpState::Established);
    assert_eq!(state(&[open[0], open[1], (true, FIN | ACK)]), TcpState::Closing);
    assert_eq!(state(&[open[0], open[1], (true, FIN | ACK), reply]), TcpState::Closing);
    assert_eq!(state(&[open[0], open[1], (true, FIN | ACK), (false, FIN | ACK)]), TcpState::Closed);
    assert_eq!(state(&[open[0], (false, RST | ACK)]), TcpState::Closed);
    assert_eq!(state(&[open[0], open[1], (true, RST)]), TcpState::Closed);
    assert_eq!(state(&[open[0], (true, FIN)]), TcpState::Closing);
}

#[test]
fn a_syn_on_an_old_tuple_is_a_new_flow() {
    let mut node = asking(TCP);
    let (ask, reply) = question(TCP);
    assert_eq!((out(&node, &web(), &ask), into(&node, &web(), &reply)), (Allow, Allow));
    assert_eq!(out(&node, &web(), &ask), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 2, 3)]);
    // From the other end it needs a right of its own, once the first one was answered.
    assert_eq!(into(&node, &web(), &reply), Allow);
    assert_eq!(into(&node, &web(), &reply.clone().flags(SYN)), Deny);
    answer(&mut node, (DB, WEB), (TCP, 4000), (DENY, RULE));
    next_generation(&mut node);
    let _ = into(&node, &web(), &reply);
    assert_eq!(into(&node, &web(), &reply.flags(SYN)), Allow);
}

#[test]
fn a_full_table_denies_what_is_new_and_keeps_what_is_there() {
    let mut node = asking(UDP);
    node.flow_capacity = 1;
    let (ask, reply) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Allow);
    let _ = moved(&node);
    let second = Wire::new(UDP, (WEB_ADDR, 4001), (DB_ADDR, 80));
    assert_eq!(out(&node, &web(), &second), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::FlowTableFull, 1, 1)]);
    assert_eq!(into(&node, &web(), &reply), Allow);
    assert_eq!(out(&node, &web(), &ask), Allow);
    let other = Sock::plain(OTHER_CGROUP, NETNS);
    let unzoned = Wire::new(UDP, (WORLD_ADDR, 1), (LOOPBACK, 2));
    assert_eq!(out(&node, &other, &unzoned), Allow, "what needs no entry is not touched");
}

#[test]
fn a_raw_socket_has_nothing_to_reset() {
    let mut node = node();
    node.locals.insert(WEB_ADDR, bulkhead_abi::LocalAddress { addr: WEB_ADDR, netns: NETNS });
    let reset = Wire::new(Protocol::TCP, (WEB_ADDR, 4000), (DB_ADDR, 80)).flags(RST);
    let raw = Sock::raw(WEB_CGROUP, NETNS);
    assert_eq!((out(&node, &raw, &reset), into(&node, &raw, &reset.clone().reversed())), (Deny, Deny));
    let kernel = Sock { owner: None, ..Sock::raw(WEB_CGROUP, NETNS) };
    assert_eq!(out(&node, &kernel, &reset), Allow, "the kernel's own, of a closed port");
    assert_eq!(out(&node, &web(), &reset), Allow, "a connection's own");
    // Nor does it keep a way open that was allowed once.
    allow(&mut node, (WEB, DB), (Protocol::TCP, 80));
    assert_eq!(out(&node, &raw, &reset.clone().flags(SYN)), Allow);
    answer(&mut node, (WEB, DB), (Protocol::TCP, 80), (DENY, DENY));
    next_generation(&mut node);
    assert_eq!(out(&node, &raw, &reset), Deny);
}
