//! The harness itself, with no Bulkhead in it: what tests rely on when they say "it arrives".
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_tests::harness::{
    CallError, Cgroup, Dial, Errno, Kind, Launch, Ns, Peer, Played, Serve, Step, Topology, wait_until,
};
use bulkhead_tests::require_root;

/// Limit for what must happen, however busy the machine is.
const SOON: Duration = Duration::from_secs(20);

const A4: &str = "10.77.0.1";
const B4: &str = "10.77.0.2";
const B6: &str = "fd00:77::2";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Two hosts, a cgroup each, a peer in both. Peers come first: they are dropped first.
struct Two {
    client: Peer,
    server: Peer,
    clients: Cgroup,
    servers: Cgroup,
    net: Topology,
}

impl Two {
    fn new() -> Two {
        let net = Topology::pair().unwrap();
        let clients = Cgroup::new("clients").unwrap();
        let servers = Cgroup::new("servers").unwrap();
        let client = Peer::spawn(Some(net.ns("a").unwrap()), Some(&clients)).unwrap();
        let server = Peer::spawn(Some(net.ns("b").unwrap()), Some(&servers)).unwrap();
        Two { client, server, clients, servers, net }
    }
}

#[test]
fn tcp_and_udp_arrive_by_every_family() {
    require_root!();
    let two = Two::new();
    for (listen, to, v6) in [(B4, B4, false), (B6, B6, false), (B4, B4, true), ("::", B4, false)] {
        let tcp = two.server.tcp_echo(at(listen, 0)).unwrap();
        let udp = two.server.udp_echo(at(listen, 0)).unwrap();
        let dial = |dial: Dial| if v6 { dial.v6_socket() } else { dial };

        let socket = two.client.connect(&dial(Dial::tcp(at(to, tcp.local.port())))).unwrap();
        assert_eq!(socket.local.is_ipv6(), v6 || to == B6, "{to} {v6}");
        assert_eq!(two.client.exchange(&socket, 10, SOON).unwrap().count, 10);
        let seen = two.server.served(&tcp).unwrap();
        assert_eq!((seen.accepted, seen.messages, seen.bytes), (1, 10, 320));

        let connected = two.client.connect(&dial(Dial::udp(at(to, udp.local.port())))).unwrap();
        two.client.exchange(&connected, 3, SOON).unwrap();
        let open = two.client.open(Kind::Udp, None, v6 || to == B6).unwrap();
        two.client.exchange_with(&open, at(to, udp.local.port()), 4, SOON).unwrap();
        assert_eq!(two.server.served(&udp).unwrap().messages, 7);
    }
}

#[test]
fn icmp_echo_is_answered_to_ping_sockets_and_raw_ones() {
    require_root!();
    let two = Two::new();
    for to in [B4, B6] {
        two.client.ping(ip(to), SOON).unwrap();
        assert_eq!(two.client.begin_ping(ip(to), None, true, 3, SOON).wait().unwrap().count, 3);
    }
    let nobody = two.client.ping(ip("10.77.0.9"), Duration::from_millis(50)).unwrap_err();
    assert!(nobody.is_timeout(), "{nobody}");
}

#[test]
fn other_protocols_pass_by_raw_sockets() {
    require_root!();
    let two = Two::new();
    let gre = Kind::Raw(47);
    let receiver = two.server.open(gre, Some(at(B4, 0)), false).unwrap();
    let sender = two.client.open(gre, None, false).unwrap();
    two.client.send(&sender, b"hello", Some(at(B4, 0))).unwrap();
    let (packet, from) = two.server.recv(&receiver, SOON).unwrap();
    assert!(packet.ends_with(b"hello"), "{packet:?}");
    assert_eq!(from.unwrap().ip(), ip(A4));
}

#[test]
fn errors_come_back_with_their_number_and_their_time() {
    require_root!();
    let two = Two::new();
    let refused = two.client.connect(&Dial::tcp(at(B4, 9))).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::CONNREFUSED));
    assert!(refused.elapsed().unwrap() < SOON, "{refused}");

    let limit = Duration::from_millis(60);
    let timeout = two.client.connect(&Dial::tcp(at("10.77.0.9", 9)).within(limit)).unwrap_err();
    assert!(timeout.is_timeout() && timeout.elapsed().unwrap() >= limit, "{timeout}");

    let unreachable = two.client.connect(&Dial::tcp(at("192.0.2.1", 9))).unwrap_err();
    assert_eq!(unreachable.errno(), Some(Errno::NETUNREACH));

    let sink = two.server.listen(Kind::Udp, at(B4, 0), Serve::Sink).unwrap();
    let udp = two.client.connect(&Dial::udp(sink.local)).unwrap();
    let silent = two.client.exchange(&udp, 2, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(silent, CallError::Timeout { done: 0, .. }), "{silent}");
    let arrived = || two.server.served(&sink).unwrap().messages == 1;
    wait_until(SOON, "it arrived, and was not answered", arrived).unwrap();
}

#[test]
fn a_socket_tells_how_it_ended() {
    require_root!();
    let two = Two::new();
    let listener = two.server.listen(Kind::Tcp, at(B4, 0), Serve::Hold).unwrap();
    for (reset, expected) in [(false, None), (true, Some(Errno::CONNRESET))] {
        let socket = two.client.connect(&Dial::tcp(listener.local)).unwrap();
        let accepted = two.server.accept(&listener, SOON).unwrap();
        assert_eq!(accepted.peer, Some(socket.local));
        two.server.send(&accepted, b"data that nobody reads", None).unwrap();
        let early = two.client.ended(&socket, Duration::from_millis(30)).unwrap_err();
        assert!(early.is_timeout(), "{early}");

        let end = two.client.begin_ended(&socket, SOON);
        if reset { two.server.reset(&accepted) } else { two.server.close(&accepted) }.unwrap();
        assert_eq!(end.wait().unwrap().error(), expected);
    }
}

#[test]
fn a_stream_brings_every_byte_back() {
    require_root!();
    let two = Two::new();
    let echo = two.server.tcp_echo(at(B6, 0)).unwrap();
    let socket = two.client.connect(&Dial::tcp(echo.local)).unwrap();
    let streamed = two.client.begin_stream(&socket, Duration::from_millis(200), SOON).wait().unwrap();
    assert!(streamed.bytes > 0, "{streamed:?}");
    assert_eq!(two.server.served(&echo).unwrap().bytes, streamed.bytes);
}

#[test]
fn connects_in_a_loop_are_counted_by_target() {
    require_root!();
    let two = Two::new();
    let echo = two.server.tcp_echo(at(B4, 0)).unwrap();
    let targets = [echo.local, at(B4, 9)];
    let counts =
        two.client.begin_connect_loop(&targets, true, Duration::from_millis(300), SOON).wait().unwrap();
    assert!(counts[0].ok > 0 && counts[0].errors.is_empty(), "{counts:?}");
    let refused = counts[1].errors[&Errno::CONNREFUSED.raw_os_error()];
    assert_eq!(counts[1].ok, 0);
    assert!(refused.abs_diff(counts[0].ok) <= 1, "{counts:?}");
    assert_eq!(two.server.served(&echo).unwrap().accepted, counts[0].ok);
}

#[test]
fn peers_are_in_their_cgroup_and_namespace() {
    require_root!();
    let two = Two::new();
    let members = |cgroup: &Cgroup| fs::read_to_string(cgroup.path().join("cgroup.procs")).unwrap();
    assert_eq!(members(&two.clients).trim(), two.client.pid().to_string());
    assert_eq!(members(&two.servers).trim(), two.server.pid().to_string());
    assert_ne!(two.clients.id().unwrap(), two.servers.id().unwrap());

    let below = two.clients.child("shop/web.service").unwrap();
    assert_eq!(below.below(two.clients.path()).unwrap(), "shop/web.service");
    two.client.join_cgroup(&below).unwrap();
    assert_eq!(members(&below).trim(), two.client.pid().to_string());
    assert_eq!(members(&two.clients), "");

    let inside = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let ns = two.net.ns("a").unwrap();
    let of_ns = ns.enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(inside(two.client.pid()), of_ns);
    assert_ne!(inside(two.client.pid()), inside(two.server.pid()));
}

/// A program is where it was put with all that it starts, has its files and its input, and is gone with
/// its children when it is dropped or given up.
#[test]
fn programs_are_in_their_cgroup_and_namespace_and_leave_nothing() {
    require_root!();
    let two = Two::new();
    let ns = two.net.ns("a").unwrap();
    let place = "grep ^0:: /proc/self/cgroup && readlink /proc/self/ns/net && cat file && cat && echo \"$SAID\" >&2; exit 3";
    let launch =
        Launch::new(["sh", "-c", place]).file("file", "of its own\n").input(b"input\n").env("SAID", "x");
    let said = launch.run(ns, two.clients.path(), SOON).unwrap();
    let lines: Vec<String> =
        String::from_utf8(said.output.clone()).unwrap().lines().map(str::to_owned).collect();
    let own = two.clients.path().file_name().unwrap().to_string_lossy().into_owned();
    assert!(lines[0].contains(&format!("/{own}/")), "{lines:?}");
    let inside = ns.enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(lines[1..], [inside.to_string_lossy().as_ref(), "of its own", "input"]);
    assert_eq!((said.errors.as_str(), said.status.unwrap().code()), ("x\n", Some(3)));
    assert!(!said.succeeded());

    let below = || fs::read_dir(two.clients.path()).unwrap().flatten().filter(|e| e.path().is_dir()).count();
    let forks = Launch::new(["sh", "-c", "sleep 1000 & sleep 1000 & touch up && wait"]);
    let mut program = forks.start(ns, two.clients.path()).unwrap();
    let (up, folder) = (program.folder().join("up"), program.folder().to_path_buf());
    program.wait_until(SOON, || up.exists()).unwrap();
    assert_eq!(below(), 1);
    drop(program);
    assert_eq!((below(), folder.exists()), (0, false));
    assert!(forks.run(ns, two.clients.path(), Duration::from_millis(50)).unwrap().status.is_none());
    assert_eq!(below(), 0);
    let mut ends = Launch::new(["sh", "-c", "echo why >&2"]).start(ns, two.clients.path()).unwrap();
    let error = ends.wait_until(SOON, || false).unwrap_err().to_string();
    assert!(error.contains("why"), "{error}");
}

#[test]
fn a_played_conversation_says_how_far_it_came() {
    require_root!();
    let two = Two::new();
    let (send, receive) = (|text: &str| Step::Send(text.into()), Step::Receive);
    let play = |opener: Vec<Step>, receiver: Vec<Step>| {
        let listener = two.server.listen(Kind::Tcp, at(B4, 0), Serve::Hold).unwrap();
        let receives = two.server.begin_play_accepted(&listener, receiver, SOON);
        let opens = two.client.begin_play(at(B4, listener.local.port()), None, opener, SOON).wait().unwrap();
        two.server.close(&listener).unwrap();
        (opens, receives.wait().unwrap())
    };
    let whole = play(vec![send("a"), send("sk"), receive(6)], vec![receive(3), send("answer")]);
    let done = |text: &str| Played { connected: true, complete: true, errno: None, received: text.into() };
    assert_eq!(whole, (done("answer"), done("ask")));
    // One that ends too early, in order; the other one has had all that came.
    let (early, _) = play(vec![send("ask"), receive(6)], vec![receive(3), send("ans")]);
    assert_eq!(early, Played { complete: false, ..done("ans") });
    // Nobody came: closing the listener ends the wait.
    let listener = two.server.listen(Kind::Tcp, at(B4, 0), Serve::Hold).unwrap();
    let waits = two.server.begin_play_accepted(&listener, vec![receive(1)], SOON);
    let started = Instant::now();
    two.server.close(&listener).unwrap();
    assert_eq!(waits.wait().unwrap(), Played::default());
    assert!(started.elapsed() < SOON);
}

#[test]
fn hosts_reach_each_other_on_a_switch_and_through_a_router() {
    require_root!();
    let hosts: [(&str, &[&str]); 3] = [
        ("web", &["10.20.1.10/24", "fd00:20:1::10/64"]),
        ("api", &["10.20.2.10/24", "fd00:20:2::10/64"]),
        ("db", &["10.20.3.10/24", "fd00:20:3::10/64"]),
    ];
    for net in [Topology::flat(&hosts).unwrap(), Topology::routed(&hosts).unwrap()] {
        let web = Peer::spawn(Some(net.ns("web").unwrap()), None).unwrap();
        let db = Peer::spawn(Some(net.ns("db").unwrap()), None).unwrap();
        for address in ["10.20.3.10", "fd00:20:3::10"] {
            let echo = db.tcp_echo(at(address, 0)).unwrap();
            let socket = web.connect(&Dial::tcp(echo.local)).unwrap();
            web.exchange(&socket, 1, SOON).unwrap();
            web.ping(ip(address), SOON).unwrap();
        }
    }
}

#[test]
fn loopback_joins_two_cgroups_of_one_namespace() {
    require_root!();
    let ns = Ns::new("lo").unwrap();
    let (here, there) = (Cgroup::new("here").unwrap(), Cgroup::new("there").unwrap());
    let client = Peer::spawn(Some(&ns), Some(&here)).unwrap();
    let server = Peer::spawn(Some(&ns), Some(&there)).unwrap();
    for address in ["127.0.0.1", "::1"] {
        let echo = server.tcp_echo(at(address, 0)).unwrap();
        let socket = client.connect(&Dial::tcp(echo.local)).unwrap();
        client.exchange(&socket, 1, SOON).unwrap();
    }
}

#[test]
fn nothing_remains_even_after_a_panic() {
    require_root!();
    let remains = std::thread::spawn(|| {
        let two = Two::new();
        let deeper = two.clients.child("deep/er").unwrap();
        let made = vec![
            two.net.ns("a").unwrap().path(),
            two.net.ns("b").unwrap().path(),
            deeper.path().to_path_buf(),
            two.clients.path().to_path_buf(),
            two.servers.path().to_path_buf(),
            Path::new("/proc").join(two.client.pid().to_string()),
            Path::new("/proc").join(two.server.pid().to_string()),
        ];
        // A member that no peer value owns is ended with its cgroup.
        let quiet = std::process::Stdio::null;
        let mut stray =
            std::process::Command::new("sleep").arg("1000").stdout(quiet()).stderr(quiet()).spawn().unwrap();
        two.servers.add(stray.id()).unwrap();
        assert!(made.iter().all(|path| path.exists()), "{made:?}");
        std::thread::spawn(move || stray.wait());
        std::panic::panic_any(made);
    })
    .join()
    .unwrap_err();
    let made = remains.downcast::<Vec<std::path::PathBuf>>().unwrap();
    for path in *made {
        assert!(!path.exists(), "{} is still there", path.display());
    }
}

#[test]
fn a_peer_that_is_gone_is_an_error_at_once() {
    require_root!();
    let cgroup = Cgroup::new("gone").unwrap();
    let peer = Peer::spawn(None, Some(&cgroup)).unwrap();
    fs::write(cgroup.path().join("cgroup.kill"), "1").unwrap();
    let gone = || matches!(peer.open(Kind::Udp, None, false), Err(CallError::Gone));
    wait_until(SOON, "calls fail", gone).unwrap();
    let started = Instant::now();
    assert!(peer.open(Kind::Udp, None, false).is_err());
    assert!(started.elapsed() < SOON, "it waited for an answer");
}
