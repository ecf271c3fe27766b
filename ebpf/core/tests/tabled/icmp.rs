//! Echoes, and the errors of other flows.

use super::*;

#[test]
fn echo_is_a_flow_by_its_identifier() {
    for (src, dst, icmp, ask, reply) in
        [(WEB_ADDR, DB_ADDR, Protocol::ICMP, 8, 0), (v6([1, 1]), v6([2, 1]), Protocol::ICMPV6, 128, 129)]
    {
        let mut node = node();
        answer(&mut node, (WEB, DB), (icmp, ask << 8), (RULE, DENY));
        let request = Wire::new(icmp, (src, 77), (dst, 77)).icmp(ask as u8, 0);
        let answer = request.clone().reversed().icmp(reply, 0);
        assert_eq!(into(&node, &web(), &answer), Deny, "nobody asked");
        assert_eq!(moved(&node), [(DB, WEB, Deny, Reason::Stray, 1, 1)]);
        assert_eq!(out(&node, &web(), &request), Allow);
        assert_eq!(into(&node, &web(), &answer), Allow);
        assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 2)]);
        let other = Wire { src_port: 78, ..answer };
        assert_eq!(into(&node, &web(), &other), Deny, "another identifier");
        assert_eq!(node.flows().len(), 1);
    }
}

#[test]
fn who_pings_itself_hears_its_answer() {
    let mut node = node();
    answer(&mut node, (WEB, Identity::NODE), (Protocol::ICMP, 8 << 8), (RULE, OPEN));
    let ends = ((LOOPBACK, 77), (LOOPBACK, 77));
    let ask = Wire::new(Protocol::ICMP, ends.0, ends.1).icmp(8, 0);
    let reply = Wire::new(Protocol::ICMP, ends.0, ends.1).icmp(0, 0);
    assert_eq!(out(&node, &web(), &ask), Allow);
    let _ = moved(&node);
    assert_eq!(into(&node, &web(), &reply), Allow, "both ends of the key are the same");
    assert_eq!(moved(&node), [(WEB, Identity::NODE, Allow, Reason::AllowRule, 0, 1)]);
}

#[test]
fn the_kernels_own_echo_reply_is_judged_as_the_request_it_answers() {
    let mut node = node();
    let reply = Wire::new(Protocol::ICMP, (DB_ADDR, 77), (WEB_ADDR, 77)).icmp(0, 0);
    let kernel = Sock::plain(HOST, NETNS);
    assert_eq!(out(&node, &kernel, &reply), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::Default, 1, 1)]);
    answer(&mut node, (WEB, DB), (Protocol::ICMP, 8 << 8), (DENY, RULE));
    assert_eq!(out(&node, &kernel, &reply), Allow);
    assert_eq!(node.flows().len(), 0, "and leaves nothing");
}

#[test]
fn discovery_always_passes_and_malformed_packets_never_do() {
    let node = node();
    let discovery = Wire::new(Protocol::ICMPV6, (v6([1, 1]), 0), (v6([2, 1]), 0)).icmp(135, 0);
    assert_eq!((out(&node, &web(), &discovery), into(&node, &web(), &discovery)), (Allow, Allow));
    assert_eq!(moved(&node), []);
    let mut bytes = question(UDP).0.bytes();
    bytes[6] = 0x20;
    assert_eq!(node.packet(&web(), bulkhead_abi::Direction::Egress, &bytes), Deny);
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::Fragment, 1, 1)]);
    let other = Sock::plain(OTHER_CGROUP, NETNS);
    assert_eq!(node.packet(&other, bulkhead_abi::Direction::Egress, &bytes[..10]), Allow, "in no zone");
}

#[test]
fn icmp_errors_pass_for_live_flows_and_for_those_that_would_pass() {
    let mut node = asking(UDP);
    let (ask, reply) = question(UDP);
    let about = |quoted: &Wire| {
        Wire::new(Protocol::ICMP, (WORLD_ADDR, 0), (WEB_ADDR, 0)).icmp(3, 4).payload(&quoted.bytes())
    };
    assert_eq!(into(&node, &web(), &about(&ask)), Allow, "it would be allowed");
    let denied = Wire::new(UDP, (WEB_ADDR, 4000), (DB_ADDR, 81));
    assert_eq!(into(&node, &web(), &about(&denied)), Deny);
    assert_eq!(moved(&node), [(Identity::WORLD, WEB, Deny, Reason::IcmpError, 1, 1)]);
    assert_eq!(out(&node, &web(), &ask), Allow);
    answer(&mut node, (WEB, DB), (UDP, 80), (DENY, DENY));
    next_generation(&mut node);
    assert_eq!(into(&node, &web(), &about(&ask)), Allow, "its flow is there");
    node.clear_flows();
    assert_eq!(into(&node, &web(), &about(&ask)), Deny);
    // An error that goes out is about what came in.
    answer(&mut node, (DB, WEB), (UDP, 4000), (DENY, RULE));
    let outward = Wire::new(Protocol::ICMP, (WEB_ADDR, 0), (DB_ADDR, 0)).icmp(3, 3);
    assert_eq!(out(&node, &web(), &outward.clone().payload(&reply.bytes())), Allow);
    let _ = moved(&node);
    let astray = Wire { dst: WORLD_ADDR, ..outward.clone() };
    assert_eq!(out(&node, &web(), &astray.payload(&reply.bytes())), Deny, "not for who sent what it quotes");
    assert_eq!(moved(&node), [(WEB, Identity::WORLD, Deny, Reason::IcmpError, 0, 1)]);
    assert_eq!(out(&node, &web(), &outward.payload(&[0; 60])), Deny, "about nothing");
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::IcmpError, 1, 1)]);
}

#[test]
fn an_icmp_error_goes_to_the_sender_of_what_it_quotes_and_nowhere_else() {
    let mut node = asking(UDP);
    allow(&mut node, (DB, WEB), (UDP, 4000));
    let (ask, reply) = question(UDP);
    let error = |from, to, quoted: &Wire| {
        Wire::new(Protocol::ICMP, (from, 0), (to, 0)).icmp(3, 4).payload(&quoted.bytes())
    };
    assert_eq!(into(&node, &web(), &error(WORLD_ADDR, WEB_ADDR, &ask)), Allow);
    assert_eq!(into(&node, &web(), &error(WORLD_ADDR, WEB_ADDR, &reply)), Deny, "db sent that one");
    assert_eq!(out(&node, &web(), &error(WEB_ADDR, DB_ADDR, &reply)), Allow);
    assert_eq!(out(&node, &web(), &error(WEB_ADDR, WORLD_ADDR, &reply)), Deny, "a letter to a stranger");
    assert_eq!(out(&node, &web(), &ask), Allow);
    assert_eq!(out(&node, &web(), &error(WEB_ADDR, WORLD_ADDR, &reply)), Deny, "a live flow or not");
}

#[test]
fn rules_name_echo_by_its_request_and_other_icmp_by_type_and_code() {
    let mut node = node();
    answer(&mut node, (WEB, DB), (Protocol::ICMPV6, 128 << 8), (RULE, DENY));
    let request = Wire::new(Protocol::ICMPV6, (v6([1, 1]), 77), (v6([2, 1]), 77)).icmp(128, 9);
    assert_eq!(out(&node, &web(), &request), Allow, "whatever its code is");
    next_generation(&mut node);
    assert_eq!(into(&node, &web(), &request.reversed().icmp(129, 0)), Allow, "a reply that is judged anew");
    answer(&mut node, (WEB, DB), (Protocol::ICMP, 13 << 8 | 1), (RULE, DENY));
    let stamp = Wire::new(Protocol::ICMP, (WEB_ADDR, 0), (DB_ADDR, 0));
    assert_eq!(out(&node, &web(), &stamp.clone().icmp(13, 2)), Deny);
    assert_eq!(out(&node, &web(), &stamp.icmp(13, 1)), Allow);
}

#[test]
fn what_a_router_in_a_zone_says_itself_is_believed() {
    let node = node();
    let error = |dst: Addr| {
        let quoted = Wire::new(UDP, (WORLD_ADDR, 4000), (dst, 80));
        Wire::new(Protocol::ICMP, (WEB_ADDR, 0), (WORLD_ADDR, 0)).icmp(11, 0).payload(&quoted.bytes())
    };
    // The flow may be of a socket that only its cgroup tells.
    let kernel = Sock { owner: None, ..Sock::plain(HOST, NETNS) };
    assert_eq!(out(&node, &kernel, &error(DB_ADDR)), Allow);
    assert_eq!(moved(&node), []);
    assert_eq!(out(&node, &kernel, &error(WEB_ADDR)), Deny, "about what it received itself, by its rules");
    assert_eq!(moved(&node), [(WEB, Identity::WORLD, Deny, Reason::IcmpError, 1, 1)]);
    let raw = Sock::plain(OTHER_CGROUP, NETNS);
    assert_eq!(out(&node, &raw, &error(DB_ADDR)), Deny, "a program's word");
    let older = Sock { owner: None, ..web() };
    assert_eq!(out(&node, &older, &error(DB_ADDR)), Deny, "a workload's, of before");
}
