//! The load: loops of attempts whose outcome is known under both policies, on threads of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bulkhead_tests::harness::{Kind, LoopCount};

use crate::churn::Conductor;
use crate::lab::{Client, LONG, Lab};
use crate::policy::{ALWAYS, FIRST, NEVER, SECOND, server};
use crate::witness::{LOOK, Witness};

/// How long a denied attempt may stay without an answer.
const SHORT: Duration = Duration::from_millis(300);

/// How long a loop goes on before it is counted.
const ROUND: Duration = Duration::from_millis(250);

/// How long the loops of denied attempts wait in between.
const PAUSE: Duration = Duration::from_secs(1);

/// What must become of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Expected {
    Passes,
    IsDenied,
    /// The policies differ.
    Either,
}

/// Attempts by what must become of them.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    /// Attempts that passed, and that did not.
    outcomes: BTreeMap<Expected, (u64, u64)>,
    /// What was not as it must be.
    pub(crate) wrong: Vec<String>,
    /// Attempts that failed otherwise than with a denial's error, by error; harmless where denied.
    errors: BTreeMap<String, u64>,
}

/// Loops that run.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the loops of all clients.
    pub(crate) fn start(lab: &Lab) -> Load {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Counts::default())));
        let mut threads = vec![looks(&stop, &lab.witness)];
        for client in &lab.clients {
            for kind in [Kind::Tcp, Kind::Udp] {
                for (expected, ports) in [
                    (Expected::Passes, &[ALWAYS][..]),
                    (Expected::IsDenied, &[NEVER]),
                    (Expected::Either, &[FIRST, SECOND]),
                ] {
                    let families = if client.v6 { &[false, true][..] } else { &[false] };
                    let targets: Vec<SocketAddr> =
                        ports.iter().flat_map(|port| families.iter().map(|v6| server(*v6, *port))).collect();
                    let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
                    let (client, witness) = (client.clone(), Arc::clone(&lab.witness));
                    threads.push(std::thread::spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            let limit = if expected == Expected::Passes { LONG } else { SHORT };
                            let round = attempt(&client, &witness, kind, &targets, expected, limit, ROUND);
                            counts.lock().unwrap_or_else(PoisonError::into_inner).add(round);
                            // A denial is so cheap that its loops would leave the others no processor.
                            if expected != Expected::Passes {
                                std::thread::sleep(PAUSE);
                            }
                        }
                    }));
                }
            }
        }
        Load { stop, counts, threads }
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts attempts that were made elsewhere.
    pub(crate) fn add(&self, counts: Counts) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(counts);
    }

    /// Ends the loops, and says what they counted.
    pub(crate) fn stop(mut self) -> Counts {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Looks at everything again and again.
fn looks(stop: &Arc<AtomicBool>, witness: &Arc<Witness>) -> JoinHandle<()> {
    let (stop, witness) = (Arc::clone(stop), Arc::clone(witness));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            witness.look();
            std::thread::sleep(LOOK);
        }
    })
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// Attempts for a while, held against what must become of them.
pub(crate) fn attempt(
    client: &Client,
    witness: &Witness,
    kind: Kind,
    targets: &[SocketAddr],
    expected: Expected,
    limit: Duration,
    duration: Duration,
) -> Counts {
    let mut counts = Counts::default();
    match client.peer.begin_loop(kind, targets, true, duration, limit).wait() {
        Ok(rounds) => rounds.iter().for_each(|round| {
            counts.judge(kind, expected, round);
            if expected == Expected::Passes {
                for failed in &round.failed {
                    println!("  WHY: {}", witness.explain(client.host, round.to, failed));
                }
            }
        }),
        Err(error) => counts.wrong.push(format!("{kind:?} to {targets:?}: {error}")),
    }
    counts
}

impl Counts {
    fn judge(&mut self, kind: Kind, expected: Expected, round: &LoopCount) {
        const EPERM: i32 = 1;
        let failed = round.errors.values().sum::<u64>() + round.timeouts;
        let outcome = self.outcomes.entry(expected).or_default();
        outcome.0 += round.ok;
        outcome.1 += failed;
        for (errno, count) in round.errors.iter().filter(|(errno, _)| **errno != EPERM) {
            *self.errors.entry(format!("{kind:?} errno {errno}")).or_default() += count;
        }
        if round.timeouts > 0 {
            *self.errors.entry(format!("{kind:?} no answer")).or_default() += round.timeouts;
        }
        let wrong = match expected {
            Expected::Passes => failed,
            Expected::IsDenied => round.ok,
            Expected::Either => 0,
        };
        if wrong > 0 {
            self.wrong.push(format!("{wrong} by {kind:?} to {}, {expected:?}: {round:?}", round.to));
        }
    }

    /// Adds others'.
    pub(crate) fn add(&mut self, other: Counts) {
        for (expected, (passed, failed)) in other.outcomes {
            let sum = self.outcomes.entry(expected).or_default();
            *sum = (sum.0 + passed, sum.1 + failed);
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        for wrong in &other.wrong {
            println!("WRONG: {wrong}");
        }
        self.wrong.extend(other.wrong);
    }

    /// Attempts that passed and that did not, of one kind.
    pub(crate) fn of(&self, expected: Expected) -> (u64, u64) {
        self.outcomes.get(&expected).copied().unwrap_or_default()
    }

    /// All attempts.
    pub(crate) fn all(&self) -> u64 {
        self.outcomes.values().map(|(passed, failed)| passed + failed).sum()
    }

    /// Prints them; whether nothing was wrong.
    pub(crate) fn report(&self, conductor: &Conductor) -> bool {
        println!("\n{:<44}{:>12}{:>12}", "attempts", "passed", "denied");
        for (expected, name) in [
            (Expected::Passes, "allowed at that moment"),
            (Expected::IsDenied, "denied at that moment"),
            (Expected::Either, "allowed by one policy, at any moment"),
        ] {
            let (passed, failed) = self.of(expected);
            println!("  {name:<42}{passed:>12}{failed:>12}");
        }
        println!("  {:<42}{:>12}", "all", self.all());
        for (error, count) in &self.errors {
            println!("  of the denied: {error:<27}{count:>12}");
        }
        println!("  {:<42}{:>12}", "WRONG VERDICTS", self.wrong.len());
        conductor.report();
        self.wrong.is_empty()
    }
}
