//! Somebody with root changes the kernel's tables behind the agent's back: the policy as it is enforced
//! is no longer what the files say. It shows in traffic; it is found, told, and written right.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::time::Duration;

use bulkhead_abi::tables::{FailsafeKey, Home, Interface, PairValue, PrefixValue, RuleKey, WorkloadValue};
use bulkhead_abi::{Addr, Control, LocalAddress, PairKey, Protocol};
use bulkhead_datapath::maps::{CONTROL_FLAGS, Maps};
use bulkhead_datapath::table::TrieKey;
use bulkhead_tests::harness::threat::{DB, Lab, heard};
use bulkhead_tests::harness::{Agent, Dial, Kind, Serve, Setup, wait_until};
use bulkhead_tests::require_agent;
use power::{LONG, at, generation};
use serde_json::Value;

const ALLOWED: u16 = 7000;
const DENIED: u16 = 9000;

/// Who is who hangs on one table each.
const POLICY: &str = r#"
    [zone.web]
    cgroups = ["web"]
    [zone.db]
    cidrs = ["10.99.2.0/24"]
    [[allow]]
    from = "web"
    to = "db"
    ports = ["udp/7000", "tcp/7000"]
"#;

fn prepare(lab: &Lab, seconds: u32) -> Setup {
    let setup = Agent::prepare(&lab.root, POLICY).in_ns(lab.node().unwrap()).with_metrics();
    setup.flag(&format!("--verify-seconds={seconds}"))
}

/// Whether a datagram of a new socket of `web` gets to `db`, as is expected: nothing is waited for long
/// that is not to come.
fn passes(lab: &Lab, port: u16, expected: bool) -> bool {
    let patience = if expected { LONG } else { Duration::from_millis(400) };
    let server = lab.db.listen(Kind::Udp, at(DB, port), Serve::Hold).unwrap();
    let client = lab.web.open(Kind::Udp, None, false).unwrap();
    let _refused = lab.web.send(&client, b"?", Some(at(DB, port)));
    let arrived = heard(lab.db.recv(&server, patience)).unwrap();
    lab.web.close(&client).unwrap();
    lab.db.close(&server).unwrap();
    arrived
}

fn verdicts_hold(lab: &Lab) {
    assert!(passes(lab, ALLOWED, true));
    assert!(!passes(lab, DENIED, false));
}

fn metric(agent: &Agent, name: &str) -> u64 {
    let page = agent.metrics().unwrap();
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap()
}

/// What the tables say of the two.
struct Entries {
    web: (u64, WorkloadValue),
    db: (TrieKey<Addr>, PrefixValue),
    pair: (PairKey, PairValue),
}

impl Entries {
    fn read(maps: &Maps) -> Self {
        let web = *maps.workloads.entries().unwrap().first().expect("one workload");
        let db = maps.prefixes.entries().unwrap();
        let db = *db.iter().find(|(_, value)| value.identity[0].is_zoned()).expect("one prefix");
        let key = PairKey { from: web.1.identity[0], to: db.1.identity[0] };
        let pair = maps.pairs.get(&key).unwrap().expect("a ruleset of their own");
        Self { web, db, pair: (key, pair) }
    }

    /// The rule for the allowed port, under the number of another.
    fn false_rule(&self, maps: &Maps) -> (TrieKey<RuleKey>, bulkhead_abi::Cell) {
        let ruleset = self.pair.1.ruleset[0];
        let rule =
            |port| TrieKey { bits: RuleKey::PORT_BITS, data: RuleKey::new(ruleset, Protocol::UDP, port) };
        let cell = maps.rules.get(&rule(ALLOWED)).unwrap().expect("a rule");
        (rule(DENIED), cell)
    }
}

/// Asks for a comparison, and sees that it finds so many entries of one table, and none the next time.
fn is_found(agent: &Agent, table: &str, expected: u64, what: &str) {
    let before = generation(agent);
    let answer = agent.run("status", &["--verify", "--format", "json"]).unwrap();
    assert_eq!(answer.status.code(), Some(1), "{what}: {answer:?}");
    let found: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(found["differing"], expected, "{what}: {found}");
    assert_eq!(found["repaired"], true, "{what}: {found}");
    let entries = found["entries"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["table"] == table), "{what}: {found}");
    assert_eq!(generation(agent), before + 1, "{what}: flows are judged again");
    assert_eq!(metric(agent, "bulkhead_policy_drift_entries"), expected, "{what}");
    let again = agent.run("status", &["--verify"]).unwrap();
    assert_eq!(again.status.code(), Some(0), "{what}: {again:?}");
    assert!(String::from_utf8_lossy(&again.stdout).contains("holds the policy as it is"), "{again:?}");
    assert_eq!(metric(agent, "bulkhead_policy_drift_entries"), 0, "{what}");
}

#[test]
fn false_entries_show_in_traffic_and_are_written_right() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let agent = prepare(&lab, 0).start().unwrap();
    verdicts_hold(&lab);
    let reader = agent.reader().unwrap();
    let maps = reader.maps();
    let entries = Entries::read(maps);
    let (web, db) = (entries.web.1.identity[0], entries.db.1.identity[0]);

    let mut total = 0;
    // Table, what is done to it, how many entries are false then, the port that passes wrongly or not.
    type Change<'a> = Box<dyn Fn() + 'a>;
    let changes: [(&str, Change<'_>, u64, u16, bool); 7] = [
        (
            "WORKLOADS",
            Box::new(|| {
                maps.workloads.remove_all(&[entries.web.0]).unwrap();
            }),
            1,
            ALLOWED,
            false,
        ),
        (
            "WORKLOADS",
            Box::new(|| {
                // The receiver's own identity, in the version that is read now.
                let mut value = entries.web.1;
                value.identity[(reader.generation() & 1) as usize] = db;
                maps.workloads.set(&entries.web.0, &value).unwrap();
            }),
            1,
            DENIED,
            true,
        ),
        (
            "PREFIXES",
            Box::new(|| maps.prefixes.set(&entries.db.0, &PrefixValue { identity: [web; 2] }).unwrap()),
            1,
            DENIED,
            true,
        ),
        (
            "PREFIXES",
            Box::new(|| {
                // A narrower one takes the address out of its zone; so does nobody being anybody.
                let key = TrieKey { bits: 128, data: Addr::v4([10, 99, 2, 1]) };
                maps.prefixes.set(&key, &PrefixValue { identity: [web; 2] }).unwrap();
            }),
            1,
            DENIED,
            true,
        ),
        (
            "RULES",
            Box::new(|| {
                let (key, cell) = entries.false_rule(maps);
                maps.rules.set(&key, &cell).unwrap();
            }),
            1,
            DENIED,
            true,
        ),
        (
            "PAIRS",
            Box::new(|| {
                maps.pairs.remove_all(&[entries.pair.0]).unwrap();
            }),
            1,
            ALLOWED,
            false,
        ),
        (
            "CONTROL",
            Box::new(|| maps.control.store(CONTROL_FLAGS, Control::FLAG_AUDIT).unwrap()),
            1,
            DENIED,
            true,
        ),
    ];
    for (table, change, count, port, wrong) in changes {
        change();
        let what = format!("{table}, port {port}");
        // It matters: the verdict is the wrong one.
        assert_eq!(passes(&lab, port, wrong), wrong, "{what}");
        is_found(&agent, table, count, &what);
        verdicts_hold(&lab);
        total += count;
    }
    // What no packet here meets.
    maps.failsafe.set(&FailsafeKey { side: 1, protocol: 6, port: DENIED }, &0).unwrap();
    is_found(&agent, "FAILSAFE", 1, "a failsafe port");
    maps.identities.remove_all(&[web]).unwrap();
    is_found(&agent, "IDENTITIES", 1, "an identity");
    assert_eq!(metric(&agent, "bulkhead_policy_drift_repaired_total"), total + 2);
    verdicts_hold(&lab);
    let text = String::from_utf8(agent.run("status", &[]).unwrap().stdout).unwrap();
    assert!(text.contains(&format!("{} entries were not, before", total + 2)), "{text}");
}

#[test]
fn false_surroundings_are_found_and_written_right() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let agent = prepare(&lab, 0).flag("--guard-interfaces=port*").start().unwrap();
    let reader = agent.reader().unwrap();
    let maps = reader.maps();
    let (web, nowhere) = (Addr::v4([10, 99, 1, 1]), Addr::v4([198, 51, 100, 7]));
    wait_until(LONG, "all is told", || {
        let known = |addr| maps.locals.get(&addr).unwrap().map_or(0, |local| local.netns);
        let home = maps.homes.get(&known(web)).unwrap();
        let behind = |netns| maps.interfaces.entries().unwrap().iter().any(|(_, at)| at.netns == netns);
        home.is_some_and(|home| home.flags & Home::FLAG_GUARDED != 0) && behind(known(web))
    })
    .unwrap();

    let local = maps.locals.get(&web).unwrap().unwrap();
    let home = maps.homes.get(&local.netns).unwrap().unwrap();
    let interfaces = maps.interfaces.entries().unwrap();
    let (index, interface) = *interfaces.iter().find(|(_, at)| at.netns == local.netns).unwrap();
    let said = || {
        let mut locals = maps.locals.entries().unwrap();
        locals.sort_unstable_by_key(|(addr, _)| *addr);
        let (mut homes, mut interfaces) = (maps.homes.entries().unwrap(), maps.interfaces.entries().unwrap());
        homes.sort_unstable_by_key(|(netns, _)| *netns);
        interfaces.sort_unstable_by_key(|(index, _)| *index);
        (locals, homes, interfaces)
    };
    let before = said();

    type Change<'a> = Box<dyn Fn() + 'a>;
    let changes: [(&str, &str, Change<'_>); 9] = [
        (
            "LOCALS",
            "an address given to nobody",
            Box::new(|| {
                maps.locals.remove_all(&[web]).unwrap();
            }),
        ),
        (
            "LOCALS",
            "an address given to somebody else",
            Box::new(|| maps.locals.set(&web, &LocalAddress { netns: local.netns + 1, ..local }).unwrap()),
        ),
        (
            "LOCALS",
            "an address that is not here",
            Box::new(|| maps.locals.set(&nowhere, &LocalAddress { addr: nowhere, ..local }).unwrap()),
        ),
        (
            "HOMES",
            "a namespace that nobody knows",
            Box::new(|| {
                maps.homes.remove_all(&[local.netns]).unwrap();
            }),
        ),
        (
            "HOMES",
            "a namespace that sends from elsewhere",
            Box::new(|| maps.homes.set(&local.netns, &Home { v4: nowhere, ..home }).unwrap()),
        ),
        (
            "HOMES",
            "a namespace that is said to have a proxy",
            Box::new(|| {
                let flags = home.flags | Home::FLAG_PROXIED;
                maps.homes.set(&local.netns, &Home { flags, ..home }).unwrap();
            }),
        ),
        (
            "INTERFACES",
            "an interface that leads nowhere",
            Box::new(|| {
                maps.interfaces.remove_all(&[index]).unwrap();
            }),
        ),
        (
            "INTERFACES",
            "an interface with other machines behind it",
            Box::new(|| {
                let flags = interface.flags | Interface::FLAG_WIRE;
                maps.interfaces.set(&index, &Interface { netns: 0, flags }).unwrap();
            }),
        ),
        (
            "INTERFACES",
            "an interface that is not there",
            Box::new(|| maps.interfaces.set(&9_999_999, &interface).unwrap()),
        ),
    ];
    for (table, what, change) in changes {
        change();
        is_found(&agent, table, 1, what);
        assert_eq!(said(), before, "{what}");
    }
    assert_eq!(metric(&agent, "bulkhead_policy_drift_repaired_total"), 9);

    // What the host itself changes is no drift.
    lab.ns("web").unwrap().ip("addr add 10.99.1.9/24 dev eth0").unwrap();
    let added = Addr::v4([10, 99, 1, 9]);
    wait_until(LONG, "the address is known", || maps.locals.get(&added).unwrap().is_some()).unwrap();
    let answer = agent.run("status", &["--verify"]).unwrap();
    assert_eq!(answer.status.code(), Some(0), "{answer:?}");
}

#[test]
fn it_is_found_unasked_and_what_it_let_in_is_ended() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut agent = prepare(&lab, 1).start().unwrap();
    verdicts_hold(&lab);
    let listener = lab.db.tcp_echo(at(DB, DENIED)).unwrap();
    let connect = || lab.web.connect(&Dial::tcp(at(DB, DENIED)).within(Duration::from_secs(1)));
    let reader = agent.reader().unwrap();
    let entries = Entries::read(reader.maps());
    let false_identity = PrefixValue { identity: [entries.web.1.identity[0]; 2] };

    // It is written right within a second or so: more than one try may be needed to get in.
    let mut opened = None;
    wait_until(LONG, "a connection gets in by a false entry", || {
        reader.maps().prefixes.set(&entries.db.0, &false_identity).unwrap();
        opened = connect().ok();
        opened.is_some()
    })
    .unwrap();
    let ended = lab.web.ended(&opened.unwrap(), LONG).unwrap();
    assert!(ended.error().is_some(), "{ended:?}");
    wait_until(LONG, "it is refused again", || connect().is_err()).unwrap();
    let told =
        agent.wait_log("the finding", |line| line["finding"] == "drift" && line["key"] == "10.99.2.0/24");
    assert_eq!(told.unwrap()["level"], "WARN");
    assert!(metric(&agent, "bulkhead_policy_drift_repaired_total") >= 1);

    // Rulesets never change once they are written, and are not read at a start: the comparison is what
    // finds a rule that was added while no agent ran.
    agent.kill9().unwrap();
    let (key, cell) = entries.false_rule(reader.maps());
    reader.maps().rules.set(&key, &cell).unwrap();
    assert!(passes(&lab, DENIED, true));
    agent.restart().unwrap();
    wait_until(LONG, "the rule is gone", || reader.maps().rules.get(&key).unwrap() != Some(cell)).unwrap();
    verdicts_hold(&lab);
    lab.db.close(&listener).unwrap();
}
