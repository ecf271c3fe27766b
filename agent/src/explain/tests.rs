//! Explanations of a small policy: who an end is taken for, and which rule is named.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use bulkhead_abi::Demand;
use bulkhead_policy::{Capabilities, Compiler, Source, Sources, load};

use super::*;

const POLICY: &str = r#"
[zone.web]
cidrs = ["10.1.0.0/16", "fd00:1::/64"]

[virtual]
cidrs = ["10.96.0.0/12"]

[zone.db]
cgroups = ["db.service"]

[[allow]]
name = "queries"
from = "web"
to = "db"
ports = ["tcp/5432", "icmp/echo"]

[[deny]]
from = "any"
to = "db"
ports = ["tcp/22"]
"#;

struct Scene {
    model: Model,
    facts: Facts,
    image: Image,
}

fn scene() -> Scene {
    let sources = Sources::new([Source::new(Path::new("shop.toml"), POLICY.as_bytes().to_vec())]);
    let model = load(&sources, &Capabilities::this_build()).unwrap().model;
    let cgroups = [(7, "db.service"), (8, "db.service/worker"), (9, "other")];
    let facts = Facts {
        cgroups: cgroups.map(|(id, path)| (id, path.to_owned())).into(),
        node_addresses: [bulkhead_abi::Addr::v4([192, 0, 2, 7])].into(),
    };
    let image = Compiler::default().compile(&model, &facts).unwrap();
    Scene { model, facts, image }
}

impl Scene {
    fn ask(&self, from: &str, to: &str, port: &str) -> Result<(Explanation, KernelView), QuestionError> {
        self.ask_where(from, to, port, true)
    }

    fn ask_where(
        &self,
        from: &str,
        to: &str,
        port: &str,
        guarded: bool,
    ) -> Result<(Explanation, KernelView), QuestionError> {
        let asked = Question { from: from.into(), to: to.into(), port: port.into() };
        let case = Case::new(&self.model, &self.facts, &asked)?.guarded(guarded);
        let explanation = case.explain();
        // The image answers in the kernel's place.
        let (from, to, protocol, port) = case.kernel_query(&self.image).unwrap();
        let identity = |end: EndpointQuery| self.image.identity(end.cgroup.unwrap_or(0), end.addr).unwrap();
        let (from, to) = (identity(from), identity(to));
        let answer =
            KernelAnswer { from, to, cell: Some(self.image.lookup(from, to, protocol, port)), generation: 3 };
        let label = |identity| self.image.label(identity);
        let view = case.kernel_view(&answer, &self.image, label, &explanation.policy);
        Ok((explanation, view))
    }
}

#[test]
fn a_rule_is_named_with_its_line_and_the_kernel_agrees() {
    let scene = scene();
    for (from, to) in [
        ("10.1.2.3", "10.9.9.9@db.service"),
        ("web", "db"),
        ("10.1.2.3", "db.service/worker"),
        ("fd00:1::5", "db.service"),
    ] {
        let (policy, kernel) = scene.ask(from, to, "tcp/5432").unwrap();
        assert_eq!((&*policy.from.zone, &*policy.to.zone), ("web", "db"), "{from} {to}");
        assert_eq!(policy.policy.verdict, "allow", "{from} {to}");
        let rule = policy.policy.ingress.rule.clone().unwrap();
        assert_eq!((&*rule.name, &*rule.file, rule.line), ("queries", "shop.toml", 11));
        assert!(kernel.agrees, "{from} {to}: {kernel:?} {policy:?}");
    }
}

#[test]
fn denials_say_why() {
    let scene = scene();
    let (by_rule, kernel) = scene.ask("web", "db", "tcp/22").unwrap();
    assert_eq!((&*by_rule.policy.verdict, &*by_rule.policy.ingress.reason), ("deny", "deny-rule"));
    assert!(kernel.agrees);
    let (by_default, kernel) = scene.ask("world", "db", "tcp/5432").unwrap();
    assert_eq!(by_default.policy.ingress.reason, "default");
    assert_eq!(by_default.policy.egress.reason, "open");
    assert!(kernel.agrees);
    let (own, kernel) = scene.ask("node", "web", "udp/1").unwrap();
    assert_eq!((&*own.from.zone, &*own.policy.verdict), ("node", "deny"));
    assert!(kernel.agrees);
}

#[test]
fn a_virtual_address_is_left_to_the_guard_where_it_sees_the_opener() {
    let scene = scene();
    for (from, guarded, verdict, reason, note) in [
        ("10.1.2.3", true, "allow", "virtual", DEFERRED),
        ("10.1.2.3", false, "deny", "default", NOT_DEFERRED),
        ("node", true, "allow", "open", NOT_DEFERRED),
    ] {
        let (policy, kernel) = scene.ask_where(from, "10.96.0.10", "tcp/443", guarded).unwrap();
        assert_eq!(policy.to.zone, "virtual", "{from}");
        assert_eq!((&*policy.policy.verdict, &*policy.policy.egress.reason), (verdict, reason), "{from}");
        assert!(policy.notes.iter().any(|found| found == note), "{from}: {:?}", policy.notes);
        assert!(kernel.agrees, "{from} {guarded}: {kernel:?} {policy:?}");
    }
    assert_eq!(scene.ask("web", "virtual", "tcp/443").unwrap().0.policy.egress.reason, "virtual");
    // As a source it is the world.
    let (policy, kernel) = scene.ask("10.96.0.10", "db.service", "tcp/5432").unwrap();
    assert_eq!((&*policy.from.zone, &*policy.policy.verdict), ("virtual", "deny"));
    assert!(kernel.agrees);
}

#[test]
fn a_difference_is_not_hidden() {
    let scene = scene();
    let (policy, _) = scene.ask("web", "db", "tcp/5432").unwrap();
    let asked = Question { from: "web".into(), to: "db".into(), port: "tcp/5432".into() };
    let case = Case::new(&scene.model, &scene.facts, &asked).unwrap();
    let web = scene.image.identity_of_zones(&["web".into()]).unwrap();
    let wrong = KernelAnswer {
        from: web,
        to: Identity::WORLD,
        cell: Some(scene.image.lookup(web, Identity::WORLD, Protocol::TCP, 5432)),
        generation: 3,
    };
    let view = case.kernel_view(&wrong, &scene.image, |_| String::new(), &policy.policy);
    assert!(!view.agrees);
    let cell =
        scene.image.lookup(web, scene.image.identity_of_zones(&["db".into()]).unwrap(), Protocol::TCP, 5432);
    let asks =
        |demand| KernelAnswer { cell: Some(Cell::new(cell.egress(), cell.ingress(), demand)), ..wrong };
    let agrees = |answer| case.kernel_view(&answer, &scene.image, |_| String::new(), &policy.policy).agrees;
    assert!(agrees(asks(Demand::OFF)) && !agrees(asks(Demand::REQUIRE)));
    let none = KernelAnswer { cell: None, ..wrong };
    assert!(!case.kernel_view(&none, &scene.image, |_| String::new(), &policy.policy).agrees);
}

#[test]
fn icmp_is_of_the_family_that_is_asked_about() {
    let scene = scene();
    assert_eq!(scene.ask("10.1.2.3", "db.service", "icmp/echo").unwrap().0.policy.verdict, "allow");
    assert_eq!(scene.ask("fd00:1::1", "db.service", "icmp/echo").unwrap().0.policy.verdict, "allow");
}

#[test]
fn what_is_not_understood_is_refused_with_what_would_be() {
    let scene = scene();
    let refused = |from: &str, port: &str| scene.ask(from, "db", port).unwrap_err();
    assert!(matches!(refused("wbe", "tcp/1"), QuestionError::End { hint, .. } if hint.contains("web")));
    assert!(matches!(refused("x@db.service", "tcp/1"), QuestionError::End { .. }));
    assert!(matches!(refused("web", "tpc/1"), QuestionError::Port { .. }));
    assert!(matches!(refused("web", "tcp"), QuestionError::ManyPorts(_)));
    assert!(matches!(scene.ask("10.1.2.3", "fd00:1::1", "tcp/1"), Err(QuestionError::Families { .. })));
}
