//! Agents, keepers and proxies that die under load, and certificates that are replaced under it.
//!
//! What is counted here is what the table in docs/proxy.md says.

use std::fs;
use std::time::{Duration, Instant};

use bulkhead_tests::harness::{Agent, CallError, Dial, Errno, Pair, Program, Socket, wait_until};
use rustix::process::{Pid, Signal};

use crate::lab::{DB, DB6, Lab, SOON, at, certificates, metric, proxy, traced};
use crate::require_python;
use crate::storm::{self, MARKER, Storm};
use crate::wire::Capture;

const ECHO: u16 = 7000;
/// Connections in each storm, at least.
const COUNT: u32 = 1_000;
/// A storm lasts at least this long, so that it is there before, during and after.
const LASTS: Duration = Duration::from_secs(8);

/// Connections that live when something dies.
const LIVE: usize = 100;

/// A node in the middle of a storm.
struct Scene {
    lab: Lab,
    _server: Program,
    capture: Capture,
    storm: Program,
    live: Vec<Socket>,
}

/// What became of them.
#[derive(Debug, PartialEq, Eq)]
struct Survival {
    go_on: usize,
    reset: usize,
    /// An orderly end, as if the other program had said all; or something else that must not be.
    otherwise: usize,
}

/// Connections made from end to end, half of them in each family.
fn live(lab: &Lab) -> Vec<Socket> {
    let addresses = [DB, DB6].into_iter().cycle().take(LIVE);
    let connected = addresses.map(|address| {
        let socket = lab.web.connect(&Dial::tcp(at(address, ECHO)).within(SOON)).unwrap();
        lab.web.exchange(&socket, 1, SOON).unwrap();
        socket
    });
    connected.collect()
}

/// Counts what became of those connections.
fn survival(lab: &Lab, sockets: &[Socket]) -> Survival {
    let mut came = Survival { go_on: 0, reset: 0, otherwise: 0 };
    for socket in sockets {
        match lab.web.exchange(socket, 1, SOON) {
            Ok(_) => came.go_on += 1,
            Err(CallError::Os { errno: Errno::CONNRESET, .. }) => came.reset += 1,
            Err(_) => came.otherwise += 1,
        }
    }
    came
}

/// What the table in docs/proxy.md says of them.
const ALL_GO_ON: Survival = Survival { go_on: LIVE, reset: 0, otherwise: 0 };
const ALL_END: Survival = Survival { go_on: 0, reset: LIVE, otherwise: 0 };

impl Scene {
    fn begin() -> Scene {
        let lab = Lab::two_nodes();
        let server = storm::serve(&lab);
        lab.db.tcp_echo(at(DB, ECHO)).unwrap();
        lab.db.tcp_echo(at(DB6, ECHO)).unwrap();
        let capture = Capture::new(lab.web_ns());
        let live = live(&lab);
        let storm = lab.begin(&storm::ask(DB, COUNT, 4, LASTS));
        let scene = Scene { lab, _server: server, capture, storm, live };
        wait_until(SOON, "the storm is under way", || {
            let text = scene.lab.far().metrics().unwrap_or_default();
            let come = metric(&text, &["bulkhead_proxy_connections_total", "inbound"]);
            come.is_some_and(|come| come > LIVE as f64)
        })
        .unwrap();
        scene
    }

    /// What became of the connections that lived before.
    fn survival(&self) -> Survival {
        survival(&self.lab, &self.live)
    }

    /// Waits for the storm's end; everything ended in time, and nothing was ever in clear.
    fn end(self, what: &str) -> Storm {
        let storm = Storm::read(&self.storm.wait_ended(SOON).unwrap());
        eprintln!("{what}: {storm:?}");
        assert!(storm.answered() > 0 && storm.answered() + storm.refused() >= u64::from(COUNT), "{storm:?}");
        let agents = [self.lab.near(), self.lab.far()];
        let refused = agents.into_iter().flat_map(traced).filter(|record| record.outcome == "refused");
        for record in refused {
            if record.seconds > 1.0 {
                eprintln!("refused late: {record:?}");
            }
            assert!(
                !record.reason.is_empty() && !record.text.is_empty(),
                "refused without a reason: {record:?}"
            );
        }
        storm.ended_in_time();
        self.capture.end().is_mutual_tls_only(&[MARKER]);
        storm
    }
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

/// The process that serves.
fn child(agent: &Agent) -> u32 {
    proxy(agent).pid.expect("a proxy serves")
}

/// The process that starts it again.
fn keeper(child: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    parent.trim().parse().unwrap()
}

/// How long until connections are answered again.
fn back(lab: &Lab) -> Duration {
    let begun = Instant::now();
    let dial = Dial::tcp(at(DB, ECHO)).within(Duration::from_secs(5));
    wait_until(SOON, "connections are answered again", || {
        lab.web.connect(&dial).and_then(|socket| lab.web.exchange(&socket, 1, Duration::from_secs(5))).is_ok()
    })
    .unwrap();
    begun.elapsed()
}

#[test]
fn a_proxy_that_dies_is_back_within_a_second() {
    require_python!();
    let scene = Scene::begin();
    let mut times = Vec::new();
    for agent in [scene.lab.near(), scene.lab.far(), scene.lab.near()] {
        let before = child(agent);
        let live = scene.lab.web.connect(&Dial::tcp(at(DB, ECHO))).unwrap();
        scene.lab.web.exchange(&live, 1, Duration::from_secs(20)).unwrap();
        kill(before);
        // What is cut must not look as if the other program had said all.
        let ended = scene.lab.web.ended(&live, SOON).unwrap();
        assert_eq!(ended.errno, Some(Errno::CONNRESET.raw_os_error()), "an orderly end: {ended:?}");
        times.push(back(&scene.lab));
        wait_until(SOON, "another proxy serves", || proxy(agent).pid.is_some_and(|pid| pid != before))
            .unwrap();
    }
    eprintln!("back after {times:?}");
    assert!(times.iter().min().unwrap() < &Duration::from_secs(1), "never back within a second: {times:?}");
    assert_eq!((proxy(scene.lab.near()).lost, proxy(scene.lab.far()).lost), (2, 1));
    assert_eq!(scene.survival(), ALL_END);
    scene.end("proxies killed three times");
}

#[test]
fn connections_survive_the_agent() {
    require_python!();
    let mut scene = Scene::begin();
    let streams: Vec<_> = [DB, DB6]
        .map(|address| scene.lab.web.connect(&Dial::tcp(at(address, ECHO))).unwrap())
        .into_iter()
        .map(|socket| {
            // Made from end to end, not only turned in, before anything dies.
            scene.lab.web.exchange(&socket, 1, Duration::from_secs(20)).unwrap();
            scene.lab.web.begin_stream(&socket, LASTS, Duration::from_secs(20))
        })
        .collect();
    let children = [child(scene.lab.near()), child(scene.lab.far())];
    for agent in [0, 1] {
        scene.lab.agents[agent].kill9().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        scene.lab.agents[agent].restart().unwrap();
    }
    scene.lab.wait_ready().unwrap();
    eprintln!("back after {:?}", back(&scene.lab));
    assert_eq!([child(scene.lab.near()), child(scene.lab.far())], children, "the proxies went on");
    for stream in streams {
        let streamed = stream.wait().expect("a live connection goes on, byte by byte");
        eprintln!("{streamed:?}");
        assert!(streamed.bytes > 0);
    }
    assert_eq!(scene.survival(), ALL_GO_ON);
    scene.end("both agents killed and started again");
}

#[test]
fn agent_and_proxy_may_die_together() {
    require_python!();
    let mut scene = Scene::begin();
    let proxies = [child(scene.lab.near()), child(scene.lab.far())];
    for agent in [0, 1] {
        scene.lab.agents[agent].kill9().unwrap();
        kill(proxies[agent]);
        scene.lab.agents[agent].restart().unwrap();
    }
    scene.lab.wait_ready().unwrap();
    eprintln!("back after {:?}", back(&scene.lab));
    assert_eq!(scene.survival(), ALL_END);
    scene.end("agents and proxies killed");
}

/// A proxy needs its keeper only to be started again.
#[test]
fn nobody_misses_a_keeper_that_dies_alone() {
    require_python!();
    let scene = Scene::begin();
    let agents = [scene.lab.near(), scene.lab.far()];
    let proxies = agents.map(child);
    for proxy in proxies {
        let keeper = keeper(proxy);
        assert_ne!(Some(keeper), agents[0].pid(), "it is a process of its own");
        kill(keeper);
        wait_until(SOON, "the keeper has gone", || self::keeper(proxy) != keeper).unwrap();
    }
    back(&scene.lab);
    assert_eq!(scene.survival(), ALL_GO_ON);
    assert_eq!(agents.map(child), proxies, "the same proxies serve");
    let storm = scene.end("both keepers killed");
    assert!(storm.is_whole(), "{storm:?}");
}

/// Nobody starts a proxy again but its keeper and the next agent: until then its edges are closed.
#[test]
fn without_keeper_and_proxy_edges_are_closed_until_the_agent_is_started_again() {
    require_python!();
    let mut scene = Scene::begin();
    let proxy = child(scene.lab.near());
    kill(keeper(proxy));
    kill(proxy);
    let refused = || {
        let dial = Dial::tcp(at(DB, ECHO)).within(Duration::from_secs(5));
        let asked = scene.lab.web.connect(&dial);
        asked.and_then(|socket| scene.lab.web.exchange(&socket, 1, Duration::from_secs(5))).is_err()
    };
    wait_until(SOON, "the edge is closed", refused).unwrap();
    scene.lab.agents[0].terminate().unwrap();
    scene.lab.agents[0].restart().unwrap();
    scene.lab.wait_ready().unwrap();
    back(&scene.lab);
    assert_eq!(scene.survival(), ALL_END);
    let storm = scene.end("keeper and proxy killed");
    assert!(storm.refused() > 0, "{storm:?}");
}

/// Nobody is started again before a thousand have tried.
#[test]
fn a_thousand_connects_in_an_outage_end_within_a_second() {
    require_python!();
    let mut lab = Lab::two_nodes();
    let _server = storm::serve(&lab);
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    let capture = Capture::new(lab.web_ns());
    for what in ["agents", "agents and proxies", "keeper and proxy"] {
        back(&lab);
        let proxies = [child(lab.near()), child(lab.far())];
        if what == "keeper and proxy" {
            kill(keeper(proxies[0]));
            kill(proxies[0]);
        } else {
            lab.agents.iter_mut().for_each(|agent| agent.kill9().unwrap());
        }
        if what == "agents and proxies" {
            proxies.into_iter().for_each(kill);
        }
        let storm = lab.begin(&storm::ask(DB, COUNT, 32, Duration::ZERO));
        let storm = Storm::read(&storm.wait_ended(3 * SOON).unwrap());
        eprintln!("without {what}: {storm:?}");
        storm.ended_in_time();
        assert!(storm.refused() > 0, "{storm:?}");
        if what == "keeper and proxy" {
            // The kernel refuses, and counts why.
            Lab::wait_counted(lab.near(), &Pair::new("web", "db", "deny", "no-proxy"));
            lab.agents[0].terminate().unwrap();
            lab.agents[0].restart().unwrap();
        } else {
            lab.agents.iter_mut().for_each(|agent| agent.restart().unwrap());
        }
        lab.wait_ready().unwrap();
        if what == "agents" {
            // Who was there keeps the reason for the next agent.
            Lab::wait_metric(lab.near(), &["bulkhead_proxy_refused_total", "reason=\"no-agent\""]);
        }
    }
    back(&lab);
    capture.end().is_mutual_tls_only(&[MARKER]);
}

/// New roots and new issuers, again and again, under load: nobody notices.
#[test]
fn rotation_drops_nothing() {
    require_python!();
    let lab = Lab::two_nodes();
    let _server = storm::serve(&lab);
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    let lasts = Duration::from_secs(20);
    let capture = Capture::new(lab.web_ns());
    let storm = lab.begin(&storm::ask(DB, COUNT, 4, lasts));
    lab.db.tcp_echo(at(DB6, ECHO)).unwrap();
    let live = live(&lab);
    let socket = lab.web.connect(&Dial::tcp(at(DB, ECHO))).unwrap();
    let stream = lab.web.begin_stream(&socket, lasts, Duration::from_secs(20));
    for round in 1..=6 {
        let before = [certificates(lab.near()), certificates(lab.far())];
        if round % 2 == 0 {
            // First everybody believes the new root, then it is shown.
            lab.authority.rotate(2).unwrap();
        }
        for node in [0, 1] {
            lab.authority.issue_node(node, &round.to_string()).unwrap();
        }
        for (agent, before) in [lab.near(), lab.far()].into_iter().zip(before) {
            let renewed = || {
                let now = certificates(agent);
                !now.is_empty() && now.iter().all(|one| before.iter().all(|old| old.serial != one.serial))
            };
            wait_until(SOON, "new certificates are shown", renewed).unwrap();
        }
    }
    let storm = Storm::read(&storm.wait_ended(SOON).unwrap());
    eprintln!("six rotations: {storm:?}");
    assert!(storm.is_whole(), "{storm:?}");
    let streamed = stream.wait().expect("a live connection goes on");
    eprintln!("{streamed:?}");
    assert_eq!(survival(&lab, &live), ALL_GO_ON);
    capture.end().is_mutual_tls_only(&[MARKER]);
}
