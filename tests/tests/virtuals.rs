//! Declared virtual addresses where no guard sees their clients: they are the world's, and everybody who
//! asks is told so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use bulkhead_tests::harness::{Agent, Cgroup, Dial, Errno, Peer, Topology};
use bulkhead_tests::require_agent;
use power::{LONG, at};
use serde_json::Value;

const CLIENT: &str = "10.66.1.1";
const SERVICE: &str = "10.66.9.9";
const OPEN: u16 = 7001;
const CLOSED: u16 = 7002;

/// One port of the world is open to clients.
const CLIENTS: &str = r#"
    [zone.clients]
    cidrs = ["10.66.0.0/16"]
    except = ["10.66.9.0/24"]
    [[allow]]
    from = "clients"
    to = "world"
    ports = ["tcp/7001"]
"#;
const VIRTUAL: &str = "[virtual]\ncidrs = [\"10.66.9.0/24\"]\n";
const ZONE: &str = "[zone.services]\ncidrs = [\"10.66.9.0/24\"]\n";

#[test]
fn a_virtual_address_out_of_the_guards_sight_is_the_worlds() {
    require_agent!();
    let net = Topology::flat(&[("client", &["10.66.1.1/16"]), ("service", &["10.66.9.9/16"])]).unwrap();
    let root = Cgroup::new("virtuals").unwrap();
    let elsewhere = Cgroup::new("virtuals-else").unwrap();
    let service = Peer::spawn(Some(net.ns("service").unwrap()), Some(&elsewhere)).unwrap();
    let client = Peer::spawn(Some(net.ns("client").unwrap()), Some(&root)).unwrap();
    let agent = Agent::start(&root, &format!("{CLIENTS}{VIRTUAL}")).unwrap();
    for port in [OPEN, CLOSED] {
        service.tcp_echo(at(SERVICE, port)).unwrap();
    }
    let passes = |port| match client.connect(&Dial::tcp(at(SERVICE, port)).within(LONG)) {
        Ok(_) => true,
        Err(error) if [Some(Errno::PERM), Some(Errno::CONNABORTED)].contains(&error.errno()) => false,
        Err(error) => panic!("port {port}: {error}"),
    };

    assert!(passes(OPEN) && !passes(CLOSED));
    let zones = agent.zones().unwrap();
    let listed = zones.iter().find(|zone| zone.zone == "virtual").unwrap();
    assert_eq!(listed.prefixes, ["10.66.9.0/24"]);
    let told = explain(&agent);
    assert_eq!(told["to"]["zone"], "virtual");
    assert_eq!((&told["policy"]["verdict"], &told["kernel"]["agrees"]), (&"deny".into(), &true.into()));
    assert!(told["notes"][0].as_str().unwrap().contains("counts as world"), "{told}");

    // Somebody's after all, then nobody's again: one change of one prefix each.
    agent.apply(&format!("{CLIENTS}{ZONE}")).unwrap();
    assert!(!passes(OPEN) && agent.zones().unwrap().iter().all(|zone| zone.zone != "virtual"));
    agent.apply(&format!("{CLIENTS}{VIRTUAL}")).unwrap();
    assert!(passes(OPEN) && !passes(CLOSED));
}

/// What the command says of the closed port.
fn explain(agent: &Agent) -> Value {
    let asked = [CLIENT, SERVICE, &format!("tcp/{CLOSED}"), "--format", "json"];
    serde_json::from_slice(&agent.run("explain", &asked).unwrap().stdout).unwrap()
}
