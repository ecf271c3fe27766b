//! Rows 11 and 12: who opened a flow.

use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, WEB_AND_DB, at};
use bulkhead_tests::require_agent;

#[test]
fn row_12_a_source_port_that_looks_like_a_reply_opens_nothing() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let policy = format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/7000-7099\"]\n");
    Threat::new(&policy)
        .case(
            Case::new("a datagram to a port that no rule names")
                .attempt(|run| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(9000))))
                .twin(|run| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(7000))))
                .counts("web", "db", "deny", "default", 1),
        )
        .run(&lab)
        .unwrap();
}
