//! Denials on the node that `connect` cannot foresee: the attempt ends with an error within 100 ms.

use std::time::Duration;

use bulkhead_tests::harness::{
    Agent, Called, Cgroup, Dial, Errno, Kind, Pair, Peer, Serve, Socket, Topology, wait_until,
};
use bulkhead_tests::require_agent;

use super::lab::{Lab, Net, SOON, TRIES, ZONES, at, refused_within};

const IN_TIME: Duration = Duration::from_millis(100);

/// How a connection ends that the packet layer refuses, or the call that could foresee it after all.
const REFUSED: [Errno; 2] = [Errno::CONNABORTED, Errno::PERM];

/// Sees that attempts are refused in time and counted once each as the zones' default.
fn refused_in_time(agent: &Agent, what: &str, attempt: impl FnMut() -> Called<()>) {
    let before = agent.counters().unwrap();
    let tries = refused_within(IN_TIME, &REFUSED, attempt);
    let moved = agent.counters().unwrap().since(&before);
    let pair = Pair::new("client", "server", "deny", "default");
    assert_eq!(moved.flows(), [(pair.clone(), tries)].into(), "{what}: {moved:?}");
    assert_eq!(moved.iter().count(), 1, "{what}: {moved:?}");
    let named = |line: &serde_json::Value| {
        line["message"] == "flow denied" && line["from"] == "client" && line["to"] == "server"
    };
    assert_eq!(agent.wait_log("the event", named).unwrap()["reason"], "default", "{what}");
}

#[test]
fn from_a_namespace_with_two_addresses() {
    require_agent!();
    for lab in [Lab::pair(), Lab::two_nodes()] {
        let Net::Pair(net) = &lab.net else { panic!("no pair") };
        let more = "addr add 10.77.0.11/24 dev eth0\naddr add fd00:77::11/64 dev eth0 nodad";
        net.ns("a").unwrap().ip(more).unwrap();
        let zones = "[zone.client]\ncidrs = [\"10.77.0.1/32\", \"10.77.0.11/32\", \"fd00:77::/124\", \
                     \"fd00:77::11/128\"]\nexcept = [\"fd00:77::2/128\"]\n\
                     [zone.server]\ncidrs = [\"10.77.0.2/32\", \"fd00:77::2/128\"]\n";
        let agent = Agent::start(&lab.root, zones).unwrap();
        for (address, port, v6_socket) in
            [("10.77.0.2", 7000, false), ("fd00:77::2", 7000, true), ("10.77.0.2", 7001, true)]
        {
            let server = lab.server.listen(Kind::Tcp, at(address, port), Serve::Sink).unwrap();
            let dial = if v6_socket { Dial::tcp(server.local).v6_socket() } else { Dial::tcp(server.local) };
            refused_in_time(&agent, address, || lab.client.connect(&dial).map(drop));
            assert_eq!(lab.server.served(&server).unwrap().accepted, 0);
        }
    }
}

#[test]
fn by_a_socket_that_is_older_than_the_agent() {
    require_agent!();
    for lab in [Lab::pair(), Lab::loopback()] {
        for address in lab.addresses() {
            let v6 = address.contains(':');
            let old =
                |kind| (0..TRIES).map(|_| lab.client.open(kind, None, v6).unwrap()).collect::<Vec<Socket>>();
            let (mut streams, mut datagrams) = (old(Kind::Tcp), old(Kind::Udp));
            let agent = Agent::start(&lab.root, ZONES).unwrap();
            let tcp = lab.server.listen(Kind::Tcp, at(address, 7000), Serve::Sink).unwrap();
            refused_in_time(&agent, "TCP", || {
                lab.client.connect_socket(&streams.pop().unwrap(), tcp.local, SOON).map(drop)
            });
            let udp = lab.server.listen(Kind::Udp, at(address, 7000), Serve::Sink).unwrap();
            refused_in_time(&agent, "UDP", || {
                lab.client.send(&datagrams.pop().unwrap(), b"no", Some(udp.local)).map(drop)
            });
            assert_eq!(lab.server.served(&tcp).unwrap().accepted, 0);
            assert_eq!(lab.server.served(&udp).unwrap().messages, 0);
        }
    }
}

#[test]
fn by_a_socket_whose_maker_has_moved() {
    require_agent!();
    let lab = Lab::pair();
    let agent = Agent::start(&lab.root, ZONES).unwrap();
    let made =
        |kind| (0..TRIES).map(|_| lab.client.open(kind, None, false).unwrap()).collect::<Vec<Socket>>();
    let (mut streams, mut datagrams) = (made(Kind::Tcp), made(Kind::Udp));
    let free = lab.root.child("free").unwrap();
    lab.client.join_cgroup(&free).unwrap();
    let [address, _] = lab.addresses();
    let tcp = lab.server.listen(Kind::Tcp, at(address, 7000), Serve::Sink).unwrap();
    let udp = lab.server.listen(Kind::Udp, at(address, 7000), Serve::Sink).unwrap();
    refused_in_time(&agent, "TCP", || {
        lab.client.connect_socket(&streams.pop().unwrap(), tcp.local, SOON).map(drop)
    });
    refused_in_time(&agent, "UDP", || {
        lab.client.send(&datagrams.pop().unwrap(), b"no", Some(udp.local)).map(drop)
    });
}

#[test]
fn by_a_datagram_socket_that_was_bound_before_it_was_connected() {
    require_agent!();
    let lab = Lab::pair();
    let agent = Agent::start(&lab.root, ZONES).unwrap();
    let udp = lab.server.listen(Kind::Udp, at("10.77.0.2", 7000), Serve::Sink).unwrap();
    let mut port = 6000;
    refused_in_time(&agent, "bound UDP", || {
        port += 1;
        let socket = lab.client.connect(&Dial::udp(udp.local).from(at("10.77.0.1", port)))?;
        lab.client.send(&socket, b"no", None).map(drop)
    });
    assert_eq!(lab.server.served(&udp).unwrap().messages, 0);
}

#[test]
fn by_multipath_tcp_and_by_fast_open() {
    require_agent!();
    let lab = Lab::pair();
    let agent = Agent::start(&lab.root, ZONES).unwrap();
    let server = lab.server.listen(Kind::Mptcp, at("10.77.0.2", 7000), Serve::Sink).unwrap();
    let to = server.local;
    refused_in_time(&agent, "MPTCP", || lab.client.connect(&Dial::new(Kind::Mptcp, to)).map(drop));
    refused_in_time(&agent, "Fast Open", || lab.client.connect(&Dial::tcp(to).fast_open(b"early")).map(drop));
    assert_eq!(lab.server.served(&server).unwrap().accepted, 0);
}

#[test]
fn between_namespaces_that_are_newer_than_the_agent() {
    require_agent!();
    let root = Cgroup::new("node").unwrap();
    let cgroups = [root.child("client").unwrap(), root.child("server").unwrap()];
    let agent = Agent::start(&root, ZONES).unwrap();
    let before = agent.counters().unwrap();
    let mut labs = Vec::new();
    let tries = refused_within(IN_TIME, &REFUSED, || {
        // Addresses of their own: one that two namespaces have tells of neither.
        let number = labs.len();
        let [a, b] = [1, 2].map(|host| format!("10.78.{number}.{host}"));
        let (near, far) = (format!("{a}/24"), format!("{b}/24"));
        let net = Topology::flat(&[("a", &[&near]), ("b", &[&far])]).unwrap();
        let client = Peer::spawn(Some(net.ns("a").unwrap()), Some(&cgroups[0])).unwrap();
        let server = Peer::spawn(Some(net.ns("b").unwrap()), Some(&cgroups[1])).unwrap();
        let listener = server.tcp_echo(at(&b, 7000)).unwrap();
        let outcome = client.connect(&Dial::tcp(listener.local)).map(drop);
        labs.push((client, server, listener, net));
        outcome
    });
    // The very first attempt may be faster than the agent learns whose the address is: until then it is
    // the world's, which the client may not reach either.
    let moved = agent.counters().unwrap().since(&before).flows();
    let known =
        [Pair::new("client", "server", "deny", "default"), Pair::new("client", "world", "deny", "default")];
    assert!(
        moved.keys().all(|pair| known.contains(pair)) && moved.values().sum::<u64>() == tries,
        "{moved:?}"
    );
    for (client, _, listener, _) in &labs {
        let at_once = || {
            let refused = client.connect(&Dial::tcp(listener.local)).unwrap_err();
            refused.errno() == Some(Errno::PERM)
        };
        wait_until(SOON, "the agent knows the new namespace", at_once).unwrap();
        refused_in_time(&agent, "namespaces that are known by now", || {
            client.connect(&Dial::tcp(listener.local)).map(drop)
        });
    }
}
