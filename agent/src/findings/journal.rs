//! Findings as log lines: one event each time one is opened, grows, is acknowledged or ends, and, where the
//! configuration names a file, one line of JSON in it.
//!
//! The ledger limits how many there are; the file is turned over at [`SIZE`] and [`KEPT`] old ones are kept,
//! so neither can fill a disk. The log names addresses at DEBUG only; the file, which is its owner's alone,
//! names everything. A file that cannot be written is told of once, until it can.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bulkhead_detect::findings::{Change, Severity, What};
use serde::Serialize;

use crate::control::protocol::FindingView;

/// A file is turned over at so many bytes.
const SIZE: u64 = 8 << 20;
/// Old files that are kept, as `NAME.1` and so on.
const KEPT: u32 = 3;

/// See the module.
#[derive(Debug, Default)]
pub struct Journal {
    path: Option<PathBuf>,
    size: u64,
    complained: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    finding: &'a FindingView,
}

impl Journal {
    /// To the log, and to a file if there is to be one.
    pub fn new(path: Option<PathBuf>) -> Self {
        let size = path.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |meta| meta.len());
        Self { path, size, complained: false }
    }

    /// Tells what happened.
    pub fn tell(&mut self, change: &Change) {
        log(change);
        let Some(path) = self.path.clone() else { return };
        let view = FindingView::from(&change.finding);
        match self.append(&path, &Line { event: change.what.as_str(), finding: &view }) {
            Ok(()) => self.complained = false,
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(%error, path = %path.display(), "findings cannot be written to their file");
            }
            Err(_) => {}
        }
    }

    fn append(&mut self, path: &Path, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let length = text.len() as u64;
        if self.size > 0 && self.size + length > SIZE {
            turn_over(path)?;
            self.size = 0;
        }
        // Opened each time: whoever moves it away gets a new one.
        let mut file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        file.write_all(&text)?;
        self.size += length;
        Ok(())
    }
}

fn turn_over(path: &Path) -> io::Result<()> {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..KEPT).rev() {
        match fs::rename(name(number), name(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, name(1))
}

fn log(change: &Change) {
    let Change { what, finding } = change;
    let edge = &finding.key.edge;
    let (kind, id, severity) = (finding.kind().as_str(), finding.id.as_str(), finding.severity.as_str());
    let (from, to, state, event) = (&*edge.from, &*edge.to, finding.state.as_str(), what.as_str());
    let (count, advice) = (finding.count, finding.kind().advice());
    let in_full = tracing::enabled!(target: "bulkhead::findings", tracing::Level::DEBUG);
    let subject = if in_full || !finding.key.subject.is_address() {
        Some(finding.key.subject.to_string())
    } else {
        None
    };
    let evidence = in_full.then(|| {
        let facts = finding.evidence.iter().map(|(name, value)| format!("{name}={value}"));
        facts.collect::<Vec<_>>().join(" ")
    });
    let loud = *what == What::Opened && finding.severity >= Severity::Medium;
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(target: "bulkhead::findings", finding = kind, id, event, severity, state, from, to,
                             subject, count, evidence, advice, $message)
        };
    }
    match what {
        What::Opened if loud => line!(warn, "a finding"),
        What::Opened => line!(info, "a finding"),
        What::Updated => line!(info, "a finding goes on"),
        What::Acknowledged => line!(info, "a finding was acknowledged"),
        What::Resolved => line!(info, "a finding is over"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bulkhead_detect::findings::{Edge, Findings, Memory, Observation, Settings, Time};

    use super::*;

    fn change() -> Change {
        let mut findings = Findings::new(&Settings::default(), Memory::default(), Time::default());
        findings.observe(Time::default(), &Observation::Lost { what: "events", count: 1 });
        let change = findings.take_changes().pop().unwrap();
        assert_eq!(change.finding.key.edge, Edge::node());
        change
    }

    #[test]
    fn each_change_is_a_line_of_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("findings.jsonl");
        let mut journal = Journal::new(Some(path.clone()));
        journal.tell(&change());
        journal.tell(&change());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((&line["event"], &line["kind"]), (&"opened".into(), &"event-loss".into()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_storm_does_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("findings.jsonl");
        let mut journal = Journal::new(Some(path.clone()));
        fs::write(&path, vec![b'x'; SIZE as usize]).unwrap();
        for _ in 0..6 {
            journal.size = SIZE;
            journal.tell(&change());
        }
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 1 + KEPT as usize);
        assert!(fs::metadata(&path).unwrap().len() < 10_000);
    }

    #[test]
    fn a_file_that_cannot_be_had_is_no_reason_to_stop() {
        let mut journal = Journal::new(Some("/proc/nowhere/findings.jsonl".into()));
        journal.tell(&change());
        assert!(journal.complained);
    }
}
