//! Keeps the kernel true to the policy folder and to who lives on this host.
//!
//! Everything is computed first and written last: a folder that cannot be read, a file with a mistake,
//! a policy that does not fit leave the last good generation in force, and are shown until the folder is
//! good again. Numbers are stored before the kernel hears of them. Nothing here waits or watches: who
//! calls decides when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bulkhead_abi::Addr;
use bulkhead_policy::{Compiler, Facts, Image, Model};

use super::labels::Labels;
use super::snapshot::{Failure, Shared};
use super::state::StateFile;
use crate::datapath::drift::Drift;
use crate::datapath::{Commit, Datapath, DatapathError};
use crate::metrics::AgentMetrics;

/// Numbers beyond those in use that are kept before the unused are forgotten.
const SPARE_NUMBERS: usize = 100_000;

/// Where images go: the kernel, or a test's stand-in.
pub trait Kernel: Send {
    /// Why it could not.
    type Error: std::fmt::Display;
    /// See [`Datapath::commit`].
    fn commit(&mut self, image: &Image) -> Result<Commit, Self::Error>;
    /// See [`Datapath::set_workloads`].
    fn set_workloads(&mut self, image: &Image) -> Result<usize, Self::Error>;
    /// See [`Datapath::verify`].
    fn verify(&self, image: Option<&Image>) -> Result<Drift, Self::Error>;
    /// See [`Datapath::repair`].
    fn repair(&mut self, drift: &Drift, image: Option<&Image>) -> Result<u64, Self::Error>;
}

impl Kernel for Datapath {
    type Error = DatapathError;

    fn commit(&mut self, image: &Image) -> Result<Commit, DatapathError> {
        Datapath::commit(self, image)
    }

    fn set_workloads(&mut self, image: &Image) -> Result<usize, DatapathError> {
        Datapath::set_workloads(self, image)
    }

    fn verify(&self, image: Option<&Image>) -> Result<Drift, DatapathError> {
        Datapath::verify(self, image)
    }

    fn repair(&mut self, drift: &Drift, image: Option<&Image>) -> Result<u64, DatapathError> {
        Datapath::repair(self, drift, image)
    }
}

/// Where models come from: the policy folder, or a test's stand-in.
pub trait Policies: Send {
    /// Reads the policy as it is now.
    fn load(&mut self) -> Result<Loaded, Refusal>;
}

/// A policy that can be enforced.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// The same as at the last successful load.
    Same,
    /// Another one.
    New(Arc<Model>),
}

/// Why there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refusal {
    /// Every diagnostic, rendered for people.
    pub text: String,
    /// Each diagnostic in one line, for the log.
    pub lines: Vec<String>,
    /// The folder was as bad as this at the last load already.
    pub known: bool,
}

impl Refusal {
    /// A refusal for one reason.
    pub fn because(reason: impl std::fmt::Display) -> Self {
        let text = reason.to_string();
        Self { lines: vec![text.clone()], text, known: false }
    }
}

/// What a call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing had to be done.
    Unchanged,
    /// Workloads came or went; the policy is the same.
    Membership,
    /// A new generation is enforced.
    Committed,
    /// The last good generation stays.
    Failed,
}

/// The one who writes to the kernel.
#[derive(Debug)]
pub struct Reconciler<K, P> {
    kernel: K,
    policies: P,
    compiler: Compiler,
    state: StateFile,
    labels: Labels,
    facts: Arc<Facts>,
    model: Option<Arc<Model>>,
    image: Option<Arc<Image>>,
    shared: Arc<Shared>,
    metrics: AgentMetrics,
    /// The last attempt failed after the files were fine (compiling, writing): the next one must not
    /// stop at "the same files".
    retry: Option<Arc<Model>>,
}

impl<K: Kernel, P: Policies> Reconciler<K, P> {
    /// A reconciler that has written nothing yet.
    pub fn new(
        kernel: K,
        policies: P,
        (state, compiler, labels): (StateFile, Compiler, Labels),
        facts: Facts,
        shared: Arc<Shared>,
        metrics: AgentMetrics,
    ) -> Self {
        let facts = Arc::new(facts);
        Self {
            kernel,
            policies,
            compiler,
            state,
            labels,
            facts,
            model: None,
            image: None,
            shared,
            metrics,
            retry: None,
        }
    }

    /// Writes to the kernel apart from the policy.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// What is enforced, if this process knows.
    pub fn image(&self) -> Option<&Arc<Image>> {
        self.image.as_ref()
    }

    /// Reads the kernel's tables back, and writes right what differs from what is enforced. Between
    /// commits, so that whatever differs was changed by somebody else.
    pub fn verify(&mut self) -> Result<Verified, String> {
        let begun = Instant::now();
        let image = self.image.as_deref();
        let drift = self.kernel.verify(image).map_err(|error| {
            tracing::warn!(%error, "the kernel's tables cannot be compared with the policy");
            error.to_string()
        })?;
        let took = begun.elapsed();
        let entries = drift.entries.len();
        let mut repaired = true;
        if !drift.is_empty() {
            let label = |identity| self.labels.get(identity).to_string();
            super::drift::tell(&drift, label);
            match self.kernel.repair(&drift, image) {
                Ok(generation) => {
                    self.shared.update(|snapshot| snapshot.generation = generation);
                    tracing::warn!(
                        finding = "drift",
                        entries,
                        generation,
                        "the kernel's tables were written right"
                    );
                }
                Err(error) => {
                    repaired = false;
                    tracing::error!(finding = "drift", %error, "the kernel's tables cannot be written right");
                }
            }
        }
        tracing::debug!(entries, took_us = micros(took), "the kernel's tables were compared with the policy");
        self.metrics.verified(entries, repaired);
        self.shared.update(|snapshot| snapshot.drift.looked(entries, repaired, took));
        Ok(Verified { drift, repaired, took })
    }

    /// Reads the folder and makes the kernel follow.
    pub fn reload(&mut self) -> Outcome {
        let start = Instant::now();
        let model = match (self.policies.load(), self.retry.take()) {
            (Ok(Loaded::New(model)), _) | (Ok(Loaded::Same), Some(model)) => model,
            (Ok(Loaded::Same), None) => {
                self.succeeded(false, start.elapsed());
                return Outcome::Unchanged;
            }
            (Err(refusal), _) => return self.failed(&refusal),
        };
        self.adopt(model, start)
    }

    /// As [`Reconciler::reload`], with a model that was loaded already.
    pub fn adopt(&mut self, model: Arc<Model>, start: Instant) -> Outcome {
        match self.put(&model, start) {
            Ok(done) => {
                self.model = Some(model);
                self.succeeded(done.changed, done.enforced_after);
                self.publish();
                done.outcome()
            }
            Err(refusal) => {
                self.retry = Some(model);
                self.failed(&refusal)
            }
        }
    }

    /// The folder could not be loaded: shows it, and changes nothing.
    pub fn refuse(&mut self, refusal: &Refusal) -> Outcome {
        self.failed(refusal)
    }

    /// Cgroups came or went, or this host's addresses changed: the same policy with other facts.
    pub fn observe(&mut self, facts: Facts) -> Outcome {
        if *self.facts == facts {
            return Outcome::Unchanged;
        }
        self.facts = Arc::new(facts);
        self.refresh()
    }

    /// The addresses of all namespaces of this host, as far as they are known: a hint to the compiler.
    pub fn set_local_addresses(&mut self, addresses: BTreeSet<Addr>) -> Outcome {
        self.compiler.set_local_addresses(Some(addresses));
        self.refresh()
    }

    /// The same policy once more.
    fn refresh(&mut self) -> Outcome {
        let Some(model) = self.model.clone() else {
            self.publish();
            return Outcome::Unchanged;
        };
        let start = Instant::now();
        let image = match self.compiler.compile(&model, &self.facts) {
            Ok(image) => image,
            Err(error) => {
                tracing::warn!(%error, "the policy cannot follow the workloads on this host");
                return Outcome::Failed;
            }
        };
        let diff = self.image.as_deref().map(|before| before.diff(&image));
        let result = match diff {
            Some(diff) if diff.is_empty() => Ok(Outcome::Unchanged),
            Some(diff) if diff.is_membership() => self.move_workloads(&image),
            _ => self.commit(&image, start).map(|done| done.outcome()),
        };
        match result {
            Ok(outcome) => {
                self.image = Some(Arc::new(image));
                self.publish();
                outcome
            }
            Err(refusal) => {
                tracing::warn!(
                    error = refusal.text,
                    "the kernel could not follow the workloads on this host"
                );
                // Forgotten, so that the next look at the host tries again.
                self.facts = Arc::default();
                Outcome::Failed
            }
        }
    }

    fn put(&mut self, model: &Model, start: Instant) -> Result<Done, Refusal> {
        let image = self.compiler.compile(model, &self.facts).map_err(Refusal::because)?;
        let same = self.image.as_deref().is_some_and(|before| before.diff(&image).is_empty());
        // The same tables may come of other lines: names and places of rules are shown, not enforced.
        let done = if same { Done::nothing(start) } else { self.commit(&image, start)? };
        self.image = Some(Arc::new(image));
        Ok(done)
    }

    fn move_workloads(&mut self, image: &Image) -> Result<Outcome, Refusal> {
        let moved = self.kernel.set_workloads(image).map_err(Refusal::because)?;
        tracing::debug!(moved, "workloads came or went");
        Ok(Outcome::Membership)
    }

    fn commit(&mut self, image: &Image, start: Instant) -> Result<Done, Refusal> {
        self.labels.learn(image);
        self.state.save(self.compiler.numbers(), &self.labels).map_err(Refusal::because)?;
        let commit = self.kernel.commit(image).map_err(Refusal::because)?;
        self.shared.update(|snapshot| snapshot.generation = commit.generation);
        // From its one store on the new policy holds; the old one is cleaned up behind that.
        let clean_up = commit.total.saturating_sub(commit.stage);
        let enforced_after = start.elapsed().saturating_sub(clean_up);
        if commit.changed {
            tracing::info!(
                generation = commit.generation,
                written = commit.written,
                removed = commit.removed,
                enforced_after_us = micros(enforced_after),
                cleaned_up_us = micros(clean_up),
                "policy enforced"
            );
        }
        let used = image.identities.len() * 2 + image.rulesets.len() + image.rules.len();
        if self.compiler.numbers().len() > used + SPARE_NUMBERS {
            self.compiler.retain(&[image]);
        }
        Ok(Done { changed: commit.changed, enforced_after })
    }

    fn succeeded(&mut self, changed: bool, took: Duration) {
        let recovered = self.shared.snapshot().failure.is_some();
        self.metrics.reloaded(changed, took);
        self.shared.update(|snapshot| {
            snapshot.failure = None;
            snapshot.last_success = Some(SystemTime::now());
            snapshot.last_duration = took;
        });
        if recovered {
            tracing::info!("the policy folder is good again");
        }
    }

    fn failed(&mut self, refusal: &Refusal) -> Outcome {
        self.metrics.reload_failed();
        let generation = self.shared.snapshot().generation;
        if !refusal.known {
            tracing::warn!(
                errors = refusal.lines.len(),
                generation,
                "the policy folder is not enforced as it is: the last good policy stays in force"
            );
            for line in &refusal.lines {
                tracing::warn!(diagnostic = line, "policy error");
            }
        }
        self.shared.update(|snapshot| {
            let since = snapshot.failure.take().map_or_else(SystemTime::now, |failure| failure.since);
            snapshot.failure = Some(Failure { text: refusal.text.clone(), since });
        });
        Outcome::Failed
    }

    fn publish(&self) {
        self.shared.update(|snapshot| {
            snapshot.model.clone_from(&self.model);
            snapshot.image.clone_from(&self.image);
            snapshot.facts = Arc::clone(&self.facts);
            if *snapshot.labels != self.labels {
                snapshot.labels = Arc::new(self.labels.clone());
            }
        });
    }
}

/// What a look at the kernel's tables came to.
#[derive(Debug)]
pub struct Verified {
    /// What differed.
    pub drift: Drift,
    /// Whether it is right now.
    pub repaired: bool,
    /// How long looking took.
    pub took: Duration,
}

/// A policy that is in force.
struct Done {
    changed: bool,
    enforced_after: Duration,
}

impl Done {
    fn nothing(start: Instant) -> Self {
        Self { changed: false, enforced_after: start.elapsed() }
    }

    fn outcome(&self) -> Outcome {
        if self.changed { Outcome::Committed } else { Outcome::Unchanged }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
