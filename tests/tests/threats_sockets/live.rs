//! Rows 20, 23 and 24, what lives while its right goes: the policy takes it, the agent begins to enforce, or
//! the workload is in another zone. However that comes, and whether the flow's own packet or the agent's look
//! is first, it is denied once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB, heard};
use bulkhead_tests::harness::{CallError, Dial, Errno, Kind, Pair, Peer, Serve, Socket, wait_until};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, at, refusable};
use crate::owners::{OWNERS, Stopped};

/// By what a program talks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// A connection.
    Stream,
    /// A datagram socket that is connected.
    Connected,
    /// One that is not.
    Unconnected,
}

impl Way {
    const ALL: [Way; 3] = [Way::Stream, Way::Connected, Way::Unconnected];
    /// Those that the agent ends: what the others send is denied.
    const ENDED: [Way; 2] = [Way::Stream, Way::Connected];
}

/// A conversation that lives: something was said in both directions.
struct Talk<'a> {
    db: &'a Peer,
    peer: &'a Peer,
    way: Way,
    server: Socket,
    near: Socket,
    far: Socket,
}

impl<'a> Talk<'a> {
    fn new(run: &Try<'a>, way: Way, peer: &'a Peer) -> Result<Talk<'a>> {
        let (db, to) = (&run.lab.db, at(DB, run.port(7000)));
        let kind = if way == Way::Stream { Kind::Tcp } else { Kind::Udp };
        let server = db.listen(kind, to, Serve::Hold)?;
        let near = match way {
            Way::Stream => peer.connect(&Dial::tcp(to))?,
            Way::Connected => peer.connect(&Dial::udp(to))?,
            Way::Unconnected => peer.open(Kind::Udp, None, false)?,
        };
        let far = if way == Way::Stream { db.accept(&server, LONG)? } else { server };
        let talk = Talk { db, peer, way, server, near, far };
        talk.send().context("the first words")?;
        let (_, asker) = db.recv(&talk.far, LONG)?;
        db.send(&talk.far, b"yes", asker)?;
        peer.recv(&talk.near, LONG)?;
        Ok(talk)
    }

    fn send(&self) -> Result<u64, CallError> {
        let to = (self.way == Way::Unconnected).then_some(self.server.local);
        self.peer.send(&self.near, b"are you there?", to)
    }

    /// Says something; whether it arrives.
    fn arrives(&self, run: &Try<'_>) -> Result<bool> {
        refusable(self.send())?;
        // A connection that is over has nothing more to say.
        let said = self.db.recv(&self.far, run.patience).map(|(said, _)| said);
        let over = said.as_ref().is_ok_and(Vec::is_empty);
        Ok(heard(said)? && !over)
    }

    /// A connection that lost its right ends with an error at both ends, said to whoever asks first.
    fn is_over(&self) -> Result<()> {
        if self.way == Way::Stream {
            let both = [("near", self.peer.ended(&self.near, LONG)), ("far", self.db.ended(&self.far, LONG))];
            for (end, ended) in both {
                ensure!(ended?.error().is_some(), "the {end} end saw an orderly end");
            }
        }
        Ok(())
    }

    /// Takes what has arrived by now; the error that came behind it, if it was none of patience.
    fn drain(&self, patience: Duration) -> Option<Errno> {
        loop {
            match self.db.recv(&self.far, patience) {
                Ok((said, _)) if said.is_empty() => return None,
                Ok(_) => {}
                Err(error) => return error.errno(),
            }
        }
    }

    /// What remains of it goes, so that no later change of policy meets it.
    fn close(self) {
        let _ = (self.peer.reset(&self.near), self.db.reset(&self.far));
        if self.way == Way::Stream {
            let _ = self.db.reset(&self.server);
        }
    }

    /// Whether it still is one: what an act answers. It ends here.
    fn lives(self, run: &Try<'_>) -> Result<bool> {
        if !run.expected {
            self.is_over()?;
        }
        let arrived = self.arrives(run)?;
        self.close();
        Ok(arrived)
    }
}

/// Waits until one flow of these is counted as denied, or more.
fn counted(run: &Try<'_>, from: &str) -> Result<()> {
    let denied = Pair::new(from, "db", "deny", "default");
    let counted = || run.moved().is_ok_and(|moved| moved.get(&denied).flows > 0);
    if run.agent().is_some() { wait_until(LONG, "the flow is counted as denied", counted) } else { Ok(()) }
}

/// No flow but the allowed ones of this try was counted.
fn unharmed(run: &Try<'_>) -> Result<()> {
    let moved = run.moved()?;
    ensure!(moved.iter().all(|(pair, _)| pair.verdict == "allow"), "{moved:?}");
    Ok(())
}

/// The web may reach these ports of the database.
fn policy(ports: &str) -> String {
    format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [{ports}]\n")
}

/// What they may reach at first, what they keep, and what is left when it is taken.
const BEFORE: &str = "\"tcp/7000-7199\", \"udp/7000-7199\"";
const KEPT: &str = "\"tcp/7000-7150\", \"udp/7000-7150\"";
const TAKEN: &str = "\"tcp/7100-7199\", \"udp/7100-7199\"";

/// The policy changes, in one generation.
fn change(run: &Try<'_>, ports: &str) -> Result<()> {
    run.meanwhile(|agent| {
        let generation = agent.reader()?.generation();
        agent.apply(&policy(ports))?;
        ensure!(agent.reader()?.generation() == generation + 1, "one change is one generation");
        Ok(())
    })
}

/// A conversation that is silent while the policy changes.
fn silent(run: &Try<'_>, way: Way, ports: &str) -> Result<bool> {
    run.compare_from_now()?;
    let talk = Talk::new(run, way, &run.lab.web)?;
    change(run, ports)?;
    if run.expected {
        unharmed(run)?;
    } else if way != Way::Unconnected {
        // Nobody says anything: the agent finds it.
        counted(run, "web")?;
    }
    talk.lives(run)
}

/// One in which something is said all the time: its own packet finds that it lost its right, mostly.
fn talkative(run: &Try<'_>, way: Way, ports: &str) -> Result<bool> {
    const ROUNDS: usize = 50;
    for round in 0..ROUNDS {
        let talk = Talk::new(run, way, &run.lab.web)?;
        let said = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let ended = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                loop {
                    if let Err(error) = talk.send() {
                        return Some(error);
                    }
                    said.fetch_add(1, Relaxed);
                    if stop.load(Relaxed) {
                        return None;
                    }
                }
            });
            let begun = || said.load(Relaxed) > 0;
            let changed = wait_until(LONG, "something was said", begun).and_then(|()| change(run, ports));
            if run.expected || changed.is_err() {
                stop.store(true, Relaxed);
            }
            changed.map(|()| sender.join().unwrap())
        })?;
        let heard = ended.as_ref().and_then(CallError::errno);
        if way == Way::Stream && !run.expected {
            // Its packets are denied behind its program's back, who hears of its end.
            let far = talk.drain(LONG);
            ensure!(heard.is_some() && far.is_some(), "an orderly end: {heard:?} {far:?}");
        } else {
            talk.drain(Duration::from_millis(20));
        }
        if run.expected || way == Way::Stream || heard == Some(Errno::PERM) {
            let arrived = talk.arrives(run);
            talk.close();
            return arrived;
        }
        eprintln!("{way:?}: the agent was first, in round {round}");
        talk.close();
        run.counts("web", "db", "allow", "allow-rule", 1);
        run.counts("web", "db", "deny", "default", 1);
        change(run, BEFORE)?;
    }
    bail!("in {ROUNDS} rounds no packet came before the agent")
}

#[test]
fn row_20_live_flows_end_with_their_right() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&policy(BEFORE));
    let case = |case: Case<'static>| {
        case.counts("web", "db", "allow", "allow-rule", 1).counts("web", "db", "deny", "default", 1)
    };
    for way in Way::ALL {
        threat = threat.case(case(
            Case::new(&format!("{way:?}, silent"))
                .attempt(move |run| silent(run, way, TAKEN))
                .twin(move |run| silent(run, way, KEPT)),
        ));
    }
    for way in Way::ALL {
        threat = threat.case(case(
            Case::new(&format!("{way:?}, talkative"))
                .attempt(move |run| talkative(run, way, TAKEN))
                .twin(move |run| talkative(run, way, KEPT)),
        ));
    }
    threat.run(&lab).unwrap();
}

/// Something that lived before there was an agent, and what becomes of it when there is one.
fn older<'a, T>(
    run: &Try<'a>,
    peer: &'a Peer,
    before: impl FnOnce(&'a Peer) -> Result<T>,
    after: impl FnOnce(&'a Peer, T) -> Result<bool>,
) -> Result<bool> {
    run.meanwhile(|agent| agent.detach())?;
    let lived = before(peer)?;
    run.meanwhile(|agent| agent.restart())?;
    after(peer, lived)
}

#[test]
fn row_23_sockets_that_are_older_than_the_agent_are_swept_at_its_start() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let trusted = lab.spawn("web", "trusted").unwrap();
    let mut threat = Threat::new(OWNERS);
    for way in Way::ALL {
        let lives = move |run: &Try<'_>, peer: &Peer| {
            older(
                run,
                peer,
                |peer| Talk::new(run, way, peer),
                |_, talk| {
                    if !run.expected && way != Way::Unconnected {
                        counted(run, "web")?;
                    }
                    talk.lives(run)
                },
            )
        };
        let trusted = &trusted;
        threat = threat.case(
            Case::new(&format!("{way:?}, live"))
                .attempt(move |run| lives(run, &run.lab.web))
                .twin(move |run| lives(run, trusted))
                .counts("web", "db", "deny", "default", 1),
        );
    }
    for kind in [Kind::Tcp, Kind::Udp] {
        let used = move |run: &Try<'_>, peer: &Peer| {
            older(
                run,
                peer,
                |peer| Ok(peer.open(kind, None, false)?),
                |peer, socket| crate::owners::by_socket(run, kind, peer, &socket),
            )
        };
        let trusted = &trusted;
        threat = threat.case(
            Case::new(&format!("{kind:?}, not used yet"))
                .attempt(move |run| used(run, &run.lab.web))
                .twin(move |run| used(run, trusted))
                .counts("web", "db", "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_24_live_flows_are_judged_again_when_their_workload_changes_zone() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let trusted = lab.spawn("web", "trusted").unwrap();
    let before = "[zone.web]\ncgroups = [\"web\", \"trusted\"]\n[zone.quarantine]\ncgroups = [\"nobody\"]\n\
        [zone.db]\ncgroups = [\"db\"]\n\
        [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n";
    let moved = |run: &Try<'_>, way: Way, peer: &Peer| {
        let talk = Talk::new(run, way, peer)?;
        let after = before.replace("[\"web\", \"trusted\"]", "[\"trusted\"]").replace("nobody", "web");
        run.meanwhile(|agent| agent.apply(&after))?;
        if !run.expected && way != Way::Unconnected {
            counted(run, "quarantine")?;
        }
        talk.lives(run)
    };
    let mut threat = Threat::new(before);
    for way in Way::ALL {
        let trusted = &trusted;
        threat = threat.case(
            Case::new(&format!("{way:?}"))
                .attempt(move |run| moved(run, way, &run.lab.web))
                .twin(move |run| moved(run, way, trusted))
                .counts("web", "db", "allow", "allow-rule", 1)
                .counts("quarantine", "db", "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}

/// The agent learns late of a cgroup that is in a zone of its own below one that it inherits.
#[test]
fn row_24_live_flows_are_judged_again_when_their_workload_becomes_known() {
    require_agent!();
    let lab = Lab::new().unwrap();
    // Another of its kind is known already: the late one is no new identity, and so no new generation.
    let _like_it = lab.spawn("web", "web/late-too").unwrap();
    let policy = "[zone.web]\ncgroups = [\"web\"]\n[zone.late]\ncgroups = [\"web/late*\"]\n\
        [zone.db]\ncgroups = [\"db\"]\n\
        [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n\
        [[deny]]\nfrom = \"late\"\nto = \"db\"\n";
    let learned = |run: &Try<'_>, way: Way, name: &str| {
        let generation = run.agent().map(|agent| agent.reader().map(|reader| reader.generation()));
        let held = run.agent().as_deref().map(Stopped::new);
        let peer = run.lab.spawn("web", &format!("web/{name}-{}", run.number))?;
        // It inherits, for as long as nobody has said more of it.
        let talk = Talk::new(run, way, &peer)?;
        drop(held);
        if !run.expected {
            forgotten(run, way)?;
        }
        if let Some(generation) = generation {
            let now = run.agent().context("no agent")?.reader()?.generation();
            ensure!(now == generation?, "a workload that comes is no policy");
        }
        talk.lives(run)
    };
    let mut threat = Threat::new(policy);
    for way in Way::ALL {
        threat = threat.case(
            Case::new(&format!("{way:?}"))
                .attempt(move |run| learned(run, way, "late"))
                .twin(move |run| learned(run, way, "other"))
                .counts("web", "db", "allow", "allow-rule", 1)
                .counts("late+web", "db", "deny", "deny-rule", 1),
        );
    }
    threat.run(&lab).unwrap();
}

/// Waits until the agent has ended the flow of this try, or, where no socket owns it, has taken it out of the
/// table.
fn forgotten(run: &Try<'_>, way: Way) -> Result<()> {
    let Some(reader) = run.agent().map(|agent| agent.reader()).transpose()? else { return Ok(()) };
    let port = run.port(7000);
    let denied = Pair::new("late+web", "db", "deny", "deny-rule");
    let gone = || {
        if Way::ENDED.contains(&way) {
            return run.moved().is_ok_and(|moved| moved.get(&denied).flows > 0);
        }
        let flows = reader.flows().unwrap_or_default();
        !flows.iter().any(|(key, _)| [key.low_port, key.high_port].contains(&port))
    };
    wait_until(LONG, "the flow lost its right", gone)
}
