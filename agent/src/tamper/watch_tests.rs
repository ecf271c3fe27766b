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
    gone: bool,
    stuck: bool,
    polite: bool,
    restored: usize,
}

impl Watched for Fake {
    fn name(&self) -> &str {
        "fake"
    }
    fn check(&mut self) -> Result<Condition, DatapathError> {
        let state = self.0.lock().unwrap();
        Ok(match state.harm {
            _ if state.gone => Condition::Gone,
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
    fn gives_way(&self) -> bool {
        self.0.lock().unwrap().polite
    }
}

const DETACHED: Harm = Harm { object: Object::Link, how: How::Missing };
const OVERTAKEN: Harm = Harm { object: Object::Order, how: How::Replaced };

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
    assert_eq!(entry.look(now, &record), Look { keep: true, relinked: false });
    fake.0.lock().unwrap().harm = Some(DETACHED);
    assert_eq!(entry.look(now, &record), Look { keep: true, relinked: true });
    assert_eq!(entry.look(now, &record), Look { keep: true, relinked: false });
    assert_eq!(found(&record), [(Action::Restored, 1)]);
    fake.0.lock().unwrap().gone = true;
    assert!(!entry.look(now, &record).keep);
}

#[test]
fn what_cannot_be_put_right_is_tried_at_every_look_and_told_once() {
    let (fake, mut entry, record) = setting();
    *fake.0.lock().unwrap() = State { harm: Some(DETACHED), stuck: true, ..State::default() };
    for _ in 0..5 {
        assert!(!entry.look(Instant::now(), &record).relinked);
    }
    assert_eq!(found(&record), [(Action::Failed, 1)]);
    fake.0.lock().unwrap().stuck = false;
    assert!(entry.look(Instant::now(), &record).relinked);
    assert_eq!(fake.0.lock().unwrap().restored, 1);
}

#[test]
fn a_link_is_fought_for_and_a_place_in_the_order_is_not() {
    for (harm, polite, expected) in [(DETACHED, false, 100), (OVERTAKEN, true, FIGHT)] {
        let (fake, mut entry, record) = setting();
        let now = Instant::now();
        for _ in 0..100 {
            {
                let mut state = fake.0.lock().unwrap();
                state.harm = Some(harm);
                state.polite = polite;
            }
            entry.look(now, &record);
        }
        assert_eq!(fake.0.lock().unwrap().restored, expected);
        let gave_way = found(&record).contains(&(Action::GaveWay, 1));
        assert_eq!(gave_way, polite);
    }
}

#[test]
fn now_and_then_is_no_fight() {
    let (fake, mut entry, record) = setting();
    let begun = Instant::now();
    for minute in 0..30 {
        *fake.0.lock().unwrap() = State { harm: Some(OVERTAKEN), polite: true, ..State::default() };
        entry.look(begun + MINUTE / 5 * minute, &record);
    }
    assert_eq!(found(&record), [(Action::Restored, 30)]);
}
