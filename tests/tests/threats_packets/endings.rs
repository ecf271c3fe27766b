//! Row 13: what is left of a flow when its connection, its socket or its address is gone.

use std::net::SocketAddr;
use std::time::Duration;

use bulkhead_tests::harness::packet::{Ip, Tcp, flags, protocol};
use bulkhead_tests::harness::threat::{Case, DB, DB6, Lab, Threat, Try, WEB, WEB6, at, heard, send_raw};
use bulkhead_tests::harness::{Dial, Kind, Peer, Serve, wait_until};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT, open_ports};

/// Limit for what must happen, however busy the machine is.
const LONG: Duration = Duration::from_secs(10);

/// A socket that is not connected asks the flow table again after a second: for so long a datagram of the
/// flow that it sent last still passes.
const COPY: Duration = Duration::from_millis(1500);

/// As much as a TCP header has room for.
const OPTIONS: [u8; 40] = *b"forty bytes of what no option says, here";

#[test]
fn row_13_a_reset_that_ends_nothing_carries_nothing() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&open_ports());
    for v6 in [false, true] {
        for options in [&[][..], &OPTIONS] {
            let reset = move |run: &Try<'_>, to: u16| {
                let ip = Ip::new(if v6 { WEB6 } else { WEB }, &run.stranger(v6));
                let header = Tcp { flags: flags::RST, seq: 0x6275_6c6b, ack: 0x6865_6164 };
                let segment = ip.tcp_payload(4000, to, header, options, b"");
                run.crosses(&run.lab.web, &run.lab.outside, &[ip.carry(protocol::TCP, &segment)])
            };
            threat = threat.case(
                Case::new(&format!("{} bytes of options, IPv6: {v6}", options.len()))
                    .attempt(move |run| reset(run, run.port(SHUT)))
                    // The kernel's own reset, of a port that is closed.
                    .twin(move |run| refused_by_kernel(run, v6))
                    .counts("web", "world", "deny", "stray", 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}

/// Whether somebody outside hears that an open port of `db`'s is closed.
fn refused_by_kernel(run: &Try<'_>, v6: bool) -> anyhow::Result<bool> {
    let dial = Dial::tcp(at(if v6 { DB6 } else { DB }, run.port(OPEN))).within(run.patience);
    let error = run.lab.outside.connect(&dial).expect_err("nobody listens");
    Ok(error.errno() == Some(bulkhead_tests::harness::Errno::CONNREFUSED))
}

/// A connection from `web` outside, what `meddle` does to it, and then a segment of the same tuple by a
/// raw socket of `web`'s.
fn copied(run: &Try<'_>, meddle: impl Fn(&Live<'_>) -> anyhow::Result<()>) -> anyhow::Result<bool> {
    let live = Live::new(run)?;
    meddle(&live)?;
    let data = Tcp { flags: flags::PSH | flags::ACK, seq: 7_000_000, ack: 8_000_000 };
    let (near, far) = (live.near.local, live.near.peer.unwrap());
    let packet = Ip::between(near.ip(), far.ip()).tcp(near.port(), far.port(), data, b"of no socket's");
    run.crosses(&run.lab.web, &run.lab.outside, &[packet])
}

/// A connection of `web`'s to the outside machine.
struct Live<'a> {
    run: &'a Try<'a>,
    near: bulkhead_tests::harness::Socket,
    far: bulkhead_tests::harness::Socket,
}

impl<'a> Live<'a> {
    fn new(run: &'a Try<'a>) -> anyhow::Result<Live<'a>> {
        let to = at(&run.stranger(false), run.port(OPEN));
        let listener = run.lab.outside.listen(Kind::Tcp, at("0.0.0.0", to.port()), Serve::Hold)?;
        let near = run.lab.web.connect(&Dial::tcp(to))?;
        let far = run.lab.outside.accept(&listener, LONG)?;
        let live = Live { run, near, far };
        assert!(live.talks()?);
        Ok(live)
    }

    /// Something in both directions.
    fn talks(&self) -> anyhow::Result<bool> {
        let lab = self.run.lab;
        lab.web.send(&self.near, b"?", None)?;
        let there = heard(lab.outside.recv(&self.far, self.run.patience))?;
        lab.outside.send(&self.far, b"!", None)?;
        Ok(there && heard(lab.web.recv(&self.near, self.run.patience))?)
    }
}

#[test]
fn row_13_a_copied_tuple_is_no_part_of_its_connection() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let talks = |run: &Try<'_>| Live::new(run)?.talks();
    let allowed = |case: Case<'static>| case.counts("web", "world", "allow", "allow-rule", 1);
    Threat::new(&open_ports())
        .case(allowed(
            Case::new("while it lives")
                .attempt(|run| copied(run, |_| Ok(())))
                .twin(talks)
                .counts("web", "world", "deny", "stray", 1),
        ))
        .case(allowed(
            Case::new("after its reset")
                .attempt(|run| copied(run, |live| Ok(run.lab.outside.reset(&live.far)?)))
                .twin(talks)
                .counts("web", "world", "deny", "stray", 1),
        ))
        .case(allowed(
            Case::new("after its end")
                .attempt(|run| {
                    copied(run, |live| {
                        run.lab.web.close(&live.near)?;
                        Ok(run.lab.outside.close(&live.far)?)
                    })
                })
                .twin(talks)
                .counts("web", "world", "deny", "stray", 1),
        ))
        .run(&lab)
        .unwrap();
}

/// A segment that claims to be of a live connection, sent by a raw socket; whether the connection ended. As
/// good as its sender can make it: where `exact`, with the sequence number that the other end waits for
/// (RFC 5961), so that without a firewall nobody tells it from a true one.
fn forged(run: &Try<'_>, segment: u8, exact: bool) -> anyhow::Result<bool> {
    let live = Live::new(run)?;
    let (near, far) = (live.near.local, live.near.peer.unwrap());
    let capture = run.lab.outside.capture()?;
    run.lab.web.send(&live.near, MARK, None)?;
    let frame = run.lab.outside.captured(&capture, MARK, LONG)?;
    assert_eq!(run.lab.outside.recv(&live.far, LONG)?.0, MARK);
    run.lab.outside.close(&capture)?;
    let (seq, ack) = numbers(&frame);
    let next = seq.wrapping_add(MARK.len() as u32);
    let from_far = Ip::between(far.ip(), near.ip());
    if !exact {
        // Outside of any window, by the far end and in its name: it comes through, and ends nothing.
        for flags in [flags::RST, flags::RST | flags::ACK, flags::FIN | flags::ACK, flags::SYN] {
            let header =
                Tcp { flags, seq: next.wrapping_add(0x4000_0000), ack: ack.wrapping_sub(0x4000_0000) };
            let packet = from_far.tcp(far.port(), near.port(), header, b"");
            assert!(run.crosses(&run.lab.outside, &run.lab.web, &[packet])?, "{flags:#x} is not on the wire");
        }
        return live.talks();
    }
    // A program of `web`'s ends what is another one's.
    let header = Tcp { flags: segment, seq: next, ack };
    let packet = Ip::between(near.ip(), far.ip()).tcp(near.port(), far.port(), header, b"");
    send_raw(&run.lab.web, &[packet])?;
    Ok(heard_of_its_end(run, &live))
}

/// What nobody else says.
const MARK: &[u8] = b"here a connection lives";

/// Sequence number and acknowledged number of a TCP segment in an IPv4 frame.
fn numbers(frame: &[u8]) -> (u32, u32) {
    let start = frame.windows(MARK.len()).position(|part| part == MARK).unwrap();
    let payload = &frame[..start];
    // An Ethernet header, an IPv4 header without options.
    let word = |at: usize| u32::from_be_bytes(*payload[14 + 20 + at..].first_chunk().unwrap());
    (word(4), word(8))
}

/// Whether the far end was told that its connection is over.
fn heard_of_its_end(run: &Try<'_>, live: &Live<'_>) -> bool {
    let ended = run.lab.outside.ended(&live.far, run.patience);
    if ended.is_err() {
        assert!(live.talks().unwrap(), "it is neither ended nor alive");
    }
    ended.is_ok()
}

#[test]
fn row_13_forged_ends_of_a_connection_leave_it_alone() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&open_ports());
    for (name, segment) in [
        ("a reset", flags::RST),
        ("a reset that acknowledges", flags::RST | flags::ACK),
        ("an end", flags::FIN | flags::ACK),
    ] {
        threat = threat.case(
            Case::new(name)
                .attempt(move |run| forged(run, segment, true))
                // The connection's own state is as it was, whoever says what from outside.
                .twin(move |run| forged(run, segment, false))
                .counts("web", "world", "allow", "allow-rule", 1)
                .counts("web", "world", "deny", "stray", 1),
        );
    }
    threat.run(&lab).unwrap();
}

/// Zones by cgroup alone, so that an address lends nothing; `guest` may talk to nobody.
fn by_cgroup() -> String {
    format!(
        "[zone.web]\ncgroups = [\"web\"]\n[zone.db]\ncgroups = [\"db\"]\n[zone.guest]\ncgroups = [\"guest\"]\n\
         [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/{OPEN}-{}\"]\n",
        OPEN + 99
    )
}

/// `web` asks `db` from a port of its own, and hears the answer.
fn ask(run: &Try<'_>, from: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let server = run.lab.db.listen(Kind::Udp, to, Serve::Hold)?;
    let client = run.lab.web.open(Kind::Udp, Some(from), false)?;
    run.lab.web.send(&client, b"?", Some(to))?;
    run.lab.db.recv(&server, LONG)?;
    run.lab.db.send(&server, b"!", Some(from))?;
    run.lab.web.recv(&client, LONG)?;
    run.lab.web.close(&client)?;
    Ok(run.lab.db.close(&server)?)
}

/// Sends from one address to another by sockets of these peers; whether it arrives.
fn send(
    run: &Try<'_>,
    (from, source): (&Peer, SocketAddr),
    (to, target): (&Peer, SocketAddr),
) -> anyhow::Result<bool> {
    let client = from.open(Kind::Udp, Some(source), false)?;
    let arrived = run.at_program(to, target, || {
        heard(from.send(&client, b"again", Some(target)))?;
        Ok(())
    });
    from.close(&client)?;
    arrived
}

#[test]
fn row_13_a_tuple_that_somebody_else_reuses_grants_nothing() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let guest = lab.spawn("web", "guest").unwrap();
    let mut threat = Threat::new(&by_cgroup());
    for (web, db) in [(WEB, DB), (WEB6, DB6)] {
        let guest = &guest;
        let ends = move |run: &Try<'_>| (at(web, run.port(20_000)), at(db, run.port(OPEN)));
        let again = move |run: &Try<'_>, who: &Peer| {
            let (web, db) = ends(run);
            ask(run, web, db)?;
            send(run, (who, web), (&run.lab.db, db))
        };
        threat = threat
            .case(
                Case::new("by sending")
                    .attempt(move |run| again(run, guest))
                    .twin(move |run| again(run, &run.lab.web))
                    .counts("guest", "db", "deny", "default", 1)
                    .counts("web", "db", "allow", "allow-rule", 1),
            )
            .case(
                Case::new("by waiting for what still comes")
                    .attempt(move |run| {
                        let (web, db) = ends(run);
                        ask(run, web, db)?;
                        send(run, (&run.lab.db, db), (guest, web))
                    })
                    .twin(move |run| {
                        let (web, db) = ends(run);
                        ask(run, web, db)?;
                        send(run, (&run.lab.db, db), (&run.lab.web, web))
                    })
                    // By address alone: db is a zone by its cgroup.
                    .counts("world", "guest", "deny", "default", 1)
                    .counts("web", "db", "allow", "allow-rule", 1),
            );
    }
    threat.run(&lab).unwrap();
}

/// An address on its way from one namespace to another and back.
struct Moved<'a> {
    run: &'a Try<'a>,
    address: &'static str,
    from: (&'static str, u8),
    to: (&'static str, u8),
}

impl<'a> Moved<'a> {
    /// Takes it from one namespace to another, each with its port of the node, and waits until the agent,
    /// if there is one, has seen it.
    fn new(
        run: &'a Try<'a>,
        address: &'static str,
        from: (&'static str, u8),
        to: (&'static str, u8),
    ) -> anyhow::Result<Moved<'a>> {
        let moved = Moved { run, address, from, to };
        moved.carry(from, to)?;
        Ok(moved)
    }

    fn carry(&self, from: (&str, u8), to: (&str, u8)) -> anyhow::Result<()> {
        let (address, bits) = (self.address, if self.address.contains(':') { 128 } else { 32 });
        let nodad = if bits == 128 { " nodad" } else { "" };
        let before = self.told();
        self.run.lab.ns(from.0)?.ip(&format!("addr del {address}/{bits} dev eth0"))?;
        self.run.lab.ns(to.0)?.ip(&format!("addr add {address}/{bits} dev eth0{nodad}"))?;
        self.run.lab.node()?.ip(&format!(
            "route replace {address}/{bits} dev port{port}\nneigh flush to {address}",
            port = to.1
        ))?;
        // The other machine's addresses are none of the node's.
        if self.run.agent().is_some() && from.0 != "outside" {
            wait_until(LONG, "the agent has seen the address leave", || self.told() > before)?;
        }
        Ok(())
    }

    /// How often the agent has seen addresses leave their owners.
    fn told(&self) -> usize {
        let lines = self.run.agent().map(|agent| agent.log_lines()).unwrap_or_default();
        let told = |line: &&serde_json::Value| {
            line["message"] == "addresses left their owners, and their flows ended"
        };
        lines.iter().filter(told).count()
    }
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        self.carry(self.to, self.from).unwrap();
    }
}

#[test]
fn row_13_an_openers_address_that_moves_takes_no_flow_along() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let guest = lab.spawn("spare", "guest").unwrap();
    // With its last address a namespace would lose its routes.
    lab.ns("web").unwrap().ip("addr add 10.99.1.2/32 dev eth0").unwrap();
    let mut threat = Threat::new(&by_cgroup());
    for (web, db) in [(WEB, DB), (WEB6, DB6)] {
        let guest = &guest;
        let ends = move |run: &Try<'_>| (at(web, run.port(20_000)), at(db, run.port(OPEN)));
        let twin = move |run: &Try<'_>| {
            let (web, db) = ends(run);
            ask(run, web, db)?;
            send(run, (&run.lab.web, web), (&run.lab.db, db))
        };
        threat = threat
            .case(
                Case::new(&format!("{web}, within the node"))
                    .attempt(move |run| {
                        let (from, to) = ends(run);
                        ask(run, from, to)?;
                        let _back = Moved::new(run, web, ("web", 0), ("spare", 3))?;
                        send(run, (guest, from), (&run.lab.db, to))
                    })
                    .twin(twin)
                    .counts("guest", "db", "deny", "default", 1)
                    .counts("web", "db", "allow", "allow-rule", 1),
            )
            .case(
                Case::new(&format!("{web}, to another machine"))
                    .attempt(move |run| {
                        let (from, to) = ends(run);
                        ask(run, from, to)?;
                        let _back = Moved::new(run, web, ("web", 0), ("outside", 2))?;
                        send(run, (&run.lab.outside, from), (&run.lab.db, to))
                    })
                    .twin(twin)
                    .counts("world", "db", "deny", "default", 1)
                    .counts("web", "db", "allow", "allow-rule", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_13_a_receivers_address_that_moves_takes_no_flow_along() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let stranger = lab.spawn("spare", "stranger").unwrap();
    // With its last address a namespace would lose its routes.
    lab.ns("db").unwrap().ip("addr add 10.99.2.2/32 dev eth0").unwrap();
    let mut threat = Threat::new(&by_cgroup());
    for db in [DB, DB6] {
        let stranger = &stranger;
        // One socket of web's from beginning to end, unconnected or connected.
        let goes_on = move |run: &Try<'_>, connected: bool, moves: bool| {
            let to = at(db, run.port(OPEN));
            let server = run.lab.db.listen(Kind::Udp, to, Serve::Hold)?;
            let (socket, target) = if connected {
                (run.lab.web.connect(&Dial::udp(to))?, None)
            } else {
                (run.lab.web.open(Kind::Udp, None, to.is_ipv6())?, Some(to))
            };
            run.lab.web.send(&socket, b"?", target)?;
            let (_, asker) = run.lab.db.recv(&server, LONG)?;
            run.lab.db.send(&server, b"!", asker)?;
            run.lab.web.recv(&socket, LONG)?;
            run.lab.db.close(&server)?;
            let back = if moves { Some(Moved::new(run, db, ("db", 1), ("spare", 3))?) } else { None };
            if moves && run.agent().is_some() {
                std::thread::sleep(COPY);
            }
            let receiver = if moves { stranger } else { &run.lab.db };
            let arrived = run.at_program(receiver, to, || {
                heard(run.lab.web.send(&socket, b"again", target))?;
                Ok(())
            });
            drop(back);
            run.lab.web.close(&socket)?;
            arrived
        };
        threat = threat
            .case(
                Case::new(&format!("unconnected, to {db}"))
                    .attempt(move |run| goes_on(run, false, true))
                    .twin(move |run| goes_on(run, false, false))
                    .counts("web", "world", "deny", "default", 1)
                    .counts("web", "db", "allow", "allow-rule", 1),
            )
            .case(
                // The socket is ended: it sends nothing that could be denied, and is counted as what it is.
                Case::new(&format!("connected, to {db}"))
                    .attempt(move |run| goes_on(run, true, true))
                    .twin(move |run| goes_on(run, true, false))
                    .counts("web", "world", "deny", "default", 1)
                    .counts("web", "db", "allow", "allow-rule", 1),
            );
    }
    threat.run(&lab).unwrap();
}
