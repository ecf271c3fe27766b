//! Row 10, seen from a router: what it says itself of packets that it could not pass on is no forgery. Where it is
//! not below the cgroup root no socket layer has judged it, and the flow that it is about is a socket's.

use std::net::SocketAddr;
use std::time::Duration;

use bulkhead_tests::harness::packet::Ip;
use bulkhead_tests::harness::threat::{DB, DB6, OUTSIDE, OUTSIDE6, WEB, WEB_AND_DB, WEB6, at, send_raw};
use bulkhead_tests::harness::{Agent, Dial, Kind, Peer, Socket};
use bulkhead_tests::require_agent;

use crate::lab::{OPEN, guarding, lab};

const LONG: Duration = Duration::from_secs(10);

/// More than fits by the wire, and less than fits by the way to it.
pub(crate) const SMALL: usize = 1300;

/// Whether `peer` gets, by the wire, an error that quotes `what` when it does this.
fn hears(peer: &Peer, what: &[u8], does: impl FnOnce()) -> bool {
    let capture = peer.capture().unwrap();
    does();
    let heard = peer.captured(&capture, what, LONG);
    peer.close(&capture).unwrap();
    heard.is_ok()
}

/// A client, a machine beyond the router, and their addresses and that of another client, of both families.
pub(crate) struct Ways<'a> {
    pub(crate) web: &'a Peer,
    pub(crate) outside: &'a Peer,
    pub(crate) addresses: [[&'a str; 3]; 2],
}

/// Whether `from` hears that a packet of its own has expired at the router.
pub(crate) fn expires(from: &Peer, src: &str, dst: &str, round: u8) -> bool {
    let mark = format!("hop limit, round {round} from {src}");
    let packet = Ip::new(src, dst).hops(1).udp(4000, OPEN, mark.as_bytes());
    hears(from, mark.as_bytes(), || send_raw(from, &[packet]).unwrap())
}

/// Whether `from` hears that a datagram of this socket is too large for its way.
pub(crate) fn is_too_large(from: &Peer, socket: &Socket, to: Option<SocketAddr>, round: u8) -> bool {
    let mut large = format!("too large, round {round}").into_bytes();
    let mark = large.clone();
    large.resize(SMALL + 50, b'.');
    hears(from, &mark, || {
        from.send(socket, &large, to).unwrap();
    })
}

/// What is not heard of all that a router has to say; `round` keeps what is quoted, and what is remembered of
/// paths, apart.
pub(crate) fn unheard(ways: &Ways<'_>, round: u8) -> Vec<String> {
    let mut missing = Vec::new();
    let mut expect = |what: String, heard: bool| missing.extend((!heard).then_some(what));
    let Ways { web: client, outside: machine, addresses } = *ways;
    for [web, db, outside] in addresses {
        let v6 = web.contains(':');
        let far = format!("{}{round}", outside.trim_end_matches('1'));
        expect(format!("{web}: the hop limit is over"), expires(client, web, &far, round));
        expect(format!("{outside}: the hop limit is over"), expires(machine, outside, db, round));
        let socket = client.open(Kind::Udp, None, v6).unwrap();
        let to = Some(at(&far, OPEN));
        expect(format!("{web}: too large for the way to {far}"), is_too_large(client, &socket, to, round));
        client.close(&socket).unwrap();
        // And who hears it gets through: a stream that nobody tells stands still.
        let farther = format!("{}{}", outside.trim_end_matches('1'), round + 100);
        let (any, port) = if v6 { ("::", OPEN + 1) } else { ("0.0.0.0", OPEN) };
        let server = machine.tcp_echo(at(any, port)).unwrap();
        let stream = client.connect(&Dial::tcp(at(&farther, port))).unwrap();
        let through = client.begin_exchange(&stream, None, 1, 1 << 14, LONG * 3).wait();
        expect(format!("{web}: a stream to {farther}: {through:?}"), through.is_ok());
        client.reset(&stream).unwrap();
        machine.close(&server).unwrap();
    }
    missing
}

#[test]
fn row_10_what_a_router_says_of_packets_that_it_dropped_is_heard() {
    require_agent!();
    let lab = lab();
    lab.node().unwrap().ip(&format!("link set port2 mtu {SMALL}")).unwrap();
    let addresses = [[WEB, DB, OUTSIDE], [WEB6, DB6, OUTSIDE6]];
    let ways = Ways { web: &lab.web, outside: &lab.outside, addresses };
    assert_eq!(unheard(&ways, 20), Vec::<String>::new(), "agent off");
    // Both ends are in zones, and each may open to the other what is tried.
    let ports = format!("ports = [\"udp/{OPEN}\", \"tcp/{OPEN}-{last}\"]\n", last = OPEN + 1);
    let policy = format!(
        "{WEB_AND_DB}[zone.far]\ncidrs = [\"10.99.9.0/24\", \"fd00:99:9::/64\"]\n\
         [[allow]]\nfrom = \"web\"\nto = \"far\"\n{ports}[[allow]]\nfrom = \"far\"\nto = \"db\"\n{ports}"
    );
    let setup = Agent::prepare(&lab.root, &policy).in_ns(lab.node().unwrap());
    let agent = guarding(setup).start().unwrap();
    let before = agent.counters().unwrap();
    let missing = unheard(&ways, 40);
    let moved = agent.counters().unwrap().since(&before);
    assert!(missing.is_empty(), "{missing:#?}; moved {moved:?}");
    assert!(moved.iter().all(|(pair, _)| pair.verdict == "allow"), "{moved:?}");
}
