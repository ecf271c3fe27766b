//! Rows 14, 15 and 35: more than fits. A full flow table denies what is new and says so; a policy that
//! does not fit is refused whole; a flood of events blinds no counter.

use std::net::SocketAddr;
use std::time::Duration;

use bulkhead_tests::harness::threat::{DB, Lab, WEB_AND_DB};
use bulkhead_tests::harness::{Agent, Dial, Errno, Kind, Pair, Peer, Serve, Socket, wait_until};
use bulkhead_tests::require_agent;
use serde_json::Value;

use crate::acts::{LONG, at};
use crate::owners::Stopped;

fn policy() -> String {
    format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7999\"]\n"
    )
}

fn start(lab: &Lab, policy: &str, flags: &[&str]) -> Agent {
    let setup = Agent::prepare(&lab.root, policy).in_ns(lab.node().unwrap()).with_metrics();
    flags.iter().fold(setup, |setup, flag| setup.flag(flag)).start().unwrap()
}

/// A number from the page of metrics.
fn metric(agent: &Agent, name: &str) -> f64 {
    let page = agent.metrics().unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

fn alarms(agent: &Agent) -> usize {
    let told = |line: &Value| {
        line["level"] == "WARN"
            && line["message"].as_str().is_some_and(|text| text.contains("flow table is full"))
    };
    agent.log_lines().iter().filter(|line| told(line)).count()
}

/// A new flow of its own, to a server that listens.
fn newcomer(from: &Peer, to: SocketAddr) -> Result<(), Option<Errno>> {
    let socket = from.open(Kind::Udp, None, false).unwrap();
    let answered = from.exchange_with(&socket, to, 1, LONG);
    from.close(&socket).unwrap();
    answered.map(drop).map_err(|error| error.errno())
}

#[test]
fn row_14_a_full_flow_table_denies_what_is_new_and_raises_the_alarm() {
    const CAPACITY: u16 = 64;
    require_agent!();
    let lab = Lab::new().unwrap();
    let echo = lab.db.udp_echo(at(DB, 7000)).unwrap();
    // Agent off: it arrives, however many have come before.
    let flood = |refused: &mut u64| {
        let socket = lab.web.open(Kind::Udp, None, false).unwrap();
        for port in 0..2 * CAPACITY {
            match lab.web.send(&socket, b"!", Some(at(DB, 7100 + port))) {
                Ok(_) => {}
                Err(error) if error.errno() == Some(Errno::PERM) => *refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let mut refused = 0;
    flood(&mut refused);
    assert_eq!((refused, newcomer(&lab.web, echo.local)), (0, Ok(())));

    // Agent on, and room: it arrives.
    let agent = start(&lab, &policy(), &[&format!("--flow-capacity={CAPACITY}")]);
    let approved = lab.web.open(Kind::Udp, None, false).unwrap();
    lab.web.exchange_with(&approved, echo.local, 1, LONG).unwrap();
    newcomer(&lab.web, echo.local).unwrap();
    assert_eq!((alarms(&agent), metric(&agent, "bulkhead_flow_table_full")), (0, 0.0));

    // Agent on, and no room: it does not, and its counter moves for each; who is in it goes on.
    let before = agent.counters().unwrap();
    flood(&mut refused);
    let allowed = u64::from(2 * CAPACITY) - refused;
    assert!(refused >= u64::from(CAPACITY), "{refused} were refused");
    assert_eq!(newcomer(&lab.web, echo.local), Err(Some(Errno::PERM)));
    lab.web.exchange_with(&approved, echo.local, 1, LONG).expect("an approved flow goes on");
    let moved = agent.counters().unwrap().since(&before).flows();
    // Nobody is bound to the ports of the flood: the receivers are known by their address.
    let expected = [
        (Pair::new("web", "db", "allow", "allow-rule"), allowed),
        (Pair::new("web", "db", "deny", "flow-table-full"), refused + 1),
    ];
    assert_eq!(moved, expected.into(), "{moved:?}");

    // The alarm: once, however many were refused.
    wait_until(LONG, "the alarm is in the log", || alarms(&agent) == 1).unwrap();
    wait_until(LONG, "the alarm is a metric", || metric(&agent, "bulkhead_flow_table_full") == 1.0).unwrap();
    flood(&mut refused);
    let later = || metric(&agent, "bulkhead_flow_table_full") == 0.0;
    // What was not answered lives for half a minute, and the alarm ten seconds longer than the last refusal.
    wait_until(Duration::from_secs(90), "the alarm is over", later).unwrap();
    assert_eq!((alarms(&agent), metric(&agent, "bulkhead_flow_table_full_episodes_total")), (1, 1.0));
    let again = || newcomer(&lab.web, echo.local).is_ok();
    wait_until(Duration::from_secs(90), "there is room again", again).unwrap();
}

/// Saves a policy that would allow everything and does not fit; sees that all of it is refused, for this
/// reason, and that the one before stands.
fn refused_whole(lab: &Lab, agent: &Agent, listeners: &[Socket; 2], text: &str, limit: &str) {
    let generation = agent.reader().unwrap().generation();
    agent.write_policy(text).unwrap();
    let mut told = String::new();
    let refused = || {
        told = agent.status().unwrap().policy.error.unwrap_or_default();
        told.contains("the policy needs") && told.to_lowercase().contains(limit)
    };
    // A large file takes its time, on a busy machine more so.
    let waited = wait_until(Duration::from_secs(180), "it is refused", refused);
    assert!(waited.is_ok(), "it is not refused for {limit}: {told}");
    assert_eq!(agent.reader().unwrap().generation(), generation);
    let [allowed, denied] = listeners.each_ref().map(|listener| {
        lab.web.connect(&Dial::tcp(listener.local)).map(|socket| lab.web.reset(&socket).unwrap())
    });
    allowed.expect("the last good policy's own");
    assert_eq!(denied.unwrap_err().errno(), Some(Errno::PERM), "{limit}: the policy before stands");
    agent.apply(&policy()).unwrap();
}

#[test]
fn row_15_a_policy_that_does_not_fit_is_refused_whole() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let listeners = [7000, 9000].map(|port| lab.db.listen(Kind::Tcp, at(DB, port), Serve::Echo).unwrap());
    // Agent off: the attempt arrives.
    let denied = || lab.web.connect(&Dial::tcp(listeners[1].local));
    lab.web.reset(&denied().unwrap()).unwrap();
    let agent = start(&lab, &policy(), &[]);
    let wide = format!("{WEB_AND_DB}[[allow]]\nfrom = \"any\"\nto = \"any\"\n");

    // Its legitimate twin: a large policy that fits, and allows everything, is live.
    agent.apply(&format!("{wide}{}", zones(50))).unwrap();
    lab.web.reset(&denied().expect("what the twin allows")).unwrap();
    agent.apply(&policy()).unwrap();
    assert!(denied().is_err());

    let counted = agent.counters().unwrap();
    refused_whole(&lab, &agent, &listeners, &format!("{wide}{}", zones(1100)), "pairs");
    let prefixes = |count: u32| {
        let all = (0..count).map(|n| {
            let [_, b, c, d] = (n * 2).to_be_bytes();
            format!("\"11.{b}.{c}.{d}/32\"")
        });
        format!("[zone.many]\ncidrs = [{}]\n", all.collect::<Vec<_>>().join(", "))
    };
    refused_whole(&lab, &agent, &listeners, &format!("{wide}{}", prefixes(262_145)), "prefixes");
    let moved = agent.counters().unwrap().since(&counted).flows();
    let expected =
        [(Pair::new("web", "db", "allow", "allow-rule"), 2), (Pair::new("web", "db", "deny", "default"), 2)];
    assert_eq!(moved, expected.into(), "{moved:?}");
}

/// So many zones, each of which may talk to each on ports of its own.
fn zones(count: u32) -> String {
    let name = |n: u32| format!("\"z{n}\"");
    let zones = (0..count).map(|n| format!("[zone.z{n}]\ncidrs = [\"11.0.{}.{}/32\"]\n", n / 256, n % 256));
    let all = (0..count).map(name).collect::<Vec<_>>().join(", ");
    let rule = format!("[[allow]]\nfrom = [{all}]\nto = [{all}]\nports = [\"tcp/1\"]\n");
    zones.collect::<String>() + &rule
}

#[test]
fn row_35_a_flood_of_events_blinds_no_counter_and_its_loss_is_counted() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let [open, shut] = [7000, 9000].map(|port| lab.db.listen(Kind::Tcp, at(DB, port), Serve::Echo).unwrap());
    let connects = |to: &Socket, seconds: u64| {
        let counts = lab.web.begin_connect_loop(&[to.local], false, Duration::from_secs(seconds), LONG);
        counts.wait().unwrap().remove(0)
    };
    // Agent off: all of them arrive.
    let off = connects(&shut, 1);
    assert!(off.ok > 0 && off.errors.is_empty() && off.timeouts == 0, "{off:?}");
    let agent = start(&lab, &policy(), &[]);
    // Agent on: the twin's arrive.
    let twin = connects(&open, 1);
    assert!(twin.ok > 0 && twin.errors.is_empty() && twin.timeouts == 0, "{twin:?}");

    // Agent on, but it cannot take events: they are lost, and counters are not.
    let before = agent.counters().unwrap();
    let lost = r#"bulkhead_lost_total{what="events"}"#;
    let lost_before = metric(&agent, lost);
    let stopped = Stopped::new(&agent);
    let mut denied = 0;
    let reader = agent.reader().unwrap();
    let losses =
        || reader.losses().unwrap().iter().find(|(loss, _)| loss.as_str() == "events").map_or(0, |(_, n)| *n);
    while losses() == 0 {
        let shots = connects(&shut, 1);
        assert_eq!((shots.ok, shots.timeouts, shots.errors.len()), (0, 0, 1), "{shots:?}");
        denied += shots.errors[&Errno::PERM.raw_os_error()];
    }
    drop(stopped);
    let moved = agent.counters().unwrap().since(&before).flows();
    assert_eq!(moved, [(Pair::new("web", "db", "deny", "default"), denied)].into(), "{moved:?}");
    assert_eq!(lab.db.served(&shut).unwrap().accepted, off.ok, "none of them arrived");

    // Each event was told, or dropped from the log by its rate and counted, or lost and counted.
    let told = || {
        let lines = agent.log_lines();
        let lines_of = |message: &str| {
            lines.iter().filter(|line| line["message"] == message).cloned().collect::<Vec<_>>()
        };
        let dropped = lines_of("more verdicts than are logged; see the metrics for all");
        let dropped: u64 = dropped.iter().map(|line| line["dropped"].as_u64().unwrap()).sum();
        lines_of("flow denied").len() as u64 + dropped
    };
    let lost = || (metric(&agent, lost) - lost_before) as u64;
    let all = || told() + lost() >= denied;
    let waited = wait_until(LONG, "every event is accounted for", all);
    eprintln!("{denied} denied: {} told or dropped, {} lost", told(), lost());
    assert!(waited.is_ok() && lost() > 0, "{denied} denied: {} told or dropped, {} lost", told(), lost());
}
