//! Rows 23 and 24: whose socket it is, when it was made by one and is used by another.

use anyhow::Result;
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try};
use bulkhead_tests::harness::{Agent, Dial, Kind, Peer, Serve, Socket, wait_until};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, at, hears, refusable};

/// Zones by cgroup alone. `web` and `trusted` are two workloads of one namespace.
pub(crate) const OWNERS: &str = "[zone.web]\ncgroups = [\"web\"]\n[zone.trusted]\ncgroups = [\"trusted\"]\n\
    [zone.db]\ncgroups = [\"db\"]\n[zone.activator]\ncgroups = [\"activator\"]\n\
    [[allow]]\nfrom = \"trusted\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n\
    [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/8000-8099\"]\n";

/// Talks to `db` by a socket of `user`'s, wherever that has it from.
pub(crate) fn by_socket(run: &Try<'_>, kind: Kind, user: &Peer, socket: &Socket) -> Result<bool> {
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
    let answered = refusable(run.lab.web.exchange(&socket, 1, run.patience))?.is_some();
    // What is left open loses its right when an agent starts, which counts.
    let _ = run.lab.web.reset(&socket);
    Ok(answered)
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
