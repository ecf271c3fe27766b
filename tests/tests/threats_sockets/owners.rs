//! Rows 23 and 24: whose socket it is, when it was made by one and is used by another.

use anyhow::Result;
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try};
use bulkhead_tests::harness::{Agent, Dial, Kind, Pair, Peer, Serve, Socket, wait_until};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, at, hears, refusable};

/// Zones by cgroup alone. `web` and `trusted` are two workloads of one namespace.
const OWNERS: &str = "[zone.web]\ncgroups = [\"web\"]\n[zone.trusted]\ncgroups = [\"trusted\"]\n\
    [zone.db]\ncgroups = [\"db\"]\n[zone.activator]\ncgroups = [\"activator\"]\n\
    [[allow]]\nfrom = \"trusted\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n\
    [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/8000-8099\"]\n";

/// Talks to `db` by a socket of `user`'s, wherever that has it from.
fn by_socket(run: &Try<'_>, kind: Kind, user: &Peer, socket: &Socket) -> Result<bool> {
    let to = at(DB, run.port(7000));
    let arrived = hears(run, kind, to, || {
        if kind == Kind::Udp {
            return refusable(user.send(socket, b"by it", Some(to))).map(drop);
        }
        if refusable(user.connect_socket(socket, to, run.patience))?.is_some() {
            refusable(user.send(socket, b"by it", None))?;
        }
        Ok(())
    })?;
    let _ = user.close(socket);
    Ok(arrived)
}

/// One program makes a socket, another one gets it over a UNIX socket and uses it.
fn handed(run: &Try<'_>, kind: Kind, maker: &str, user: &str) -> Result<bool> {
    let (maker, user) = (run.lab.spawn("web", maker)?, run.lab.spawn("web", user)?);
    let socket = maker.open(kind, None, false)?;
    let passed = maker.hand(&socket, kind, &user)?;
    maker.close(&socket)?;
    by_socket(run, kind, &user, &passed)
}

/// A service manager listens and starts a program of `db`'s for it; `web` asks that program.
fn activated(run: &Try<'_>, manager: &str) -> Result<bool> {
    let manager = run.lab.spawn("db", manager)?;
    let listener = manager.listen(Kind::Tcp, at(DB, run.port(8000)), Serve::Hold)?;
    manager.activate(&listener, &run.lab.root.path().join("db"))?;
    let dial = Dial::tcp(listener.local).within(run.patience);
    let Some(socket) = refusable(run.lab.web.connect(&dial))? else { return Ok(false) };
    Ok(refusable(run.lab.web.exchange(&socket, 1, run.patience))?.is_some())
}

#[test]
fn row_23_a_socket_that_was_passed_on_or_inherited_is_its_makers() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let passed = |name: &str, kind: Kind| {
        Case::new(name)
            .attempt(move |run| handed(run, kind, "web", "trusted"))
            .twin(move |run| handed(run, kind, "trusted", "web"))
            .counts("web", "db", "deny", "default", 1)
    };
    Threat::new(OWNERS)
        .case(passed("TCP, passed over a UNIX socket", Kind::Tcp))
        .case(passed("UDP, passed over a UNIX socket", Kind::Udp))
        .case(
            Case::new("inherited, as by socket activation")
                .attempt(|run| activated(run, "activator"))
                .twin(|run| activated(run, "db"))
                .counts("web", "activator", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

/// A program that moves to another cgroup, and the socket that it uses then: one from before, or a new
/// one.
fn moved(run: &Try<'_>, from: &str, to: &str, kind: Kind, old: bool) -> Result<bool> {
    let peer = run.lab.spawn("web", from)?;
    let before = peer.open(kind, None, false)?;
    // Only to have it; it is the lab's.
    let home = run.lab.spawn("web", to)?;
    peer.join_cgroup_at(&run.lab.root.path().join(to))?;
    let socket = if old { before } else { peer.open(kind, None, false)? };
    let arrived = by_socket(run, kind, &peer, &socket);
    drop(home);
    arrived
}

#[test]
fn row_24_a_process_that_moves_takes_no_right_with_its_sockets() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let cases = |name: &'static str, kind: Kind| {
        [true, false].map(|old| {
            let (from, to) = if old { ("web", "trusted") } else { ("trusted", "web") };
            let age =
                if old { "a socket from before, into the zone" } else { "a new socket, out of the zone" };
            Case::new(&format!("{name}: {age}"))
                .attempt(move |run| moved(run, from, to, kind, old))
                .twin(move |run| moved(run, from, to, kind, !old))
                .counts("web", "db", "deny", "default", 1)
        })
    };
    let mut threat = Threat::new(OWNERS);
    for case in cases("TCP", Kind::Tcp).into_iter().chain(cases("UDP", Kind::Udp)) {
        threat = threat.case(case);
    }
    threat.run(&lab).unwrap();
}

/// Everything by which one program talks to `db`: a connection, a datagram socket that is connected, and
/// one that is not.
pub(crate) struct Ways<'a> {
    peer: &'a Peer,
    tcp: Socket,
    far: Socket,
    connected: Socket,
    open: Socket,
}

/// The servers: a listener that holds, and a datagram echo.
pub(crate) struct Servers<'a> {
    db: &'a Peer,
    tcp: Socket,
    udp: Socket,
}

impl<'a> Servers<'a> {
    pub(crate) fn new(lab: &'a Lab, port: u16) -> Servers<'a> {
        let tcp = lab.db.listen(Kind::Tcp, at(DB, port), Serve::Hold).unwrap();
        Servers { db: &lab.db, tcp, udp: lab.db.udp_echo(at(DB, port)).unwrap() }
    }

    pub(crate) fn ways(&self, peer: &'a Peer) -> Ways<'a> {
        let tcp = peer.connect(&Dial::tcp(self.tcp.local)).unwrap();
        let far = self.db.accept(&self.tcp, LONG).unwrap();
        let connected = peer.connect(&Dial::udp(self.udp.local)).unwrap();
        let ways = Ways { peer, tcp, far, connected, open: peer.open(Kind::Udp, None, false).unwrap() };
        self.live(&ways);
        ways
    }

    pub(crate) fn live(&self, ways: &Ways<'_>) {
        let peer = ways.peer;
        peer.send(&ways.tcp, b"there", None).unwrap();
        assert_eq!(self.db.recv(&ways.far, LONG).unwrap().0, b"there");
        peer.exchange(&ways.connected, 1, LONG).unwrap();
        peer.exchange_with(&ways.open, self.udp.local, 1, LONG).unwrap();
    }

    /// The connection ends with an error at both ends, and no datagram comes any more.
    pub(crate) fn dead(&self, ways: &Ways<'_>) {
        let peer = ways.peer;
        for (end, ended) in [("near", peer.ended(&ways.tcp, LONG)), ("far", self.db.ended(&ways.far, LONG))] {
            assert!(ended.unwrap().error().is_some(), "the {end} end saw an orderly end");
        }
        assert!(!peer.exchange(&ways.connected, 1, LONG).unwrap_err().is_timeout());
        let refused = || {
            let short = std::time::Duration::from_millis(100);
            peer.exchange_with(&ways.open, self.udp.local, 1, short).is_err()
        };
        wait_until(LONG, "unconnected datagrams are denied", refused).unwrap();
        assert!(refused(), "once and for all");
    }
}

#[test]
fn row_23_sockets_that_are_older_than_the_agent_are_swept_at_its_start() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let trusted = lab.spawn("web", "trusted").unwrap();
    let servers = Servers::new(&lab, 7000);
    // Agent off: all of it arrives.
    let (kept, lost) = (servers.ways(&trusted), servers.ways(&lab.web));
    let streams = [&trusted, &lab.web].map(|peer| peer.open(Kind::Tcp, None, false).unwrap());
    let agent = Agent::prepare(&lab.root, OWNERS).in_ns(lab.node().unwrap()).start().unwrap();
    servers.dead(&lost);
    servers.live(&kept);
    let before = agent.counters().unwrap();
    let connect = |peer: &Peer, socket| peer.connect_socket(socket, servers.tcp.local, LONG);
    connect(&trusted, &streams[0]).expect("a socket of an allowed workload");
    let denied = connect(&lab.web, &streams[1]).unwrap_err();
    assert!(denied.errno().is_some(), "{denied}");
    let moved = agent.counters().unwrap().since(&before);
    let expected = [
        (Pair::new("trusted", "db", "allow", "allow-rule"), 1),
        (Pair::new("web", "db", "deny", "default"), 1),
    ];
    assert_eq!(moved.flows(), expected.into(), "{moved:?}");
}

#[test]
fn row_24_live_flows_are_judged_again_when_their_workload_changes_zone() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let trusted = lab.spawn("web", "trusted").unwrap();
    let servers = Servers::new(&lab, 7000);
    let before = "[zone.web]\ncgroups = [\"web\", \"trusted\"]\n[zone.quarantine]\ncgroups = [\"nobody\"]\n\
        [zone.db]\ncgroups = [\"db\"]\n\
        [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n";
    // Agent off.
    servers.ways(&lab.web);
    let agent = Agent::prepare(&lab.root, before).in_ns(lab.node().unwrap()).start().unwrap();
    let (kept, lost) = (servers.ways(&trusted), servers.ways(&lab.web));
    let counted = agent.counters().unwrap();
    let after = before.replace("[\"web\", \"trusted\"]", "[\"trusted\"]").replace("nobody", "web");
    agent.apply(&after).unwrap();
    servers.dead(&lost);
    servers.live(&kept);
    let moved = agent.counters().unwrap().since(&counted).flows();
    let denied = Pair::new("quarantine", "db", "deny", "default");
    assert!(moved.keys().eq([&denied]), "{moved:?}");
}

/// The agent learns late of a cgroup that is in a zone of its own below one that it inherits.
#[test]
fn row_24_live_flows_are_judged_again_when_their_workload_becomes_known() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let servers = Servers::new(&lab, 7000);
    // Another of its kind is known already: the late one is no new identity, and so no new generation.
    let _like_it = lab.spawn("web", "web/late-too").unwrap();
    let policy = "[zone.web]\ncgroups = [\"web\"]\n[zone.late]\ncgroups = [\"web/late*\"]\n\
        [zone.db]\ncgroups = [\"db\"]\n\
        [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n\
        [[deny]]\nfrom = \"late\"\nto = \"db\"\n";
    let agent = Agent::prepare(&lab.root, policy).in_ns(lab.node().unwrap()).start().unwrap();
    let kept = servers.ways(&lab.web);
    let generation = agent.reader().unwrap().generation();
    let late = Stopped::new(&agent);
    let peer = lab.spawn("web", "web/late").unwrap();
    // It inherits, for as long as nobody has said more of it.
    let lost = servers.ways(&peer);
    drop(late);
    servers.dead(&lost);
    servers.live(&kept);
    assert_eq!(agent.reader().unwrap().generation(), generation, "a workload that comes is no policy");
}

/// An agent that is stopped, until this is dropped.
pub(crate) struct Stopped(rustix::process::Pid);

impl Stopped {
    pub(crate) fn new(agent: &Agent) -> Stopped {
        let pid =
            agent.pid().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().unwrap())).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        wait_until(LONG, "the agent is stopped", state).unwrap();
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}
