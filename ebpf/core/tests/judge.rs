//! Who an endpoint is, and what is decided between two.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::cell::Cell;

use bulkhead_abi::{
    Addr, Control, Identity, IdentityState, ListenerKey, LocalAddress, Protocol, Reason, Side, Verdict,
    Workload, flow::Listener, tables::FailsafeKey,
};
use bulkhead_core::{
    endpoint,
    host::{At, Node, Sock},
    judge::{self, Decision, Question, Sides},
    tables::Policy,
};
use common::*;

const TCP: Protocol = Protocol::TCP;

fn with<R>(node: &Node, work: impl FnOnce(&Policy<'_, At<'_>>) -> R) -> R {
    let sock = Sock::none();
    let at = At::packet(node, &sock, &[]);
    work(&Policy::live(&at))
}

fn ask(node: &Node, from: Identity, to: Identity, sides: Sides) -> Decision {
    let question = Question { from, to, protocol: TCP, port: 80, sides };
    with(node, |policy| judge::judge(policy, &question, || None))
}

fn resolve(node: &Node, cgroup: u64, addr: Addr) -> Identity {
    let workload = node.workload_of(cgroup);
    with(node, |policy| endpoint::resolve(policy, &workload, &addr))
}

#[test]
fn an_endpoint_is_what_its_cgroup_and_its_address_say_together() {
    let node = node();
    for (cgroup, addr, expected) in [
        (0, WORLD_ADDR, Identity::WORLD),
        (0, LOOPBACK, Identity::NODE),
        (0, WEB_ADDR, WEB),
        (OTHER_CGROUP, DB_ADDR, DB),
        (WEB_CGROUP, WORLD_ADDR, WEB),
        (WEB_CGROUP, LOOPBACK, WEB),
        (WEB_CGROUP, WEB_ADDR, WEB),
        (WEB_CGROUP, DB_ADDR, BOTH),
        (NEW_CGROUP, DB_ADDR, BOTH),
        // The tables know no set of these.
        (WEB_CGROUP, LAX_ADDR, Identity::UNKNOWN),
        (DB_CGROUP, WEB_ADDR, Identity::UNKNOWN),
    ] {
        assert_eq!(resolve(&node, cgroup, addr), expected, "{cgroup} {addr:?}");
    }
}

#[test]
fn the_nearest_cgroup_answers_for_one_that_is_unknown() {
    let node = node();
    let ask = |cgroup, anchor| {
        let workload = Workload { cgroup, anchor };
        with(&node, |policy| endpoint::resolve(policy, &workload, &WORLD_ADDR))
    };
    assert_eq!(ask(NEW_CGROUP, WEB_CGROUP), WEB);
    assert_eq!(ask(DB_CGROUP, WEB_CGROUP), DB, "the cgroup's own word comes first");
    assert_eq!(ask(OTHER_CGROUP, 0), Identity::WORLD);
    assert_eq!(ask(0, WEB_CGROUP), WEB, "an opener of another time");
}

#[test]
fn the_longest_prefix_counts() {
    let mut node = node();
    node.tables.set_prefix(WEB_ADDR, 128, LAX);
    node.tables.set_prefix(Addr::v4([10, 0, 0, 0]), 104, DB);
    assert_eq!(resolve(&node, 0, WEB_ADDR), LAX);
    assert_eq!(resolve(&node, 0, Addr::v4([10, 0, 1, 2])), WEB);
    assert_eq!(resolve(&node, 0, Addr::v4([10, 9, 9, 9])), DB);
}

#[test]
fn every_table_is_read_in_the_version_of_its_generation() {
    let mut node = node();
    node.tables.prefixes.retain(|(addr, ..)| *addr != Addr::v4([10, 0, 1, 0]));
    let value = bulkhead_abi::tables::PrefixValue { identity: [DB, WEB] };
    node.tables.prefixes.push((WEB_ADDR, 128, value));
    let workload = bulkhead_abi::tables::WorkloadValue { cgroup: 300, identity: [LAX, DB] };
    node.tables.workloads.insert(300, workload);
    let pair = bulkhead_abi::PairKey { from: WEB, to: DB };
    // In the even generation the pair has rules of its own.
    node.tables.pairs.insert(pair, bulkhead_abi::tables::PairValue { key: pair, ruleset: [9, 0] });
    let cell = bulkhead_abi::Cell::new(RULE, RULE, bulkhead_abi::Demand::OFF);
    node.tables.add_rule(bulkhead_abi::RuleKey::new(9, Protocol(0), 0), 32, cell);
    let mut state = node.tables.identities[&LAX];
    state.state[1] = IdentityState::default();
    node.tables.identities.insert(LAX, state);
    for (generation, prefix, workload, verdict, known) in
        [(2, DB, LAX, Verdict::Allow, true), (3, WEB, DB, Verdict::Deny, false)]
    {
        node.control.generation = generation;
        assert_eq!(resolve(&node, 0, WEB_ADDR), prefix);
        assert_eq!(resolve(&node, 300, WORLD_ADDR), workload);
        assert_eq!(ask(&node, WEB, DB, Sides::Both).verdict, verdict);
        assert_eq!(with(&node, |policy| policy.state(LAX).is_some()), known);
    }
}

#[test]
fn receivers_are_bound_sockets_and_no_bare_addresses() {
    let mut node = node();
    let listener = |cgroup| Listener { workload: Workload { cgroup, anchor: cgroup }, cookie: 1 };
    node.locals.insert(WEB_ADDR, LocalAddress { addr: WEB_ADDR, netns: 5 });
    node.locals.insert(v6([1, 1]), LocalAddress { addr: v6([1, 1]), netns: 5 });
    for (netns, addr, port, protocol, cgroup) in [
        (5, WEB_ADDR, 80, TCP, 1),
        (5, Addr::ANY_V4, 81, TCP, 2),
        (5, Addr::ANY, 82, TCP, 3),
        (5, WEB_ADDR, 83, TCP, 4),
        (5, Addr::ANY_V4, 83, TCP, 5),
        (5, Addr::ANY, 83, TCP, 6),
        (5, Addr::ANY, 81, TCP, 7),
        (6, LOOPBACK, 80, TCP, 8),
        (5, WEB_ADDR, 80, Protocol::UDP, 9),
    ] {
        node.listeners.insert(ListenerKey::new(netns, addr, port, protocol), listener(cgroup));
    }
    let found = |netns, addr, port, protocol| {
        with(&node, |policy| endpoint::receiver(policy, netns, &addr, port, protocol)).cgroup
    };
    assert_eq!(found(0, WEB_ADDR, 80, TCP), 1);
    assert_eq!(found(0, WEB_ADDR, 80, Protocol::UDP), 9);
    assert_eq!(found(0, WEB_ADDR, 81, TCP), 2, "bound to every IPv4 address, before every address");
    assert_eq!(found(0, WEB_ADDR, 82, TCP), 3, "bound to every address");
    assert_eq!(found(0, WEB_ADDR, 83, TCP), 4, "the exact one first");
    assert_eq!(found(0, v6([1, 1]), 81, TCP), 7, "every IPv4 address is not every address");
    assert_eq!(found(0, WEB_ADDR, 84, TCP), 0);
    assert_eq!(found(5, DB_ADDR, 80, TCP), 0, "an address that is nobody's");
    assert_eq!(found(6, LOOPBACK, 80, TCP), 8);
    assert_eq!(found(5, LOOPBACK, 80, TCP), 0, "another namespace's loopback");
    assert_eq!(found(0, LOOPBACK, 80, TCP), 0);
    assert_eq!(found(0, WEB_ADDR, 80, Protocol::ICMP), 0, "no ports, no receiver");
}

#[test]
fn the_worse_side_decides_and_the_one_with_a_reason_is_named() {
    let deny = DENY_RULE;
    let within = side(Verdict::Allow, Reason::WithinZone, 0);
    let both = [
        (OPEN, OPEN, OPEN),
        (OPEN, RULE, RULE),
        (RULE, OPEN, RULE),
        (RULE, within, RULE),
        (within, RULE, within),
        (RULE, deny, deny),
        (deny, RULE, deny),
        (AUDIT, RULE, AUDIT),
        (RULE, AUDIT, AUDIT),
        (AUDIT, deny, deny),
        (deny, AUDIT, deny),
        (DENY, deny, DENY),
        (deny, DENY, deny),
    ];
    for (egress, ingress, expected) in both {
        let mut node = node();
        answer(&mut node, (WEB, DB), (TCP, 80), (egress, ingress));
        let told = |decision: Decision| (decision.verdict, decision.reason, decision.rule);
        let of = |side: bulkhead_abi::tables::SideAnswer| (side.verdict, side.reason, side.rule);
        assert_eq!(told(ask(&node, WEB, DB, Sides::Both)), of(expected), "{egress:?} {ingress:?}");
        assert_eq!(told(ask(&node, WEB, DB, Sides::One(Side::Egress))), of(egress));
        assert_eq!(told(ask(&node, WEB, DB, Sides::One(Side::Ingress))), of(ingress));
        let decision = ask(&node, WEB, DB, Sides::Both);
        assert_eq!((decision.from, decision.to), (WEB, DB));
    }
}

#[test]
fn between_two_ends_in_no_zone_no_table_is_asked() {
    let node = Node::default();
    for (from, to) in [(Identity::WORLD, Identity::NODE), (Identity::NODE, Identity::WORLD)] {
        let decision = ask(&node, from, to, Sides::Both);
        assert_eq!((decision.verdict, decision.reason), (Verdict::Allow, Reason::Open));
        assert!(decision.is_unzoned());
    }
    let decision = ask(&common::node(), Identity::WORLD, WEB, Sides::Both);
    assert!(!decision.is_unzoned());
    assert!(!ask(&common::node(), WEB, Identity::WORLD, Sides::Both).is_unzoned());
}

#[test]
fn whatever_the_tables_are_silent_about_is_denied() {
    let inconsistent = |decision: Decision| {
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Deny, Reason::Inconsistent),
            "{decision:?}"
        );
    };
    let node = node();
    for (from, to) in [
        (Identity::UNKNOWN, WEB),
        (WEB, Identity::UNKNOWN),
        (Identity::UNKNOWN, Identity::WORLD),
        (Identity::WORLD, Identity::UNKNOWN),
        (WEB, Identity(999)),
        (Identity(999), Identity::WORLD),
    ] {
        inconsistent(ask(&node, from, to, Sides::Both));
    }
    let mut node = common::node();
    node.tables.rules.clear();
    inconsistent(ask(&node, WEB, DB, Sides::One(Side::Egress)));
    let mut node = common::node();
    node.tables.pairs.clear();
    inconsistent(ask(&node, WEB, DB, Sides::One(Side::Egress)));
}

#[test]
fn a_pair_of_its_own_comes_before_the_classes() {
    let mut node = node();
    node.tables.set_pair(bulkhead_abi::PairKey { from: WEB, to: DB }, 9);
    let cell = bulkhead_abi::Cell::new(RULE, RULE, bulkhead_abi::Demand::OFF);
    node.tables.add_rule(bulkhead_abi::RuleKey::new(9, TCP, 0), bulkhead_abi::RuleKey::PROTOCOL_BITS, cell);
    assert_eq!(ask(&node, WEB, DB, Sides::Both).verdict, Verdict::Allow);
    assert_eq!(ask(&node, DB, WEB, Sides::Both).verdict, Verdict::Deny);
}

#[test]
fn a_node_that_only_reports_denies_nothing() {
    let mut node = node();
    for flags in [Control::FLAG_AUDIT, Control::FLAG_ADOPTING, Control::FLAG_AUDIT | Control::FLAG_ADOPTING] {
        node.control.flags = flags;
        let decision = ask(&node, WEB, DB, Sides::Both);
        assert_eq!((decision.verdict, decision.reason), (Verdict::Audit, Reason::Default));
        assert_eq!(ask(&node, Identity::UNKNOWN, DB, Sides::Both).verdict, Verdict::Audit);
        let anomaly = with(&node, |policy| judge::anomaly(policy, Reason::Stray, WEB, WEB, DB));
        assert_eq!((anomaly.verdict, anomaly.reason), (Verdict::Audit, Reason::Stray));
    }
    node.control.flags = 1 << 60;
    assert_eq!(ask(&node, WEB, DB, Sides::Both).verdict, Verdict::Deny, "no flag that we know");
}

#[test]
fn failsafe_ports_are_the_nodes_own_and_counted() {
    let node = node();
    let key = FailsafeKey { side: Side::Ingress as u8, protocol: TCP.0, port: 80 };
    node.failsafe.borrow_mut().insert(key, 0);
    let question = Question { from: WEB, to: DB, protocol: TCP, port: 80, sides: Sides::Both };
    let mut node = node;
    answer(&mut node, (WEB, DB), (TCP, 80), (DENY_RULE, DENY_RULE));
    let judge = |question: &Question, end| with(&node, |policy| judge::judge(policy, question, || end));
    let decision = judge(&question, Some(Side::Ingress));
    assert_eq!((decision.verdict, decision.reason, decision.rule), (Verdict::Allow, Reason::Failsafe, 0));
    assert_eq!(node.failsafe.borrow()[&key], 1);
    for (question, end) in [
        (question, None),
        (question, Some(Side::Egress)),
        (Question { port: 81, ..question }, Some(Side::Ingress)),
        (Question { protocol: Protocol::UDP, ..question }, Some(Side::Ingress)),
    ] {
        assert_eq!(judge(&question, end).verdict, Verdict::Deny);
    }
    assert_eq!(node.failsafe.borrow()[&key], 1, "only what needed it is counted");
}

#[test]
fn what_passes_anyway_needs_no_failsafe_port() {
    let mut node = node();
    allow(&mut node, (WEB, DB), (TCP, 80));
    let asked = Cell::new(false);
    let question = Question { from: WEB, to: DB, protocol: TCP, port: 80, sides: Sides::Both };
    let decision = with(&node, |policy| {
        judge::judge(policy, &question, || {
            asked.set(true);
            None
        })
    });
    assert_eq!((decision.verdict, decision.reason), (Verdict::Allow, Reason::AllowRule));
    assert!(!asked.get());
}

#[test]
fn an_anomaly_is_as_bad_as_the_zones_at_hand_say() {
    let node = node();
    let judge = |own| with(&node, |policy| judge::anomaly(policy, Reason::Fragment, own, WEB, DB));
    for (own, verdict, reason) in [
        (Identity::WORLD, Verdict::Allow, Reason::Open),
        (Identity::NODE, Verdict::Allow, Reason::Open),
        (WEB, Verdict::Deny, Reason::Fragment),
        (LAX, Verdict::Audit, Reason::Fragment),
        (Identity::UNKNOWN, Verdict::Deny, Reason::Fragment),
        (Identity(999), Verdict::Deny, Reason::Fragment),
    ] {
        let decision = judge(own);
        assert_eq!((decision.verdict, decision.reason), (verdict, reason), "{own:?}");
        assert_eq!((decision.from, decision.to, decision.rule), (WEB, DB, 0));
    }
}
