//! Flows whose both ends are on the node.

use super::*;

/// Db listens on this node.
fn with_receiver(node: &mut Node) {
    node.locals.insert(DB_ADDR, LocalAddress { addr: DB_ADDR, netns: 8 });
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(ListenerKey::new(8, DB_ADDR, 80, UDP), Listener { workload, cookie: 1 });
}

#[test]
fn a_flow_within_the_node_is_judged_whole_and_counted_at_its_receiver() {
    let mut node = asking(UDP);
    with_receiver(&mut node);
    let (ask, reply) = question(UDP);
    assert_eq!(out(&node, &web(), &ask), Deny, "the receiver's side says no");
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::Default, 1, 1)], "counted where it ended");
    allow(&mut node, (WEB, DB), (UDP, 80));
    next_generation(&mut node);
    assert_eq!(out(&node, &web(), &ask), Allow);
    assert_eq!(moved(&node), []);
    assert_eq!(into(&node, &db(), &ask), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 1, 1)]);
    assert_eq!(out(&node, &db(), &reply), Allow);
    assert_eq!(moved(&node), [(WEB, DB, Allow, Reason::AllowRule, 0, 1)]);
    assert_eq!(into(&node, &web(), &reply), Allow);
    assert_eq!(moved(&node), []);
    let [flow] = node.flows().into_values().collect::<Vec<_>>()[..] else { unreachable!() };
    assert_eq!((flow.opener.cgroup, flow.receiver.cgroup), (WEB_CGROUP, DB_CGROUP));
    assert!(flow.flags & FlowState::FLAG_LOCAL != 0);
}

#[test]
fn the_senders_cgroup_reaches_the_receivers_hook() {
    // Two workloads on one address: only the cgroup tells them apart.
    let mut node = node();
    allow(&mut node, (WEB, DB), (UDP, 80));
    let key = ListenerKey::new(NETNS, LOOPBACK, 80, UDP);
    let workload = Workload { cgroup: DB_CGROUP, anchor: DB_CGROUP };
    node.listeners.insert(key, Listener { workload, cookie: 1 });
    let ask = Wire::new(UDP, (LOOPBACK, 4000), (LOOPBACK, 80));
    let other = Sock::plain(OTHER_CGROUP, NETNS);
    assert_eq!(into(&node, &db(), &ask), Deny, "a sender that nobody told of");
    assert_eq!(out(&node, &web(), &ask), Allow);
    assert_eq!(into(&node, &db(), &ask), Allow);
    let stranger = Wire::new(UDP, (LOOPBACK, 4001), (LOOPBACK, 80));
    assert_eq!(out(&node, &other, &stranger), Deny);
    // The same tuple in another namespace is another flow.
    let elsewhere = Sock::plain(DB_CGROUP, 99);
    assert_eq!(into(&node, &elsewhere, &ask), Deny);
}

#[test]
fn a_switch_reaches_both_ends_of_a_flow_within_the_node() {
    let mut node = node();
    allow(&mut node, (WEB, DB), (UDP, 80));
    with_receiver(&mut node);
    let (ask, reply) = question(UDP);
    assert_eq!((out(&node, &web(), &ask), into(&node, &db(), &ask)), (Allow, Allow));
    let _ = moved(&node);
    answer(&mut node, (WEB, DB), (UDP, 80), (RULE, DENY_RULE));
    next_generation(&mut node);
    assert_eq!(out(&node, &db(), &reply), Deny);
    assert_eq!(out(&node, &web(), &ask), Deny, "the opener's hook knows the receiver's side");
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::DenyRule, 1, 2)]);
}

#[test]
fn what_a_switch_denies_within_the_node_is_counted_where_it_ends() {
    let mut node = node();
    allow(&mut node, (WEB, DB), (UDP, 80));
    with_receiver(&mut node);
    let (ask, _) = question(UDP);
    assert_eq!((out(&node, &web(), &ask), into(&node, &db(), &ask)), (Allow, Allow));
    let _ = moved(&node);
    next_generation(&mut node);
    assert_eq!(out(&node, &web(), &ask), Allow);
    assert_eq!(moved(&node), [], "what passes is the receiver's to count");
    answer(&mut node, (WEB, DB), (UDP, 80), (RULE, DENY_RULE));
    next_generation(&mut node);
    assert_eq!((out(&node, &web(), &ask), out(&node, &web(), &ask)), (Deny, Deny));
    assert_eq!(moved(&node), [(WEB, DB, Deny, Reason::DenyRule, 1, 2)]);
}

#[test]
fn a_tuple_with_one_loopback_end_belongs_to_its_namespace() {
    let mut node = node();
    answer(&mut node, (WEB, Identity::NODE), (UDP, 80), (RULE, OPEN));
    for (src, dst) in [(WEB_ADDR, LOOPBACK), (LOOPBACK, Addr::v4([127, 0, 0, 2]))] {
        node.clear_flows();
        let _ = out(&node, &web(), &Wire::new(UDP, (src, 4000), (dst, 80)));
        assert!(node.flows().keys().all(|key| key.netns == NETNS) && node.flows().len() == 1, "{src:?}");
    }
}
