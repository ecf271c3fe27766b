//! A policy switch under load: every connection is judged by one of the two policies.
//!
//! The two are written so that nearly every table changes at once, and so that a mixture shows: each
//! calls the same programs by other zones, found in other ways, and each allows port `W` between the
//! zones that only the *other* policy puts anybody into. Whoever reads one policy's zones and the
//! other's rules lets `W` through, or refuses `X`, or counts a pair of zones that never was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bulkhead_abi::Addr;
use bulkhead_tests::harness::{
    Agent, CallError, Cgroup, Dial, Kind, LoopCount, Pair, Peer, Socket, Topology, wait_until,
};
use bulkhead_tests::require_agent;
use power::{Ends, LONG, at, generation, one_commit_later};

const SWITCHES: u64 = 200;

/// Both allow it.
const X: u16 = 7001;
/// Only A allows it.
const Y: u16 = 7002;
/// Only B allows it.
const Z: u16 = 7003;
/// Both deny it.
const W: u16 = 7004;

/// How long a connection may take where a denial is one of the right answers.
const SHORT: Duration = Duration::from_millis(300);

/// Zones of A: clients by address, by cgroup and by both; the server by address.
fn policy_a() -> String {
    let zones = format!(
        r#"
        [zone.red]
        cidrs = ["10.61.1.0/24", {filler}]
        cgroups = ["two", "three"]
        [zone.red-six]
        cidrs = ["fd00:61:3::/64", "10.61.3.0/24"]
        [zone.db]
        cidrs = ["10.61.9.0/24", "fd00:61:9::/64"]
        [zone.blue]
        cidrs = ["198.51.100.0/25"]
        cgroups = ["nobody"]
        [zone.store]
        cidrs = ["198.51.100.128/25"]
        "#,
        filler = filler(0)
    );
    zones + &rules(["red", "red-six", "db"], ["blue", "store"], Y)
}

/// Zones of B: clients by narrower addresses and other cgroups; the server by cgroup.
fn policy_b() -> String {
    let zones = format!(
        r#"
        [zone.blue]
        cidrs = ["10.61.1.1/32", "10.61.2.2/32", {filler}]
        cgroups = ["three"]
        [zone.blue-six]
        cidrs = ["fd00:61:3::3/128", "10.61.3.3/32"]
        [zone.store]
        cgroups = ["server"]
        [zone.red]
        cidrs = ["198.51.100.0/26"]
        [zone.db]
        cidrs = ["198.51.100.192/26"]
        cgroups = ["nobody"]
        "#,
        filler = filler(1)
    );
    zones + &rules(["blue", "blue-six", "store"], ["red", "db"], Z)
}

/// What is right between the policy's own zones, and the trap between those of the other one.
fn rules([client, six, server]: [&str; 3], [other_client, other_server]: [&str; 2], own: u16) -> String {
    let mut rules = format!(
        r#"
        [[allow]]
        from = ["{client}", "{six}"]
        to = "{server}"
        ports = ["tcp/{X}", "udp/{X}", "tcp/{own}", "udp/{own}"]
        "#
    );
    for (from, to) in [(other_client, server), (client, other_server), (other_client, other_server)] {
        rules +=
            &format!("[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nports = [\"tcp/{W}\", \"udp/{W}\"]\n");
    }
    rules
}

/// Prefixes of nobody, so that a switch has much to write.
fn filler(which: u8) -> String {
    let prefixes = (0..=255).map(|n| format!("\"10.{}.{n}.0/24\"", 100 + which));
    prefixes.collect::<Vec<_>>().join(", ")
}

/// Zones that a policy puts somebody into; the filler is nobody.
const OF_A: [&str; 3] = ["red", "red-six", "db"];
const OF_B: [&str; 3] = ["blue", "blue-six", "store"];

/// Whether a pair of zones can be found by a reader of one policy.
fn is_of_one_policy(from: &str, to: &str) -> bool {
    let zones: BTreeSet<&str> =
        from.split('+').chain(to.split('+')).filter(|zone| *zone != "world").collect();
    zones.iter().all(|zone| OF_A.contains(zone)) || zones.iter().all(|zone| OF_B.contains(zone))
}

/// Dropped from the top: peers, then the agent, then what they live in.
struct Lab {
    clients: Vec<(Peer, String)>,
    server: Peer,
    agent: Agent,
    _cgroups: Vec<Cgroup>,
    _root: Cgroup,
    _net: Topology,
}

impl Lab {
    fn new() -> Lab {
        let net = Topology::flat(&[
            ("one", &["10.61.1.1/24"]),
            ("two", &["10.61.2.2/24"]),
            ("three", &["10.61.3.3/24", "fd00:61:3::3/64"]),
            ("server", &["10.61.9.9/24", "fd00:61:9::9/64"]),
        ])
        .unwrap();
        let root = Cgroup::new("switch").unwrap();
        let cgroups: Vec<Cgroup> =
            ["one", "two", "three", "server"].map(|name| root.child(name).unwrap()).into();
        let agent = Agent::prepare(&root, &policy_a()).flag("--flow-capacity=500000").start().unwrap();
        let peer = |index: usize, name: &str| {
            Peer::spawn(Some(net.ns(name).unwrap()), Some(&cgroups[index])).unwrap()
        };
        let clients = vec![
            (peer(0, "one"), "10.61.9.9".to_owned()),
            (peer(1, "two"), "10.61.9.9".to_owned()),
            (peer(2, "three"), "fd00:61:9::9".to_owned()),
        ];
        let server = peer(3, "server");
        Lab { clients, server, agent, _cgroups: cgroups, _root: root, _net: net }
    }
}

/// What came of the attempts at one port.
#[derive(Default)]
struct Tally {
    passed: AtomicU64,
    failed: AtomicU64,
    told: Mutex<BTreeSet<String>>,
}

impl Tally {
    fn pass(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn fail(&self, why: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.told.lock().unwrap().insert(why);
    }

    fn take(&self, count: &LoopCount) {
        self.passed.fetch_add(count.ok, Ordering::Relaxed);
        let failed = count.timeouts + count.errors.values().sum::<u64>();
        if failed > 0 {
            self.failed.fetch_add(failed, Ordering::Relaxed);
            let mut told = self.told.lock().unwrap();
            told.extend(count.errors.keys().map(|errno| format!("tcp: error {errno}")));
            if count.timeouts > 0 {
                told.insert("tcp: nothing in time".to_owned());
            }
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.passed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Ports {
    x: Tally,
    y: Tally,
    z: Tally,
    w: Tally,
}

impl Ports {
    fn of(&self, port: u16) -> &Tally {
        match port {
            X => &self.x,
            Y => &self.y,
            Z => &self.z,
            _ => &self.w,
        }
    }
}

/// TCP connects with a question each, until told to stop.
fn connects(peer: &Peer, to: SocketAddr, tally: &Tally, stop: &AtomicBool) {
    let limit = if to.port() == X { LONG } else { SHORT };
    while !stop.load(Ordering::Relaxed) {
        let counts = peer.begin_connect_loop(&[to], true, Duration::from_secs(1), limit).wait();
        match counts {
            Ok(counts) => tally.take(&counts[0]),
            Err(CallError::Closed { .. }) => tally.fail("closed".to_owned()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// UDP questions from a new socket each, connected and not, until told to stop.
fn datagrams(peer: &Peer, to: SocketAddr, tally: &Tally, stop: &AtomicBool) {
    let limit = if to.port() == X { LONG } else { SHORT };
    let ask = |connected: bool| -> Result<(), CallError> {
        let (socket, result) = if connected {
            let socket = peer.connect(&Dial::udp(to))?;
            (socket, peer.exchange(&socket, 1, limit))
        } else {
            let socket = peer.open(Kind::Udp, None, to.is_ipv6())?;
            (socket, peer.exchange_with(&socket, to, 1, limit))
        };
        peer.close(&socket)?;
        result.map(|_| ())
    };
    let mut connected = false;
    while !stop.load(Ordering::Relaxed) {
        connected = !connected;
        match ask(connected) {
            Ok(()) => tally.pass(),
            Err(CallError::Os { errno, .. }) => tally.fail(format!("udp, connected {connected}: {errno}")),
            Err(error) if error.is_timeout() => tally.fail(format!("udp, connected {connected}: no answer")),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Connections of the whole time, in both policies' favour.
fn stays(peer: &Peer, to: SocketAddr, stop: &AtomicBool) -> u64 {
    let tcp = peer.connect(&Dial::tcp(to)).unwrap();
    let udp = peer.connect(&Dial::udp(to)).unwrap();
    let open = peer.open(Kind::Udp, None, to.is_ipv6()).unwrap();
    let (mut rounds, failed) = (0, Ends(stop));
    while !stop.load(Ordering::Relaxed) {
        for socket in [&tcp, &udp] {
            peer.exchange(socket, 1, LONG).expect("a live connection that both policies allow");
        }
        peer.exchange_with(&open, to, 1, LONG).expect("a live exchange that both policies allow");
        rounds += 1;
    }
    drop(failed);
    rounds
}

#[test]
fn no_connection_sees_a_mixture() {
    require_agent!();
    let lab = Lab::new();
    let listen = |address: &str, port: u16| -> [Socket; 2] {
        [lab.server.tcp_echo(at(address, port)).unwrap(), lab.server.udp_echo(at(address, port)).unwrap()]
    };
    let forbidden: Vec<Socket> = ["10.61.9.9", "fd00:61:9::9"]
        .into_iter()
        .flat_map(|address| {
            for port in [X, Y, Z] {
                listen(address, port);
            }
            listen(address, W)
        })
        .collect();

    // Policy B knows the server by its cgroup alone, so the node must have found its addresses.
    let reader = lab.agent.reader().unwrap();
    let known = || {
        let locals = reader.maps().locals.entries().unwrap();
        let server = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(address) => Addr::v4(address.octets()),
            IpAddr::V6(address) => Addr::from_octets(address.octets()),
        };
        let known = |address: Addr| locals.iter().any(|(local, _)| *local == address);
        ["10.61.9.9", "fd00:61:9::9"].map(server).into_iter().all(known)
    };
    wait_until(LONG, "the server's addresses are known", known).unwrap();

    let (ports, stop) = (Ports::default(), AtomicBool::new(false));
    let first = generation(&lab.agent);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        for (peer, address) in &lab.clients {
            for port in [X, Y, Z, W] {
                let (to, tally, stop) = (at(address, port), ports.of(port), &stop);
                scope.spawn(move || connects(peer, to, tally, stop));
                scope.spawn(move || datagrams(peer, to, tally, stop));
            }
            let (to, stop) = (at(address, X), &stop);
            scope.spawn(move || assert!(stays(peer, to, stop) > 0));
        }
        let (a, b) = (policy_a(), policy_b());
        let started = Instant::now();
        for number in 1..=SWITCHES {
            assert!(!stop.load(Ordering::SeqCst), "a part of the load has failed");
            lab.agent.write_policy(if number % 2 == 1 { &b } else { &a }).unwrap();
            one_commit_later(&lab.agent, first + number - 1);
        }
        eprintln!("{SWITCHES} switches in {:?}", started.elapsed());
        drop(ends);
    });

    for (name, tally) in [("X", &ports.x), ("Y", &ports.y), ("Z", &ports.z), ("W", &ports.w)] {
        let (passed, failed) = tally.counts();
        eprintln!("{name}: {passed} passed, {failed} did not: {:?}", tally.told.lock().unwrap());
    }
    assert_eq!(ports.x.counts().1, 0, "both allow X: {:?}", ports.x.told.lock().unwrap());
    assert_eq!(ports.w.counts().0, 0, "both deny W");
    for socket in &forbidden {
        let seen = lab.server.served(socket).unwrap();
        assert_eq!((seen.accepted, seen.messages), (0, 0), "both deny {:?}", socket.local);
    }
    // Else the test has shown nothing.
    assert!(ports.x.counts().0 > SWITCHES);
    for both in [&ports.y, &ports.z] {
        let (passed, failed) = both.counts();
        assert!(passed > 10 && failed > 10, "{passed} {failed}");
    }
    assert_eq!(generation(&lab.agent), first + SWITCHES);

    let counters = lab.agent.counters().unwrap();
    for (pair, _) in counters.iter() {
        let Pair { from, to, verdict, reason } = pair;
        assert!(is_of_one_policy(from, to), "{pair} is in neither policy: {counters:?}");
        let expected = if verdict == "allow" { &["allow-rule", "open"][..] } else { &["default"] };
        assert!(expected.contains(&reason.as_str()), "{pair}: {counters:?}");
    }
    let zoned = counters.iter().filter(|(pair, _)| pair.from != "world" && pair.to != "world");
    assert!(zoned.count() >= 8, "{counters:?}");
}
