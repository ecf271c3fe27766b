//! Row 8: somebody else's source address.

use bulkhead_tests::harness::threat::{Case, DB, DB6, Lab, Try, WEB, WEB6, at, send_raw};
use bulkhead_tests::harness::{Ns, Peer};
use bulkhead_tests::require_agent;

use super::lab::{OPEN, datagram, lab, send_frame, threat};

/// Whether a packet comes by the wire to the outside machine.
fn gets_out(
    run: &Try<'_>,
    packet: Vec<u8>,
    send: impl FnOnce(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    run.on_wire(&run.lab.outside, std::slice::from_ref(&packet), || send(&packet))
}

#[test]
fn row_08_a_workload_cannot_send_with_anothers_address() {
    require_agent!();
    let lab = lab();
    let mut threat = threat();
    for v6 in [false, true] {
        let (own, others) = if v6 { (WEB6, DB6) } else { (WEB, DB) };
        let honest = move |run: &Try<'_>| {
            let packet = datagram(own, &run.stranger(v6), run.port(OPEN), run);
            gets_out(run, packet.clone(), |packet| send_raw(&run.lab.web, &[packet.to_vec()]))
        };
        threat = threat
            .case(
                Case::new(&format!("by a raw socket, as {others}"))
                    .attempt(move |run| {
                        let packet = datagram(others, &run.stranger(v6), run.port(OPEN), run);
                        gets_out(run, packet, |packet| send_raw(&run.lab.web, &[packet.to_vec()]))
                    })
                    .twin(honest)
                    .counts("web", "world", "deny", "spoofed", 1),
            )
            .case(
                Case::new(&format!("by a packet socket, as {others}"))
                    .attempt(move |run| {
                        let packet = datagram(others, &run.stranger(v6), run.port(OPEN), run);
                        gets_out(run, packet, |packet| send_frame(&run.lab.web, "eth0", false, packet))
                    })
                    .twin(honest)
                    .counts("web", "world", "deny", "packet-socket", 1),
            );
    }
    threat.run(&lab).unwrap();
}

/// A namespace behind `web`, which routes for it: nobody in there is a workload that is known.
struct Inner {
    peer: Peer,
    _ns: Ns,
}

/// An address in there that is in no zone.
const INNER: &str = "10.98.0.2";

impl Inner {
    fn new(lab: &Lab) -> Inner {
        let ns = Ns::new("inner").unwrap();
        let web = lab.ns("web").unwrap();
        web.ip(&format!("link add inner0 type veth peer name eth0 netns {}", ns.name())).unwrap();
        web.ip(&format!(
            "link set inner0 up\naddr add 10.98.0.1/24 dev inner0\nroute add {DB} dev eth0 via 169.254.1.1"
        ))
        .unwrap();
        web.sysctl("ipv4/ip_forward", "1").unwrap();
        ns.ip("link set eth0 up\naddr add 10.98.0.2/24 dev eth0\nroute add default via 10.98.0.1").unwrap();
        lab.node().unwrap().ip("route add 10.98.0.0/24 via 10.99.1.1 dev port0").unwrap();
        Inner { peer: Peer::spawn(Some(&ns), Some(&lab.elsewhere)).unwrap(), _ns: ns }
    }
}

#[test]
fn row_08_a_container_that_routes_cannot_let_others_use_a_zones_address() {
    require_agent!();
    let lab = lab();
    let inner = Inner::new(&lab);
    let as_address = |run: &Try<'_>, src: &str| {
        let packet = datagram(src, &run.stranger(false), run.port(OPEN), run);
        gets_out(run, packet, |packet| send_raw(&inner.peer, &[packet.to_vec()]))
    };
    threat()
        .case(
            Case::new("as another workload")
                .attempt(|run| as_address(run, DB))
                .twin(|run| as_address(run, INNER))
                .counts("db", "world", "deny", "spoofed", 1),
        )
        .case(
            Case::new("as an address in the zone that nobody has")
                .attempt(|run| as_address(run, "10.99.1.77"))
                .twin(|run| as_address(run, INNER))
                .counts("web", "world", "deny", "spoofed", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_08_nobody_outside_can_send_with_a_workloads_address() {
    require_agent!();
    let lab = lab();
    let mut threat = threat();
    for v6 in [false, true] {
        let (web, db) = if v6 { (WEB6, DB6) } else { (WEB, DB) };
        threat = threat.case(
            Case::new(&format!("as {web}"))
                .attempt(move |run| {
                    let packet = datagram(web, db, run.port(OPEN), run);
                    run.reaches(&run.lab.outside, &run.lab.db, at(db, run.port(OPEN)), &[packet])
                })
                .twin(move |run| {
                    let packet = datagram(&run.stranger(v6), db, run.port(OPEN), run);
                    run.reaches(&run.lab.outside, &run.lab.db, at(db, run.port(OPEN)), &[packet])
                })
                .counts("web", "db", "deny", "spoofed", 1),
        );
    }
    threat.run(&lab).unwrap();
}
