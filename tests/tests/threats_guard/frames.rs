//! Row 22: frames of packet sockets, which no socket layer sees.

use std::time::Duration;

use bulkhead_tests::harness::threat::{Case, DB, Lab, Try, WEB, WEB6, at};
use bulkhead_tests::harness::{Dial, Kind, Peer, Socket, wait_until};
use bulkhead_tests::require_agent;

use super::lab::{OPEN, datagram, lab, send_frame, threat};

#[test]
fn row_22_frames_of_packet_sockets_do_not_pass() {
    require_agent!();
    let lab = lab();
    let mut threat = threat();
    for (bypass, how) in [(false, ""), (true, ", past the queueing layer")] {
        for v6 in [false, true] {
            let out = move |run: &Try<'_>| {
                let packet = datagram(if v6 { WEB6 } else { WEB }, &run.stranger(v6), run.port(OPEN), run);
                run.on_wire(&run.lab.outside, std::slice::from_ref(&packet), || {
                    send_frame(&run.lab.web, "eth0", bypass, &packet)
                })
            };
            let honest = move |run: &Try<'_>| {
                run.datagram(&run.lab.web, &run.lab.outside, at(&run.stranger(v6), run.port(OPEN)))
            };
            let family = if v6 { "IPv6" } else { "IPv4" };
            threat = threat.case(
                Case::new(&format!("to a port that is open, {family}{how}"))
                    .attempt(out)
                    .twin(honest)
                    .counts("web", "world", "deny", "packet-socket", 1),
            );
        }
        threat = threat.case(
            Case::new(&format!("to another workload{how}"))
                .attempt(move |run| {
                    let packet = datagram(WEB, DB, run.port(OPEN), run);
                    run.on_wire(&run.lab.db, std::slice::from_ref(&packet), || {
                        send_frame(&run.lab.web, "eth0", bypass, &packet)
                    })
                })
                .twin(|run| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(OPEN))))
                .counts("web", "db", "deny", "packet-socket", 1),
        );
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_22_a_copy_of_a_live_flows_packet_does_not_pass() {
    require_agent!();
    let lab = lab();
    let mut threat = threat();
    for bypass in [false, true] {
        threat = threat.case(
            Case::new(&format!("a copy, bypass {bypass}"))
                .attempt(move |run| {
                    let copy = datagram(WEB, &run.stranger(false), run.port(OPEN), run);
                    let live = live_flow(run.lab, &run.lab.web, run);
                    let arrived = run.on_wire(&run.lab.outside, std::slice::from_ref(&copy), || {
                        send_frame(&run.lab.web, "eth0", bypass, &copy)
                    });
                    if run.agent().is_some() {
                        // The flow itself goes on. (Without an agent the copy is answered, too.)
                        run.lab.web.exchange(&live.0, 1, Duration::from_secs(10))?;
                    }
                    run.lab.web.close(&live.0)?;
                    run.lab.outside.close(&live.1)?;
                    arrived
                })
                .twin(|run| {
                    run.datagram(&run.lab.web, &run.lab.outside, at(&run.stranger(false), run.port(OPEN)))
                })
                .counts("web", "world", "allow", "allow-rule", 1)
                .counts("web", "world", "deny", "packet-socket", 1),
        );
    }
    threat.run(&lab).unwrap();
}

/// A flow of `web`'s whose tuple is that of [`datagram`], with its receiver.
fn live_flow(lab: &Lab, web: &Peer, run: &Try<'_>) -> (Socket, Socket) {
    let receiver = lab.outside.udp_echo(at(&run.stranger(false), run.port(OPEN))).unwrap();
    let dial = Dial::new(Kind::Udp, receiver.local);
    let live = web.connect(&dial.from(at(WEB, 4000 + run.number))).unwrap();
    // The first one waits for the neighbour's address, and may be lost.
    wait_until(Duration::from_secs(10), "the flow lives", || {
        web.exchange(&live, 1, Duration::from_secs(1)).is_ok()
    })
    .unwrap();
    (live, receiver)
}
