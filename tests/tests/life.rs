//! The agent's life: killed, restarted, upgraded, stopped, detached, started twice. The kernel goes on
//! by itself, and an agent that comes back changes nothing that it need not change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::harness::{
    Agent, Cgroup, Dial, Errno, Kind, LoopCount, Peer, Socket, Topology, wait_until,
};
use bulkhead_tests::require_agent;
use power::{Ends, LONG, another_object, at, generation, kernel_numbers};

const SERVER: &str = "10.63.2.2";
/// Allowed.
const X: u16 = 7001;
/// In [`killed_in_the_middle_of_a_commit`], allowed by policy A only, and by policy B only.
const Y: u16 = 7002;
const Z: u16 = 7003;
/// Denied.
const W: u16 = 7004;

const POLICY: &str = r#"
    [zone.clients]
    cidrs = ["10.63.1.0/24"]
    [zone.servers]
    cidrs = ["10.63.2.0/24"]
    cgroups = ["servers"]
    [[allow]]
    from = "clients"
    to = "servers"
    ports = ["tcp/7001", "udp/7001"]
"#;

/// Dropped from the top: peers, then the agent, then what they live in.
struct Lab {
    client: Peer,
    _server: Peer,
    agent: Agent,
    _cgroups: [Cgroup; 2],
    _root: Cgroup,
    _net: Topology,
}

impl Lab {
    fn new(policy: &str) -> Lab {
        let net = Topology::flat(&[("client", &["10.63.1.1/24"]), ("server", &["10.63.2.2/24"])]).unwrap();
        let root = Cgroup::new("life").unwrap();
        let cgroups = ["clients", "servers"].map(|name| root.child(name).unwrap());
        let agent = Agent::start(&root, policy).unwrap();
        let peer = |name: &str, cgroup| Peer::spawn(Some(net.ns(name).unwrap()), Some(cgroup)).unwrap();
        let (client, server) = (peer("client", &cgroups[0]), peer("server", &cgroups[1]));
        for port in [X, Y, Z, W] {
            server.tcp_echo(at(SERVER, port)).unwrap();
            server.udp_echo(at(SERVER, port)).unwrap();
        }
        let lab = Lab { client, _server: server, agent, _cgroups: cgroups, _root: root, _net: net };
        lab.settle();
        lab
    }

    /// Until the agent knows the namespaces of this test, its denials are as right but not as fast.
    fn settle(&self) {
        let denied = || self.client.connect(&Dial::tcp(at(SERVER, W))).unwrap_err();
        let fast = || denied().errno() == Some(Errno::PERM);
        wait_until(LONG, "a denial is told at once", fast).unwrap();
    }

    /// Whether a new connection passes; a denial must be told at once.
    fn passes(&self, port: u16) -> bool {
        let socket = match self.client.connect(&Dial::tcp(at(SERVER, port))) {
            Ok(socket) => socket,
            Err(error) if error.errno() == Some(Errno::PERM) => return false,
            Err(error) => panic!("port {port}: {error}"),
        };
        self.client.exchange(&socket, 1, LONG).unwrap();
        self.client.reset(&socket).unwrap();
        true
    }

    /// The verdicts of [`POLICY`].
    fn verdicts_hold(&self) {
        assert!(self.passes(X));
        assert!(!self.passes(W));
        let open = self.client.open(Kind::Udp, None, false).unwrap();
        self.client.exchange_with(&open, at(SERVER, X), 1, LONG).unwrap();
        let denied = self.client.exchange_with(&open, at(SERVER, W), 1, LONG).unwrap_err();
        assert_eq!(denied.errno(), Some(Errno::PERM), "{denied}");
        self.client.close(&open).unwrap();
    }

    /// How the last start went, as the log tells it.
    fn attached(&self) -> String {
        let lines = self.agent.log_lines();
        let line = lines.iter().rev().find(|line| line["message"] == "enforcing").unwrap();
        line["attached"].as_str().unwrap().to_owned()
    }
}

/// Everything that lasts while the agent comes and goes.
struct Live {
    idle: Socket,
    datagrams: Socket,
}

impl Live {
    fn new(lab: &Lab) -> Live {
        let idle = lab.client.connect(&Dial::tcp(at(SERVER, X))).unwrap();
        lab.client.exchange(&idle, 1, LONG).unwrap();
        let datagrams = lab.client.connect(&Dial::udp(at(SERVER, X))).unwrap();
        lab.client.exchange(&datagrams, 1, LONG).unwrap();
        Live { idle, datagrams }
    }

    fn goes_on(&self, lab: &Lab) {
        for socket in [&self.idle, &self.datagrams] {
            lab.client.exchange(socket, 1, LONG).expect("a live flow goes on");
        }
    }
}

/// Adds up what a loop of connects saw, until told to stop.
fn connects(peer: &Peer, port: u16, stop: &AtomicBool) -> LoopCount {
    let ends = Ends(stop);
    let mut sum: Option<LoopCount> = None;
    while !stop.load(Ordering::SeqCst) {
        let counts = peer.begin_connect_loop(&[at(SERVER, port)], true, Duration::from_millis(500), LONG);
        let count = counts.wait().unwrap().remove(0);
        match &mut sum {
            None => sum = Some(count),
            Some(sum) => {
                sum.ok += count.ok;
                sum.timeouts += count.timeouts;
                sum.failed.extend(count.failed);
                for (errno, times) in count.errors {
                    *sum.errors.entry(errno).or_default() += times;
                }
            }
        }
    }
    drop(ends);
    sum.unwrap()
}

/// Bytes to an echo and back by one connection, every one of them checked, until told to stop.
fn transfer(peer: &Peer, socket: &Socket, stop: &AtomicBool) -> u64 {
    const SIZE: usize = 1 << 15;
    let ends = Ends(stop);
    let mut bytes = 0;
    while !stop.load(Ordering::SeqCst) {
        let done = peer.begin_exchange(socket, None, 10, SIZE, LONG).wait();
        bytes += done.expect("no reset, no lost byte").count * SIZE as u64;
    }
    drop(ends);
    bytes
}

#[test]
fn killed_restarted_and_upgraded_under_a_transfer() {
    require_agent!();
    let mut lab = Lab::new(POLICY);
    let live = Live::new(&lab);
    let folder = tempfile::tempdir().unwrap();
    let object = another_object();
    let path = folder.path().join("object");
    std::fs::write(&path, &object).unwrap();

    let stream = lab.client.connect(&Dial::tcp(at(SERVER, X))).unwrap();
    let stop = AtomicBool::new(false);
    let loader = &mut lab.agent;
    let (client, pins) = (&lab.client, loader.pins());
    let (transferred, allowed, denied) = std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let transfer = scope.spawn(|| transfer(client, &stream, &stop));
        let [allowed, denied] = [X, W]
            .map(|port| (port, &stop))
            .map(|(port, stop)| scope.spawn(move || connects(client, port, stop)));
        let first = kernel_numbers(&pins);
        let live_generation = generation(loader);

        loader.kill9().unwrap();
        std::thread::sleep(Duration::from_millis(300)); // Traffic without an agent.
        loader.restart().unwrap();
        assert_eq!(kernel_numbers(&pins), first, "a restart changes nothing");

        loader.terminate().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        loader.restart().unwrap();
        assert_eq!(kernel_numbers(&pins), first, "a restart changes nothing");

        // Another object: programs are exchanged inside their links, over the same maps.
        loader.kill9().unwrap();
        loader.set_object(Some(&path));
        loader.restart().unwrap();
        let second = kernel_numbers(&pins);
        let without = |numbers: &[String], words: [&str; 2]| -> Vec<String> {
            let kept = |number: &&String| words.iter().all(|word| !number.contains(word));
            numbers.iter().filter(kept).cloned().collect()
        };
        let programs = ["prog_id", "prog_tag"];
        assert_eq!(without(&first, programs), without(&second, programs), "the same links and maps");
        let changed = first.iter().filter(|number| number.contains("prog_tag") && !second.contains(number));
        assert!(changed.count() >= 2, "the programs that differ: {first:?} {second:?}");

        loader.kill9().unwrap();
        loader.set_object(None);
        loader.restart().unwrap();
        let tags = |numbers: &[String]| -> Vec<String> {
            numbers.iter().filter(|number| number.contains("prog_tag")).cloned().collect()
        };
        assert_eq!(tags(&kernel_numbers(&pins)), tags(&first), "and back again");
        assert_eq!(generation(loader), live_generation, "the policy is the same all the time");
        drop(ends);
        (transfer.join().unwrap(), allowed.join().unwrap(), denied.join().unwrap())
    });

    let streamed = lab.client.begin_stream(&stream, Duration::ZERO, LONG).wait();
    streamed.expect("the stream ends in order, with nothing left over");
    eprintln!("{transferred} bytes each way");
    assert!(transferred > 1 << 20);
    live.goes_on(&lab);
    lab.verdicts_hold();
    eprintln!("allowed {} times, denied {:?} times", allowed.ok, denied.errors);
    assert!(allowed.ok > 100 && allowed.errors.is_empty() && allowed.timeouts == 0, "{allowed:?}");
    let eperm = Errno::PERM.raw_os_error();
    assert!(denied.errors.keys().eq([&eperm]) && denied.ok == 0 && denied.timeouts == 0, "{denied:?}");
    assert!(denied.errors[&eperm] > 100);
    let starts: Vec<String> = lab
        .agent
        .log_lines()
        .iter()
        .filter(|line| line["message"] == "enforcing")
        .map(|line| line["attached"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(starts, ["Fresh", "Resumed", "Resumed", "Upgraded", "Upgraded"]);
}

#[test]
fn sigterm_leaves_enforcement_on_and_detach_takes_it_off() {
    require_agent!();
    let mut lab = Lab::new(POLICY);
    let live = Live::new(&lab);
    lab.agent.terminate().unwrap();
    lab.verdicts_hold();
    let status = lab.agent.run("status", &[]).unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(1), "{text}");
    assert!(text.contains("no agent runs") && text.contains("goes on enforcing generation"), "{text}");
    assert!(text.contains("bulkhead detach"), "{text}");

    let detached = lab.agent.run("detach", &[]).unwrap();
    let text = String::from_utf8(detached.stdout).unwrap();
    assert!(detached.status.success() && text.contains("enforcement is off (10 programs"), "{text}");
    assert!(!lab.agent.pins().exists(), "no pin is left");
    // The kernel lets go of a link a moment after its pin is gone.
    wait_until(LONG, "nothing is enforced", || lab.passes(W)).unwrap();
    live.goes_on(&lab);
    let status = lab.agent.run("status", &[]).unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).contains("nothing is enforced"), "{status:?}");

    // It can come back, and a running agent is stopped by `detach`, too.
    lab.agent.restart().unwrap();
    assert_eq!(lab.attached(), "Fresh");
    assert!(!lab.passes(W));
    live.goes_on(&lab);
    lab.agent.detach().unwrap();
    assert!(!lab.agent.pins().exists(), "no pin is left");
    wait_until(LONG, "nothing is enforced", || lab.passes(W)).unwrap();
}

#[test]
fn a_second_agent_is_refused_and_harms_nothing() {
    require_agent!();
    let lab = Lab::new(POLICY);
    let live = Live::new(&lab);
    let before = (generation(&lab.agent), kernel_numbers(&lab.agent.pins()));
    let policies = lab.agent.policies();
    let arguments = ["--policies", policies.to_str().unwrap(), "--mode", "audit", "--metrics", "off"];
    let second = lab.agent.run("run", &arguments).unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let holder = format!("process {}", lab.agent.pid().unwrap());
    assert!(said.contains("another agent runs instance") && said.contains(&holder), "{said}");
    assert_eq!((generation(&lab.agent), kernel_numbers(&lab.agent.pins())), before);
    lab.verdicts_hold();
    live.goes_on(&lab);
    assert_eq!(Some(lab.agent.status().unwrap().pid), lab.agent.pid(), "the first one still answers");
}

#[test]
fn killed_in_the_middle_of_a_commit() {
    require_agent!();
    let [a, b] =
        [("red", "blue", Y), ("blue", "red", Z)].map(|(zone, other, own)| two_sided(zone, other, own));
    let mut lab = Lab::new(&a);
    let live = Live::new(&lab);
    let mut torn = 0;
    for round in 1..=20_u64 {
        let (policy, own, other) = if round % 2 == 1 { (&b, Z, Y) } else { (&a, Y, Z) };
        lab.agent.write_policy(policy).unwrap();
        if round % 4 < 2 {
            // As soon as the next version stands beside the live one.
            let reader = lab.agent.reader().unwrap();
            let before = reader.generation();
            // Without a pause, or a busy machine is done with it before it is seen.
            let began = Instant::now();
            while reader.generation() == before && at_rest(&reader) {
                assert!(began.elapsed() < LONG, "round {round}: no commit is under way");
            }
        } else {
            std::thread::sleep(Duration::from_millis(round * 7919 % 150));
        }
        lab.agent.kill9().unwrap();
        torn += usize::from(!at_rest(&lab.agent.reader().unwrap()));

        // The kernel, left alone, holds one of the two policies.
        let [y, z] = [Y, Z].map(|port| lab.passes(port));
        assert!(y != z, "round {round}: Y passes {y}, Z passes {z}");
        assert!(lab.passes(X) && !lab.passes(W), "round {round}");
        live.goes_on(&lab);

        // Who comes next puts it right.
        lab.agent.restart().unwrap();
        assert!(at_rest(&lab.agent.reader().unwrap()), "round {round}: versions differ after a start");
        assert!(lab.passes(own) && !lab.passes(other), "round {round}: not the policy of the folder");
        assert!(lab.passes(X) && !lab.passes(W), "round {round}");
        live.goes_on(&lab);
        let counters = lab.agent.counters().unwrap();
        let broken = counters.iter().any(|(pair, _)| pair.reason == "inconsistent");
        assert!(!broken, "round {round}: {counters:?}");
    }
    eprintln!("{torn} of 20 kills left a commit half done");
    assert!(torn > 0, "no kill met a commit: the test shows nothing");
}

/// A policy that calls everybody by other zones than the other policy does; see `switch.rs`.
fn two_sided(zone: &str, other: &str, own: u16) -> String {
    let filler = (0..=255).flat_map(|n| (0..4).map(move |m| format!("\"10.10{m}.{n}.0/24\"")));
    let filler = filler.collect::<Vec<_>>().join(", ");
    format!(
        r#"
        [zone.{zone}-clients]
        cidrs = ["10.63.1.0/24", {filler}]
        [zone.{zone}-servers]
        cgroups = ["servers"]
        [zone.{other}-clients]
        cidrs = ["198.51.100.0/25"]
        [zone.{other}-servers]
        cidrs = ["198.51.100.128/25"]
        [[allow]]
        from = "{zone}-clients"
        to = "{zone}-servers"
        ports = ["tcp/{X}", "udp/{X}", "tcp/{own}"]
        [[allow]]
        from = "{other}-clients"
        to = ["{zone}-servers", "{other}-servers"]
        ports = ["tcp/{W}"]
        [[allow]]
        from = "{zone}-clients"
        to = "{other}-servers"
        ports = ["tcp/{W}"]
        "#
    )
}

/// Whether both versions of every value are the same: no commit is under way, nor was one cut off.
fn at_rest(reader: &bulkhead::datapath::Reader) -> bool {
    let maps = reader.maps();
    let same = |[even, odd]: [u32; 2]| even == odd;
    maps.pairs.entries().unwrap().iter().all(|(_, value)| same(value.ruleset))
        && maps.identities.entries().unwrap().iter().all(|(_, value)| same(value.state.map(|state| state.0)))
        && maps
            .prefixes
            .entries()
            .unwrap()
            .iter()
            .all(|(_, value)| same(value.identity.map(|identity| identity.0)))
        && maps
            .workloads
            .entries()
            .unwrap()
            .iter()
            .all(|(_, value)| same(value.identity.map(|identity| identity.0)))
}
