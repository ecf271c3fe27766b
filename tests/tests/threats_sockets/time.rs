//! Rows 20, 27 and 28: what changes while something lives: the policy, the agent, the workloads.

use std::time::{Duration, Instant};

use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::harness::{Agent, Dial, Errno, Kind, Pair, Serve, wait_until};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, at, connects};
use crate::owners::{Servers, Stopped};
use crate::power::another_object;

/// The web may reach these ports of the database.
fn policy(ports: &str) -> String {
    format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [{ports}]\n")
}

#[test]
fn row_20_live_flows_end_with_their_right() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let (kept, lost) = (Servers::new(&lab, 7000), Servers::new(&lab, 7100));
    // Agent off.
    lost.ways(&lab.web);
    let before = policy("\"tcp/7000-7199\", \"udp/7000-7199\"");
    let agent = Agent::prepare(&lab.root, &before).in_ns(lab.node().unwrap()).start().unwrap();
    let (twins, victims) = (kept.ways(&lab.web), lost.ways(&lab.web));
    // A change that leaves them their right ends none of them.
    let counted = agent.counters().unwrap();
    agent.apply(&policy("\"tcp/7000-7150\", \"udp/7000-7150\"")).unwrap();
    kept.live(&twins);
    lost.live(&victims);
    assert!(agent.counters().unwrap().since(&counted).flows().is_empty());
    // One that takes it does, within this one generation.
    let generation = agent.reader().unwrap().generation();
    agent.apply(&policy("\"tcp/7000-7099\", \"udp/7000-7099\"")).unwrap();
    lost.dead(&victims);
    kept.live(&twins);
    assert_eq!(agent.reader().unwrap().generation(), generation + 1);
    let moved = agent.counters().unwrap().since(&counted).flows();
    assert!(moved.keys().eq([&Pair::new("web", "db", "deny", "default")]), "{moved:?}");
}

/// Datagrams to an allowed port and to a denied one, in turn, while the agent is killed, comes back, is
/// upgraded and downgraded and stopped: each one has the verdict that it always had.
///
/// The kernel ends a process that is out of memory by the same SIGKILL.
#[test]
fn row_27_not_one_packet_differs_while_agents_come_and_go() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let [open, shut] = [7000, 9000].map(|port| lab.db.listen(Kind::Udp, at(DB, port), Serve::Sink).unwrap());
    let socket = lab.web.open(Kind::Udp, None, false).unwrap();
    let send = |to| lab.web.send(&socket, b"numbered by their count", Some(to));
    // Agent off: both arrive.
    for server in [&open, &shut] {
        send(server.local).unwrap();
        let arrived = || lab.db.served(server).unwrap().messages == 1;
        wait_until(LONG, "it arrives", arrived).unwrap();
    }
    let mut agent =
        Agent::prepare(&lab.root, &policy("\"udp/7000\"")).in_ns(lab.node().unwrap()).start().unwrap();
    let before = agent.counters().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("object");
    std::fs::write(&object, another_object()).unwrap();

    let stop = std::sync::atomic::AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let ends = crate::power::Ends(&stop);
        let sender = scope.spawn(|| {
            let ends = crate::power::Ends(&stop);
            let mut rounds = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                send(open.local).expect("allowed, as ever");
                let denied = send(shut.local).expect_err("denied, as ever");
                assert_eq!(denied.errno(), Some(Errno::PERM));
                rounds += 1;
            }
            drop(ends);
            rounds
        });
        agent.kill9().unwrap();
        agent.restart().unwrap();
        agent.kill9().unwrap();
        agent.set_object(Some(&object));
        agent.restart().unwrap();
        agent.terminate().unwrap();
        agent.set_object(None);
        agent.restart().unwrap();
        drop(ends);
        sender.join().unwrap()
    });
    eprintln!("{rounds} datagrams of each kind");
    let arrived = || lab.db.served(&open).unwrap().messages == rounds + 1;
    wait_until(LONG, "every allowed one arrives", arrived).unwrap();
    assert_eq!(lab.db.served(&shut).unwrap().messages, 1, "none that is denied");
    let moved = agent.counters().unwrap().since(&before);
    let [allowed, denied] = [("allow", "allow-rule"), ("deny", "default")]
        .map(|(verdict, reason)| moved.get(&Pair::new("web", "db", verdict, reason)));
    assert_eq!((allowed.packets, denied.packets, moved.iter().count()), (rounds, rounds, 2), "{moved:?}");
    let starts: Vec<String> = agent
        .log_lines()
        .iter()
        .filter(|line| line["message"] == "enforcing")
        .map(|line| line["attached"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(starts, ["Fresh", "Resumed", "Upgraded", "Upgraded"]);
}

/// A program in a cgroup that did not exist a moment ago connects at once; the agent is held, so that it
/// cannot have heard of it.
fn newborn(run: &Try<'_>, port: u16) -> anyhow::Result<bool> {
    let held = run.agent.map(Stopped::new);
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
