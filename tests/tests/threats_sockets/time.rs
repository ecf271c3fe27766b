//! Rows 27 and 28: agents that come and go, and workloads that come.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::harness::{Agent, Dial, Errno, Kind, Pair, Serve};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, at, connects};
use crate::owners::Stopped;
use crate::power::another_object;

/// The web may reach these ports of the database.
fn policy(ports: &str) -> String {
    format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [{ports}]\n")
}

/// Datagrams to one port, each with the verdict that it always had, while the agent is killed, comes back, is
/// upgraded and downgraded and stopped. Whether one arrived.
///
/// The kernel ends a process that is out of memory by the same SIGKILL.
fn through_changes(run: &Try<'_>, object: &Path, port: u16) -> Result<bool> {
    run.compare_from_now()?;
    let (lab, began) = (run.lab, Instant::now());
    let server = lab.db.udp_echo(at(DB, run.port(port)))?;
    let socket = lab.web.open(Kind::Udp, None, false)?;
    let stop = AtomicBool::new(false);
    let (answered, refused) = std::thread::scope(|scope| {
        let ends = crate::power::Ends(&stop);
        let sender = scope.spawn(|| {
            let ends = crate::power::Ends(&stop);
            let (mut answered, mut refused) = (0_u64, 0_u64);
            while answered + refused == 0 || !stop.load(Ordering::Relaxed) {
                match lab.web.exchange_with(&socket, server.local, 1, LONG) {
                    Ok(_) => answered += 1,
                    Err(error) if error.errno() == Some(Errno::PERM) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            drop(ends);
            (answered, refused)
        });
        let changed = run.meanwhile(|agent| come_and_go(agent, object));
        drop(ends);
        changed.map(|()| sender.join().unwrap())
    })?;
    let arrived = lab.db.served(&server)?.messages;
    lab.web.close(&socket)?;
    lab.db.close(&server)?;
    eprintln!("{answered} answered, {refused} refused");
    ensure!(arrived == answered, "{arrived} arrived, {answered} were answered");
    ensure!(answered == 0 || refused == 0, "one packet differs: {answered} answered, {refused} refused");
    if run.agent().is_some() {
        let (verdict, reason) = if run.expected { ("allow", "allow-rule") } else { ("deny", "default") };
        let moved = run.moved()?;
        let counted = moved.get(&Pair::new("web", "db", verdict, reason));
        ensure!(counted.packets == 2 * answered + refused && moved.iter().count() == 1, "{moved:?}");
        // A denied tuple that comes back after 35 s is a new attempt.
        let most = 1 + began.elapsed().as_secs() / 35;
        ensure!((1..=most).contains(&counted.flows), "{moved:?}");
        if !run.expected {
            run.counts("web", "db", "deny", "default", counted.flows);
        }
    }
    Ok(arrived > 0)
}

/// All that can become of an agent.
fn come_and_go(agent: &mut Agent, object: &Path) -> Result<()> {
    agent.kill9()?;
    agent.restart()?;
    agent.kill9()?;
    agent.set_object(Some(object));
    agent.restart()?;
    agent.terminate()?;
    agent.set_object(None);
    agent.restart()?;
    let lines = agent.log_lines();
    let starts = lines.iter().filter(|line| line["message"] == "enforcing");
    let starts: Vec<&str> = starts.filter_map(|line| line["attached"].as_str()).collect();
    ensure!(starts.ends_with(&["Resumed", "Upgraded", "Upgraded"]), "{starts:?}");
    Ok(())
}

#[test]
fn row_27_not_one_packet_differs_while_agents_come_and_go() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("object");
    std::fs::write(&object, another_object()).unwrap();
    Threat::new(&policy("\"udp/7000-7099\""))
        .case(
            Case::new("datagrams all the time")
                .attempt(|run| through_changes(run, &object, 9000))
                .twin(|run| through_changes(run, &object, 7000)),
        )
        .run(&lab)
        .unwrap();
}

/// A program in a cgroup that did not exist a moment ago connects at once; the agent is held, so that it
/// cannot have heard of it.
fn newborn(run: &Try<'_>, port: u16) -> Result<bool> {
    let held = run.agent().as_deref().map(Stopped::new);
    let pod = run.lab.spawn("web", &format!("web/pod-{}", run.number))?;
    let arrived = connects(run, &pod, at(DB, run.port(port)));
    drop(held);
    arrived
}

#[test]
fn row_28_a_new_workload_below_a_zone_inherits_it_from_its_first_packet_on() {
    require_agent!();
    let lab = Lab::new().unwrap();
    Threat::new(&policy("\"tcp/7000-7099\""))
        .case(
            Case::new("a cgroup that nobody knows yet")
                .attempt(|run| newborn(run, 9000))
                .twin(|run| newborn(run, 7000))
                .counts("web", "db", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

/// Where the folder above is in no zone, a new workload is in its own as soon as the agent has seen it.
#[test]
fn row_28_time_until_a_new_workload_is_in_its_zone() {
    const WORKLOADS: usize = 20;
    require_agent!();
    let lab = Lab::new().unwrap();
    let text = "[zone.pods]\ncgroups = [\"pods/*\"]\n[zone.db]\ncgroups = [\"db\"]\n";
    let _folder = lab.spawn("web", "pods").unwrap();
    let listener = lab.db.listen(Kind::Tcp, at(DB, 9000), Serve::Hold).unwrap();
    lab.web.connect(&Dial::tcp(listener.local)).expect("agent off");
    let agent = Agent::prepare(&lab.root, text).in_ns(lab.node().unwrap()).start().unwrap();
    let reader = agent.reader().unwrap();
    let known = || reader.maps().workloads.entries().unwrap().len();
    let mut took = Vec::new();
    let mut pods = Vec::new();
    for number in 0..WORKLOADS {
        let before = known();
        let started = Instant::now();
        pods.push(lab.root.child(&format!("pods/{number}")).unwrap());
        while known() == before {
            assert!(started.elapsed() < LONG, "the agent does not see a new cgroup");
        }
        took.push(started.elapsed());
    }
    took.sort();
    let pod = lab.spawn("web", "pods/0").unwrap();
    let before = agent.counters().unwrap();
    let denied = pod.connect(&Dial::tcp(listener.local)).unwrap_err();
    assert!(denied.errno().is_some(), "{denied}");
    let moved = agent.counters().unwrap().since(&before).flows();
    assert_eq!(moved, [(Pair::new("pods", "db", "deny", "default"), 1)].into(), "{moved:?}");
    let (median, worst) = (took[WORKLOADS / 2], took[WORKLOADS - 1]);
    eprintln!("a new cgroup is in its zone after {median:?} (median), {worst:?} (worst of {WORKLOADS})");
    assert!(median < Duration::from_secs(5), "{took:?}");
}
