//! The policy of nearly all of these tests.

use bulkhead_tests::harness::threat::WEB_AND_DB;

/// First of the ports that are open in it; see `harness::threat::TRIES`.
pub(crate) const OPEN: u16 = 7000;
/// First of some that are not.
pub(crate) const SHUT: u16 = 9000;

/// `web` may open to `db` and to the world, and the world to `db`: UDP and TCP from [`OPEN`] on.
pub(crate) fn open_ports() -> String {
    let ports = format!("ports = [\"udp/{OPEN}-{last}\", \"tcp/{OPEN}-{last}\"]\n", last = OPEN + 99);
    format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\n{ports}\
         [[allow]]\nfrom = \"web\"\nto = \"world\"\n{ports}\
         [[allow]]\nfrom = \"world\"\nto = \"db\"\n{ports}"
    )
}

/// `web` may open to `db`, UDP and TCP from [`OPEN`] on, and nobody anything else.
pub(crate) fn web_to_db() -> String {
    let last = OPEN + 99;
    format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/{OPEN}-{last}\", \"tcp/{OPEN}-{last}\"]\n"
    )
}
