//! Rows 11 and 12: who opened a flow.

use std::time::Duration;

use bulkhead_tests::harness::packet::{Ip, Tcp, flags, protocol};
use bulkhead_tests::harness::threat::{
    Case, DB, DB6, Lab, Threat, Try, WEB, WEB_AND_DB, WEB6, at, heard, send_raw,
};
use bulkhead_tests::harness::{Dial, Kind};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT, open_ports, web_to_db};

/// Segments that begin nothing.
const STRAY: [(&str, u8, &[u8]); 6] = [
    ("ACK", flags::ACK, b""),
    ("data", flags::PSH | flags::ACK, b"data of no connection"),
    ("FIN", flags::FIN | flags::ACK, b""),
    ("SYN-ACK", flags::SYN | flags::ACK, b""),
    ("no flag at all", 0, b"nothing is set"),
    ("a reset with data", flags::RST, b"data in a reset"),
];

fn header(flags: u8) -> Tcp {
    Tcp { flags, seq: 1000, ack: 2000 }
}

#[test]
fn row_11_a_segment_that_opens_nothing_does_not_leave() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&open_ports());
    for v6 in [false, true] {
        let send = move |run: &Try<'_>, flags: u8, data: &[u8]| {
            let ip = Ip::new(if v6 { WEB6 } else { WEB }, &run.stranger(v6));
            let packet = ip.tcp(4000, run.port(OPEN), header(flags), data);
            run.crosses(&run.lab.web, &run.lab.outside, &[packet])
        };
        for (name, flags, data) in STRAY {
            threat = threat.case(
                Case::new(name)
                    .attempt(move |run| send(run, flags, data))
                    .twin(move |run| send(run, flags::SYN, b""))
                    .counts("web", "world", "deny", "stray", 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_11_a_segment_that_opens_nothing_does_not_arrive() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&open_ports());
    for v6 in [false, true] {
        let send = move |run: &Try<'_>, flags: u8, data: &[u8]| {
            let ip = Ip::new(&run.stranger(v6), if v6 { DB6 } else { DB });
            let segment = ip.tcp_payload(4000, run.port(OPEN), header(flags), &[], data);
            run.at_raw_socket(&run.lab.db, (protocol::TCP, v6), &segment, || {
                send_raw(&run.lab.outside, &[ip.carry(protocol::TCP, &segment)])
            })
        };
        for (name, flags, data) in STRAY {
            threat = threat.case(
                Case::new(name)
                    .attempt(move |run| send(run, flags, data))
                    .twin(move |run| send(run, flags::SYN, b""))
                    .counts("world", "db", "deny", "stray", 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}

/// `web` connects from a port of its own to somebody who, instead of answering, opens towards that port
/// at the same time. Whether a connection came of it, on `web`'s side.
fn open_from_both_sides(run: &Try<'_>, to: u16) -> anyhow::Result<bool> {
    let (puppet, port) = (run.puppet(false), run.port(20_000));
    let capture = run.lab.outside.capture()?;
    let dial = Dial::tcp(at(&puppet, to)).from(at(WEB, port)).within(run.patience);
    let connecting = run.lab.web.begin_connect(&dial);
    let seen = |flags: u8| -> anyhow::Result<Option<u32>> {
        let ports = [port.to_be_bytes(), to.to_be_bytes()].concat();
        loop {
            match run.lab.outside.captured(&capture, &ports, run.patience) {
                Ok(frame) if frame[14 + 20 + 13] == flags => {
                    return Ok(Some(u32::from_be_bytes(frame[14 + 24..14 + 28].try_into()?)));
                }
                Ok(_) => {}
                silent => return heard(silent).map(|_| None),
            }
        }
    };
    let ip = Ip::new(&puppet, WEB);
    // Opens whether or not the other end's SYN came: then it hopes for a listener.
    let theirs = seen(flags::SYN)?;
    send_raw(&run.lab.outside, &[ip.tcp(to, port, Tcp { flags: flags::SYN, seq: 500, ack: 0 }, b"")])?;
    if theirs.is_some() && seen(flags::SYN | flags::ACK)?.is_some() {
        let answer = Tcp { flags: flags::ACK, seq: 501, ack: theirs.unwrap_or_default().wrapping_add(1) };
        send_raw(&run.lab.outside, &[ip.tcp(to, port, answer, b"")])?;
    }
    let connected = connecting.wait();
    if let Ok(socket) = &connected {
        run.lab.web.reset(socket)?;
    }
    run.lab.outside.close(&capture)?;
    heard(connected)
}

#[test]
fn row_11_opening_from_both_sides_makes_no_flow_that_one_side_may_not_open() {
    require_agent!();
    let lab = Lab::new().unwrap();
    // The world may open to web, and web may not open to the world but for some ports.
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"world\"\nto = \"web\"\nports = [\"tcp/20000-20099\"]\n\
         [[allow]]\nfrom = \"web\"\nto = \"world\"\nports = [\"tcp/{OPEN}-{}\"]\n",
        OPEN + 99
    );
    Threat::new(&policy)
        .case(
            Case::new("what the other side might open")
                .attempt(|run| open_from_both_sides(run, run.port(SHUT)))
                .twin(|run| open_from_both_sides(run, run.port(OPEN)))
                .counts("web", "world", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_12_a_source_port_that_looks_like_a_reply_opens_nothing() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&web_to_db());
    for (web, db) in [(WEB, DB), (WEB6, DB6)] {
        // From the port that answers web, to a port of web's; asked before, or not.
        let answers = move |run: &Try<'_>, asked: bool, from: u16| {
            let (asker, server) = (at(web, run.port(20_000)), at(db, run.port(OPEN)));
            let asking = run.lab.web.open(Kind::Udp, Some(asker), false)?;
            let serving = run.lab.db.open(Kind::Udp, Some(server), false)?;
            let other = run.lab.db.open(Kind::Udp, Some(at(db, from)), false);
            if asked {
                run.lab.web.send(&asking, b"?", Some(server))?;
                run.lab.db.recv(&serving, Duration::from_secs(10))?;
            }
            // Its own port is taken already; any other is free.
            let answering = other.as_ref().unwrap_or(&serving);
            heard(run.lab.db.send(answering, b"!", Some(asker)))?;
            let arrived = heard(run.lab.web.recv(&asking, run.patience));
            run.lab.web.close(&asking)?;
            run.lab.db.close(&serving)?;
            if let Ok(other) = other {
                run.lab.db.close(&other)?;
            }
            arrived
        };
        let twin = move |run: &Try<'_>| answers(run, true, run.port(OPEN));
        threat = threat
            .case(
                Case::new("nobody asked")
                    .attempt(move |run| answers(run, false, run.port(OPEN)))
                    .twin(twin)
                    .counts("db", "web", "deny", "default", 1),
            )
            .case(
                Case::new("another port was asked")
                    .attempt(move |run| answers(run, true, run.port(SHUT)))
                    .twin(twin)
                    .counts("db", "web", "deny", "default", 1)
                    .counts("web", "db", "allow", "allow-rule", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_12_well_known_source_ports_open_nothing() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"db\"\nto = \"world\"\nports = [\"udp/53\", \"tcp/443\"]\n\
         [[allow]]\nfrom = \"world\"\nto = \"db\"\nports = [\"udp/{OPEN}-{}\"]\n",
        OPEN + 99
    );
    let reaches = |run: &Try<'_>, from: u16, to: u16| {
        let packet = Ip::new(&run.stranger(false), DB).udp(from, to, b"looks like a reply");
        run.reaches(&run.lab.outside, &run.lab.db, at(DB, to), &[packet])
    };
    Threat::new(&policy)
        .case(
            Case::new("a name server's port")
                .attempt(move |run| reaches(run, 53, run.port(20_000)))
                .twin(move |run| reaches(run, 53, run.port(OPEN)))
                .counts("world", "db", "deny", "default", 1),
        )
        .case(
            Case::new("a web server's port")
                .attempt(move |run| {
                    let ip = Ip::new(&run.stranger(false), DB);
                    let segment = ip.tcp_payload(
                        443,
                        run.port(20_000),
                        header(flags::PSH | flags::ACK),
                        &[],
                        b"looks like a reply",
                    );
                    run.at_raw_socket(&run.lab.db, (protocol::TCP, false), &segment, || {
                        send_raw(&run.lab.outside, &[ip.carry(protocol::TCP, &segment)])
                    })
                })
                .twin(move |run| {
                    run.connection(&run.lab.db, &run.lab.outside, &Dial::tcp(at(&run.stranger(false), 443)))
                })
                .counts("world", "db", "deny", "stray", 1),
        )
        .run(&lab)
        .unwrap();
}
