//! A proxy is told by zones and names what the oracle and the image say of addresses and workloads.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use bulkhead_abi::{Demand, Identity, Protocol, Reason, Tls, Verdict};
use bulkhead_credentials::SpiffeId;
use bulkhead_policy::access::{Access, Judged, Zones};
use bulkhead_policy::model::Sides;
use bulkhead_policy::oracle::{self, Party};
use bulkhead_policy::testing::{Case, TRUST_DOMAIN, cases, names};
use bulkhead_policy::{Capabilities, Endpoint, Model, Numbers, Source, Sources, compile, load};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

const SHOP: &str = r#"
[zone.web]
cidrs = ["10.20.1.0/24"]

[zone.api]
cidrs = ["10.20.2.0/24"]
name = "spiffe://example.org/ns/shop/sa/api"

[zone.batch]
names = ["spiffe://b.example/ns/batch/sa/importer", "spiffe://example.org/ns/shop/sa/api"]

[zone.db]
cidrs = ["10.20.3.0/24"]
names = ["spiffe://example.org/ns/shop/sa/postgres"]

[zone.archive]
cidrs = ["10.20.3.0/28"]

[zone.trial]
cidrs = ["10.20.4.0/24"]
mode = "audit"

[[allow]]
from = "api"
to = "db"
ports = ["tcp/5432"]
tls = "mutual"
max_age = "12h"

[[allow]]
name = "imports"
from = ["batch", "archive"]
to = "db"
ports = ["tcp/5432-5439"]
tls = "mutual"
local = "attest"

[[deny]]
name = "no telnet"
from = "any"
to = "db"
ports = ["tcp/23"]
"#;

#[test]
fn a_name_is_of_every_zone_that_shows_or_lists_it() {
    let model = model(SHOP);
    let access = Access::new(&model, "example.org");
    for (name, zones) in [
        ("spiffe://example.org/ns/host/sa/web", &["web"][..]),
        ("spiffe://example.org/ns/shop/sa/api", &["api", "batch"]),
        ("spiffe://b.example/ns/batch/sa/importer", &["batch"]),
        ("spiffe://example.org/ns/shop/sa/postgres", &["db"]),
        ("spiffe://example.org/ns/host/sa/db", &["db"]),
        // It shows another name, and not its own under another domain.
        ("spiffe://example.org/ns/host/sa/api", &[]),
        ("spiffe://other.example/ns/host/sa/web", &[]),
        ("spiffe://example.org.b.example/ns/host/sa/web", &[]),
        ("spiffe://example.org/ns/host/sa/web2", &[]),
        ("spiffe://example.org/ns/shop/sa/web", &[]),
    ] {
        assert_eq!(access.zones_of_name(&id(name)), set(zones), "{name}");
    }
}

#[test]
fn a_workload_shows_one_name_and_is_known_under_all() {
    let model = model(SHOP);
    let access = Access::new(&model, "example.org");
    let db = id("spiffe://example.org/ns/host/sa/db");
    assert_eq!(access.names_of(&set(&["db"])), [db.clone(), id("spiffe://example.org/ns/shop/sa/postgres")]);
    assert_eq!(access.names_of(&set(&[])), []);
    assert_eq!(access.names_of(&set(&["gone"])), []);
    // `archive` comes first, but it is `db` that rules lead to.
    assert_eq!(access.name_of(&set(&["archive", "db"])), Some(db));
    assert_eq!(access.name_of(&set(&["trial", "web"])), Some(id("spiffe://example.org/ns/host/sa/trial")));
    assert_eq!(access.name_of(&set(&[])), None);
    assert_eq!(Access::new(&model, "Not A Domain").name_of(&set(&["db"])), None);
}

/// On an edge a workload of several zones shows the name of the zone that the rule names.
#[test]
fn the_name_that_is_shown_is_the_one_that_may() {
    let model = model(SHOP);
    let access = Access::new(&model, "example.org");
    let own = |from: &[&str], port| access.own_name(&set(from), &set(&["db"]), port).map(String::from);
    let host = |zone: &str| Some(format!("spiffe://example.org/ns/host/sa/{zone}"));
    let api = Some("spiffe://example.org/ns/shop/sa/api".to_owned());
    assert_eq!(own(&["api", "web"], 5432), api);
    assert_eq!(own(&["trial", "web", "api"], 5432), api);
    assert_eq!(own(&["archive", "web"], 5433), host("archive"));
    // Nobody may: the first, so that the other side can say who was refused.
    assert_eq!(own(&["trial", "web"], 5432), host("trial"));
    assert_eq!(own(&[], 5432), None);
}

#[test]
fn each_side_has_its_say_and_a_rule_is_named() {
    let model = model(SHOP);
    let access = Access::new(&model, "example.org");
    let judge = |from: &[&str], to: &[&str], port, sides| access.judge(&set(from), &set(to), port, sides);
    let allowed = judge(&["api"], &["db"], 5432, Sides::Both);
    assert!(allowed.passes());
    assert_eq!((allowed.level(), allowed.demand), (Tls::Mutual, Demand::MUTUAL));
    assert_eq!(allowed.max_age.unwrap().to_string(), "12h");
    assert_eq!(allowed.rule.unwrap().to_string(), "policies/shop.toml:22");
    let both = judge(&["api", "batch"], &["db"], 5432, Sides::Ingress);
    assert_eq!((both.demand, both.max_age), (Demand::MUTUAL, allowed.max_age), "`tls` is stricter");
    let attested = judge(&["batch"], &["db"], 5433, Sides::Ingress);
    assert!(attested.demand.is_attested() && attested.max_age.is_none());
    assert_eq!(attested.rule.unwrap().to_string(), "imports (policies/shop.toml:29)");

    let denied = judge(&["web"], &["db"], 5432, Sides::Ingress);
    assert_eq!((denied.verdict, denied.reason, denied.rule), (Verdict::Deny, Reason::Default, None));
    let telnet = judge(&["api"], &["db"], 23, Sides::Ingress);
    assert_eq!((telnet.verdict, telnet.reason), (Verdict::Deny, Reason::DenyRule));
    assert_eq!(telnet.rule.unwrap().name.as_deref(), Some("no telnet"));
    // A side in no zone is open; the other one is not.
    assert!(judge(&[], &["db"], 5432, Sides::Egress).passes());
    assert!(!judge(&[], &["db"], 5432, Sides::Ingress).passes());
    assert!(!judge(&[], &["db"], 5432, Sides::Both).passes());
    // A dry run.
    let dry = judge(&["web"], &["trial"], 80, Sides::Ingress);
    assert_eq!((dry.verdict, dry.passes()), (Verdict::Audit, true));
}

#[test]
fn a_refusal_says_who_may() {
    let model = model(SHOP);
    let access = Access::new(&model, "example.org");
    let hint = |from: &[&str], to: &[&str], port| access.hint(&set(from), &set(to), port, Sides::Ingress);
    for (from, to, port, text) in [
        (
            &["web"][..],
            &["db"][..],
            5433,
            "in web and in no zone that may reach db:5433; \
             rule imports (policies/shop.toml:29) allows batch, archive only",
        ),
        (
            &[],
            &["db"],
            5432,
            "in no zone that may reach db:5432; rule policies/shop.toml:22 allows api, \
             rule imports (policies/shop.toml:29) allows batch, archive only",
        ),
        (&["web"], &["api"], 80, "in web and in no zone that may reach api:80; no rule allows anybody there"),
        (&["api"], &["db"], 23, "in api, which rule no telnet (policies/shop.toml:37) denies db:23"),
        (&["api"], &["db"], 5432, "in api, which may reach db:5432 by rule policies/shop.toml:22"),
        (&["web"], &["web"], 1, "in web, which may reach web:1"),
    ] {
        assert_eq!(hint(from, to, port), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn zones_are_judged_as_who_is_in_them(case in cases(5, 8, 48)) {
        agree(&case)?;
    }

    /// Every peer that a name makes has an identity to be counted under, and the name that is shown is as
    /// good as any that could be.
    #[test]
    fn names_lead_to_zones_that_the_image_knows(case in cases(5, 8, 16), name in names()) {
        known(&case, &name)?;
    }
}

fn agree(case: &Case) -> Result<(), TestCaseError> {
    let image = compile(&case.model, &case.facts, &mut Numbers::default()).unwrap();
    let access = Access::new(&case.model, TRUST_DOMAIN);
    for flow in &case.flows {
        let mut flow = flow.clone();
        (flow.protocol, flow.guarded) = (Protocol::TCP, false);
        let zones = |end: &Endpoint| match oracle::party(&case.model, &case.facts, end) {
            Party::Zones(zones) => Some(zones.into_iter().collect::<Zones>()),
            Party::World | Party::Virtual => Some(Zones::new()),
            // Rules can name it, but it has no name to show.
            Party::Node => None,
        };
        let (Some(from), Some(to)) = (zones(&flow.from), zones(&flow.to)) else { continue };
        let expected = oracle::judge(&case.model, &case.facts, &flow);
        let [both, egress, ingress] = [Sides::Both, Sides::Egress, Sides::Ingress]
            .map(|sides| access.judge(&from, &to, flow.port, sides));
        prop_assert_eq!(both.verdict, expected.verdict());
        prop_assert_eq!((both.demand, both.max_age), (expected.tls, expected.max_age));
        let told = |judged: &Judged| (judged.verdict, judged.reason, judged.rule.clone());
        let side = |side: &oracle::SideDecision| (side.verdict, side.reason, side.rule.clone());
        prop_assert_eq!(told(&egress), side(&expected.egress));
        prop_assert_eq!(told(&ingress), side(&expected.ingress));
        let deciding: Vec<_> = expected.deciding().cloned().collect();
        prop_assert_eq!(both.rule.is_some(), !deciding.is_empty());
        prop_assert!(both.rule.iter().all(|rule| deciding.contains(rule)));

        let identity = |zones: &Zones| match zones.is_empty() {
            true => Identity::WORLD,
            false => image.identity_of_zones(&zones.iter().cloned().collect::<Vec<_>>()).unwrap(),
        };
        let (from_identity, to_identity) = (identity(&from), identity(&to));
        prop_assert_eq!((image.zones_of(from_identity), image.zones_of(to_identity)), (from, to));
        let cell = image.lookup(from_identity, to_identity, Protocol::TCP, flow.port);
        prop_assert_eq!(cell.egress().verdict.max(cell.ingress().verdict), both.verdict);
        prop_assert_eq!(cell.demand(), both.demand);
    }
    Ok(())
}

fn known(case: &Case, name: &SpiffeId) -> Result<(), TestCaseError> {
    let access = Access::new(&case.model, TRUST_DOMAIN);
    let peer = access.zones_of_name(name);
    for zone in &peer {
        prop_assert!(access.names_of(&[Arc::clone(zone)].into()).contains(name), "{zone}");
    }
    let image = compile(&case.model, &case.facts, &mut Numbers::default()).unwrap();
    if image.has_mutual() && !peer.is_empty() {
        let zones: Vec<_> = peer.iter().cloned().collect();
        prop_assert!(image.identity_of_zones(&zones).is_some(), "{zones:?}");
    }
    for flow in &case.flows {
        let zones = |end: &Endpoint| match oracle::party(&case.model, &case.facts, end) {
            Party::Zones(zones) => zones.into_iter().collect(),
            Party::World | Party::Virtual | Party::Node => Zones::new(),
        };
        let (from, to) = (zones(&flow.from), zones(&flow.to));
        let own = access.own_name(&from, &to, flow.port);
        prop_assert_eq!(own.is_some(), !from.is_empty());
        prop_assert_eq!(access.name_of(&to).is_some(), !to.is_empty());
        prop_assert!(access.name_of(&to).is_none_or(|name| access.names_of(&to).contains(&name)));
        let Some(own) = own else { continue };
        let as_met = |name: &SpiffeId| {
            let judged = access.judge(&access.zones_of_name(name), &to, flow.port, Sides::Ingress);
            (judged.verdict, judged.level() != Tls::Mutual)
        };
        for zone in &from {
            let other = access.name_of(&[Arc::clone(zone)].into()).unwrap();
            prop_assert!(as_met(&own) <= as_met(&other), "{own} rather than {other}");
        }
    }
    Ok(())
}

fn model(text: &str) -> Model {
    let sources = Sources::new([Source::new("policies/shop.toml", text.trim_start().as_bytes().to_vec())]);
    let loaded = load(&sources, &Capabilities::this_build()).unwrap();
    assert_eq!(loaded.warnings.len(), 0, "{}", loaded.warnings);
    loaded.model
}

fn id(name: &str) -> SpiffeId {
    name.parse().unwrap()
}

fn set(zones: &[&str]) -> Zones {
    zones.iter().map(|zone| Arc::from(*zone)).collect()
}
