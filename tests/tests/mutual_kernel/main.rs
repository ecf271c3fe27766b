//! The kernel's half of mutual TLS by the proxy: what must go by way of it does, and nothing goes around it.
//! Real agents, namespaces and cgroups; the proxy is a toy without cryptography.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod lab;
mod toy;

use bulkhead_abi::{RoleKind, SocketRole};
use bulkhead_sys::netns::NetNs;
use bulkhead_sys::stream;
use bulkhead_tests::harness::packet::{Ip, Tcp, flags};
use bulkhead_tests::harness::{Agent, Cgroup, Dial, Errno, Kind, Peer, Serve, wait_until};
use bulkhead_tests::require_agent;

use lab::{CLIENTS, Lab, MUTUAL, NOTHING, SERVERS, SOON, at, counted, policy, prepare};
use toy::{Sockets, addr, connect};

#[test]
fn programs_talk_by_way_of_the_proxy_and_see_each_other() {
    require_agent!();
    for lab in [Lab::one_node as fn() -> Lab, Lab::two_nodes] {
        let lab = lab();
        let agents = lab.agents(MUTUAL);
        let toys = lab.toys(&agents);
        for (number, (server, client)) in SERVERS.into_iter().zip(CLIENTS).enumerate() {
            let before = agents[0].counters().unwrap();
            let listener = lab.listen(server);
            let (near, far) = lab.connect(&listener);
            assert_eq!(near.peer, Some(at(server)), "the client sees whom it wanted");
            assert_eq!(near.local.ip(), client.parse::<std::net::IpAddr>().unwrap(), "and itself");
            assert_eq!(far.peer.unwrap().ip(), near.local.ip(), "the server sees the client");
            assert_eq!(far.local, at(server));
            lab.talk(&(near, far));
            let told = toys[0].turned();
            assert_eq!(told.len(), number + 1, "{told:?}");
            let told = told.last().unwrap();
            assert_eq!((told.original, told.port), (addr(at(server).ip()), 7000));
            assert!(told.rule != 0 && told.workload.is_known() && told.from.is_zoned() && told.to.is_zoned());
            counted(&agents[0], &before, "allow", "proxied");
            // To the end, in order.
            lab.client.close(&near).unwrap();
            assert_eq!(lab.server.recv(&far, SOON).unwrap().0, b"");
        }
        // An IPv6 socket that means an IPv4 address.
        let listener = lab.listen("10.77.0.2:7001");
        let near = lab.client.connect(&lab.dial("10.77.0.2:7001").v6_socket()).unwrap();
        let far = lab.server.accept(&listener, SOON).unwrap();
        assert_eq!(near.peer.map(|peer| peer.ip().to_canonical()), Some(at("10.77.0.2:7001").ip()));
        lab.talk(&(near, far));
        assert!(toys[0].strangers().is_empty());
    }
}

#[test]
fn without_a_proxy_the_program_hears_it_at_once() {
    require_agent!();
    for lab in [Lab::one_node as fn() -> Lab, Lab::two_nodes] {
        let lab = lab();
        let agents = lab.agents(MUTUAL);
        for server in SERVERS {
            let before = agents[0].counters().unwrap();
            let listener = lab.listen(server);
            let error = lab.client.connect(&lab.dial(server)).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::PERM), "{error}");
            counted(&agents[0], &before, "deny", "no-proxy");
            lab.nobody_came(&listener);
        }
    }
}

#[test]
fn nobody_goes_around_from_where_there_is_no_agent() {
    require_agent!();
    let lab = Lab::two_nodes();
    // The client's node has none.
    let agent = prepare(&lab.roots[1], &policy(MUTUAL)).start().unwrap();
    let _toy = toy::Toy::start(&agent, &lab.proxies[1], &[lab.pair.ns("b").unwrap()]).unwrap();
    for server in SERVERS {
        let before = agent.counters().unwrap();
        let listener = lab.listen(server);
        let refused = lab.client.connect(&lab.dial(server).within(NOTHING));
        assert!(refused.is_err(), "{refused:?}");
        counted(&agent, &before, "deny", "outside-proxy");
        lab.nobody_came(&listener);
    }
}

#[test]
fn connections_that_are_older_end() {
    require_agent!();
    let lab = Lab::one_node();
    let agents = lab.agents("\"off\"");
    let listener = lab.listen(SERVERS[0]);
    let pair = lab.connect(&listener);
    lab.talk(&pair);
    let before = agents[0].counters().unwrap();
    agents[0].apply(&policy(MUTUAL)).unwrap();
    // An agent that is quick has ended it already: then the program hears of it here, and only once.
    let sent = lab.client.send(&pair.0, b"in clear", None);
    let ended = lab.client.ended(&pair.0, SOON).unwrap();
    assert!(sent.is_err() || ended.error().is_some(), "{sent:?} {ended:?}");
    counted(&agents[0], &before, "deny", "outside-proxy");
    match lab.server.recv(&pair.1, SOON) {
        Ok((data, _)) => assert!(data.is_empty(), "{data:?} arrived"),
        Err(error) => assert!(error.errno().is_some(), "{error}"),
    }
}

#[test]
fn sockets_that_are_older_than_the_programs_go_nowhere() {
    require_agent!();
    let lab = Lab::one_node();
    let listener = lab.listen(SERVERS[0]);
    let socket = lab.client.open(Kind::Tcp, None, false).unwrap();
    let agents = lab.agents(MUTUAL);
    let toys = lab.toys(&agents);
    let before = agents[0].counters().unwrap();
    // Its call is not turned, for nobody knows whose it is; its packets are refused.
    let refused = lab.client.connect_socket(&socket, at(SERVERS[0]), NOTHING);
    assert!(refused.is_err(), "{refused:?}");
    counted(&agents[0], &before, "deny", "outside-proxy");
    lab.nobody_came(&listener);
    assert!(toys[0].turned().is_empty());
}

#[test]
fn packets_of_ones_own_making_go_nowhere() {
    require_agent!();
    let lab = Lab::two_nodes();
    let agents = lab.agents(MUTUAL);
    let _toys = lab.toys(&agents);
    let listener = lab.listen(SERVERS[0]);
    let raw = lab.client.raw(false).unwrap();
    let before = agents[0].counters().unwrap();
    let syn =
        Ip::new("10.77.0.1", "10.77.0.2").tcp(4321, 7000, Tcp { flags: flags::SYN, ..Tcp::default() }, b"");
    // The kernel may tell the sender.
    let _ = lab.client.send(&raw, &syn, Some(at("10.77.0.2:0")));
    counted(&agents[0], &before, "deny", "outside-proxy");
    lab.nobody_came(&listener);
}

#[test]
fn the_capture_listener_takes_what_was_turned_only() {
    require_agent!();
    let lab = Lab::one_node();
    let agents = lab.agents(MUTUAL);
    let toys = lab.toys(&agents);
    for to in ["10.77.0.1:15001", "127.0.0.1:15001", "[fd00:77::1]:15001", "[::1]:15001"] {
        let refused = lab.client.connect(&lab.dial(to).within(NOTHING));
        assert!(refused.is_err(), "{to}: {refused:?}");
    }
    // Nor from elsewhere.
    let refused = lab.server.connect(&lab.dial("10.77.0.1:15001").within(NOTHING));
    assert!(refused.is_err(), "{refused:?}");
    assert!(toys[0].strangers().is_empty() && toys[0].turned().is_empty());
}

#[test]
fn the_proxys_ports_are_its_own() {
    require_agent!();
    let lab = Lab::one_node();
    let agents = lab.agents(MUTUAL);
    let listen = |port: u16| {
        let address = format!("[::]:{port}");
        lab.server.listen(Kind::Tcp, at(&address), Serve::Hold).map(|socket| lab.server.close(&socket))
    };
    for port in [15001, 15008] {
        assert_eq!(listen(port).unwrap_err().errno(), Some(Errno::PERM), "{port}");
        let v4 = lab.server.listen(Kind::Tcp, at(&format!("127.0.0.1:{port}")), Serve::Hold);
        assert_eq!(v4.unwrap_err().errno(), Some(Errno::PERM), "{port}");
    }
    listen(15002).unwrap().unwrap();
    // And of the proxy's own sockets each has one.
    let sockets = Sockets::new(&agents[0], &lab.proxies[0]).unwrap();
    let ns = NetNs::open(&lab.pair.ns("b").unwrap().path()).unwrap();
    for (kind, port) in [(RoleKind::Capture, 15008), (RoleKind::TunnelIn, 15001), (RoleKind::LastHop, 15001)]
    {
        let socket = sockets.with_role(&ns, true, &SocketRole::new(kind)).unwrap();
        let error = stream::listen(socket, at(&format!("[::]:{port}")), 1).unwrap_err();
        assert_eq!(error.errno(), Some(1), "{kind:?} {port}: {error}");
    }
    agents[0].apply(&policy("\"off\"")).unwrap();
    for port in [15001, 15008] {
        listen(port).unwrap().unwrap();
    }
}

#[test]
fn a_live_connection_outlives_changes_of_the_policy() {
    require_agent!();
    for lab in [Lab::one_node as fn() -> Lab, Lab::two_nodes] {
        let lab = lab();
        let agents = lab.agents(MUTUAL);
        let toys = lab.toys(&agents);
        let listener = lab.listen(SERVERS[0]);
        let pair = lab.connect(&listener);
        lab.talk(&pair);
        // Another generation, then none of the rule at all: ending it is the proxy's.
        let denied = policy(MUTUAL).replace("[[allow]]", "[[deny]]").replace("tls = \"mutual\"", "");
        for next in [policy(MUTUAL) + "[zone.other]\ncidrs = [\"192.0.2.0/24\"]\n", policy("\"off\""), denied]
        {
            for agent in &agents {
                let before = agent.reader().unwrap().generation();
                agent.apply(&next).unwrap();
                agent.wait_generation(before + 1).unwrap();
            }
            lab.talk(&pair);
        }
        // The agents have looked at every socket by then.
        std::thread::sleep(NOTHING);
        lab.talk(&pair);
        drop(toys);
    }
}

#[test]
fn the_proxys_sockets_do_what_they_are_for_and_nothing_else() {
    require_agent!();
    let lab = Lab::one_node();
    let agents = lab.agents(MUTUAL);
    let _toys = lab.toys(&agents);
    let sockets = Sockets::new(&agents[0], &lab.proxies[0]).unwrap();
    let ns = NetNs::open(&lab.pair.ns("a").unwrap().path()).unwrap();
    let listener = lab.listen(SERVERS[0]);
    let near = lab.client.listen(Kind::Tcp, at("10.77.0.1:7100"), Serve::Hold).unwrap();
    let try_it = |kind, to: &str| {
        let socket = sockets.with_role(&ns, false, &SocketRole::new(kind)).unwrap();
        connect(socket, at(to)).map(drop)
    };
    let refused = |kind, to: &str| {
        let error = try_it(kind, to).unwrap_err();
        let errno = error.downcast_ref::<bulkhead_sys::Error>().and_then(bulkhead_sys::Error::errno);
        assert_eq!(errno, Some(1), "{kind:?} {to}: {error:#}");
    };
    refused(RoleKind::TunnelOut, SERVERS[0]);
    refused(RoleKind::TunnelOut, "10.77.0.1:7100");
    refused(RoleKind::LastHop, SERVERS[0]);
    refused(RoleKind::LastHop, "10.77.0.2:15008");
    refused(RoleKind::Capture, "10.77.0.2:15008");
    refused(RoleKind::TunnelIn, "10.77.0.2:15008");
    try_it(RoleKind::TunnelOut, "10.77.0.2:15008").unwrap();
    try_it(RoleKind::LastHop, "10.77.0.1:7100").unwrap();
    lab.client.accept(&near, SOON).unwrap();
    lab.nobody_came(&listener);
}

#[test]
fn what_the_kernel_vouches_for_needs_no_proxy_on_one_node() {
    require_agent!();
    const ATTEST: &str = "\"mutual\"\nlocal = \"attest\"";
    let lab = Lab::one_node();
    let agents = lab.agents(ATTEST);
    for server in SERVERS {
        let before = agents[0].counters().unwrap();
        let listener = lab.listen(server);
        let pair = lab.connect(&listener);
        lab.talk(&pair);
        counted(&agents[0], &before, "allow", "attested");
    }
    drop((agents, lab));
    // Across nodes nobody vouches.
    let lab = Lab::two_nodes();
    let agents = lab.agents(ATTEST);
    let listener = lab.listen(SERVERS[0]);
    let error = lab.client.connect(&lab.dial(SERVERS[0])).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::PERM), "{error}");
    lab.nobody_came(&listener);
    let toys = lab.toys(&agents);
    lab.talk(&lab.connect(&listener));
    assert_eq!(toys[0].turned().len(), 1);
}

#[test]
fn a_node_that_only_reports_turns_nothing_and_stops_nothing() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.prepare(MUTUAL).mode("audit").start().unwrap();
    let toy = toy::Toy::start(&agent, &lab.proxies[0], &[lab.pair.ns("a").unwrap()]).unwrap();
    let before = agent.counters().unwrap();
    let listener = lab.listen(SERVERS[0]);
    let pair = lab.connect(&listener);
    lab.talk(&pair);
    counted(&agent, &before, "audit", "outside-proxy");
    assert!(toy.turned().is_empty());
    let moved = agent.counters().unwrap().since(&before);
    assert!(
        !moved.iter().any(|(pair, _)| pair.verdict == "deny" || pair.reason == "clear-text"),
        "{moved:?}"
    );
}

#[test]
fn a_host_of_many_addresses_is_turned_from_the_likely_one() {
    require_agent!();
    let lab = Lab::two_nodes();
    let a = lab.pair.ns("a").unwrap();
    a.ip("link add other type veth peer name far\nlink set other up\nlink set far up\n\
          addr add 172.17.0.1/16 dev other\naddr add fd00:17::1/64 dev other nodad\n\
          route add default via 10.77.0.2\nroute add ::/0 via fd00:77::2")
        .unwrap();
    let agents = lab.agents(MUTUAL);
    let toys = lab.toys(&agents);
    for (server, client) in SERVERS.into_iter().zip(CLIENTS) {
        let listener = lab.listen(server);
        let (near, far) = lab.connect(&listener);
        assert_eq!(far.peer.unwrap().ip(), client.parse::<std::net::IpAddr>().unwrap());
        lab.talk(&(near, far));
    }
    assert_eq!(toys[0].turned().len(), 2);
}

#[test]
fn another_workload_of_the_same_namespace_is_not_the_client() {
    require_agent!();
    let lab = Lab::two_nodes();
    let stranger = lab.roots[0].child("stranger").unwrap();
    let other = Peer::spawn(Some(lab.pair.ns("a").unwrap()), Some(&stranger)).unwrap();
    let agents: Vec<Agent> = lab
        .roots
        .iter()
        .map(|root| {
            // Only the cgroup says who the client is, where it runs.
            let policy = policy(MUTUAL) + "[zone.stranger]\ncgroups = [\"stranger\"]\n";
            prepare(root, &policy.replace("\"10.77.0.1/32\", ", "\"192.0.2.9/32\", ")).start().unwrap()
        })
        .collect();
    let toys = lab.toys(&agents);
    let listener = lab.listen(SERVERS[0]);
    lab.talk(&lab.connect(&listener));
    let error = other.connect(&Dial::tcp(at(SERVERS[0]))).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::PERM), "{error}");
    assert_eq!(toys[0].turned().len(), 1);
    lab.nobody_came(&listener);
    let _: &Cgroup = &stranger;
}

#[test]
fn the_kernel_forgets_where_proxies_listen_with_them() {
    require_agent!();
    let lab = Lab::one_node();
    let agents = lab.agents(MUTUAL);
    let listener = lab.listen(SERVERS[0]);
    let toys = lab.toys(&agents);
    lab.talk(&lab.connect(&listener));
    drop(toys);
    let refused = || {
        let error = lab.client.connect(&lab.dial(SERVERS[0])).err();
        error.and_then(|error| error.errno()) == Some(Errno::PERM)
    };
    wait_until(SOON, "connections are refused", refused).unwrap();
}
