//! What these tests share: machines with known hardware addresses, and an agent that guards.

use anyhow::Result;
use bulkhead_tests::harness::packet::{Ip, frame};
use bulkhead_tests::harness::threat::{Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::harness::{CallError, Peer, Setup};

/// First of the ports that are open; see `harness::threat::TRIES`.
pub(crate) const OPEN: u16 = 7000;
/// First of some that are not.
pub(crate) const SHUT: u16 = 9000;

/// `web` may open to `db` and to the world, and the world to `db`; nobody else to anybody.
pub(crate) fn policy() -> String {
    let ports = format!("ports = [\"udp/{OPEN}-{last}\"]\n", last = OPEN + 99);
    format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = [\"db\", \"world\"]\n{ports}\
         [[allow]]\nfrom = \"world\"\nto = \"db\"\n{ports}"
    )
}

/// Attacks under [`policy`], on a node that guards the interfaces of its workloads and the wire.
pub(crate) fn threat<'a>() -> Threat<'a> {
    Threat::new(&policy()).setup(guarding)
}

/// Guards `port0`, `port1`, and the wire `port2`, and what comes later by such a name.
pub(crate) fn guarding(setup: Setup) -> Setup {
    setup.flag("--guard-interfaces=port*").flag("--guard-wire=port2")
}

/// Hardware addresses of `eth0` in the namespaces `web` and `db`.
const ENDS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
/// Those of the host's sides.
const PORTS: [[u8; 6]; 2] = [[2, 0, 0, 0, 2, 1], [2, 0, 0, 0, 2, 2]];

/// The machines, with these addresses.
pub(crate) fn lab() -> Lab {
    let lab = Lab::new().unwrap();
    for (number, name) in ["web", "db"].into_iter().enumerate() {
        let set = |interface: &str, [a, b, c, d, e, f]: [u8; 6]| {
            format!("link set {interface} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        };
        lab.ns(name).unwrap().ip(&set("eth0", ENDS[number])).unwrap();
        lab.node().unwrap().ip(&set(&format!("port{number}"), PORTS[number])).unwrap();
    }
    lab
}

/// Sends a packet as a frame of a packet socket by `interface`, from `web` to the node.
pub(crate) fn send_frame(from: &Peer, interface: &str, bypass: bool, packet: &[u8]) -> Result<()> {
    let wire = from.wire(interface, bypass)?;
    match from.send(&wire, &frame(PORTS[0], ENDS[0], packet), None) {
        Ok(_) | Err(CallError::Os { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(from.close(&wire)?)
}

/// A datagram that says where it is from.
pub(crate) fn datagram(src: &str, dst: &str, port: u16, run: &Try<'_>) -> Vec<u8> {
    Ip::new(src, dst).udp(4000 + run.number, port, format!("try {:05}", run.number).as_bytes())
}
