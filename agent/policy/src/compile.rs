//! Model and facts to image.
//!
//! Members become identities (sets of zones), rules become rulesets of final answers, and pairs of
//! identities share rulesets. What is large is kept small by two means: identities that rules do not
//! single out are judged by class, and rulesets with equal content are one.
//!
//! Whatever does not fit the kernel's tables is refused whole: no image is better than a partial one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bulkhead_abi::{Addr, Identity, limits};

use crate::image::Image;
use crate::model::{Facts, Model};
use crate::numbers::{Exhausted, Numbers};

mod cgroups;
mod members;
mod named;
mod pairs;
mod parties;
mod prefixes;
mod rules;
mod ruleset;
mod rulesets;
mod sets;
mod verdict;

use members::Members;
use parties::Parties;
use prefixes::FlatMemo;
use rules::RuleMemo;
use rulesets::RulesetMemo;

/// Why a policy has no image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// A table of the kernel is too small.
    #[error("the policy needs {needed} {table}, {} more than the kernel's table holds ({limit}): {help}", needed.saturating_sub(*limit))]
    Capacity {
        /// What there is too much of.
        table: &'static str,
        /// How many entries the policy needs (at least).
        needed: usize,
        /// How many there may be.
        limit: usize,
        /// What to do about it.
        help: &'static str,
    },
    /// A count has come to its end.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

/// Compiles a policy from nothing. Who compiles again and again keeps a [`Compiler`].
pub fn compile(model: &Model, facts: &Facts, numbers: &mut Numbers) -> Result<Image, CompileError> {
    let mut compiler = Compiler::new(std::mem::take(numbers));
    let image = compiler.compile(model, facts);
    *numbers = compiler.into_numbers();
    image
}

/// A compiler that remembers: what did not change since the last policy is not computed again.
#[derive(Debug, Default)]
pub struct Compiler {
    numbers: Numbers,
    local: Option<BTreeSet<Addr>>,
    flat: FlatMemo,
    rules: RuleMemo,
    rulesets: RulesetMemo,
}

impl Compiler {
    /// A compiler that goes on with these numbers.
    pub fn new(numbers: Numbers) -> Self {
        Self { numbers, ..Self::default() }
    }

    /// The numbers as they are, to be stored before an image that uses them is written to the kernel.
    pub const fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Ends the compiler and keeps its numbers.
    pub fn into_numbers(self) -> Numbers {
        self.numbers
    }

    /// Tells which addresses workloads of this host can have: those of all its network namespaces.
    ///
    /// It matters only where zones are so many that not every combination of a cgroup's zones with an
    /// address's can be made in advance: then combinations with other addresses are left out (and
    /// denied). Unless it is told, all combinations are made, or the policy is refused.
    pub fn set_local_addresses(&mut self, local: Option<BTreeSet<Addr>>) {
        self.local = local;
    }

    /// See [`Numbers::retain`]. What was remembered of policies goes too.
    pub fn retain(&mut self, live: &[&Image]) {
        self.numbers.retain(live);
        let (numbers, local) = (std::mem::take(&mut self.numbers), self.local.take());
        *self = Self { numbers, local, ..Self::default() };
    }

    /// Compiles a policy. On error nothing is lost but numbers.
    pub fn compile(&mut self, model: &Model, facts: &Facts) -> Result<Image, CompileError> {
        let members = Members::new(model, facts, self.local.as_ref(), &mut self.flat, &mut self.numbers)?;
        let rules = self.rules.entries(model, &mut self.numbers)?;
        let parties = Parties::new(model, &members, &rules, &mut self.numbers)?;
        let (pairs, rulesets) = pairs::compile(&parties, &mut self.rulesets, &mut self.numbers)?;
        let image = Image {
            prefixes: members.prefixes,
            workloads: members.workloads,
            unions: members.unions,
            identities: parties.states(),
            pairs,
            rulesets,
            zones: members.zones,
            rules: rules.iter().rev().map(|(number, entry)| (*number, Arc::clone(entry))).collect(),
        };
        check_capacity(&image)?;
        Ok(image)
    }
}

fn check_capacity(image: &Image) -> Result<(), CompileError> {
    let classes: BTreeMap<Identity, ()> = image.identities.values().map(|s| (s.class(), ())).collect();
    capacity(
        "prefixes",
        image.prefixes.len(),
        limits::PREFIXES,
        "merge neighbouring cidrs, or split zones over nodes",
    )?;
    capacity(
        "workloads",
        image.workloads.len(),
        limits::WORKLOADS,
        "name slices rather than single units in `cgroups`",
    )?;
    capacity(
        "identities and classes",
        image.identities.len() + classes.len(),
        limits::IDENTITIES,
        "let fewer zones overlap",
    )?;
    capacity(
        "pairs of identities",
        image.pairs.len(),
        limits::PAIRS,
        "let fewer zones overlap, and write fewer rules between `any` and single zones",
    )?;
    capacity(
        "ruleset entries",
        image.rule_entries(),
        limits::RULES,
        "use fewer and wider port ranges, aligned to powers of two",
    )
}

fn capacity(table: &'static str, needed: usize, limit: u32, help: &'static str) -> Result<(), CompileError> {
    let limit = limit as usize;
    if needed > limit { Err(CompileError::Capacity { table, needed, limit, help }) } else { Ok(()) }
}
