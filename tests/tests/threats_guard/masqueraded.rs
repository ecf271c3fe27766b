//! A machine that has no socket of this node, as a virtual one has none, and whose address is translated on
//! its way out: it is judged as itself, whoever it becomes, and its answers find it.

use anyhow::Result;
use bulkhead_tests::harness::threat::{
    Case, DB, DB6, Lab, OUTSIDE, OUTSIDE6, Threat, Try, WEB_AND_DB, at, heard,
};
use bulkhead_tests::harness::{Dial, Kind, Peer, Serve};
use bulkhead_tests::require_agent;

use crate::acts::{By, answers, arrives, guarded};
use crate::answers::{is_told, pings};
use crate::translation::{MASQUERADED, SERVICE, VIRTUAL, nft, translate};

const OPEN: u16 = 7000;
const CLOSED: u16 = 9000;

/// `machine` may open some ports to `db` and to the world, and nobody anything else.
fn policy() -> String {
    let zone = "[zone.machine]\ncidrs = [\"10.99.3.0/24\", \"fd00:99:3::/64\"]\n";
    let ports = format!("\"tcp/{OPEN}-{last}\", \"udp/{OPEN}-{last}\", \"icmp/echo\"", last = OPEN + 99);
    format!(
        "{WEB_AND_DB}{zone}{VIRTUAL}[[allow]]\nfrom = \"machine\"\nto = [\"db\", \"world\"]\nports = [{ports}]\n"
    )
}

/// The machines, and one in no cgroup of the node that is everywhere the node's address.
fn masqueraded() -> (Lab, Peer) {
    let lab = Lab::new().unwrap();
    let machine = Peer::spawn(Some(lab.ns("spare").unwrap()), Some(&lab.elsewhere)).unwrap();
    let table = "table inet machines {\n\
         chain post { type nat hook postrouting priority srcnat;\n\
         ip saddr 10.99.3.0/24 masquerade\n\
         ip6 saddr fd00:99:3::/64 masquerade\n\
         }\n}\n";
    nft(lab.node().unwrap(), table);
    (lab, machine)
}

/// What is tried by `machine` at `server`, in zone `to`.
fn case<'a>(
    (machine, to): (&'a Peer, &str),
    by: By,
    address: &'a str,
    server: impl Fn(&Lab) -> &Peer + Copy + 'a,
) -> Case<'a> {
    Case::new(&format!("to {to} at {address}, {by:?}"))
        .attempt(move |run| arrives(run, by, machine, server(run.lab), at(address, run.port(CLOSED))))
        .twin(move |run| answers(run, by, machine, server(run.lab), at(address, run.port(OPEN))))
        .counts("machine", to, "deny", "default", 1)
}

#[test]
fn row_29_a_masqueraded_machine_is_itself_to_the_world() {
    require_agent!();
    let (lab, machine) = masqueraded();
    let mut threat = guarded(&policy());
    for address in [OUTSIDE, OUTSIDE6] {
        for by in By::ALL {
            threat = threat.case(case((&machine, "world"), by, address, |lab| &lab.outside));
        }
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_29_a_masqueraded_machine_is_itself_to_workloads() {
    require_agent!();
    let (lab, machine) = masqueraded();
    let mut threat = guarded(&policy());
    for address in [DB, DB6] {
        for by in By::ALL {
            threat = threat.case(case((&machine, "db"), by, address, |lab| &lab.db));
        }
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_29_a_machine_is_itself_to_a_service() {
    require_agent!();
    for masquerades in [false, true] {
        let (lab, machine) = if masquerades {
            masqueraded()
        } else {
            let lab = Lab::new().unwrap();
            let machine = Peer::spawn(Some(lab.ns("spare").unwrap()), Some(&lab.elsewhere)).unwrap();
            (lab, machine)
        };
        translate(&lab);
        let mut threat = guarded(&policy());
        for address in SERVICE.into_iter().chain(MASQUERADED) {
            for by in By::ALL {
                threat = threat.case(case((&machine, "db"), by, address, |lab| &lab.db));
            }
        }
        threat.run(&lab).unwrap();
    }
}

/// Asks with a datagram of so many bytes; whether it comes back.
fn comes_back(run: &Try<'_>, machine: &Peer, to: &str, size: usize) -> Result<bool> {
    let to = at(to, run.port(OPEN));
    let server = run.lab.outside.listen(Kind::Udp, to, Serve::Echo)?;
    let client = machine.connect(&Dial::udp(to))?;
    machine.send(&client, &vec![7; size], None)?;
    let came = heard(machine.recv(&client, run.patience))?;
    machine.close(&client)?;
    run.lab.outside.close(&server)?;
    Ok(came)
}

/// Pings, errors and fragments: what a connection needs besides its packets.
#[test]
fn row_29_all_that_is_said_back_finds_a_masqueraded_machine() {
    require_agent!();
    let (lab, machine) = masqueraded();
    let machine = &machine;
    let mut threat: Threat<'_> = guarded(&policy());
    for (address, db) in [(OUTSIDE, DB), (OUTSIDE6, DB6)] {
        for size in [8, 3000] {
            threat = threat.case(
                Case::new(&format!("an echo of {size} bytes at {address}"))
                    .attempt(move |run| pings(run, &run.lab.db, address, size))
                    .twin(
                        move |run| Ok(pings(run, machine, address, size)? && pings(run, machine, db, size)?),
                    )
                    .counts("db", "world", "deny", "default", 1),
            );
        }
        threat = threat.case(
            Case::new(&format!("a word about a closed port at {address}"))
                .attempt(move |run| is_told(run, machine, at(address, run.port(CLOSED))))
                .twin(move |run| is_told(run, machine, at(address, run.port(OPEN))))
                .counts("machine", "world", "deny", "default", 1),
        );
        threat = threat.case(
            Case::new(&format!("a large datagram at {address}"))
                .attempt(move |run| is_told(run, machine, at(address, run.port(CLOSED))))
                .twin(move |run| comes_back(run, machine, address, 5000))
                .counts("machine", "world", "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}
