//! What `tls` of a rule means: levels, lists, floors, and several of them on one flow.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use bulkhead_abi::{Accept, Demand, Protocol, Tls, Verdict};
use bulkhead_policy::model::VERSIONED;
use bulkhead_policy::{
    Capabilities, Compiler, Endpoint, Explanation, Facts, Flow, Model, Numbers, Source, Sources,
};
use bulkhead_policy::{compile, explain, load, ports};

const ZONES: &str = "[zone.web]\ncidrs = [\"10.0.1.0/24\"]\n[zone.api]\ncidrs = [\"10.0.2.0/24\"]\n";

#[test]
fn a_level_is_what_is_written() {
    let require = |accept: Accept, floor| Demand { level: Tls::Require, accept, floor };
    let tls_ssh = Accept::TLS.or(Accept::SSH);
    for (text, demand) in [
        (r#""off""#, Demand::OFF),
        (r#""report""#, Demand { level: Tls::Report, ..Demand::OFF }),
        (r#""require""#, Demand::REQUIRE),
        (r#""mutual""#, Demand::MUTUAL),
        ("\"mutual\"\nlocal = \"tls\"", Demand::MUTUAL),
        ("\"mutual\"\nlocal = \"attest\"", Demand { floor: Demand::ATTEST, ..Demand::MUTUAL }),
        ("{ require = true }", Demand::REQUIRE),
        (r#"{ require = true, unknown = "deny" }"#, Demand::REQUIRE),
        (r#"{ require = true, unknown = "allow" }"#, require(Accept::ENCRYPTED.or(Accept::UNKNOWN), 0)),
        (r#"{ require = "1.0" }"#, require(VERSIONED, 1)),
        (r#"{ require = "1.3" }"#, require(VERSIONED, 4)),
        (r#"{ require = true, floor = "1.2" }"#, require(VERSIONED, 3)),
        (r#"{ require = ["tls", "ssh"] }"#, require(tls_ssh, 0)),
        (r#"{ require = ["tls", "ssh"], floor = "1.1" }"#, require(tls_ssh, 2)),
        (r#"{ require = ["starttls/smtp"], floor = "1.2" }"#, require(Accept::SMTP, 3)),
        (r#"{ require = ["ssh"], unknown = "allow" }"#, require(Accept::SSH.or(Accept::UNKNOWN), 0)),
    ] {
        let (model, warnings) = loaded(&rule("web", "api", "tcp/1", text));
        assert_eq!(model.rules()[0].tls, demand, "{text}");
        assert_eq!(warnings, 0, "{text}");
    }
}

/// Each word of a list is one bit, and all of them are there.
#[test]
fn every_class_has_its_word() {
    let all = Accept::WORDS.iter().fold(Accept::UNKNOWN, |all, (class, _)| all.or(*class));
    assert_eq!(all, Accept(u16::MAX));
    for (class, word) in Accept::WORDS {
        let port = ["tcp/1", "udp/1"].into_iter().find(|port| {
            let text = rule("web", "api", port, &format!("{{ require = [\"{word}\"] }}"));
            try_load(&text).is_ok_and(|(model, _)| model.rules()[0].tls.accept == class)
        });
        assert!(port.is_some(), "{word}");
    }
}

#[test]
fn of_several_rules_the_strictest_wins_and_all_must_be_content() {
    let floor = rule("web", "any", "tcp", r#"{ require = "1.2", unknown = "allow" }"#);
    let list = rule("any", "api", "tcp/443", r#"{ require = ["tls", "ssh"] }"#);
    let lax = rule("web", "api", "tcp/1-1000", r#""report""#);
    let (model, _) = loaded(&format!("{floor}{list}{lax}"));
    for (port, level) in [
        ("tcp/443", "require (accepts tls; TLS 1.2 or later; unknown: deny)"),
        ("tcp/444", "require (accepts tls, quic, starttls/postgresql; TLS 1.2 or later; unknown: allow)"),
        ("udp/443", "off"),
    ] {
        assert_eq!(told(&model, port), level, "{port}");
    }
    let (model, _) = loaded(&lax);
    assert_eq!(told(&model, "tcp/443"), "report");
}

/// Where several rules want the proxies, they are left out on one node only if all leave them out, and the
/// shortest age counts; what else is asked for yields to them.
#[test]
fn of_several_mutual_rules_the_stricter_wins() {
    let attested = rule("web", "any", "tcp", "\"mutual\"\nlocal = \"attest\"\nmax_age = \"12h\"");
    let also = rule("any", "api", "tcp/443", "\"mutual\"\nlocal = \"attest\"\nmax_age = \"90m\"");
    let wired = rule("web", "api", "tcp/444", "\"mutual\"\nmax_age = \"1d\"");
    let own = rule("web", "api", "tcp/445", r#""require""#);
    let (model, _) = loaded(&format!("{attested}{also}{wired}{own}"));
    for (port, level, age) in [
        ("tcp/80", "mutual (local: attest)", Some("12h")),
        ("tcp/443", "mutual (local: attest)", Some("90m")),
        ("tcp/444", "mutual (local: tls)", Some("12h")),
        ("tcp/445", "mutual (local: attest)", Some("12h")),
        ("udp/443", "off", None),
    ] {
        let explanation = explained(&model, port);
        assert_eq!(explanation.tls.to_string(), level, "{port}");
        let max_age = explanation.max_age.map(|age| age.to_string());
        assert_eq!(max_age.as_deref(), age, "{port}");
        let line = age.map(|age| format!("  max_age {age}\n")).unwrap_or_default();
        assert!(explanation.to_string().contains(&line), "{explanation}");
    }
}

/// What only user space acts on is no part of the kernel's cells, but rules that differ in it are two.
#[test]
fn an_age_makes_another_rule() {
    let model =
        |age: &str| loaded(&format!("{}name = \"r\"\n{age}", rule("web", "api", "tcp/1", r#""mutual""#))).0;
    let mut compiler = Compiler::default();
    let [without, short, long] = ["", "max_age = \"1h\"\n", "max_age = \"2h\"\n"]
        .map(|age| compiler.compile(&model(age), &Facts::default()).unwrap());
    assert!(!without.diff(&short).is_empty() && !short.diff(&long).is_empty());
    let text = |image: &bulkhead_policy::Image| image.rules.values().next().unwrap().text.clone();
    assert_eq!(text(&long), "allow from web to api ports tcp/1 tls mutual max_age 2h");
}

#[test]
fn an_image_knows_whether_it_needs_proxies() {
    for (tls, needs) in [(r#""require""#, false), (r#""mutual""#, true)] {
        let (model, _) = loaded(&rule("web", "api", "tcp/1", tls));
        let image = compile(&model, &Facts::default(), &mut Numbers::default()).unwrap();
        assert_eq!(image.has_mutual(), needs, "{tls}");
    }
    // The rule is there, but nobody's zones make it speak.
    let (model, _) = loaded(&rule("world", "node", "tcp/1", r#""mutual""#));
    assert!(!compile(&model, &Facts::default(), &mut Numbers::default()).unwrap().has_mutual());
}

/// A peer that is known by its name alone has an identity to be counted under, and rules meet it.
#[test]
fn who_is_known_by_name_only_has_an_identity() {
    let zones = "[zone.partner]\nnames = [\"spiffe://b.example/ns/x/sa/y\"]\n\
                 [zone.batch]\nnames = [\"spiffe://b.example/ns/x/sa/y\", \"spiffe://b.example/ns/host/sa/web\"]\n";
    let (model, warnings) = loaded(&format!("{zones}{}", rule("partner", "api", "tcp/1", r#""mutual""#)));
    assert_eq!(warnings, 0);
    let image = compile(&model, &Facts::default(), &mut Numbers::default()).unwrap();
    let identity = |zones: &[&str]| {
        let zones: Vec<_> = zones.iter().map(|zone| std::sync::Arc::from(*zone)).collect();
        image.identity_of_zones(&zones)
    };
    let api = identity(&["api"]).unwrap();
    for (zones, verdict) in [
        (&["partner"][..], Verdict::Allow),
        (&["batch"], Verdict::Deny),
        (&["batch", "partner"], Verdict::Allow),
        // If the domain is b.example, web's workloads show a name that batch lists.
        (&["batch", "web"], Verdict::Deny),
        (&["web"], Verdict::Deny),
    ] {
        let from = identity(zones).unwrap_or_else(|| panic!("{zones:?}"));
        let cell = image.lookup(from, api, Protocol::TCP, 1);
        assert_eq!(cell.ingress().verdict, verdict, "{zones:?}");
        assert_eq!(cell.demand() == Demand::MUTUAL, verdict == Verdict::Allow, "{zones:?}");
    }
    // Without a rule that wants proxies nobody comes by name.
    let (model, _) = loaded(&format!("{zones}{}", rule("partner", "api", "tcp/1", r#""require""#)));
    let image = compile(&model, &Facts::default(), &mut Numbers::default()).unwrap();
    assert_eq!(image.identity_of_zones(&["partner".into()]), None);
}

/// Two rules that one flow can never content are refused; where they share no flow, or any class that the
/// shared protocol speaks, they are not.
#[test]
fn rules_that_accept_nothing_in_common_exclude_each_other() {
    let first = rule("web", "api", "tcp/1-99', 'udp/1-99", r#"{ require = ["tls", "quic"] }"#);
    for (from, ports, tls, conflict) in [
        ("web", "tcp/22", r#"["ssh"]"#, true),
        ("any", "tcp/22", r#"["ssh"]"#, true),
        ("web", "tcp/22", r#"["tls", "ssh"]"#, false),
        ("web", "tcp/100", r#"["ssh"]"#, false),
        ("api", "tcp/22", r#"["ssh"]"#, false),
        // QUIC is common to both, but no TCP port speaks it.
        ("web", "tcp/22', 'udp/22", r#"["ssh", "quic"]"#, true),
        ("web", "tcp/100', 'udp/22", r#"["ssh", "quic"]"#, false),
    ] {
        let text = format!("{first}{}", rule(from, "api", ports, &format!("{{ require = {tls} }}")));
        let codes: Vec<&str> = try_load(&text).err().unwrap_or_default();
        let expected: &[&str] = if conflict { &["bulkhead::tls-conflict"] } else { &[] };
        assert_eq!(codes, expected, "{text}");
    }
    let unknown = r#"{ require = ["tls"], unknown = "allow" }"#;
    let other = unknown.replace("tls", "ssh");
    let both = [unknown, &other].map(|tls| rule("web", "api", "tcp/1", tls)).concat();
    assert_eq!(
        try_load(&both).unwrap_err(),
        ["bulkhead::tls-conflict"],
        "unknown alone is nothing in common"
    );
}

/// A level that differs in anything makes another image, and the one that runs is told from it.
#[test]
fn every_part_of_a_demand_is_in_the_image() {
    let texts = [
        r#""off""#,
        r#""report""#,
        r#""require""#,
        r#"{ require = "1.2" }"#,
        r#"{ require = "1.3" }"#,
        r#"{ require = ["tls"] }"#,
        r#"{ require = ["tls"], floor = "1.2" }"#,
        r#"{ require = true, unknown = "allow" }"#,
        r#""mutual""#,
        "\"mutual\"\nlocal = \"attest\"",
    ];
    // Rules of one name, so that only what the cells hold differs; and a compiler that remembers.
    let mut compiler = Compiler::default();
    let models = texts.map(|tls| loaded(&format!("{}name = \"r\"\n", rule("web", "api", "tcp/1", tls))).0);
    let images = models.each_ref().map(|model| compiler.compile(model, &Facts::default()).unwrap());
    let flow = flow("tcp/1");
    for (at, image) in images.iter().enumerate() {
        for (model_at, model) in models.iter().enumerate() {
            let fresh = compile(model, &Facts::default(), &mut Numbers::default()).unwrap();
            let other = compile(&models[at], &Facts::default(), &mut Numbers::default()).unwrap();
            assert_eq!(fresh.hash() == other.hash(), at == model_at, "{} and {}", texts[at], texts[model_at]);
            let told = explain(model, &Facts::default(), image, &flow);
            assert_eq!(
                told.agrees,
                at == model_at,
                "{} by the image of {}: {told}",
                texts[model_at],
                texts[at]
            );
        }
    }
    assert!(images[3].to_string().contains(", tls require 1.2\n"), "{}", images[3]);
}

fn rule(from: &str, to: &str, ports: &str, tls: &str) -> String {
    format!("[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nports = ['{ports}']\ntls = {tls}\n")
}

fn loaded(rules: &str) -> (Model, usize) {
    try_load(rules).unwrap()
}

/// The model and how many warnings there were, or the codes of what is wrong.
fn try_load(rules: &str) -> Result<(Model, usize), Vec<&'static str>> {
    let sources = Sources::new([Source::new("x.toml", format!("{ZONES}{rules}").into_bytes())]);
    match load(&sources, &Capabilities::this_build()) {
        Ok(loaded) => Ok((loaded.model, loaded.warnings.len())),
        Err(diagnostics) => Err(diagnostics.iter().map(|diagnostic| diagnostic.code).collect()),
    }
}

/// What `explain` says of the level from web to api.
fn told(model: &Model, port: &str) -> String {
    explained(model, port).tls.to_string()
}

fn explained(model: &Model, port: &str) -> Explanation {
    let flow = flow(port);
    let facts = Facts::default();
    let image = compile(model, &facts, &mut Numbers::default()).unwrap();
    let explanation = explain(model, &facts, &image, &flow);
    assert!(explanation.agrees, "{explanation}");
    let text = explanation.to_string();
    assert_eq!(explanation.tls.is_off(), !text.contains("  tls     "), "{text}");
    explanation
}

/// From web to api.
fn flow(port: &str) -> Flow {
    let port = ports::parse(port).unwrap()[0];
    let end = |octets| Endpoint::at(bulkhead_abi::Addr::v4(octets));
    Flow {
        from: end([10, 0, 1, 1]),
        to: end([10, 0, 2, 1]),
        protocol: port.protocol,
        port: port.first,
        guarded: false,
    }
}
