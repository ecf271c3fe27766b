//! The three runs themselves: each must be able to fail, and say that it was it.

use std::time::Duration;

use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, WEB_AND_DB, at};
use bulkhead_tests::require_agent;

#[test]
fn a_failure_names_its_run() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let policy = format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/7000-7099\"]\n");
    let (open, shut) = (7000, 9000);
    let case = |name: &str, attempt: u16, twin: u16| {
        Case::new(name)
            .attempt(move |run| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(attempt))))
            .twin(move |run| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(twin))))
    };
    let error = Threat::new(&policy)
        .case(Case::new("never").attempt(|_| Ok(false)).twin(|_| Ok(true)))
        .case(case("twin", shut, shut).counts("web", "db", "deny", "default", 1))
        .case(case("passes", open, open).counts("web", "db", "allow", "allow-rule", 1))
        .case(case("miscounted", shut, open).counts("web", "db", "deny", "default", 2))
        .case(case("misnamed", shut, open).counts("web", "db", "deny", "deny-rule", 1))
        .case(case("right", shut, open).counts("web", "db", "deny", "default", 1))
        .within(Duration::from_secs(3))
        .run(&lab)
        .unwrap_err()
        .to_string();
    let failures: Vec<&str> = error.lines().skip(1).map(str::trim).collect();
    for (failure, expected) in failures.iter().zip([
        "never: agent off: the attempt must arrive: it did not",
        "twin: agent on: the twin must arrive: it did not",
        "passes: agent on: the attempt must not arrive: it arrived",
        "miscounted: agent on: the attempt must not arrive: it did not arrive; expected [web -> db deny default: 2",
        "misnamed: agent on: the attempt must not arrive: it did not arrive; expected [web -> db deny deny-rule: 1",
    ]) {
        assert!(failure.starts_with(expected), "{failure}\ninstead of\n{expected}");
    }
    assert_eq!(failures.len(), 5, "{error}");
}
