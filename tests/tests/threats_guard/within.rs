//! Within the node: loopback, and between the node and its pods, with the guard on the way.

use bulkhead_tests::harness::threat::{Case, DB, DB6, HOST, HOST6, Lab, WEB_AND_DB, at};
use bulkhead_tests::require_agent;

use crate::acts::{By, answers, arrives, guarded};

const OPEN: u16 = 7000;
const CLOSED: u16 = 9000;

#[test]
fn row_29_node_and_pods_are_judged_as_themselves() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let host = lab.spawn("node", "host").unwrap();
    let host = &host;
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"node\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n\
         [[allow]]\nfrom = \"node\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n"
    );
    let mut threat = guarded(&policy);
    for by in By::ALL {
        for address in [HOST, HOST6] {
            threat = threat.case(
                Case::new(&format!("from a pod to the node at {address}, {by:?}"))
                    .attempt(move |run| arrives(run, by, &run.lab.web, host, at(address, run.port(CLOSED))))
                    .twin(move |run| answers(run, by, &run.lab.web, host, at(address, run.port(OPEN))))
                    .counts("web", "node", "deny", "default", 1),
            );
        }
        for address in [DB, DB6] {
            threat = threat.case(
                Case::new(&format!("from the node to a pod at {address}, {by:?}"))
                    .attempt(move |run| arrives(run, by, host, &run.lab.db, at(address, run.port(CLOSED))))
                    .twin(move |run| answers(run, by, host, &run.lab.db, at(address, run.port(OPEN))))
                    .counts("node", "db", "deny", "default", 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}

#[test]
fn row_29_on_loopback_the_cgroups_tell() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let [api, cache] = ["api", "cache"].map(|name| lab.spawn("web", name).unwrap());
    let (api, cache) = (&api, &cache);
    let policy = format!(
        "{WEB_AND_DB}[zone.api]\ncgroups = [\"api\"]\n[zone.cache]\ncgroups = [\"cache\"]\n\
         [[allow]]\nfrom = \"api\"\nto = \"cache\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n"
    );
    let mut threat = guarded(&policy);
    for address in ["127.0.0.1", "::1"] {
        for by in By::ALL {
            threat = threat.case(
                Case::new(&format!("between two services of one namespace at {address}, {by:?}"))
                    .attempt(move |run| arrives(run, by, api, cache, at(address, run.port(CLOSED))))
                    .twin(move |run| answers(run, by, api, cache, at(address, run.port(OPEN))))
                    .counts("api", "cache", "deny", "default", 1),
            );
        }
    }
    threat.run(&lab).unwrap();
}
