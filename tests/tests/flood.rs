//! A flood of new flows that fills the flow table: what was approved goes on, what is new is denied,
//! counted and shown, and when the flood is over there is room again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_tests::harness::{
    Agent, CallError, Cgroup, Dial, Errno, Kind, Pair, Peer, Serve, Socket, Topology, wait_until,
};
use bulkhead_tests::require_agent;
use power::{Ends, LONG, at};

/// Entries of the flow table.
const CAPACITY: u64 = 256;

/// New flows in a flood.
const FLOOD: u16 = 800;

/// A datagram flow without an answer lives this long.
const UNANSWERED: Duration = Duration::from_secs(30);

const SERVER: &str = "10.62.2.2";
const ECHO: u16 = 7001;
const SINK: u16 = 7002;

const POLICY: &str = r#"
    [zone.clients]
    cidrs = ["10.62.1.0/24"]
    [zone.strangers]
    cidrs = ["10.62.3.0/24"]
    [zone.servers]
    cidrs = ["10.62.2.0/24"]
    [[allow]]
    from = "clients"
    to = "servers"
    ports = ["tcp/7001", "udp/7001-7002", "udp/20000-40000"]
"#;

/// Dropped from the top: peers, then the agent, then what they live in.
struct Lab {
    client: Peer,
    stranger: Peer,
    server: Peer,
    agent: Agent,
    _cgroups: Vec<Cgroup>,
    _net: Topology,
}

impl Lab {
    /// The server is on the agent's node; the clients are too, unless they are `elsewhere`.
    fn new(elsewhere: bool) -> Lab {
        let net = Topology::flat(&[
            ("client", &["10.62.1.1/24"]),
            ("stranger", &["10.62.3.3/24"]),
            ("server", &["10.62.2.2/24"]),
        ])
        .unwrap();
        let node = Cgroup::new("node").unwrap();
        let other = Cgroup::new("other").unwrap();
        let flag = format!("--flow-capacity={CAPACITY}");
        let agent = Agent::prepare(&node, POLICY).flag(&flag).with_metrics().start().unwrap();
        let peer =
            |name: &str, cgroup: &Cgroup| Peer::spawn(Some(net.ns(name).unwrap()), Some(cgroup)).unwrap();
        let server = peer("server", &node);
        let of_clients = if elsewhere { &other } else { &node };
        let (client, stranger) = (peer("client", of_clients), peer("stranger", of_clients));
        Lab { client, stranger, server, agent, _cgroups: vec![node, other], _net: net }
    }

    fn entries(&self) -> u64 {
        let status = self.agent.status().unwrap();
        let flows = status.maps.iter().find(|map| map.name == "FLOWS").unwrap();
        assert_eq!(flows.capacity, CAPACITY);
        flows.entries
    }

    fn refused(&self) -> u64 {
        let pair = Pair::new("clients", "servers", "deny", "flow-table-full");
        self.agent.counters().unwrap().get(&pair).flows
    }
}

/// Questions and answers by one socket until told to stop; how many.
fn goes_on(peer: &Peer, socket: &Socket, to: Option<SocketAddr>, stop: &AtomicBool) -> u64 {
    let failed = Ends(stop);
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        let done = match to {
            Some(to) => peer.exchange_with(socket, to, 5, LONG),
            None => peer.exchange(socket, 5, LONG),
        };
        count += done.expect("an approved flow goes on").count;
    }
    drop(failed);
    count
}

#[test]
fn approved_flows_live_through_a_flood_of_outgoing_ones() {
    require_agent!();
    let lab = Lab::new(false);
    let echo = at(SERVER, ECHO);
    lab.server.tcp_echo(echo).unwrap();
    lab.server.udp_echo(echo).unwrap();

    let (stream, tcp) =
        (lab.client.connect(&Dial::tcp(echo)).unwrap(), lab.client.connect(&Dial::tcp(echo)).unwrap());
    let connected = lab.client.connect(&Dial::udp(echo)).unwrap();
    let tabled = lab.client.open(Kind::Udp, None, false).unwrap();
    lab.client.exchange(&connected, 1, LONG).unwrap();
    lab.client.exchange_with(&tabled, echo, 1, LONG).unwrap();
    let transfer = lab.client.begin_stream(&stream, Duration::from_secs(5), LONG);

    let stop = AtomicBool::new(false);
    let flooded = std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let running = [(&tcp, None), (&connected, None), (&tabled, Some(echo))].map(|(socket, to)| {
            let (client, stop) = (&lab.client, &stop);
            scope.spawn(move || goes_on(client, socket, to, stop))
        });

        // Who may not send fills nothing.
        let before = lab.entries();
        let stray = lab.stranger.open(Kind::Udp, None, false).unwrap();
        for port in 0..FLOOD {
            let denied = lab.stranger.send(&stray, b"?", Some(at(SERVER, 20_000 + port))).unwrap_err();
            assert_eq!(denied.errno(), Some(Errno::PERM));
        }
        assert!(lab.entries() <= before, "denied flows took room: {before}, then {}", lab.entries());

        // Who may send fills the table; nobody answers.
        let flood = lab.client.open(Kind::Udp, None, false).unwrap();
        let (mut sent, mut refused) = (0, 0);
        for port in 0..FLOOD {
            match lab.client.send(&flood, b"!", Some(at(SERVER, 20_000 + port))) {
                Ok(_) => sent += 1,
                Err(error) if error.errno() == Some(Errno::PERM) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(sent <= CAPACITY && sent > CAPACITY / 2, "{sent} new flows passed");
        assert_eq!(sent + refused, u64::from(FLOOD));
        assert_eq!(lab.refused(), refused, "each new flow that was denied is counted, once");
        assert_eq!(lab.entries(), CAPACITY);
        let shown = lab.agent.metrics().unwrap();
        let line = format!(r#"bulkhead_map_entries{{map="FLOWS"}} {CAPACITY}"#);
        assert!(shown.contains(&line), "an alarm can be made of it: {shown}");

        // New flows of all kinds that need room.
        let newcomer = lab.client.open(Kind::Udp, None, false).unwrap();
        let denied = lab.client.exchange_with(&newcomer, echo, 1, LONG).unwrap_err();
        assert_eq!(denied.errno(), Some(Errno::PERM), "{denied}");
        assert_eq!(lab.refused(), refused + 1);
        let dial = Dial::tcp(echo).within(Duration::from_millis(500));
        let denied = lab.client.connect(&dial).unwrap_err();
        assert!(matches!(denied, CallError::Os { .. } | CallError::Timeout { .. }), "{denied}");
        // A SYN that is sent again is a new flow again.
        assert!(lab.refused() >= refused + 2);

        let flooded = Instant::now();
        transfer.wait().expect("a transfer that was approved goes on");
        drop(ends);
        for thread in running {
            assert!(thread.join().unwrap() > 20, "it went on all the time");
        }
        flooded
    });

    let newcomer = lab.client.open(Kind::Udp, None, false).unwrap();
    let again = || lab.client.exchange_with(&newcomer, echo, 1, LONG).is_ok();
    wait_until(UNANSWERED + LONG, "there is room again", again).unwrap();
    eprintln!("room again after {:?}", flooded.elapsed());
    // The first that expired made room; the sweep goes on.
    wait_until(UNANSWERED + LONG, "expired flows are swept", || lab.entries() < CAPACITY / 2).unwrap();
    lab.client.exchange_with(&tabled, echo, 1, LONG).expect("an approved flow goes on");
    lab.client.connect(&Dial::tcp(echo)).unwrap();
}

#[test]
fn approved_flows_live_through_a_flood_from_elsewhere() {
    require_agent!();
    let lab = Lab::new(true);
    let (echo, sink) = (at(SERVER, ECHO), at(SERVER, SINK));
    lab.server.tcp_echo(echo).unwrap();
    lab.server.udp_echo(echo).unwrap();
    let server = lab.server.listen(Kind::Udp, sink, Serve::Sink).unwrap();

    let tcp = lab.client.connect(&Dial::tcp(echo)).unwrap();
    let udp = lab.client.connect(&Dial::udp(echo)).unwrap();
    lab.client.exchange(&udp, 1, LONG).unwrap();

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let running = [&tcp, &udp].map(|socket| scope.spawn(|| goes_on(&lab.client, socket, None, &stop)));
        let from = |peer: &Peer, address: &str, port: u16, to: SocketAddr| {
            let socket = peer.open(Kind::Udp, Some(at(address, port)), false).unwrap();
            peer.send(&socket, b"!", Some(to)).unwrap();
            peer.close(&socket).unwrap();
        };
        let seen = || lab.server.served(&server).unwrap().messages;
        let before = lab.entries();
        for port in 0..FLOOD / 2 {
            from(&lab.stranger, "10.62.3.3", 20_000 + port, sink);
        }
        assert!(lab.entries() <= before, "denied flows took room: {before}, then {}", lab.entries());

        for port in 0..FLOOD / 2 {
            from(&lab.client, "10.62.1.1", 20_000 + port, sink);
        }
        let judged = || seen() + lab.refused() == u64::from(FLOOD / 2);
        wait_until(LONG, "each new flow arrived, or was denied and counted", judged).unwrap();
        assert_eq!(lab.entries(), CAPACITY);
        let flooded = lab.refused();
        assert!(flooded >= u64::from(FLOOD / 2) - CAPACITY, "{flooded} new flows were denied and counted");

        let newcomer = lab.client.connect(&Dial::udp(echo)).unwrap();
        let denied = lab.client.exchange(&newcomer, 1, Duration::from_millis(300)).unwrap_err();
        assert!(denied.is_timeout(), "{denied}");
        wait_until(LONG, "it is counted", || lab.refused() > flooded).unwrap();
        assert_eq!(lab.refused(), flooded + 1);
        // A connection from elsewhere is its socket's alone: it needs no room in the table.
        let newcomer = lab.client.connect(&Dial::tcp(echo)).unwrap();
        lab.client.exchange(&newcomer, 1, LONG).unwrap();
        drop(ends);
        for thread in running {
            assert!(thread.join().unwrap() > 5, "it went on all the time");
        }
    });
}
