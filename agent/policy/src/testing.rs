//! Strategies for policies, facts and flows, so that every judge of flows can be tried on the same ones.
//!
//! The universe is small on purpose (16 IPv4 and 16 IPv6 addresses, a dozen cgroups, a few ports), so that
//! zones overlap, rules meet, and a flow is likely to hit an edge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bulkhead_abi::{Accept, Addr, Demand, Protocol, Tls};
use bulkhead_credentials::SpiffeId;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::model::{
    Action, CgroupPattern, Endpoint, Facts, Flow, Location, MaxAge, Mode, Model, PortMatch, Ports, Posture,
    Rule, Selector, Sides, Tier, Zone,
};
use crate::prefix::Prefix;

/// Cgroup ids and paths that facts choose from.
pub const CGROUPS: [(u64, &str); 10] = [
    (1, ""),
    (10, "a"),
    (11, "a/b"),
    (12, "a/b/c"),
    (13, "a/x"),
    (14, "a/x/c"),
    (20, "d"),
    (21, "d/b"),
    (22, "d/b.service"),
    (23, "e"),
];

/// The trust domain of the zones' own names.
pub const TRUST_DOMAIN: &str = "example.org";

const PATTERNS: [&str; 14] = [
    "a",
    "a/b",
    "a/b/c",
    "d",
    "d/b",
    "*",
    "*/b",
    "a/*",
    "**/c",
    "a/**/c",
    "**",
    "d/b*",
    "d/*.service",
    "e/**",
];

const PORTS: [u16; 8] = [0, 1, 53, 80, 0x0800, 0x8000, 9000, 65535];

/// A policy with what is true of its host, and flows to judge.
#[derive(Clone, Debug)]
pub struct Case {
    /// The policy.
    pub model: Model,
    /// The host.
    pub facts: Facts,
    /// The flows. Cgroups are those of the facts.
    pub flows: Vec<Flow>,
}

/// Cases with up to `zones` zones and `rules` rules, and `flows` flows each.
pub fn cases(zones: usize, rules: usize, flows: usize) -> impl Strategy<Value = Case> {
    (models(zones, rules), facts()).prop_flat_map(move |(model, facts)| {
        let ends = endpoints(&facts);
        let flow = (ends.clone(), ends, protocols(), ports(), any::<bool>())
            .prop_map(|(from, to, protocol, port, guarded)| Flow { from, to, protocol, port, guarded });
        proptest::collection::vec(flow, flows).prop_map(move |flows| Case {
            model: model.clone(),
            facts: facts.clone(),
            flows,
        })
    })
}

/// Policies with up to `zones` zones and `rules` rules, in all tiers. Virtual addresses may lie in zones,
/// which the files cannot say; the zones have them then.
pub fn models(zones: usize, rules: usize) -> impl Strategy<Value = Model> {
    (1..=zones, 0..=rules).prop_flat_map(|(zones, rules)| {
        let names: Vec<String> = (0..zones).map(|n| format!("z{n}")).collect();
        let zone_list: Vec<_> = names.iter().map(|name| zone(name.clone())).collect();
        let rule_list: Vec<_> = (0..rules).map(|line| rule(names.clone(), line as u32 + 1)).collect();
        let virtuals = proptest::collection::vec(prefixes(), 0..3);
        (zone_list, rule_list, virtuals).prop_map(|(zones, rules, virtuals)| {
            Model::new(zones.into_iter().map(Arc::new).collect(), rules.into_iter().map(Arc::new).collect())
                .with_virtuals(virtuals)
        })
    })
}

/// Facts about a host: some of [`CGROUPS`], some of the addresses.
pub fn facts() -> impl Strategy<Value = Facts> {
    let cgroups = subsequence(CGROUPS.to_vec(), 0..=CGROUPS.len());
    let addresses = proptest::collection::btree_set(addresses(), 0..4);
    (cgroups, addresses).prop_map(|(cgroups, node_addresses)| Facts {
        cgroups: cgroups.into_iter().map(|(id, path)| (id, path.to_string())).collect::<BTreeMap<_, _>>(),
        node_addresses: node_addresses.into_iter().collect::<BTreeSet<_>>(),
    })
}

/// Ends of flows on the host that the facts describe.
pub fn endpoints(facts: &Facts) -> impl Strategy<Value = Endpoint> + Clone + use<> {
    let mut cgroups: Vec<Option<String>> = facts.cgroups.values().cloned().map(Some).collect();
    cgroups.push(None);
    (addresses(), select(cgroups)).prop_map(|(addr, cgroup)| Endpoint { addr, cgroup })
}

/// 10.0.0.0/28 and fd00::/124 mostly, loopback, and strangers.
pub fn addresses() -> impl Strategy<Value = Addr> + Clone {
    prop_oneof![
        8 => (0u8..16).prop_map(v4),
        8 => (0u8..16).prop_map(v6),
        1 => select(vec![
            Addr::v4([127, 0, 0, 1]),
            Addr::v4([127, 9, 9, 9]),
            Addr::from_octets([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            Addr::v4([192, 0, 2, 1]),
            Addr::from_octets([0xff; 16]),
        ]),
    ]
}

/// Known protocols mostly, and some that are not.
pub fn protocols() -> impl Strategy<Value = Protocol> + Clone {
    prop_oneof![
        4 => select(vec![Protocol::TCP, Protocol::UDP]),
        2 => select(vec![Protocol::ICMP, Protocol::ICMPV6, Protocol::SCTP, Protocol::DCCP, Protocol::UDPLITE]),
        1 => select(vec![Protocol(0), Protocol(47), Protocol(50), Protocol(255)]),
    ]
}

/// Ports at and beside the edges of ranges.
pub fn ports() -> impl Strategy<Value = u16> + Clone {
    (select(PORTS.to_vec()), -1i32..=1).prop_map(|(port, by)| (i32::from(port) + by).clamp(0, 65535) as u16)
}

fn zone(name: String) -> impl Strategy<Value = Zone> {
    let patterns = proptest::collection::vec(select(PATTERNS.to_vec()), 0..3);
    let posture = || prop_oneof![3 => Just(Posture::Isolate), 1 => Just(Posture::Allow)];
    let mode = prop_oneof![2 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    (
        proptest::collection::vec(prefixes(), 0..4),
        proptest::collection::vec(prefixes(), 0..2),
        patterns,
        mode,
        (posture(), posture()),
        (proptest::bool::weighted(0.3), proptest::collection::vec(names(), 0..3)),
        proptest::option::weighted(0.2, names()),
    )
        .prop_map(
            move |(cidrs, except, patterns, mode, (ingress, egress), (isolated, names), own_name)| Zone {
                cidrs,
                except,
                names,
                own_name,
                cgroups: patterns.iter().filter_map(|text| CgroupPattern::new(text).ok()).collect(),
                mode,
                ingress,
                egress,
                isolated,
                ..Zone::new(&name)
            },
        )
}

/// A few names under [`TRUST_DOMAIN`], some of which zones have by default, and a stranger's.
pub fn names() -> impl Strategy<Value = SpiffeId> + Clone {
    let own = ["ns/host/sa/z0", "ns/host/sa/z1", "ns/shop/sa/api", "ns/shop/sa/web", "ns/a/sa/b"];
    let name = |path: &str| format!("spiffe://{TRUST_DOMAIN}/{path}").parse().ok();
    let mut all: Vec<SpiffeId> = own.into_iter().filter_map(name).collect();
    all.extend("spiffe://elsewhere.example/ns/shop/sa/api".parse::<SpiffeId>());
    select(all)
}

fn max_ages() -> impl Strategy<Value = MaxAge> {
    (1u32..=72).prop_filter_map("within the bounds", |hours| format!("{hours}h").parse().ok())
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        8 => ((0u8..16), 124u8..=128).prop_map(|(n, len)| Prefix::new(v4(n), len)),
        8 => ((0u8..16), 124u8..=128).prop_map(|(n, len)| Prefix::new(v6(n), len)),
        1 => select(vec![Prefix::ALL_V4, Prefix::new(Addr::ANY, 0), Prefix::new(Addr::v4([127, 0, 0, 0]), 104)]),
    ]
}

fn rule(zones: Vec<String>, line: u32) -> impl Strategy<Value = Rule> {
    let tier = prop_oneof![
        6 => Just(Tier::Normal),
        2 => (0u32..3).prop_map(|priority| Tier::Admin { priority }),
        1 => (0u32..3).prop_map(|priority| Tier::Baseline { priority }),
    ];
    let action = prop_oneof![4 => Just(Action::Allow), 2 => Just(Action::Deny), 1 => Just(Action::Pass)];
    let sides = prop_oneof![3 => Just(Sides::Both), 1 => Just(Sides::Egress), 1 => Just(Sides::Ingress)];
    let named = proptest::bool::weighted(0.3);
    let ends = (selectors(zones.clone()), selectors(zones));
    let asks = (demands(), proptest::option::weighted(0.3, max_ages()));
    (tier, action, ends, port_lists(), sides, asks, named).prop_map(
        move |(tier, action, (from, to), ports, sides, (tls, max_age), named)| Rule {
            name: named.then(|| format!("rule {line}").into()),
            tier,
            // Passing means nothing in the normal tier.
            action: if tier == Tier::Normal && action == Action::Pass { Action::Deny } else { action },
            from,
            to,
            ports,
            sides,
            tls,
            max_age: max_age.filter(|_| tls.level == Tls::Mutual),
            location: Location { file: "generated.toml".into(), line, column: 1 },
        },
    )
}

fn demands() -> impl Strategy<Value = Demand> {
    let level = |level| Demand { level, ..Demand::OFF };
    let attested = Demand { floor: Demand::ATTEST, ..Demand::MUTUAL };
    let require = (any::<u16>(), 0u8..=4).prop_map(|(accept, floor)| Demand {
        level: Tls::Require,
        accept: Accept(accept),
        floor,
    });
    let words = [level(Tls::Off), level(Tls::Report), Demand::MUTUAL, attested];
    prop_oneof![3 => select(words.to_vec()), 1 => Just(Demand::REQUIRE), 2 => require]
}

fn selectors(zones: Vec<String>) -> impl Strategy<Value = Vec<Selector>> {
    let one = prop_oneof![
        6 => select(zones).prop_map(|name| Selector::Zone(name.into())),
        1 => Just(Selector::Any),
        1 => Just(Selector::World),
        1 => Just(Selector::Node),
    ];
    proptest::collection::vec(one, 1..3)
}

fn port_lists() -> impl Strategy<Value = Ports> {
    let range = (protocols(), select(PORTS.to_vec()), select(PORTS.to_vec())).prop_map(|(protocol, a, b)| {
        if protocol.has_ports() || protocol.is_icmp() {
            PortMatch { protocol, first: a.min(b), last: a.max(b) }
        } else {
            PortMatch::whole(protocol)
        }
    });
    prop_oneof![
        1 => Just(Ports::All),
        3 => proptest::collection::vec(range, 1..4).prop_map(Ports::Only),
        1 => protocols().prop_map(|protocol| Ports::Only(vec![PortMatch::whole(protocol)])),
    ]
}

fn v4(n: u8) -> Addr {
    Addr::v4([10, 0, 0, n])
}

fn v6(n: u8) -> Addr {
    Addr::from_octets([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
}
