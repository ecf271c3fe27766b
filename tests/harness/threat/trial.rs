//! One try of an attempt or of a twin: where it is made, and what it has to say of itself.

use std::cell::{Ref, RefCell};
use std::time::Duration;

use anyhow::Result;

use super::super::{Agent, Counters, Pair};
use super::{Lab, SOON};

/// One try of an attempt or of a twin.
pub struct Try<'a> {
    /// The machines.
    pub lab: &'a Lab,
    /// How long to wait for an arrival: long where it must come, short where it must not.
    pub patience: Duration,
    /// It must arrive. Of several packets that means all, where none may arrive it means any.
    pub expected: bool,
    /// Number of the try, different for each of a threat.
    pub number: u16,
    agent: Option<&'a RefCell<Agent>>,
    counted: RefCell<Vec<(Pair, u64)>>,
    before: RefCell<Before>,
}

/// What counters are compared with.
#[derive(Default)]
struct Before {
    counters: Counters,
    /// The number of the kernel's map of them.
    map: u32,
}

impl<'a> Try<'a> {
    pub(super) fn new(
        lab: &'a Lab,
        agent: Option<&'a RefCell<Agent>>,
        patience: Duration,
        expected: bool,
        number: u16,
    ) -> Try<'a> {
        let (counted, before) = (RefCell::default(), RefCell::default());
        Try { lab, patience, expected, number, agent, counted, before }
    }

    /// One that belongs to no threat, and must arrive.
    #[must_use]
    pub fn by_hand(lab: &'a Lab, number: u16) -> Try<'a> {
        Try::new(lab, None, SOON, true, number)
    }

    /// The agent, in the runs that have one.
    #[must_use]
    pub fn agent(&self) -> Option<Ref<'a, Agent>> {
        self.agent.map(RefCell::borrow)
    }

    /// What happens between what is prepared and what is tried, in the runs that have an agent for it to
    /// happen to.
    pub fn meanwhile(&self, happens: impl FnOnce(&mut Agent) -> Result<()>) -> Result<()> {
        self.agent.map_or(Ok(()), |agent| happens(&mut agent.borrow_mut()))
    }

    /// The refused attempt moves this counter by so many flows more than its case says: from zone, to zone,
    /// verdict, reason. For what shows only while it is tried.
    pub fn counts(&self, from: &str, to: &str, verdict: &str, reason: &str, flows: u64) {
        self.counted.borrow_mut().push((Pair::new(from, to, verdict, reason), flows));
    }

    /// What moved since [`Try::compare_from_now`]; nothing in a run without an agent. An agent that was
    /// detached and started again in between has begun counting anew.
    pub fn moved(&self) -> Result<Counters> {
        let Some(agent) = self.agent() else { return Ok(Counters::default()) };
        let (before, now) = (self.before.borrow(), agent.counters()?);
        let same = agent.reader()?.maps().counters.id()? == before.map;
        Ok(if same { now.since(&before.counters) } else { now })
    }

    /// What is counted from here on is this try's.
    pub fn compare_from_now(&self) -> Result<()> {
        if let Some(agent) = self.agent() {
            let map = agent.reader()?.maps().counters.id()?;
            *self.before.borrow_mut() = Before { counters: agent.counters()?, map };
        }
        Ok(())
    }

    pub(super) fn counted(&self) -> Vec<(Pair, u64)> {
        self.counted.borrow().clone()
    }
}
