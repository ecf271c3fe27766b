//! Row 32: io_uring instead of system calls.

use anyhow::Result;
use bulkhead_tests::harness::Kind;
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::require_agent;

use crate::acts::{at, hears, more_addresses, refusable};

fn by_ring(run: &Try<'_>, kind: Kind, port: u16) -> Result<bool> {
    let to = at(DB, run.port(port));
    hears(run, kind, to, || refusable(run.lab.web.ring(kind, to, b"by the ring", run.patience)).map(drop))
}

#[test]
fn row_32_io_uring_is_judged_as_system_calls_are() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\", \"udp/7000-7099\"]\n"
    );
    let case = |name: &str, kind: Kind| {
        Case::new(name)
            .attempt(move |run| by_ring(run, kind, 9000))
            .twin(move |run| by_ring(run, kind, 7000))
            .counts("web", "db", "deny", "default", 1)
    };
    let both = || Threat::new(&policy).case(case("TCP", Kind::Tcp)).case(case("UDP", Kind::Udp));
    both().run(&lab).unwrap();
    // Where the call cannot foresee what the packets will be refused for.
    more_addresses(&lab);
    both().run(&lab).unwrap();
}
