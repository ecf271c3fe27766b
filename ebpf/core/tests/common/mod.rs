//! A small node: three zones by prefix and by cgroup, closed towards each other, and packets between them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]

pub mod guarded;

use bulkhead_abi::{
    Addr, Cell, Direction, Identity, IdentityState, PairKey, Protocol, Reason, RuleKey, Verdict,
    tables::SideAnswer,
};
use bulkhead_core::host::{Node, Sock, wire::Wire};

pub const WEB: Identity = Identity(16);
pub const DB: Identity = Identity(17);
/// Reports only.
pub const LAX: Identity = Identity(18);
/// By cgroup web, by address db.
pub const BOTH: Identity = Identity(19);
pub const ALL: [Identity; 6] = [Identity::WORLD, Identity::NODE, WEB, DB, LAX, BOTH];

pub const WEB_CGROUP: u64 = 100;
/// Below web's, and unknown to the tables.
pub const NEW_CGROUP: u64 = 101;
pub const DB_CGROUP: u64 = 200;
/// In no zone.
pub const OTHER_CGROUP: u64 = 900;
pub const HOST: u64 = 1;
pub const NETNS: u64 = 7;

pub const WEB_ADDR: Addr = Addr::v4([10, 0, 1, 1]);
pub const DB_ADDR: Addr = Addr::v4([10, 0, 2, 1]);
pub const LAX_ADDR: Addr = Addr::v4([10, 0, 3, 1]);
pub const WORLD_ADDR: Addr = Addr::v4([192, 0, 2, 1]);
pub const LOOPBACK: Addr = Addr::v4([127, 0, 0, 1]);

/// One side's answer.
pub const fn side(verdict: Verdict, reason: Reason, rule: u32) -> SideAnswer {
    SideAnswer { verdict, reason, rule }
}
pub const OPEN: SideAnswer = side(Verdict::Allow, Reason::Open, 0);
pub const DENY: SideAnswer = side(Verdict::Deny, Reason::Default, 0);
pub const AUDIT: SideAnswer = side(Verdict::Audit, Reason::Default, 0);
pub const RULE: SideAnswer = side(Verdict::Allow, Reason::AllowRule, 5);
pub const DENY_RULE: SideAnswer = side(Verdict::Deny, Reason::DenyRule, 6);

/// A node with the zones above and no rule.
pub fn node() -> Node {
    let mut node = Node::default();
    node.control.host_netns = HOST;
    let tables = &mut node.tables;
    tables.set_prefix(Addr::v4([10, 0, 1, 0]), 120, WEB);
    tables.set_prefix(Addr::v4([10, 0, 2, 0]), 120, DB);
    tables.set_prefix(Addr::v4([10, 0, 3, 0]), 120, LAX);
    tables.set_prefix(v6([1, 0]), 112, WEB);
    tables.set_prefix(v6([2, 0]), 112, DB);
    tables.set_prefix(Addr::v4([127, 0, 0, 0]), 104, Identity::NODE);
    tables.set_workload(WEB_CGROUP, WEB);
    tables.set_workload(DB_CGROUP, DB);
    tables.set_union(PairKey { from: WEB, to: DB }, BOTH);
    for (class, identity) in (0..).zip(ALL) {
        tables.set_identity(identity, IdentityState::new(class, identity.is_zoned() && identity != LAX));
    }
    let class =
        |identity| Identity(ALL.iter().position(|i| *i == identity).unwrap() as u32 | Identity::CLASS);
    for from in ALL {
        for to in ALL {
            let number = ruleset(from, to);
            tables.set_pair(PairKey { from: class(from), to: class(to) }, number);
            let cell = Cell::new(closed(from), closed(to), bulkhead_abi::Demand::OFF);
            tables.add_rule(RuleKey::new(number, Protocol(0), 0), RuleKey::RULESET_BITS, cell);
        }
    }
    node.parents.insert(NEW_CGROUP, WEB_CGROUP);
    node
}

/// Both sides' answers for one port.
pub fn answer(
    node: &mut Node,
    (from, to): (Identity, Identity),
    (protocol, port): (Protocol, u16),
    (egress, ingress): (SideAnswer, SideAnswer),
) {
    let key = RuleKey::new(ruleset(from, to), protocol, port);
    let entries = node.tables.rules.entry(ruleset(from, to)).or_default();
    entries.retain(|(old, bits, _)| (*old, *bits) != (key, RuleKey::PORT_BITS));
    node.tables.add_rule(key, RuleKey::PORT_BITS, Cell::new(egress, ingress, bulkhead_abi::Demand::OFF));
}

/// Opens a port on both sides for what `demand` accepts.
pub fn allow_as(
    node: &mut Node,
    (from, to): (Identity, Identity),
    (protocol, port): (Protocol, u16),
    demand: bulkhead_abi::Demand,
) {
    let key = RuleKey::new(ruleset(from, to), protocol, port);
    let entries = node.tables.rules.entry(ruleset(from, to)).or_default();
    entries.retain(|(old, bits, _)| (*old, *bits) != (key, RuleKey::PORT_BITS));
    node.tables.add_rule(key, RuleKey::PORT_BITS, Cell::new(RULE, RULE, demand));
}

/// Opens a port on both sides.
pub fn allow(node: &mut Node, pair: (Identity, Identity), service: (Protocol, u16)) {
    answer(node, pair, service, (RULE, RULE));
}

/// The same policy in a new generation.
pub fn next_generation(node: &mut Node) {
    node.control.generation += 1;
}

fn ruleset(from: Identity, to: Identity) -> u32 {
    100 * from.0 + to.0 + 1
}

fn closed(identity: Identity) -> SideAnswer {
    match identity {
        LAX => AUDIT,
        identity if identity.is_zoned() => DENY,
        _ => OPEN,
    }
}

/// `fd00::zone:host`.
pub fn v6([zone, host]: [u8; 2]) -> Addr {
    Addr::from_octets([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, zone, 0, host])
}

pub fn out(node: &Node, sock: &Sock, wire: &Wire) -> Verdict {
    node.packet(sock, Direction::Egress, &wire.bytes())
}

pub fn into(node: &Node, sock: &Sock, wire: &Wire) -> Verdict {
    node.packet(sock, Direction::Ingress, &wire.bytes())
}

/// (from, to, verdict, reason, flows, packets) of every counter that moved since the last look.
pub fn moved(node: &Node) -> Vec<(Identity, Identity, Verdict, Reason, u64, u64)> {
    node.take_counters()
        .into_iter()
        .map(|(key, counter)| {
            let (verdict, reason) = (Verdict::from_code(key.verdict), Reason::from_code(key.reason));
            (key.from, key.to, verdict, reason, counter.flows, counter.packets)
        })
        .collect()
}
