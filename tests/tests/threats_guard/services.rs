//! Flows to translated addresses are judged by who really talks to whom.

use bulkhead_tests::harness::threat::{Case, DB, DB6, Lab, Threat, WEB_AND_DB, at};
use bulkhead_tests::require_agent;

use crate::acts::{By, answers, arrives, guarded};
use crate::translation::{HAIRPIN, MASQUERADED, NODE, SERVICE, VIRTUAL, bridge, translate};

/// What is open, and what is not: each try has ports of its own from there.
const OPEN: u16 = 7000;
const CLOSED: u16 = 9000;

fn allow(from: &str, to: &str) -> String {
    format!(
        "[[allow]]\nfrom = \"{from}\"\nto = \"{to}\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\", \
         \"tcp/17000-17099\", \"udp/17000-17099\"]\n"
    )
}

/// `web` asks `db` by both services, in every way.
fn between_pods(policy: &str) -> Threat<'static> {
    let mut threat = guarded(policy);
    for (name, service) in [("a service", SERVICE), ("a masquerading service", MASQUERADED)] {
        for address in service {
            for by in By::ALL {
                threat = threat.case(
                    Case::new(&format!("{name} at {address}, {by:?}"))
                        .attempt(move |run| {
                            arrives(run, by, &run.lab.web, &run.lab.db, at(address, run.port(CLOSED)))
                        })
                        .twin(move |run| {
                            answers(run, by, &run.lab.web, &run.lab.db, at(address, run.port(OPEN)))
                        })
                        .counts("web", "db", "deny", "default", 1),
                );
            }
        }
    }
    threat
}

fn policy() -> String {
    format!("{WEB_AND_DB}{VIRTUAL}{}", allow("web", "db"))
}

#[test]
fn row_29_a_service_is_whoever_answers_for_it() {
    require_agent!();
    let lab = Lab::new().unwrap();
    translate(&lab);
    between_pods(&policy()).run(&lab).unwrap();
}

#[test]
fn row_29_so_it_is_behind_a_bridge() {
    require_agent!();
    let lab = Lab::new().unwrap();
    translate(&lab);
    bridge(&lab);
    between_pods(&policy()).run(&lab).unwrap();
}

#[test]
fn row_29_who_asks_itself_by_a_service_is_itself() {
    require_agent!();
    let lab = Lab::new().unwrap();
    translate(&lab);
    // Somebody else in web's own namespace: by cgroup in `api`, by address in `web` with it.
    let api = lab.spawn("web", "api").unwrap();
    let api = &api;
    // Within a zone all is open, unless it is isolated.
    let policy = WEB_AND_DB.replace("[zone.web]\n", "[zone.web]\nisolated = true\n");
    let api_zone = "[zone.api]\ncgroups = [\"api\"]\n";
    let rules = [allow("web", "web"), allow("web", "api")].concat();
    let mut threat = guarded(&format!("{policy}{api_zone}{VIRTUAL}{rules}"));
    for address in HAIRPIN {
        threat = threat.case(
            Case::new(&format!("a service at {address} that is another workload beside its client"))
                .attempt(move |run| arrives(run, By::Tcp, &run.lab.web, api, at(address, run.port(CLOSED))))
                .twin(move |run| answers(run, By::Tcp, &run.lab.web, api, at(address, run.port(OPEN))))
                .counts("web", "api+web", "deny", "default", 1),
        );
        for by in By::ALL {
            threat = threat.case(
                Case::new(&format!("a service at {address} that is its client, {by:?}"))
                    .attempt(move |run| {
                        arrives(run, by, &run.lab.web, &run.lab.web, at(address, run.port(CLOSED)))
                    })
                    .twin(move |run| {
                        answers(run, by, &run.lab.web, &run.lab.web, at(address, run.port(OPEN)))
                    })
                    .counts("web", "web", "deny", "default", 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}

/// In the node's own namespace the socket's packets are translated before the packet layer sees them.
#[test]
fn row_29_a_client_on_the_node_is_judged_by_whom_it_reaches() {
    require_agent!();
    for (zone, text) in [("node", ""), ("host", "[zone.host]\ncgroups = [\"host\"]\n")] {
        let lab = Lab::new().unwrap();
        translate(&lab);
        let client = lab.spawn("node", "host").unwrap();
        let client = &client;
        let mut threat = guarded(&format!("{WEB_AND_DB}{VIRTUAL}{text}{}", allow(zone, "db")));
        for address in SERVICE {
            for by in By::ALL {
                threat = threat.case(
                    Case::new(&format!("a client in {zone} asks a service at {address}, {by:?}"))
                        .attempt(move |run| {
                            arrives(run, by, client, &run.lab.db, at(address, run.port(CLOSED)))
                        })
                        .twin(move |run| answers(run, by, client, &run.lab.db, at(address, run.port(OPEN))))
                        .counts(zone, "db", "deny", "default", 1),
                );
            }
        }
        threat.run(&lab).unwrap();
    }
}

/// A machine from outside keeps its address on the way to a node port, unless it is masqueraded: then it
/// is the node to whoever receives.
#[test]
fn row_29_a_node_port_is_judged_by_the_address_that_arrives() {
    require_agent!();
    let lab = Lab::new().unwrap();
    translate(&lab);
    let policy = format!("{WEB_AND_DB}{VIRTUAL}{}{}", allow("world", "db"), allow("node", "db"));
    let mut threat = guarded(&policy);
    for (from, by_how_much) in [("world", 0), ("node", 10_000)] {
        for address in NODE {
            for by in By::ALL {
                threat = threat.case(
                    Case::new(&format!("a node port at {address}, seen as {from}, {by:?}"))
                        .attempt(move |run| {
                            let to = at(address, run.port(CLOSED + by_how_much));
                            arrives(run, by, &run.lab.outside, &run.lab.db, to)
                        })
                        .twin(move |run| {
                            let to = at(address, run.port(OPEN + by_how_much));
                            answers(run, by, &run.lab.outside, &run.lab.db, to)
                        })
                        .counts(from, "db", "deny", "default", 1),
                );
            }
        }
    }
    threat.run(&lab).unwrap();
}

/// Without the guard nobody would judge who answers, so nothing is left to it.
#[test]
fn row_29_without_the_guard_a_service_is_of_the_world() {
    require_agent!();
    let lab = Lab::new().unwrap();
    translate(&lab);
    let mut threat = Threat::new(&policy()).setup(|setup| setup.flag("--guard=off"));
    for (service, real) in [(SERVICE[0], DB), (SERVICE[1], DB6)] {
        for by in By::ALL {
            threat = threat.case(
                Case::new(&format!("a service at {service} that is open, {by:?}"))
                    .attempt(move |run| {
                        arrives(run, by, &run.lab.web, &run.lab.db, at(service, run.port(OPEN)))
                    })
                    .twin(move |run| answers(run, by, &run.lab.web, &run.lab.db, at(real, run.port(OPEN))))
                    .counts("web", "world", "deny", "default", 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}
