//! What the language means, one example for each sentence; the image says the same each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use bulkhead_policy::model::{Action, Endpoint, Facts, Flow, Rule, Selector, Tier};
use bulkhead_policy::prefix::from_ip;
use bulkhead_policy::{Capabilities, Explanation, Model, Numbers, Source, Sources, compile, explain, load};

const ZONES: &str = r#"
[zone.web]
cidrs = ["10.0.1.0/24"]
except = ["10.0.1.128/25"]
[zone.api]
cgroups = ["api"]
[zone.db]
cidrs = ["10.0.3.0/24"]
mode = "audit"
[zone.strict]
cidrs = ["10.0.3.0/28"]
isolated = true
[zone.open]
cidrs = ["10.0.5.0/24"]
default = { ingress = "allow" }
"#;

/// "egress verdict (reason) rule / ingress verdict (reason) rule" of a flow; ends are addresses, or
/// `cgroup@address`.
fn judge(rules: &str, from: &str, to: &str, port: &str) -> String {
    let sources = Sources::new([Source::new("x.toml", format!("{ZONES}{rules}").into_bytes())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap_or_else(|e| panic!("{e}")).model;
    short(&explained(&model, from, to, port))
}

fn explained(model: &Model, from: &str, to: &str, port: &str) -> Explanation {
    explained_where(model, from, to, port, true)
}

fn explained_where(model: &Model, from: &str, to: &str, port: &str, guarded: bool) -> Explanation {
    let facts = facts();
    let image = compile(model, &facts, &mut Numbers::default()).unwrap();
    let explanation = explain(model, &facts, &image, &flow(from, to, port, guarded));
    assert!(explanation.agrees, "{explanation}");
    explanation
}

fn facts() -> Facts {
    Facts {
        cgroups: [(1, ""), (2, "api"), (3, "api/worker"), (4, "other")]
            .map(|(id, path)| (id, path.into()))
            .into(),
        node_addresses: [from_ip("192.0.2.1".parse().unwrap())].into(),
    }
}

fn flow(from: &str, to: &str, port: &str, guarded: bool) -> Flow {
    let end = |text: &str| {
        let (cgroup, addr) = text.split_once('@').map_or((None, text), |(cgroup, addr)| (Some(cgroup), addr));
        Endpoint { addr: from_ip(addr.parse().unwrap()), cgroup: cgroup.map(Into::into) }
    };
    let ports = bulkhead_policy::ports::parse(port).unwrap()[0];
    Flow { from: end(from), to: end(to), protocol: ports.protocol, port: ports.first, guarded }
}

fn short(explanation: &Explanation) -> String {
    let side = |side: &bulkhead_policy::explain::SideExplanation| {
        let rule = side.rule.as_ref().and_then(|rule| rule.name.clone()).map(|name| format!(" {name}"));
        format!("{} ({}){}", side.verdict, side.reason, rule.unwrap_or_default())
    };
    format!("{} / {}", side(&explanation.egress), side(&explanation.ingress))
}

fn allow(name: &str, from: &str, to: &str, more: &str) -> String {
    format!("[[allow]]\nname = \"{name}\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}\n")
}

fn deny(name: &str, from: &str, to: &str, more: &str) -> String {
    allow(name, from, to, more).replace("[[allow]]", "[[deny]]")
}

#[test]
fn zones_are_isolated_in_both_directions() {
    assert_eq!(judge("", "10.0.1.1", "192.0.2.9", "tcp/80"), "deny (default) / allow (open)");
    assert_eq!(judge("", "192.0.2.9", "10.0.1.1", "tcp/80"), "allow (open) / deny (default)");
    assert_eq!(judge("", "192.0.2.9", "192.0.2.8", "tcp/80"), "allow (open) / allow (open)");
}

#[test]
fn an_unknown_protocol_has_a_reason_of_its_own() {
    assert_eq!(judge("", "10.0.1.1", "192.0.2.9", "proto/47"), "deny (unknown-protocol) / allow (open)");
    let rules = allow("gre", "web", "world", "ports = [\"proto/47\"]");
    assert_eq!(judge(&rules, "10.0.1.1", "192.0.2.9", "proto/47"), "allow (allow-rule) gre / allow (open)");
}

#[test]
fn a_default_may_be_open_and_any_isolating_zone_closes_it() {
    assert_eq!(judge("", "192.0.2.9", "10.0.5.1", "tcp/80"), "allow (open) / allow (open)");
    assert_eq!(judge("", "10.0.5.1", "192.0.2.9", "tcp/80"), "deny (default) / allow (open)");
    // In `open` by address and in `api` by cgroup: `api` isolates.
    assert_eq!(judge("", "192.0.2.9", "api@10.0.5.1", "tcp/80"), "allow (open) / deny (default)");
}

#[test]
fn inside_a_zone_traffic_flows_unless_it_is_isolated() {
    let within = "allow (within-zone) / allow (within-zone)";
    assert_eq!(judge("", "10.0.1.1", "10.0.1.2", "tcp/80"), within);
    assert_eq!(judge("", "api@127.0.0.1", "api/worker@127.0.0.1", "udp/80"), within);
    let rules = deny("no", "web", "web", "ports = [\"tcp/22\"]");
    assert_eq!(judge(&rules, "10.0.1.1", "10.0.1.2", "tcp/22"), "deny (deny-rule) no / deny (deny-rule) no");
    // 10.0.3.1 and .2 share `strict`, which is isolated, and `db`, which is not.
    assert_eq!(judge("", "10.0.3.1", "10.0.3.2", "tcp/80"), within);
}

#[test]
fn an_except_takes_addresses_out() {
    assert_eq!(judge("", "192.0.2.9", "10.0.1.127", "tcp/80"), "allow (open) / deny (default)");
    assert_eq!(judge("", "192.0.2.9", "10.0.1.128", "tcp/80"), "allow (open) / allow (open)");
}

#[test]
fn cgroup_and_address_join() {
    let rules = allow("one", "world", "web", "ports = [\"tcp/1\"]")
        + &allow("two", "world", "api", "ports = [\"tcp/2\"]");
    let to = "api/worker@10.0.1.1";
    assert_eq!(judge(&rules, "192.0.2.9", to, "tcp/1"), "allow (open) / allow (allow-rule) one");
    assert_eq!(judge(&rules, "192.0.2.9", to, "tcp/2"), "allow (open) / allow (allow-rule) two");
    assert_eq!(judge(&rules, "192.0.2.9", "other@10.0.1.1", "tcp/2"), "allow (open) / deny (default)");
}

#[test]
fn deny_beats_allow_wherever_it_stands() {
    let rules = allow("yes", "world", "web", "ports = [\"tcp/80\"]")
        + &deny("no", "any", "web", "ports = [\"tcp/80-90\"]");
    assert_eq!(judge(&rules, "192.0.2.9", "10.0.1.1", "tcp/80"), "allow (open) / deny (deny-rule) no");
}

#[test]
fn node_and_world_are_apart_and_zones_are_neither() {
    let rules = allow("node", "node", "web", "") + &allow("world", "world", "web", "ports = [\"tcp/80\"]");
    assert_eq!(judge(&rules, "192.0.2.1", "10.0.1.1", "tcp/1"), "allow (open) / allow (allow-rule) node");
    assert_eq!(judge(&rules, "127.0.0.9", "10.0.1.1", "tcp/1"), "allow (open) / allow (allow-rule) node");
    assert_eq!(judge(&rules, "192.0.2.9", "10.0.1.1", "tcp/80"), "allow (open) / allow (allow-rule) world");
    assert_eq!(judge(&rules, "192.0.2.9", "10.0.1.1", "tcp/1"), "allow (open) / deny (default)");
    assert_eq!(judge(&rules, "10.0.5.1", "10.0.1.1", "tcp/80"), "deny (default) / deny (default)");
}

#[test]
fn a_rule_opens_both_sides_unless_it_says_which() {
    let both = allow("r", "web", "api", "");
    let to = "api@192.0.2.1";
    assert_eq!(judge(&both, "10.0.1.1", to, "tcp/1"), "allow (allow-rule) r / allow (allow-rule) r");
    let egress = allow("r", "web", "api", "side = \"egress\"");
    assert_eq!(judge(&egress, "10.0.1.1", to, "tcp/1"), "allow (allow-rule) r / deny (default)");
    let ingress = allow("r", "any", "api", "side = \"ingress\"");
    assert_eq!(judge(&ingress, "10.0.1.1", to, "tcp/1"), "deny (default) / allow (allow-rule) r");
    // A rule to one zone speaks for the egress side of every zone that it is from.
    let any = deny("r", "any", "api", "");
    assert_eq!(judge(&any, "10.0.1.1", to, "tcp/1"), "deny (deny-rule) r / deny (deny-rule) r");
}

#[test]
fn a_denial_is_enforced_if_the_enforcing_zones_alone_would_deny() {
    assert_eq!(judge("", "192.0.2.9", "10.0.3.99", "tcp/80"), "allow (open) / audit (default)");
    // `strict` enforces, and is enough.
    assert_eq!(judge("", "192.0.2.9", "10.0.3.1", "tcp/80"), "allow (open) / deny (default)");
    let rules = deny("no", "world", "db", "") + &allow("yes", "world", "strict", "");
    // The deny speaks for `db` only, which audits; `strict` alone would allow.
    assert_eq!(judge(&rules, "192.0.2.9", "10.0.3.1", "tcp/80"), "allow (open) / audit (deny-rule) no");
}

/// The two identities differ in nothing but the mode of the zone that the rule names: they must not be
/// of one class.
#[test]
fn a_rule_speaks_with_the_mode_of_the_zone_that_it_names() {
    let open = "default = { ingress = \"allow\", egress = \"allow\" }";
    let text = format!(
        "[zone.a]\ncidrs = [\"10.0.1.0/24\"]\nmode = \"audit\"\n{open}\n\
         [zone.b]\ncidrs = [\"10.0.2.0/24\"]\n{open}\n[zone.c]\ncidrs = [\"10.0.0.0/16\"]\n{open}\n\
         [[deny]]\nname = \"no\"\nfrom = [\"a\", \"b\"]\nto = \"any\"\n"
    );
    let sources = Sources::new([Source::new("x.toml", text.into_bytes())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap().model;
    let judge = |from| short(&explained(&model, from, "192.0.2.9", "tcp/80"));
    assert_eq!(judge("10.0.1.1"), "audit (deny-rule) no / allow (open)");
    assert_eq!(judge("10.0.2.1"), "deny (deny-rule) no / allow (open)");
}

#[test]
fn the_first_rule_by_place_is_named() {
    let rules = allow("b", "any", "web", "") + &allow("a", "world", "web", "");
    assert_eq!(judge(&rules, "192.0.2.9", "10.0.1.1", "tcp/80"), "allow (open) / allow (allow-rule) b");
}

#[test]
fn tiers_go_before_and_after() {
    let base = load(
        &Sources::new([Source::new(
            "x.toml",
            format!("{ZONES}{}", deny("no", "any", "web", "")).into_bytes(),
        )]),
        &Capabilities::this_build(),
    )
    .unwrap()
    .model;
    let with = |tiers: &[(Tier, Action, &str)], to: &str| {
        let rule = |(tier, action, name): &(Tier, Action, &str)| {
            let rule = Rule::allow(vec![Selector::Any], vec![Selector::Any]);
            std::sync::Arc::new(Rule { tier: *tier, action: *action, name: Some((*name).into()), ..rule })
        };
        let rules = base.rules().iter().cloned().chain(tiers.iter().map(rule)).collect();
        short(&explained(&Model::new(base.zones().to_vec(), rules), "192.0.2.9", to, "tcp/80"))
    };
    let admin = |priority| Tier::Admin { priority };
    let allowed = "allow (open) / allow (allow-rule) first";
    let first = (admin(1), Action::Allow, "first");
    assert_eq!(with(&[(admin(2), Action::Deny, "later"), first], "10.0.1.1"), allowed);
    let denied = "allow (open) / deny (deny-rule) same";
    assert_eq!(with(&[first, (admin(1), Action::Deny, "same")], "10.0.1.1"), denied);
    let passed = "allow (open) / deny (deny-rule) no";
    assert_eq!(with(&[first, (admin(0), Action::Pass, "pass")], "10.0.1.1"), passed);
    let baseline = Tier::Baseline { priority: 0 };
    let last = "allow (open) / deny (deny-rule) last";
    assert_eq!(with(&[(baseline, Action::Deny, "last")], "10.0.5.1"), last);
    // An isolated side never comes to the baseline.
    let isolated = "allow (open) / deny (default)";
    assert_eq!(with(&[(baseline, Action::Allow, "last")], "api@192.0.2.1"), isolated);
}

#[test]
fn prefixes_of_one_family_leave_the_other_alone() {
    let text = "[zone.all]\ncidrs = [\"::/0\"]\n";
    let sources = Sources::new([Source::new("x.toml", text.into())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap().model;
    assert_eq!(explained(&model, "192.0.2.9", "fd00::1", "tcp/80").to.label, "all");
    assert_eq!(explained(&model, "192.0.2.9", "10.0.0.1", "tcp/80").to.label, "world");
    assert_eq!(explained(&model, "192.0.2.9", "::1", "tcp/80").to.label, "all");
    assert_eq!(explained(&model, "192.0.2.9", "127.0.0.1", "tcp/80").to.label, "node");
}

#[test]
fn a_virtual_address_is_left_to_the_guard_where_there_is_one() {
    let text = "[zone.net]\ncidrs = [\"10.0.0.0/8\"]\nexcept = [\"10.96.0.0/12\"]\n\
                [zone.api]\ncgroups = [\"api\"]\n\
                [virtual]\ndescription = \"services\"\ncidrs = [\"10.96.0.0/12\", \"fd00:96::/108\"]\n";
    let rules = allow("out", "net", "world", "ports = [\"tcp/1\"]");
    let sources = Sources::new([Source::new("x.toml", format!("{text}{rules}").into_bytes())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap().model;
    let judge = |from, to, port, guarded| {
        let explanation = explained_where(&model, from, to, port, guarded);
        let label = if guarded { &explanation.to.label } else { &explanation.from.label };
        format!("{label}: {}", short(&explanation))
    };
    let deferred = "virtual: allow (virtual) / allow (virtual)";
    assert_eq!(judge("10.0.1.1", "10.96.0.1", "tcp/80", true), deferred);
    assert_eq!(judge("192.0.2.9", "fd00:96::a", "udp/53", true), deferred);
    // Out of the guard's sight it is the world, and so it is as a source.
    assert_eq!(judge("10.0.1.1", "10.96.0.1", "tcp/80", false), "net: deny (default) / allow (open)");
    assert_eq!(judge("10.0.1.1", "10.96.0.1", "tcp/1", false), "net: allow (allow-rule) out / allow (open)");
    assert_eq!(judge("10.96.0.1", "10.0.1.1", "tcp/1", true), "net: allow (open) / deny (default)");
    assert_eq!(judge("10.96.0.1", "10.96.0.2", "tcp/1", false), "virtual: allow (open) / allow (open)");
    // Whose cgroup is known is somebody, whatever the address.
    assert_eq!(judge("192.0.2.9", "api@10.96.0.1", "tcp/1", true), "api: allow (open) / deny (default)");
    let shown = [true, false]
        .map(|guarded| explained_where(&model, "10.0.1.1", "10.96.0.1", "tcp/80", guarded).to_string());
    insta::assert_snapshot!("virtual", shown.join("\n"));
}

/// An address of this host is this host's, also where somebody has declared it virtual.
#[test]
fn the_hosts_own_addresses_are_never_virtual() {
    let text = "[zone.web]\ncidrs = [\"10.0.1.0/24\"]\n[virtual]\ncidrs = [\"192.0.2.0/24\"]\n";
    let sources = Sources::new([Source::new("x.toml", text.into())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap().model;
    let own = explained(&model, "10.0.1.1", "192.0.2.1", "tcp/80");
    assert_eq!((&*own.to.label, &*short(&own)), ("node", "deny (default) / allow (open)"));
    assert_eq!(explained(&model, "10.0.1.1", "192.0.2.2", "tcp/80").to.label, "virtual");
}

/// A workload that is about to come, or has just gone, inherits from whatever is above it.
#[test]
fn a_cgroup_that_is_not_there_is_what_stands_above_it() {
    let zones = "[zone.all]\ncgroups = [\"**\"]\n[zone.workers]\ncgroups = [\"api/worker\"]\n";
    let sources = Sources::new([Source::new("x.toml", zones.into())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap().model;
    let label = |end| explained(&model, end, "192.0.2.9", "tcp/80").from.label;
    assert_eq!(label("new@192.0.2.8"), "all");
    assert_eq!(label("api/new@192.0.2.8"), "all");
    assert_eq!(label("api/worker/new/inner@192.0.2.8"), "all+workers");
}

/// Whatever of an image is another policy's, one side or the level: it is not hidden.
#[test]
fn an_image_that_disagrees_is_a_defect() {
    let capabilities = Capabilities { tls: vec![bulkhead_abi::Tls::Off, bulkhead_abi::Tls::Report] };
    let model = |more: &str| {
        let text = format!("{ZONES}{}", allow("r", "web", "api", more));
        load(&Sources::new([Source::new("x.toml", text.into_bytes())]), &capabilities).unwrap().model
    };
    let (facts, flow) = (facts(), flow("10.0.1.1", "api@192.0.2.7", "tcp/80", false));
    let told = |more: &str| {
        let image = compile(&model(more), &facts, &mut Numbers::default()).unwrap();
        explain(&model(""), &facts, &image, &flow)
    };
    assert!(told("").agrees && !told("").to_string().contains("defect"));
    for other in ["side = \"egress\"", "side = \"ingress\"", "tls = \"report\""] {
        let told = told(other);
        assert!(!told.agrees && told.to_string().contains("defect"), "{other}: {told}");
    }
}

#[test]
fn ports_read_as_they_are_written() {
    use bulkhead_abi::Protocol;
    let edges = [0, 1, 0xff, 0x100, 0x1ff, 0x800, 0x8ff, 0xff00, u16::MAX];
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::UDPLITE, Protocol::SCTP, Protocol::DCCP] {
        for (first, last) in edges.iter().flat_map(|first| edges.map(|last| (*first, last))) {
            // Nobody receives on port 0.
            if first <= last && (first > 0 || last == u16::MAX) {
                let ports = bulkhead_policy::model::PortMatch { protocol, first, last };
                assert_eq!(bulkhead_policy::ports::parse(&ports.to_string()).unwrap(), [ports], "{ports}");
            }
        }
    }
    for word in ["icmp", "icmp/echo", "proto/47"] {
        let [first, ..] = &bulkhead_policy::ports::parse(word).unwrap()[..] else { panic!("{word}") };
        assert_eq!(first.to_string(), word);
    }
}

#[test]
fn an_explanation_reads_well_and_is_json() {
    let rules = allow("the web's requests", "web", "api", "ports = [\"tcp/8080\"]");
    let sources = Sources::new([Source::new("x.toml", format!("{ZONES}{rules}").into_bytes())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap().model;
    let explanation = explained(&model, "10.0.1.1", "api@192.0.2.7", "tcp/8080");
    insta::assert_snapshot!("explanation", explanation.to_string());
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!((&json["verdict"], &json["agrees"]), (&"allow".into(), &true.into()));
    assert_eq!(json["ingress"]["rule"]["location"]["line"], 16);
    assert_eq!(json["from"]["zones"][0], "web");
}
