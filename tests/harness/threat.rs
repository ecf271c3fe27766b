//! Three runs for each attack: a packet that never arrives proves nothing by itself.
//!
//! 1. Agent off: the attempt arrives, so it is a real one.
//! 2. Agent on: its legitimate twin arrives, so the way is open and the policy as it should be.
//! 3. Agent on: the attempt does not arrive, the counters that are named move by as many flows as named,
//!    and no other does.
//!
//! ```no_run
//! # use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, WEB_AND_DB, at};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new()?;
//! let policy = format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/7000-7099\"]\n");
//! Threat::new(&policy)
//!     .case(
//!         Case::new("a datagram to a port that no rule names")
//!             .attempt(|run| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(9000))))
//!             .twin(|run| run.datagram(&run.lab.web, &run.lab.db, at(DB, run.port(7000))))
//!             .counts("web", "db", "deny", "default", 1),
//!     )
//!     .run(&lab)
//! # }
//! ```
//!
//! Whoever writes an attempt observes at the receiver: an error at the sender is no proof of silence.
//!
//! What takes its time is no other kind of attack: an attempt and its twin may have something happen between
//! what they prepare and what they try ([`Try::meanwhile`]: a policy that is changed, an agent that is killed,
//! links that are taken off), and may say themselves what the kernel must have counted by then
//! ([`Try::counts`]). After each the threat's own policy is enforced again.

mod lab;
mod sending;
mod trial;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wait::wait_until;
use super::{Agent, CallError, Called, Counters, Pair, Setup};

pub use lab::{
    DB, DB6, HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, PUPPETS, PUPPETS6, SPARE, SPARE6, STRANGERS, STRANGERS6,
    WEB, WEB_AND_DB, WEB6,
};
pub use sending::{at, send_raw};
pub use trial::Try;

/// How long something that must arrive may take, and how long counters may.
const SOON: Duration = Duration::from_secs(10);

/// How long nothing must have arrived before it counts as denied.
const SILENT: Duration = Duration::from_millis(400);

/// How long counters must stay as they are expected: the agent looks after sockets every 50 ms, and may not
/// count once more what a packet was counted for.
const STEADY: Duration = Duration::from_millis(120);

/// Ports, and addresses, that one range has: as many tries as a [`Threat`] may have.
pub const TRIES: u16 = 100;

/// Attacks under one policy, each in three runs.
pub struct Threat<'a> {
    policy: String,
    cases: Vec<Case<'a>>,
    setup: Box<dyn Fn(Setup) -> Setup + 'a>,
    soon: Duration,
}

/// One attack, its legitimate twin, and what the attack moves.
pub struct Case<'a> {
    name: String,
    attempt: Option<Act<'a>>,
    twin: Option<Act<'a>>,
    moves: Vec<(Pair, u64)>,
}

/// Tries something, and answers whether it arrived, as its receiver saw it.
pub type Act<'a> = Box<dyn Fn(&Try<'_>) -> Result<bool> + 'a>;

impl<'a> Threat<'a> {
    /// Attacks under this zone file, on a node that enforces.
    #[must_use]
    pub fn new(policy: &str) -> Threat<'a> {
        Threat { policy: policy.to_owned(), cases: Vec::new(), setup: Box::new(|setup| setup), soon: SOON }
    }

    /// More to say to the agent before it starts.
    #[must_use]
    pub fn setup(self, setup: impl Fn(Setup) -> Setup + 'a) -> Threat<'a> {
        Threat { setup: Box::new(setup), ..self }
    }

    /// Waits this long, instead of 10 s, for what must come.
    #[must_use]
    pub fn within(self, soon: Duration) -> Threat<'a> {
        Threat { soon, ..self }
    }

    /// One more attack.
    #[must_use]
    pub fn case(mut self, case: Case<'a>) -> Threat<'a> {
        self.cases.push(case);
        self
    }

    /// Runs all of them. The error names each case that failed, and which of its three runs.
    pub fn run(self, lab: &Lab) -> Result<()> {
        let numbers = Cell::new(0);
        let try_ = |agent, expected| {
            numbers.set(numbers.get() + 1);
            let patience = if expected { self.soon } else { SILENT };
            Try::new(lab, agent, patience, expected, numbers.get() - 1)
        };
        let mut failures = Failures::default();
        for case in &self.cases {
            failures.note(case, "agent off: the attempt must arrive", || case.see_attempt(&try_(None, true)));
        }
        let setup = Agent::prepare(&lab.root, &self.policy).in_ns(lab.node()?);
        let agent = (self.setup)(setup).start().context("the agent did not start")?;
        let agent = RefCell::new(agent);
        for case in &self.cases {
            failures.note(case, "agent on: the twin must arrive", || {
                let seen = case.see_twin(&try_(Some(&agent), true));
                self.restore(&agent.borrow())?;
                seen
            });
            failures.note(case, "agent on: the attempt must not arrive", || {
                let seen = case.see_refusal(&try_(Some(&agent), false), self.soon);
                self.restore(&agent.borrow())?;
                seen
            });
        }
        let tries = numbers.get();
        if tries > TRIES {
            bail!("{tries} tries: their ports run into one another, make two threats of this one");
        }
        failures.into_result()
    }

    /// The policy under which each of them begins.
    fn restore(&self, agent: &Agent) -> Result<()> {
        if agent.policy()? != self.policy {
            agent.apply(&self.policy).context("the threat's own policy, once more")?;
        }
        Ok(())
    }
}

impl<'a> Case<'a> {
    /// A case; the name says what is tried.
    #[must_use]
    pub fn new(name: &str) -> Case<'a> {
        Case { name: name.to_owned(), attempt: None, twin: None, moves: Vec::new() }
    }

    /// What is tried. It is done twice: with the agent off and on.
    #[must_use]
    pub fn attempt(self, act: impl Fn(&Try<'_>) -> Result<bool> + 'a) -> Case<'a> {
        Case { attempt: Some(Box::new(act)), ..self }
    }

    /// What an honest program does that wants the same.
    #[must_use]
    pub fn twin(self, act: impl Fn(&Try<'_>) -> Result<bool> + 'a) -> Case<'a> {
        Case { twin: Some(Box::new(act)), ..self }
    }

    /// The refused attempt moves this counter by so many flows: from zone, to zone, verdict, reason. May
    /// be said of several; with 0 flows the counter may move in packets alone.
    #[must_use]
    pub fn counts(mut self, from: &str, to: &str, verdict: &str, reason: &str, flows: u64) -> Case<'a> {
        self.moves.push((Pair::new(from, to, verdict, reason), flows));
        self
    }

    fn see_attempt(&self, run: &Try<'_>) -> Result<Option<String>> {
        let arrived = self.attempt.as_ref().context("the case has no attempt")?(run)?;
        Ok((!arrived).then(|| "it did not".to_owned()))
    }

    fn see_twin(&self, run: &Try<'_>) -> Result<Option<String>> {
        let arrived = self.twin.as_ref().context("the case has no twin")?(run)?;
        let counted = || run.agent().and_then(|agent| agent.counters().ok()).unwrap_or_default();
        Ok((!arrived).then(|| format!("it did not; counted so far: {:?}", counted())))
    }

    fn see_refusal(&self, run: &Try<'_>, soon: Duration) -> Result<Option<String>> {
        run.compare_from_now()?;
        let arrived = self.attempt.as_ref().context("the case has no attempt")?(run)?;
        let wanted = self.wanted(run);
        let mut moved = Counters::default();
        let mut expected = || {
            moved = run.moved().unwrap_or_default();
            is_expected(&wanted, &moved)
        };
        let counted = wait_until(soon, "the counters moved", &mut expected).is_ok() && {
            std::thread::sleep(STEADY);
            expected()
        };
        Ok(match (arrived, counted) {
            (false, true) => None,
            (true, true) => Some(format!("it arrived, though counted as expected: {moved:?}")),
            (arrived, false) => {
                let wanted: Vec<String> =
                    wanted.iter().map(|(pair, flows)| format!("{pair}: {flows} flows")).collect();
                let arrived = if arrived { "it arrived" } else { "it did not arrive" };
                Some(format!("{arrived}; expected [{}], moved [{moved:?}]", wanted.join("; ")))
            }
        })
    }

    /// What must have moved, by the case's own word and by what the try found out.
    fn wanted(&self, run: &Try<'_>) -> BTreeMap<Pair, u64> {
        let mut wanted = BTreeMap::new();
        for (pair, flows) in self.moves.iter().cloned().chain(run.counted()) {
            *wanted.entry(pair).or_default() += flows;
        }
        wanted
    }
}

/// Whether exactly the named counters moved by exactly so many flows. An allowed flow of before may
/// have packets on the way still; a denial that nobody named may not move at all.
fn is_expected(wanted: &BTreeMap<Pair, u64>, moved: &Counters) -> bool {
    wanted.iter().all(|(pair, flows)| moved.get(pair).flows == *flows)
        && moved.iter().all(|(pair, counter)| {
            wanted.contains_key(pair) || (counter.flows == 0 && pair.verdict == "allow")
        })
}

/// Whether a receiver's call got something: `false` for silence and for what the kernel refused; an error
/// where the peer or the test is broken.
pub fn heard<T>(called: Called<T>) -> Result<bool> {
    match called {
        Ok(_) => Ok(true),
        Err(CallError::Timeout { .. } | CallError::Os { .. } | CallError::Closed { .. }) => Ok(false),
        Err(error @ (CallError::Wrong(_) | CallError::Gone)) => Err(error.into()),
    }
}

/// What went wrong so far.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn note(&mut self, case: &Case<'_>, run: &str, work: impl FnOnce() -> Result<Option<String>>) {
        let name = &case.name;
        match work() {
            Ok(None) => {}
            Ok(Some(why)) => self.0.push(format!("{name}: {run}: {why}")),
            Err(error) => self.0.push(format!("{name}: {run}: it could not be tried: {error:#}")),
        }
    }

    fn into_result(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for failure in &self.0 {
            write!(text, "\n  {failure}")?;
        }
        bail!("{} of the runs failed:{text}", self.0.len())
    }
}
