//! Connections that nobody says anything on: nothing between two programs gives them up.
//!
//! A run has an hour's worth of idle connection, 120 of them for 30 seconds. `BULKHEAD_IDLE_SECONDS=3600` makes
//! it an hour of real time for each.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bulkhead_tests::harness::Launch;

use crate::lab::{DB, Lab, SOON, connections, python};
use crate::programs::{self, POSTGRESQL, REDIS};
use crate::require_python;
use crate::wire::Capture;

const PORT: u16 = 5000;
const COUNT: usize = 120;
const MARKER: &str = "a-clear-text-after-a-long-silence";

/// How long nothing is said.
fn silence() -> Duration {
    let seconds = std::env::var("BULKHEAD_IDLE_SECONDS").ok().map(|text| text.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// Real programs that pause in the middle, with what each says at its end.
fn programs_that_pause() -> [(Launch, String); 2] {
    let seconds = silence().as_secs();
    let query = format!("SELECT 'begins';\n\\! sleep {seconds}\nSELECT repeat('{MARKER}', 2000);\n");
    let commands =
        format!("(echo SET key {MARKER}; sleep {seconds}; echo GET key) | redis-cli -h {DB} -p {REDIS}");
    [
        (programs::psql().input(query.as_bytes()), MARKER.repeat(2000)),
        (Launch::new(["sh", "-c", &commands]), format!("OK\n{MARKER}")),
    ]
}

/// Whether the silence has begun.
fn has_begun(output: &Path) -> bool {
    fs::read_to_string(output).is_ok_and(|text| text.contains("silent"))
}

#[test]
fn idle_connections_go_on_where_they_were() {
    require_python!();
    let lab = Lab::two_nodes();
    let _servers = [
        lab.serve(&python("mutual/python/idle.py").and(["serve", &PORT.to_string()]), &[PORT]),
        lab.serve(&programs::postgresql(), &[POSTGRESQL]),
        lab.serve(&programs::redis(), &[REDIS]),
    ];
    let capture = Capture::new(lab.web_ns());
    let numbers = [PORT.to_string(), COUNT.to_string(), silence().as_secs().to_string(), MARKER.to_owned()];
    let mut many = lab.begin(&python("mutual/python/idle.py").and(["ask", DB]).and(numbers));
    let pausing = programs_that_pause().map(|(launch, wanted)| (lab.begin(&launch), wanted));
    let silent = many.folder().join(".output");
    many.wait_until(SOON, || has_begun(&silent)).unwrap();
    for agent in [lab.near(), lab.far()] {
        let idle = connections(agent).into_iter().filter(|one| one.destination.port() == PORT).count();
        assert_eq!(idle, COUNT, "each is a connection of its own, by way of the proxy");
    }

    let said = many.wait_ended(silence() + SOON).unwrap();
    assert!(said.succeeded(), "{:?}: {}", said.status, said.errors);
    eprintln!("{}", String::from_utf8_lossy(&said.output));
    for (program, wanted) in pausing {
        let said = program.wait_ended(SOON).unwrap();
        let output = String::from_utf8_lossy(&said.output).into_owned();
        assert!(said.succeeded() && output.contains(&wanted), "{output} {}", said.errors);
    }
    capture.end().is_mutual_tls_only(&[MARKER]);
}
