//! Images and numbers change when the policy does, and only then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_abi::{Identity, PairKey, Protocol, Verdict};
use bulkhead_policy::model::{Facts, PortMatch, Ports, Zone};
use bulkhead_policy::testing::{Case, cases, facts, models};
use bulkhead_policy::{
    Capabilities, Compiler, Image, Loader, Model, Numbers, Source, Sources, compile, load,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_equal_policy_is_an_equal_image(case in cases(5, 8, 1)) {
        let image = image(&case);
        let again = self::image(&case);
        prop_assert_eq!(image.hash(), again.hash());
        prop_assert!(image.diff(&again).is_empty());
        prop_assert_eq!(image, again);
    }

    /// A compiler that has seen other policies before says the same as one that has not, but for numbers:
    /// also if those differ from this one in a part only.
    #[test]
    fn what_a_compiler_remembers_changes_nothing(
        other in (models(4, 6), facts()),
        history in proptest::collection::vec(proptest::array::uniform5(any::<bool>()), 1..4),
        case in cases(4, 6, 32),
    ) {
        let mut compiler = Compiler::default();
        let mut before = Vec::new();
        for parts in history {
            let (model, facts) = mixed(parts, &other, &case);
            before.push(compiler.compile(&model, &facts).unwrap());
        }
        let warm = compiler.compile(&case.model, &case.facts).unwrap();
        let cold = image(&case);
        for flow in &case.flows {
            let judge = |image: &Image| {
                let end = |end: &bulkhead_policy::Endpoint| {
                    let cgroup = bulkhead_policy::explain::cgroup_id(image, &case.facts, end);
                    image.identity(cgroup, end.addr).unwrap()
                };
                let (from, to) = (end(&flow.from), end(&flow.to));
                let cell = image.judge(from, to, flow);
                let rule = |number: u32| image.rules.get(&number).map(|rule| rule.reference());
                let side = |side: bulkhead_abi::tables::SideAnswer| (side.verdict, side.reason, rule(side.rule));
                (image.label(from), image.label(to), side(cell.egress()), side(cell.ingress()), cell.demand())
            };
            prop_assert_eq!(judge(&warm), judge(&cold));
        }
        // What has a number keeps it, and a number keeps its meaning.
        let last = before.last().unwrap();
        for (identity, zones) in &warm.zones {
            for image in &before {
                prop_assert!(image.zones.get(identity).is_none_or(|before| before == zones));
            }
        }
        for (number, ruleset) in &warm.rulesets {
            prop_assert!(last.rulesets.get(number).is_none_or(|before| before == ruleset));
        }
        for (number, rule) in &warm.rules {
            prop_assert!(last.rules.get(number).is_none_or(|before| before.text == rule.text));
        }
    }

    #[test]
    fn a_diff_turns_one_image_into_the_other(
        a in (models(4, 6), facts()),
        b in cases(4, 6, 1),
        parts in proptest::array::uniform5(any::<bool>()),
    ) {
        let mut numbers = Numbers::default();
        let mut before = compile(&a.0, &a.1, &mut numbers).unwrap();
        let (model, facts) = mixed(parts, &a, &b);
        let after = compile(&model, &facts, &mut numbers).unwrap();
        let diff = before.diff(&after);
        prop_assert!(before.hash() != after.hash() || diff.is_empty());
        prop_assert_eq!(diff.is_empty(), diff.counts().iter().all(|(_, count)| *count == 0));
        prop_assert_eq!(
            diff.is_membership(),
            diff.counts().iter().all(|(table, count)| *table == "workloads" || *count == 0)
        );
        let mut prefixes = (*before.prefixes).clone();
        apply(&mut prefixes, diff.prefixes);
        before.prefixes = Arc::new(prefixes);
        apply(&mut before.workloads, diff.workloads);
        apply(&mut before.unions, diff.unions);
        apply(&mut before.identities, diff.identities);
        apply(&mut before.pairs, diff.pairs);
        apply(&mut before.rulesets, diff.rulesets);
        before.zones = after.zones.clone();
        before.rules = after.rules.clone();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn every_table_is_closed(case in cases(5, 8, 1)) {
        let image = image(&case);
        let known = |identity: &Identity| image.identities.contains_key(identity);
        prop_assert!(image.prefixes.values().all(|identity| known(identity) || *identity == Identity::VIRTUAL));
        prop_assert!(image.workloads.values().all(|identity| known(identity) && identity.is_zoned()));
        prop_assert!(image.unions.values().all(known));
        prop_assert!(image.pairs.values().all(|ruleset| image.rulesets.contains_key(ruleset)));
        prop_assert!(image.rulesets.keys().all(|number| image.pairs.values().any(|used| used == number)));
        for from in image.identities.keys() {
            for to in image.identities.keys().filter(|to| from.is_zoned() || to.is_zoned()) {
                prop_assert!(image.ruleset(*from, *to).is_some());
            }
        }
    }
}

/// A policy and a host with those parts of the first one that are named, and the other parts of the second.
fn mixed(
    [zones, rules, virtuals, cgroups, addresses]: [bool; 5],
    first: &(Model, Facts),
    second: &Case,
) -> (Model, Facts) {
    let model = |first_one: bool| if first_one { &first.0 } else { &second.model };
    let facts = |first_one: bool| if first_one { &first.1 } else { &second.facts };
    let mixed = Model::new(model(zones).zones().to_vec(), model(rules).rules().to_vec())
        .with_virtuals(model(virtuals).virtuals().to_vec());
    let (cgroups, node_addresses) = (facts(cgroups).cgroups.clone(), facts(addresses).node_addresses.clone());
    (mixed, Facts { cgroups, node_addresses })
}

fn apply<K: Ord, V>(table: &mut BTreeMap<K, V>, changes: Vec<bulkhead_policy::image::Change<K, V>>) {
    for change in changes {
        match change.after {
            Some(value) => table.insert(change.key, value),
            None => table.remove(&change.key),
        };
    }
}

fn image(case: &Case) -> Image {
    compile(&case.model, &case.facts, &mut Numbers::default()).unwrap()
}

const A: &str = "[zone.web]\ncidrs = [\"10.0.1.0/24\"]\n[zone.db]\ncidrs = [\"10.0.2.0/24\"]\n";
const B: &str = "[zone.api]\ncidrs = [\"10.0.3.0/24\"]\n";
const R: &str = "[[allow]]\nfrom = \"web\"\nto = \"api\"\nports = [\"tcp/80\"]\n\
                 [[allow]]\nfrom = \"api\"\nto = \"db\"\nports = [\"tcp/81\"]\n";

fn sources(files: &[(&str, &str)]) -> Sources {
    Sources::new(files.iter().map(|(name, text)| Source::new(*name, text.as_bytes().to_vec())))
}

fn compiled(files: &[(&str, &str)]) -> Image {
    let loaded = load(&sources(files), &Capabilities::this_build()).unwrap();
    compile(&loaded.model, &Facts::default(), &mut Numbers::default()).unwrap()
}

#[test]
fn the_order_of_files_and_rules_is_not_in_the_hash() {
    let hash = compiled(&[("a.toml", A), ("b.toml", B), ("c.toml", R)]).hash();
    assert_eq!(hash, compiled(&[("c.toml", A), ("a.toml", B), ("b.toml", R)]).hash());
    assert_eq!(hash, compiled(&[("x.toml", &format!("# moved\n\n{B}{A}{R}"))]).hash());
    let (first, second) = R.split_at(R.rfind("[[").unwrap());
    assert_eq!(hash, compiled(&[("x.toml", &format!("{second}{B}{first}{A}"))]).hash());
    assert_ne!(hash, compiled(&[("x.toml", &format!("{B}{A}{}", R.replace("81", "82")))]).hash());
    assert_ne!(hash, compiled(&[("x.toml", &format!("{B}{A}{first}"))]).hash());
}

#[test]
fn an_image_reads_well() {
    let virtuals = "[virtual]\ncidrs = [\"10.96.0.0/12\"]\n";
    let ranges =
        "[[deny]]\nname = \"no\"\nfrom = \"any\"\nto = \"db\"\nports = [\"udp/53-54\", \"proto/47\"]\n";
    let image = compiled(&[("a.toml", A), ("r.toml", &format!("{virtuals}{ranges}"))]);
    insta::assert_snapshot!("image", image.to_string());
    assert_eq!(image.rules.values().map(|rule| rule.label()).collect::<Vec<_>>(), ["no"]);
}

#[test]
fn one_changed_rule_changes_little() {
    let mut loader = Loader::new(Capabilities::this_build());
    let mut compiler = Compiler::default();
    let mut step = |rules: &str| {
        let model = loader.load(&sources(&[("a.toml", A), ("b.toml", B), ("r.toml", rules)])).unwrap().model;
        compiler.compile(&model, &Facts::default()).unwrap()
    };
    let before = step(R);
    let after = step(&R.replace("tcp/81", "tcp/82"));
    let diff = before.diff(&after);
    assert_eq!((diff.pairs.len(), diff.rulesets.len(), diff.len()), (1, 2, 3), "{diff}");
    assert!(Arc::ptr_eq(&before.prefixes, &after.prefixes));
    // The change taken back is the first image again, numbers and all.
    assert_eq!(step(R).hash(), before.hash());
    assert!(diff.to_string().contains("+1 -1 ~0 rulesets"), "{diff}");
}

#[test]
fn numbers_forget_and_do_not_repeat() {
    let mut compiler = Compiler::default();
    let model = |files: &[(&str, &str)]| load(&sources(files), &Capabilities::this_build()).unwrap().model;
    let first = compiler.compile(&model(&[("a.toml", A)]), &Facts::default()).unwrap();
    let second = compiler.compile(&model(&[("b.toml", B)]), &Facts::default()).unwrap();
    compiler.retain(&[&second]);
    let text = serde_json::to_string(compiler.numbers()).unwrap();
    let mut restarted = Compiler::new(serde_json::from_str(&text).unwrap());
    assert_eq!(restarted.compile(&model(&[("b.toml", B)]), &Facts::default()).unwrap(), second);
    let again = restarted.compile(&model(&[("a.toml", A)]), &Facts::default()).unwrap();
    let zoned = |image: &Image| image.zones.keys().copied().collect::<Vec<_>>();
    assert!(zoned(&again).iter().all(|identity| !zoned(&first).contains(identity)), "given twice");
    assert!(zoned(&again).iter().all(|identity| !zoned(&second).contains(identity)), "given twice");
}

#[test]
fn a_policy_that_does_not_fit_is_refused_with_the_limit() {
    let zone = |n: u32, cgroup: bool| {
        let mut zone = Zone::new(&format!("z{n}"));
        if cgroup {
            zone.cgroups = vec![bulkhead_policy::model::CgroupPattern::new(&format!("c{n}")).unwrap()];
        } else {
            let addr = bulkhead_abi::Addr::v4([10, 0, (n >> 8) as u8, n as u8]);
            zone.cidrs = vec![bulkhead_policy::Prefix::host(addr)];
        }
        Arc::new(zone)
    };
    let zones: Vec<_> = (0..600).map(|n| zone(n, false)).chain((600..1200).map(|n| zone(n, true))).collect();
    let model = Model::new(zones, Vec::new());
    // Six hundred cgroups that could come make no unions in advance; those that are there must.
    assert!(compile(&model, &Facts::default(), &mut Numbers::default()).unwrap().unions.is_empty());
    let cgroups = (600..1200u32).map(|n| (u64::from(n), format!("c{n}"))).collect();
    let facts = Facts { cgroups, ..Facts::default() };
    let error = compile(&model, &facts, &mut Numbers::default()).unwrap_err().to_string();
    assert!(error.contains("360000") && error.contains("262144"), "{error}");
    // Where the host's addresses are known, only those can meet its cgroups; others are denied.
    let here = bulkhead_abi::Addr::v4([10, 0, 0, 7]);
    let mut compiler = Compiler::default();
    compiler.set_local_addresses(Some([here].into()));
    let image = compiler.compile(&model, &facts).unwrap();
    assert_eq!(image.unions.len(), 600);
    assert_eq!(image.label(image.identity(700, here).unwrap()), "z7+z700");
    assert_eq!(image.identity(700, bulkhead_abi::Addr::v4([10, 0, 0, 8])), None);
}

#[test]
fn a_table_that_is_full_to_the_brim_fits() {
    let mut zone = Zone::new("all");
    zone.cgroups = vec![bulkhead_policy::model::CgroupPattern::new("**").unwrap()];
    let model = Model::new(vec![Arc::new(zone)], Vec::new());
    let compile = |count: u64| {
        let cgroups = (1..=count).map(|n| (n, format!("c{n}"))).collect();
        compile(&model, &Facts { cgroups, ..Facts::default() }, &mut Numbers::default())
    };
    assert_eq!(compile(65_536).unwrap().workloads.len(), 65_536);
    let error = compile(65_537).unwrap_err().to_string();
    assert!(error.contains("65537 workloads, 1 more"), "{error}");
}

#[test]
fn many_zones_make_few_pairs() {
    let zones: Vec<Arc<Zone>> = (0..1000u32)
        .map(|n| {
            let mut zone = Zone::new(&format!("z{n}"));
            let addr = bulkhead_abi::Addr::v4([10, 0, (n >> 8) as u8, n as u8]);
            zone.cidrs = vec![bulkhead_policy::Prefix::host(addr)];
            Arc::new(zone)
        })
        .collect();
    let mut wide = Zone::new("wide");
    wide.cidrs = vec![bulkhead_policy::Prefix::new(bulkhead_abi::Addr::v4([10, 0, 0, 0]), 96 + 8)];
    wide.isolated = false;
    let mut rule = bulkhead_policy::Rule::allow(
        vec![bulkhead_policy::model::Selector::named("wide")],
        vec![bulkhead_policy::model::Selector::named("world")],
    );
    rule.ports = Ports::Only(vec![PortMatch { protocol: Protocol::TCP, first: 443, last: 443 }]);
    let zones = zones.into_iter().chain([Arc::new(wide)]).collect();
    let model = Model::new(zones, vec![Arc::new(rule)]);
    let image = compile(&model, &Facts::default(), &mut Numbers::default()).unwrap();
    // A zone around all others is a matter of class, not of a million pairs.
    assert!(image.pairs.len() < 5_000, "{} pairs", image.pairs.len());
    let [a, b] = [1, 2].map(|n| image.identity_of_addr(bulkhead_abi::Addr::v4([10, 0, 0, n])));
    assert!(!image.pairs.contains_key(&PairKey { from: a, to: b }));
    let cell = image.lookup(a, b, Protocol::TCP, 1);
    assert_eq!(cell.egress().reason, bulkhead_abi::Reason::WithinZone);
    assert_eq!(image.lookup(a, Identity::WORLD, Protocol::TCP, 443).egress().verdict, Verdict::Allow);
    assert_eq!(image.lookup(a, Identity::WORLD, Protocol::TCP, 444).egress().verdict, Verdict::Deny);
}

#[test]
fn a_rule_between_too_many_zones_is_refused_at_once() {
    let zones: Vec<Arc<Zone>> = (0..2000u32)
        .map(|n| {
            let mut zone = Zone::new(&format!("z{n}"));
            let addr = bulkhead_abi::Addr::v4([10, 0, (n >> 8) as u8, n as u8]);
            zone.cidrs = vec![bulkhead_policy::Prefix::host(addr)];
            Arc::new(zone)
        })
        .collect();
    let all: Vec<_> = zones.iter().map(|zone| bulkhead_policy::model::Selector::named(&zone.name)).collect();
    let rule = bulkhead_policy::Rule::allow(all.clone(), all);
    let model = Model::new(zones, vec![Arc::new(rule)]);
    let error = compile(&model, &Facts::default(), &mut Numbers::default()).unwrap_err().to_string();
    assert!(error.contains("4000000") && error.contains("2097152"), "{error}");
}
