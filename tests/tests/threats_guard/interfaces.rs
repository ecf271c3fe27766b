//! Row 25: interfaces that come later, and such as are no veth.

use std::io::Write;
use std::time::Duration;

use bulkhead_tests::harness::packet::frame;
use bulkhead_tests::harness::threat::{Case, DB, Lab, Try, WEB, at};
use bulkhead_tests::harness::{Ns, Peer, wait_until};
use bulkhead_tests::require_agent;

use super::lab::{OPEN, SHUT, datagram, lab, send_frame, threat};

const LONG: Duration = Duration::from_secs(20);

/// A second way out of `web`, made now, with an address of its own in the zone; the node's end is called
/// `portN`.
fn second_way(run: &Try<'_>) -> String {
    let (number, web) = (20 + run.number, run.lab.ns("web").unwrap());
    let address = format!("10.99.1.{}", 100 + run.number);
    run.lab
        .node()
        .unwrap()
        .ip(&format!(
            "link add port{number} type veth peer name late{number} netns {}\nlink set port{number} up\n\
             route add {address} dev port{number}",
            web.name()
        ))
        .unwrap();
    web.ip(&format!("link set late{number} up\naddr add {address}/32 dev late{number}")).unwrap();
    if let Some(agent) = run.agent() {
        wait_until(LONG, "the new interface is guarded, and what is behind it is known", || {
            let guard = agent.status().unwrap().guard;
            let name = format!("port{number}");
            guard.interfaces.iter().any(|found| found.name == name && found.guarded && found.netns.is_some())
        })
        .unwrap();
    }
    address
}

#[test]
fn row_25_a_veth_that_comes_later_is_guarded() {
    require_agent!();
    let lab = lab();
    threat()
        .case(
            Case::new("a frame by a new veth")
                .attempt(|run| {
                    let packet = datagram(&second_way(run), &run.stranger(false), run.port(OPEN), run);
                    let to = hardware(run.lab, &format!("port{}", 20 + run.number));
                    let framed = frame(to, [2; 6], &packet);
                    run.on_wire(&run.lab.outside, &[packet], || {
                        let wire = run.lab.web.wire(&format!("late{}", 20 + run.number), true)?;
                        let _refused = run.lab.web.send(&wire, &framed, None);
                        Ok(run.lab.web.close(&wire)?)
                    })
                })
                .twin(|run| {
                    run.datagram(&run.lab.web, &run.lab.outside, at(&run.stranger(false), run.port(OPEN)))
                })
                .counts("web", "world", "deny", "packet-socket", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_25_a_macvlan_is_no_way_round() {
    require_agent!();
    let lab = lab();
    let web = lab.ns("web").unwrap();
    web.ip("link add link eth0 name mac0 type macvlan mode bridge\nlink set mac0 up").unwrap();
    threat()
        .case(
            Case::new("a frame by a macvlan on the workload's interface")
                .attempt(|run| {
                    let packet = datagram(WEB, &run.stranger(false), run.port(OPEN), run);
                    run.on_wire(&run.lab.outside, std::slice::from_ref(&packet), || {
                        send_frame(&run.lab.web, "mac0", false, &packet)
                    })
                })
                .twin(|run| {
                    run.datagram(&run.lab.web, &run.lab.outside, at(&run.stranger(false), run.port(OPEN)))
                })
                .counts("web", "world", "deny", "packet-socket", 1),
        )
        .run(&lab)
        .unwrap();
}

/// A workload `web` whose only interface is a macvlan on the node's wire: no veth is between.
#[test]
fn row_25_a_macvlan_on_the_wire_is_no_way_round() {
    require_agent!();
    let lab = lab();
    let ns = Ns::new("mac").unwrap();
    lab.node()
        .unwrap()
        .ip(&format!("link add link port2 name mac0 netns {} type macvlan mode bridge", ns.name()))
        .unwrap();
    ns.ip("link set mac0 up\naddr add 10.99.1.60/32 dev mac0\nroute add default dev mac0").unwrap();
    lab.ns("outside").unwrap().ip("route add 10.99.1.60 dev eth0").unwrap();
    let mac = lab_peer(&lab, &ns);
    threat()
        .case(
            Case::new("a frame")
                .attempt(|run| {
                    let packet = datagram("10.99.1.60", &run.stranger(false), run.port(OPEN), run);
                    let to = hardware_of(run.lab.ns("outside").unwrap(), "eth0");
                    let framed = frame(to, [2; 6], &packet);
                    run.on_wire(&run.lab.outside, &[packet], || {
                        let wire = mac.wire("mac0", false)?;
                        let _refused = mac.send(&wire, &framed, None);
                        Ok(mac.close(&wire)?)
                    })
                })
                .twin(|run| run.datagram(&mac, &run.lab.outside, at(&run.stranger(false), run.port(OPEN))))
                .counts("web", "world", "deny", "packet-socket", 1),
        )
        .case(
            Case::new("a socket")
                .attempt(|run| run.datagram(&mac, &run.lab.outside, at(&run.stranger(false), run.port(SHUT))))
                .twin(|run| run.datagram(&mac, &run.lab.outside, at(&run.stranger(false), run.port(OPEN))))
                .counts("web", "world", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}

#[test]
fn row_25_what_a_program_writes_into_a_tun_is_judged() {
    require_agent!();
    let lab = lab();
    let web = lab.ns("web").unwrap();
    let tun = web.enter(|| bulkhead_sys::tun::open("tun0").unwrap()).unwrap();
    web.ip("link set tun0 up").unwrap();
    for (setting, value) in
        [("ip_forward", "1"), ("conf/tun0/accept_local", "1"), ("conf/all/accept_local", "1")]
    {
        web.sysctl(&format!("ipv4/{setting}"), value).unwrap();
    }
    let written = |run: &Try<'_>, src: &str, port: u16| {
        let packet = datagram(src, &run.stranger(false), port, run);
        run.on_wire(&run.lab.outside, std::slice::from_ref(&packet), || Ok((&tun).write_all(&packet)?))
    };
    threat()
        .case(
            Case::new("as the workload itself, to a port that is shut")
                .attempt(|run| written(run, WEB, run.port(SHUT)))
                .twin(|run| written(run, WEB, run.port(OPEN)))
                .counts("web", "world", "deny", "default", 1),
        )
        .case(
            Case::new("as another workload")
                .attempt(|run| written(run, DB, run.port(OPEN)))
                .twin(|run| written(run, WEB, run.port(OPEN)))
                .counts("db", "world", "deny", "spoofed", 1),
        )
        .run(&lab)
        .unwrap();
}

fn lab_peer(lab: &Lab, ns: &Ns) -> Peer {
    let web = lab.root.child("web/macvlan").unwrap();
    let peer = Peer::spawn(Some(ns), Some(&web)).unwrap();
    // The cgroup goes with the lab's.
    std::mem::forget(web);
    peer
}

fn hardware(lab: &Lab, interface: &str) -> [u8; 6] {
    hardware_of(lab.node().unwrap(), interface)
}

/// The hardware address of an interface, as `ip` tells it.
fn hardware_of(ns: &Ns, interface: &str) -> [u8; 6] {
    let output = ns.command("ip").args(["-o", "link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let address = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let bytes: Vec<u8> = address.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}
