//! One watched thing: looked at, put right, told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::record::{Action, Record};
use crate::datapath::keep::{Condition, Harm, Object, Watched};

/// A thing that was put right more often than this within [`MINUTE`] is fought over, and no more is said of
/// each time.
const FIGHT: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// A thing, and what was seen of it lately.
pub(super) struct Entry {
    thing: Box<dyn Watched>,
    /// When it was put right lately.
    restored: VecDeque<Instant>,
    fought: bool,
    /// What was last said about it that did not work.
    complaint: Option<String>,
}

impl Entry {
    pub(super) fn new(thing: Box<dyn Watched>) -> Self {
        Self { thing, restored: VecDeque::new(), fought: false, complaint: None }
    }

    /// Looks, and puts right what is not; whether a link was made anew.
    pub(super) fn look(&mut self, now: Instant, record: &Record) -> bool {
        while self.restored.front().is_some_and(|at| now.duration_since(*at) > MINUTE) {
            self.restored.pop_front();
        }
        match self.thing.check() {
            Ok(Condition::Intact) => {
                self.complaint = None;
                self.fought &= !self.restored.is_empty();
                false
            }
            Ok(Condition::Harmed(harm)) => self.put_right(harm, now, record),
            Err(error) => {
                let name = self.thing.name();
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!(name, %error, "cannot see whether a kernel object is as it should be");
                    self.complaint = Some(complaint);
                }
                false
            }
        }
    }

    fn put_right(&mut self, harm: Harm, now: Instant, record: &Record) -> bool {
        let Harm { object, how } = harm;
        let fighting = self.restored.len() >= FIGHT;
        let begun = Instant::now();
        let result = self.thing.restore(harm);
        let took = begun.elapsed();
        let action = if result.is_ok() { Action::Restored } else { Action::Failed };
        let name = self.thing.name();
        match result {
            Ok(()) => {
                record.note(object, name, how, action, took);
                self.restored.push_back(now);
                if self.restored.len() > FIGHT {
                    self.restored.pop_front();
                }
                self.complaint = None;
                if !fighting {
                    tell(harm, name, took);
                } else if !self.fought {
                    self.fought = true;
                    tracing::error!(
                        finding = "tamper",
                        object = object.as_str(),
                        name,
                        "somebody keeps undoing what the agent puts right; this is not said again each time"
                    );
                }
            }
            Err(error) => {
                let complaint = error.to_string();
                if self.complaint.as_ref() != Some(&complaint) {
                    record.note(object, name, how, action, took);
                    tracing::error!(
                        finding = "tamper",
                        object = object.as_str(),
                        name,
                        how = how.as_str(),
                        action = action.as_str(),
                        %error,
                        "somebody took away a kernel object of this agent, and it cannot be put right"
                    );
                    self.complaint = Some(complaint);
                }
            }
        }
        object == Object::Link && action == Action::Restored
    }
}

fn tell(harm: Harm, name: &str, took: Duration) {
    tracing::warn!(
        finding = "tamper",
        object = harm.object.as_str(),
        name,
        how = harm.how.as_str(),
        action = Action::Restored.as_str(),
        took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "somebody took away a kernel object of this agent, and it was put back"
    );
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
