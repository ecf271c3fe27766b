//! Many short connections, and what came of them.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_tests::harness::{Launch, Program, Said};
use serde::Deserialize;

use crate::lab::{Lab, python};

/// Where the echo answers.
pub(crate) const PORT: u16 = 5000;
/// In every question.
pub(crate) const MARKER: &str = "a-clear-question-";

/// See `storm.py`.
#[derive(Debug, Deserialize)]
pub(crate) struct Storm {
    /// By how they ended: `answered`, `cut`, or the error's name.
    pub(crate) came: BTreeMap<String, u64>,
    /// Seconds that the longest of each took.
    longest: BTreeMap<String, f64>,
    /// By how much the machine itself was late, at its worst.
    late: f64,
}

/// The server.
pub(crate) fn serve(lab: &Lab) -> Program {
    lab.serve(&python("mutual/python/storm.py").and(["serve", &PORT.to_string()]), &[PORT])
}

/// So many connections, `together` at a time, for at least so long.
pub(crate) fn ask(host: &str, count: u32, together: u32, at_least: Duration) -> Launch {
    let numbers = [PORT.to_string(), count.to_string(), together.to_string()];
    python("mutual/python/storm.py")
        .and(["ask", host])
        .and(numbers)
        .and([MARKER, &at_least.as_secs_f64().to_string()])
}

impl Storm {
    pub(crate) fn read(said: &Said) -> Storm {
        assert!(said.succeeded(), "{:?}: {}", said.status, said.errors);
        serde_json::from_slice(&said.output).unwrap()
    }

    pub(crate) fn answered(&self) -> u64 {
        self.came.get("answered").copied().unwrap_or_default()
    }

    /// All that were not answered.
    pub(crate) fn refused(&self) -> u64 {
        self.came.values().sum::<u64>() - self.answered()
    }

    /// Whether all of them were answered.
    pub(crate) fn is_whole(&self) -> bool {
        self.refused() == 0 && self.answered() > 0
    }

    /// Asserts that each ended as it may: answered, if need be after somebody was started again; or refused by an
    /// error, within a second beside what the machine itself was late.
    pub(crate) fn ended_in_time(&self) {
        let known = ["answered", "cut", "ECONNREFUSED", "ECONNRESET", "EPERM", "EPIPE"];
        assert!(self.came.keys().all(|how| known.contains(&how.as_str())), "{self:?}");
        for (how, longest) in &self.longest {
            let limit = if how == "answered" { 5.0 } else { 1.0 };
            assert!(*longest < limit + 3.0 * self.late, "one took longer than {limit} s: {self:?}");
        }
    }
}
