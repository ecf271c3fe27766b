//! Rows 33 and 34: zone files that say less, or more, than their author believes.

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::harness::{Kind, Peer};
use bulkhead_tests::require_agent;

use crate::acts::{at, hears, refusable};

/// A datagram from `from` to exactly this port of `db`'s.
fn datagram(run: &Try<'_>, from: &Peer, port: u16) -> Result<bool> {
    let to = at(DB, port);
    let socket = from.open(Kind::Udp, None, false)?;
    let arrived = hears(run, Kind::Udp, to, || refusable(from.send(&socket, b"probe", Some(to))).map(drop));
    from.close(&socket)?;
    arrived
}

fn right() -> String {
    format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/7000-7099\"]\n")
}

/// Saves a file that is wrong, and tries a port that the right one does not allow.
fn with_mistake(run: &Try<'_>, text: &str, code: &str) -> Result<bool> {
    let Some(agent) = run.agent() else { return datagram(run, &run.lab.web, run.port(9000)) };
    let generation = agent.reader()?.generation();
    let Err(refused) = agent.apply(text) else { bail!("the agent took it") };
    let refused = format!("{refused:#}");
    if !refused.contains(code) {
        bail!("it is not refused for {code}: {refused}");
    }
    let arrived = datagram(run, &run.lab.web, run.port(9000));
    let stands = datagram(run, &run.lab.web, run.port(7000))?;
    agent.apply(&right()).context("the right one again")?;
    if !stands || agent.reader()?.generation() != generation {
        bail!("the last good policy does not stand");
    }
    arrived
}

#[test]
fn row_33_nothing_empty_and_no_typing_error_opens_anything() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let rule = |keys: &str| format!("{WEB_AND_DB}[[allow]]\n{keys}\n");
    let mistakes = [
        ("an empty list of ports", rule("from = \"web\"\nto = \"db\"\nports = []"), "bulkhead::empty-list"),
        ("an empty list of openers", rule("from = []\nto = \"db\""), "bulkhead::empty-list"),
        (
            "an unknown key",
            rule("from = \"web\"\nto = \"db\"\nport = [\"udp/7000\"]"),
            "bulkhead::unknown-key",
        ),
        ("an unknown zone", rule("from = [\"web\", \"wbe\"]\nto = \"db\""), "bulkhead::unknown-zone"),
        (
            "a zone of nobody",
            format!("{}[zone.empty]\ndescription = \"nobody\"\n", rule("from = \"web\"\nto = \"db\"")),
            "bulkhead::",
        ),
        (
            "a zone with an empty list",
            format!("{}[zone.empty]\ncidrs = []\n", rule("from = \"web\"\nto = \"db\"")),
            "bulkhead::empty-list",
        ),
        (
            "a prefix of everything by mistake",
            format!("{}[zone.all]\ncidrs = [\"10.99.1.1/0\"]\n", rule("from = \"web\"\nto = \"db\"")),
            "bulkhead::",
        ),
        ("an empty file", String::new(), "empty"),
    ];
    let right = right();
    let mut threat = Threat::new(&right);
    for (name, text, code) in mistakes {
        threat = threat.case(
            Case::new(name)
                .attempt(move |run| with_mistake(run, &text, code))
                .twin(|run| datagram(run, &run.lab.web, run.port(7000)))
                // The allowed one that shows that the last good policy stands.
                .counts("web", "db", "allow", "allow-rule", 1)
                .counts("web", "db", "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}

/// One address in three zones, by prefixes that lie in one another: it has the rights of all of them, and
/// what is denied to any of them is denied to it.
#[test]
fn row_33_overlapping_prefixes_give_what_each_gives_and_no_more() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let policy = "[zone.broad]\ncidrs = [\"10.99.0.0/16\"]\nexcept = [\"10.99.2.0/24\"]\n\
        [zone.narrow]\ncidrs = [\"10.99.1.0/24\"]\n[zone.one]\ncidrs = [\"10.99.1.1/32\"]\n\
        [zone.db]\ncidrs = [\"10.99.2.0/24\"]\n\
        [[allow]]\nfrom = \"narrow\"\nto = \"db\"\nports = [\"udp/7000-7199\"]\n\
        [[deny]]\nfrom = \"broad\"\nto = \"db\"\nports = [\"udp/7100-7199\"]\n";
    let zones = "broad+narrow+one";
    let probe = |name: &str, port: u16, reason: &str| {
        Case::new(name)
            .attempt(move |run| datagram(run, &run.lab.web, run.port(port)))
            .twin(|run| datagram(run, &run.lab.web, run.port(7000)))
            .counts(zones, "db", "deny", reason, 1)
    };
    Threat::new(policy)
        .case(probe("denied to the broad one", 7100, "deny-rule"))
        .case(probe("allowed to none", 9000, "default"))
        .run(&lab)
        .unwrap();
}

/// Every edge of every range is tried: each port has one verdict, and a deny wins whatever is narrower.
#[test]
fn row_34_deny_wins_and_each_port_has_one_verdict() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let rules = "[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/6000-8010\", \"udp/8020\", \"udp/8021-8022\"]\n\
        [[allow]]\nname = \"narrow\"\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/7050\"]\n\
        [[deny]]\nname = \"broad\"\nfrom = \"any\"\nto = \"db\"\nports = [\"udp/7000-7099\", \"udp/8005\"]\n";
    let policy = format!("{WEB_AND_DB}{rules}");
    // A denied port, why, and a neighbour that is allowed.
    let edges = [
        (5999, "default", 6000),
        (7000, "deny-rule", 6999),
        (7050, "deny-rule", 7100),
        (7099, "deny-rule", 7100),
        (8005, "deny-rule", 8004),
        (8005, "deny-rule", 8006),
        (8011, "default", 8010),
        (8019, "default", 8020),
        (8023, "default", 8021),
        (8023, "default", 8022),
    ];
    let mut threat = Threat::new(&policy);
    for (denied, reason, allowed) in edges {
        threat = threat.case(
            Case::new(&format!("udp/{denied} beside udp/{allowed}"))
                .attempt(move |run| datagram(run, &run.lab.web, denied))
                .twin(move |run| datagram(run, &run.lab.web, allowed))
                .counts("web", "db", "deny", reason, 1),
        );
    }
    threat.run(&lab).unwrap();
}
