//! The confusion matrix: what flows truly are, against what they are called.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use bulkhead_abi::Class;
use bulkhead_tests::corpus::Vector;

use crate::replay::Seen;

/// Counts by truth and by what was said, and the vectors that were called wrong.
#[derive(Default)]
pub(crate) struct Matrix {
    cells: BTreeMap<(String, String), u32>,
    /// Encrypted called clear, or the reverse; or one encryption called another.
    contradictions: Vec<String>,
    /// Clear, but of another protocol.
    misnamed: Vec<String>,
    unknown: Vec<String>,
    listed: u32,
}

impl Matrix {
    pub(crate) fn add(&mut self, vector: &Vector, seen: &Seen) {
        let truth = &vector.truth;
        let (class, app, upgraded) = seen.outcome();
        let name = |class: &str, app: &str, upgraded: bool| match (class, app) {
            (class, "" | "unknown") => class.to_owned(),
            (class, app) if upgraded => format!("{class} from {app}"),
            (class, app) => format!("{class} {app}"),
        };
        let row = name(&truth.class, &truth.protocol, truth.upgraded);
        let column = name(class, app, upgraded);
        if row != column {
            let told = format!("{}: {row} is called {column}", vector.name);
            match seen.class {
                _ if truth.class == "unknown" => self.contradictions.push(told),
                Class::Unknown => self.unknown.push(told),
                _ if class != truth.class => self.contradictions.push(told),
                _ => self.misnamed.push(told),
            }
        }
        self.listed += u32::from(truth.class != "unknown");
        *self.cells.entry((row, column)).or_default() += 1;
    }

    /// Fails on any contradiction, on protocols with a wrong name, and where more than the share `unknown`
    /// of what is listed is not known.
    pub(crate) fn check(&self, unknown: f64) -> Result<()> {
        let all = |told: &[String]| told.join("\n");
        ensure!(self.contradictions.is_empty(), "contradictions:\n{}", all(&self.contradictions));
        ensure!(self.misnamed.is_empty(), "wrong names:\n{}", all(&self.misnamed));
        let share = f64::from(u32::try_from(self.unknown.len())?) / f64::from(self.listed.max(1));
        ensure!(share <= unknown, "{share:.3} of {} are unknown:\n{}", self.listed, all(&self.unknown));
        Ok(())
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:28} {:28} {:>5}", "TRUTH", "CALLED", "FLOWS")?;
        for ((row, column), count) in &self.cells {
            let mark = if row == column { "" } else { "  <-" };
            writeln!(out, "{row:28} {column:28} {count:5}{mark}")?;
        }
        for (title, told) in [
            ("contradictions", &self.contradictions),
            ("wrong names", &self.misnamed),
            ("unknown", &self.unknown),
        ] {
            writeln!(out, "{title}: {}", told.len())?;
            for line in told {
                writeln!(out, "  {line}")?;
            }
        }
        write!(out, "{} flows of listed protocols", self.listed)
    }
}
