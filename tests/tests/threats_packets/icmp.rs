//! Row 10: ping as a tunnel, forged ICMP errors, and discovery that is none.

use bulkhead_tests::harness::packet::{Ip, protocol};
use bulkhead_tests::harness::threat::{Case, DB, DB6, Lab, Threat, Try, WEB, WEB_AND_DB, WEB6, at, send_raw};
use bulkhead_tests::harness::{Kind, Peer, Serve};
use bulkhead_tests::require_agent;

use super::policy::{OPEN, SHUT, open_ports};

/// What a tunnel would carry; the try's number keeps two apart.
fn secret(run: &Try<'_>) -> Vec<u8> {
    [b"a secret in a ping ".as_slice(), &run.number.to_be_bytes(), b" that is long enough"].concat()
}

fn of_icmp(v6: bool) -> (u8, bool) {
    (if v6 { protocol::ICMPV6 } else { protocol::ICMP }, v6)
}

/// Whether a raw ICMP socket of `receiver` gets `packet`, of which `secret` is a part.
fn gets(run: &Try<'_>, from: &Peer, receiver: &Peer, packet: Vec<u8>) -> anyhow::Result<bool> {
    let v6 = packet[0] >> 4 == 6;
    run.at_raw_socket(receiver, of_icmp(v6), &secret(run), || send_raw(from, &[packet]))
}

fn web(v6: bool) -> &'static str {
    if v6 { WEB6 } else { WEB }
}

fn db(v6: bool) -> &'static str {
    if v6 { DB6 } else { DB }
}

/// Pings: from `web` to `db`, from `db` to the world, and from the world to `db`.
fn pings() -> String {
    let rule = |from: &str, to: &str| {
        format!("[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nports = [\"icmp/echo\"]\n")
    };
    format!("{WEB_AND_DB}{}{}{}", rule("web", "db"), rule("db", "world"), rule("world", "db"))
}

#[test]
fn row_10_an_echo_request_needs_its_rule() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&pings());
    for v6 in [false, true] {
        let request = move |run: &Try<'_>, to: &str| Ip::new(web(v6), to).echo(false, 7, &secret(run));
        threat = threat
            .case(
                Case::new("with a secret in it")
                    .attempt(move |run| {
                        gets(run, &run.lab.web, &run.lab.outside, request(run, &run.stranger(v6)))
                    })
                    .twin(move |run| gets(run, &run.lab.web, &run.lab.db, request(run, db(v6))))
                    .counts("web", "world", "deny", "default", 1),
            )
            .case(
                Case::new("by a ping socket")
                    .attempt(move |run| ping(run, &run.lab.web, &run.stranger(v6)))
                    .twin(move |run| ping(run, &run.lab.web, db(v6)))
                    .counts("web", "world", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
}

/// Whether an ordinary ping is answered.
fn ping(run: &Try<'_>, from: &Peer, to: &str) -> anyhow::Result<bool> {
    bulkhead_tests::harness::threat::heard(from.ping(to.parse()?, run.patience))
}

#[test]
fn row_10_an_echo_reply_needs_its_request() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut threat = Threat::new(&pings());
    for v6 in [false, true] {
        let reply = move |run: &Try<'_>| Ip::new(&run.puppet(v6), db(v6)).echo(true, 7, &secret(run));
        threat = threat
            .case(
                Case::new("arriving")
                    .attempt(move |run| gets(run, &run.lab.outside, &run.lab.db, reply(run)))
                    .twin(move |run| {
                        let request = Ip::new(db(v6), &run.puppet(v6)).echo(false, 7, b"for a question");
                        send_raw(&run.lab.db, &[request])?;
                        gets(run, &run.lab.outside, &run.lab.db, reply(run))
                    })
                    .counts("world", "db", "deny", "stray", 1),
            )
            .case(
                // The kernel's own replies leave without a socket that knows of a request, so this is
                // judged as the ping that it would answer.
                Case::new("leaving")
                    .attempt(move |run| {
                        let packet = Ip::new(web(v6), &run.stranger(v6)).echo(true, 7, &secret(run));
                        gets(run, &run.lab.web, &run.lab.outside, packet)
                    })
                    .twin(move |run| ping(run, &run.lab.outside, db(v6)))
                    .counts("world", "web", "deny", "default", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_10_a_forged_error_about_no_flow_is_denied() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"db\"\nto = \"world\"\nports = [\"udp/{OPEN}-{last}\"]\n\
         [[allow]]\nfrom = \"world\"\nto = \"db\"\nports = [\"udp/{OPEN}-{last}\"]\n\
         [[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/{OPEN}-{last}\"]\n",
        last = OPEN + 99
    );
    let mut threat = Threat::new(&policy);
    for v6 in [false, true] {
        // About a packet from `db`'s port 4000 to a port of the sender's.
        let forged = move |run: &Try<'_>, port: u16| {
            let about = Ip::new(db(v6), &run.puppet(v6)).udp(4000, port, b"sent once");
            Ip::new(&run.puppet(v6), db(v6)).unreachable(&about, &secret(run))
        };
        let of_live_flow = move |run: &Try<'_>| {
            let asker = run.lab.db.open(Kind::Udp, Some(at(db(v6), run.port(20_000))), v6)?;
            run.lab.db.send(&asker, b"?", Some(at(&run.puppet(v6), run.port(OPEN))))?;
            let about = Ip::new(db(v6), &run.puppet(v6)).udp(run.port(20_000), run.port(OPEN), b"?");
            let error = Ip::new(&run.puppet(v6), db(v6)).unreachable(&about, &secret(run));
            let arrived = gets(run, &run.lab.outside, &run.lab.db, error)?;
            run.lab.db.close(&asker)?;
            Ok(arrived)
        };
        // The honest error: nobody is at an open port of `db`'s.
        let of_the_kernel = move |run: &Try<'_>| {
            let marker = [run.port(OPEN).to_be_bytes(), [0, 8 + 6]].concat();
            let asker = run.lab.outside.open(Kind::Udp, None, v6)?;
            let arrived = run.at_raw_socket(&run.lab.outside, of_icmp(v6), &marker, || {
                run.lab.outside.send(&asker, b"anyone", Some(at(db(v6), run.port(OPEN))))?;
                Ok(())
            })?;
            run.lab.outside.close(&asker)?;
            Ok(arrived)
        };
        threat = threat
            .case(
                Case::new("arriving")
                    .attempt(move |run| gets(run, &run.lab.outside, &run.lab.db, forged(run, run.port(SHUT))))
                    .twin(of_live_flow)
                    .counts("world", "db", "deny", "icmp-error", 1),
            )
            .case(
                Case::new("arriving, about what another one sent")
                    .attempt(move |run| {
                        let about = Ip::new(web(v6), db(v6)).udp(4000, run.port(OPEN), b"web's own");
                        let error = Ip::new(&run.puppet(v6), db(v6)).unreachable(&about, &secret(run));
                        gets(run, &run.lab.outside, &run.lab.db, error)
                    })
                    .twin(of_live_flow)
                    .counts("world", "db", "deny", "icmp-error", 1),
            )
            .case(
                Case::new("leaving")
                    .attempt(move |run| {
                        let about =
                            Ip::new(&run.stranger(v6), web(v6)).udp(4000, run.port(SHUT), b"never sent");
                        let error = Ip::new(web(v6), &run.stranger(v6)).unreachable(&about, &secret(run));
                        gets(run, &run.lab.web, &run.lab.outside, error)
                    })
                    .twin(of_the_kernel)
                    .counts("web", "world", "deny", "icmp-error", 1),
            )
            .case(
                Case::new("leaving for a stranger, about a flow that would be allowed")
                    .attempt(move |run| {
                        let about = Ip::new(db(v6), web(v6)).udp(run.port(OPEN), 4000, b"never sent");
                        let error = Ip::new(web(v6), &run.stranger(v6)).unreachable(&about, &secret(run));
                        gets(run, &run.lab.web, &run.lab.outside, error)
                    })
                    .twin(of_the_kernel)
                    .counts("web", "world", "deny", "icmp-error", 1),
            );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_10_other_icmp_and_discovery_from_afar_need_a_rule() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let timestamp = |run: &Try<'_>, to: &str| Ip::new(WEB, to).icmp(13, 0, [0; 4], &secret(run));
    // A neighbour that is announced from beyond a router.
    let announced = |run: &Try<'_>, hops: u8| {
        let body = [&DB6.parse::<std::net::Ipv6Addr>().unwrap().octets(), &secret(run)[..]].concat();
        Ip::new(&run.stranger(true), DB6).hops(hops).icmp(136, 0, [0; 4], &body)
    };
    let rules = format!(
        "{}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"icmp\"]\n\
         [[allow]]\nfrom = \"world\"\nto = \"db\"\nports = [\"icmp/echo\"]\n",
        open_ports()
    );
    let on_the_link = |run: &Try<'_>| {
        // The router's own word for it, and the only one that says who is where.
        let packet = Ip::new("fd00:ffff::1", DB6).hops(255).icmp(136, 0, [0; 4], &secret(run));
        gets(run, &lab.spawn("node", "host")?, &run.lab.db, packet)
    };
    Threat::new(&rules)
        .case(
            Case::new("a timestamp request")
                .attempt(move |run| {
                    gets(run, &run.lab.web, &run.lab.outside, timestamp(run, &run.stranger(false)))
                })
                .twin(move |run| gets(run, &run.lab.web, &run.lab.db, timestamp(run, DB)))
                .counts("web", "world", "deny", "default", 1),
        )
        .case(
            Case::new("a neighbour from beyond a router, arriving")
                .attempt(move |run| gets(run, &run.lab.outside, &run.lab.db, announced(run, 255)))
                .twin(on_the_link)
                .counts("world", "db", "deny", "default", 1),
        )
        .case(
            Case::new("discovery that is made to be routed, leaving")
                .attempt(move |run| {
                    let packet = Ip::new(WEB6, &run.stranger(true)).icmp(135, 0, [0; 4], &secret(run));
                    gets(run, &run.lab.web, &run.lab.outside, packet)
                })
                .twin(move |run| ping(run, &run.lab.outside, DB6))
                .counts("web", "world", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_10_discovery_works_under_a_policy_that_allows_nothing_else() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let agent = bulkhead_tests::harness::Agent::prepare(&lab.root, &open_ports())
        .in_ns(lab.node().unwrap())
        .start()
        .unwrap();
    // Both ends forget each other, so the next datagram must ask the link.
    lab.node().unwrap().ip("neigh flush dev port1\nneigh flush dev port0").unwrap();
    lab.net.ns("db").unwrap().ip("neigh flush dev eth0").unwrap();
    lab.net.ns("web").unwrap().ip("neigh flush dev eth0").unwrap();
    for db in [DB, DB6] {
        let server = lab.db.listen(Kind::Udp, at(db, OPEN), Serve::Echo).unwrap();
        let client = lab.web.open(Kind::Udp, None, db.contains(':')).unwrap();
        lab.web.exchange_with(&client, at(db, OPEN), 1, std::time::Duration::from_secs(10)).unwrap();
        lab.db.close(&server).unwrap();
    }
    assert!(agent.counters().unwrap().iter().all(|(pair, _)| pair.verdict == "allow"));
}
