//! Rows 14, 15 and 35: more than fits. A full flow table denies what is new and says so; a policy that
//! does not fit is refused whole; a flood of events blinds no counter.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::harness::{Agent, Errno, Kind, LoopCount, Peer, Serve, Setup, wait_until};
use bulkhead_tests::require_agent;
use serde_json::Value;

use crate::acts::{LONG, at, connects};
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

/// As many flows as the table has room for, in the tests that fill it.
const CAPACITY: u16 = 64;

/// Twice as many datagrams as the table has room for, each a flow of its own; how many the kernel took, and how
/// many it refused.
fn flood(lab: &Lab) -> (u64, u64) {
    let socket = lab.web.open(Kind::Udp, None, false).unwrap();
    let (mut taken, mut refused) = (0, 0);
    for port in 0..2 * CAPACITY {
        match lab.web.send(&socket, b"!", Some(at(DB, 7100 + port))) {
            Ok(_) => taken += 1,
            Err(error) if error.errno() == Some(Errno::PERM) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    lab.web.close(&socket).unwrap();
    (taken, refused)
}

/// A flow to an echo when the table is full: a new one, or one that was there before.
fn in_a_crowd(run: &Try<'_>, approved: bool) -> Result<bool> {
    let lab = run.lab;
    // An empty table.
    run.meanwhile(|agent| {
        agent.detach()?;
        agent.restart()
    })?;
    let echo = lab.db.udp_echo(at(DB, run.port(7000)))?;
    let socket = lab.web.open(Kind::Udp, None, false)?;
    if approved {
        lab.web.exchange_with(&socket, echo.local, 1, LONG)?;
    }
    let (taken, refused) = flood(lab);
    ensure!(run.agent().is_none() || refused >= u64::from(CAPACITY), "{refused} were refused");
    // Nobody is bound to the ports of the flood: the receivers are known by their address.
    run.counts("web", "db", "allow", "allow-rule", taken);
    run.counts("web", "db", "deny", "flow-table-full", refused);
    let before = lab.db.served(&echo)?.messages;
    let _refused = lab.web.exchange_with(&socket, echo.local, 1, run.patience);
    let arrived = lab.db.served(&echo)?.messages > before;
    lab.web.close(&socket)?;
    lab.db.close(&echo)?;
    Ok(arrived)
}

#[test]
fn row_14_a_full_flow_table_denies_what_is_new_and_who_is_in_it_lives() {
    require_agent!();
    let lab = Lab::new().unwrap();
    Threat::new(&policy())
        .setup(|setup| setup.flag(&format!("--flow-capacity={CAPACITY}")))
        .case(
            Case::new("a new flow")
                .attempt(|run| in_a_crowd(run, false))
                .twin(|run| in_a_crowd(run, true))
                .counts("web", "db", "deny", "flow-table-full", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_14_a_full_flow_table_raises_the_alarm_once_until_it_has_room_again() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let echo = lab.db.udp_echo(at(DB, 7000)).unwrap();
    let agent = start(&lab, &policy(), &[&format!("--flow-capacity={CAPACITY}")]);
    newcomer(&lab.web, echo.local).unwrap();
    assert_eq!((alarms(&agent), metric(&agent, "bulkhead_flow_table_full")), (0, 0.0));
    flood(&lab);
    assert_eq!(newcomer(&lab.web, echo.local), Err(Some(Errno::PERM)));

    // Once, however many were refused.
    wait_until(LONG, "the alarm is in the log", || alarms(&agent) == 1).unwrap();
    wait_until(LONG, "the alarm is a metric", || metric(&agent, "bulkhead_flow_table_full") == 1.0).unwrap();
    flood(&lab);
    let later = || metric(&agent, "bulkhead_flow_table_full") == 0.0;
    // What was not answered lives for half a minute, and the alarm ten seconds longer than the last refusal.
    wait_until(Duration::from_secs(90), "the alarm is over", later).unwrap();
    assert_eq!((alarms(&agent), metric(&agent, "bulkhead_flow_table_full_episodes_total")), (1, 1.0));
    let again = || newcomer(&lab.web, echo.local).is_ok();
    wait_until(Duration::from_secs(90), "there is room again", again).unwrap();
}

/// Saves a policy that would allow everything and does not fit, and waits until it is refused for this limit.
fn refused_whole(agent: &Agent, text: &str, limit: &str) -> Result<()> {
    let generation = agent.reader()?.generation();
    agent.write_policy(text)?;
    let mut told = String::new();
    let refused = || {
        told = agent.status().ok().and_then(|status| status.policy.error).unwrap_or_default();
        told.contains("the policy needs") && told.to_lowercase().contains(limit)
    };
    // A large file takes its time, on a busy machine more so.
    let waited = wait_until(Duration::from_secs(180), "it is refused", refused);
    waited.with_context(|| format!("not for {limit}: {told}"))?;
    ensure!(agent.reader()?.generation() == generation, "{limit}: something of it was written");
    Ok(())
}

#[test]
fn row_15_a_policy_that_does_not_fit_is_refused_whole() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let wide = format!("{WEB_AND_DB}[[allow]]\nfrom = \"any\"\nto = \"any\"\n");
    let fits = format!("{wide}{}", zones(50));
    let prefixes = |count: u32| {
        let all = (0..count).map(|n| {
            let [_, b, c, d] = (n * 2).to_be_bytes();
            format!("\"11.{b}.{c}.{d}/32\"")
        });
        format!("[zone.many]\ncidrs = [{}]\n", all.collect::<Vec<_>>().join(", "))
    };
    let mut threat = Threat::new(&policy());
    for (limit, text) in
        [("pairs", format!("{wide}{}", zones(1100))), ("prefixes", format!("{wide}{}", prefixes(262_145)))]
    {
        let fits = &fits;
        threat = threat.case(
            Case::new(&format!("more {limit} than fit"))
                .attempt(move |run| {
                    run.meanwhile(|agent| refused_whole(agent, &text, limit))?;
                    connects(run, &run.lab.web, at(DB, run.port(9000)))
                })
                // A large policy that fits, and allows everything.
                .twin(move |run| {
                    run.meanwhile(|agent| agent.apply(fits))?;
                    connects(run, &run.lab.web, at(DB, run.port(9000)))
                })
                .counts("web", "db", "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}

/// So many zones, each of which may talk to each on ports of its own.
fn zones(count: u32) -> String {
    let name = |n: u32| format!("\"z{n}\"");
    let zones = (0..count).map(|n| format!("[zone.z{n}]\ncidrs = [\"11.0.{}.{}/32\"]\n", n / 256, n % 256));
    let all = (0..count).map(name).collect::<Vec<_>>().join(", ");
    let rule = format!("[[allow]]\nfrom = [{all}]\nto = [{all}]\nports = [\"tcp/1\"]\n");
    zones.collect::<String>() + &rule
}

/// Connections as fast as they go, to a port of `db`'s that is served; whether one came.
fn connections(run: &Try<'_>, port: u16) -> Result<(bool, LoopCount)> {
    let server = run.lab.db.listen(Kind::Tcp, at(DB, run.port(port)), Serve::Echo)?;
    let second = Duration::from_secs(1);
    let count = run.lab.web.begin_connect_loop(&[server.local], false, second, LONG).wait()?.remove(0);
    let arrived = run.lab.db.served(&server)?.accepted > 0;
    run.lab.db.close(&server)?;
    Ok((arrived, count))
}

/// The same while the agent cannot take events, until some are lost.
fn blinding(run: &Try<'_>) -> Result<bool> {
    let Some(agent) = run.agent() else { return Ok(connections(run, 9000)?.0) };
    let lost = r#"bulkhead_lost_total{what="events"}"#;
    let (lost_before, told_before) = (metric(&agent, lost), told(&agent));
    let stopped = Stopped::new(&agent);
    let (mut arrived, mut denied) = (false, 0);
    let reader = agent.reader()?;
    let losses =
        || reader.losses().unwrap().iter().find(|(loss, _)| loss.as_str() == "events").map_or(0, |(_, n)| *n);
    while losses() as f64 <= lost_before {
        let (came, count) = connections(run, 9000)?;
        ensure!((count.ok, count.timeouts, count.errors.len()) == (0, 0, 1), "{count:?}");
        arrived |= came;
        denied += count.errors.get(&Errno::PERM.raw_os_error()).context("another error")?;
    }
    drop(stopped);
    run.counts("web", "db", "deny", "default", denied);
    // Each event was told, or dropped from the log by its rate and counted, or lost and counted.
    let (told, lost) = (|| told(&agent) - told_before, || (metric(&agent, lost) - lost_before) as u64);
    let all = wait_until(LONG, "every event is accounted for", || told() + lost() >= denied);
    eprintln!("{denied} denied: {} told or dropped, {} lost", told(), lost());
    all?;
    ensure!(lost() > 0, "nothing was lost");
    Ok(arrived)
}

/// Denials that are in the log, or were left out of it and counted.
fn told(agent: &Agent) -> u64 {
    let lines = agent.log_lines();
    let lines_of = |message: &'static str| lines.iter().filter(move |line| line["message"] == message);
    let dropped = lines_of("more verdicts than are logged; see the metrics for all");
    let dropped: u64 = dropped.map(|line| line["dropped"].as_u64().unwrap()).sum();
    lines_of("flow denied").count() as u64 + dropped
}

#[test]
fn row_35_a_flood_of_events_blinds_no_counter_and_its_loss_is_counted() {
    require_agent!();
    let lab = Lab::new().unwrap();
    Threat::new(&policy())
        .setup(Setup::with_metrics)
        .case(
            Case::new("connections while nobody takes events")
                .attempt(blinding)
                .twin(|run| Ok(connections(run, 7000)?.0)),
        )
        .run(&lab)
        .unwrap();
}
