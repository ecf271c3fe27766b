//! The watch over a made-up kernel: what is missing is put back once, told once, and told again when it
//! fails.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use prometheus::{IntCounterVec, Opts};

use super::*;
use crate::datapath::DatapathError;
use crate::datapath::keep::How;

/// A thing that does what the test says, and counts how often it was put right.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    harm: Option<Harm>,
    stuck: bool,
    restored: usize,
}

impl Watched for Fake {
    fn name(&self) -> &str {
        "fake"
    }
    fn check(&mut self) -> Result<Condition, DatapathError> {
        let state = self.0.lock().unwrap();
        Ok(match state.harm {
            Some(harm) => Condition::Harmed(harm),
            None => Condition::Intact,
        })
    }
    fn restore(&mut self, _: Harm) -> Result<(), DatapathError> {
        let mut state = self.0.lock().unwrap();
        if state.stuck {
            return Err(DatapathError::Missing("it"));
        }
        state.restored += 1;
        state.harm = None;
        Ok(())
    }
}

const DETACHED: Harm = Harm { object: Object::Link, how: How::Missing };

fn setting() -> (Fake, Entry, Record) {
    let fake = Fake::default();
    let counter = IntCounterVec::new(Opts::new("t", "t"), &["object", "action"]).unwrap();
    (fake.clone(), Entry::new(Box::new(fake)), Record::new(counter))
}

fn found(record: &Record) -> Vec<(Action, u64)> {
    record.findings().iter().map(|finding| (finding.action, finding.times)).collect()
}

#[test]
fn what_is_harmed_is_put_right_and_counted_once() {
    let (fake, mut entry, record) = setting();
    let now = Instant::now();
    assert!(!entry.look(now, &record));
    fake.0.lock().unwrap().harm = Some(DETACHED);
    assert!(entry.look(now, &record));
    assert!(!entry.look(now, &record));
    assert_eq!(found(&record), [(Action::Restored, 1)]);
}

#[test]
fn what_cannot_be_put_right_is_tried_at_every_look_and_told_once() {
    let (fake, mut entry, record) = setting();
    *fake.0.lock().unwrap() = State { harm: Some(DETACHED), stuck: true, ..State::default() };
    for _ in 0..5 {
        assert!(!entry.look(Instant::now(), &record));
    }
    assert_eq!(found(&record), [(Action::Failed, 1)]);
    fake.0.lock().unwrap().stuck = false;
    assert!(entry.look(Instant::now(), &record));
    assert_eq!(fake.0.lock().unwrap().restored, 1);
}

#[test]
fn a_link_is_fought_for_as_long_as_it_takes() {
    let (fake, mut entry, record) = setting();
    for _ in 0..100 {
        fake.0.lock().unwrap().harm = Some(DETACHED);
        entry.look(Instant::now(), &record);
    }
    assert_eq!(fake.0.lock().unwrap().restored, 100);
    assert_eq!(found(&record), [(Action::Restored, 100)]);
}
