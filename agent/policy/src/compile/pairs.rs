//! Which pair has which ruleset.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_abi::{IdentityState, PairKey, limits};

use super::parties::{Match, Parties, Party};
use super::rulesets::{RulesetMemo, Rulesets};
use super::verdict::SideShape;
use super::{CompileError, capacity};
use crate::image::Ruleset;
use crate::numbers::{Exhausted, Numbers};

const HELP: &str = "let fewer zones overlap, and write fewer rules between `any` and single zones";

/// The pair table and its rulesets.
pub(super) type Pairs = (BTreeMap<PairKey, u32>, BTreeMap<u32, Arc<Ruleset>>);

/// Every pair of classes, and those pairs of identities whose ruleset is another than their classes'.
pub(super) fn compile(
    parties: &Parties<'_>,
    memo: &mut RulesetMemo,
    numbers: &mut Numbers,
) -> Result<Pairs, CompileError> {
    let mut classes: BTreeMap<u32, &Party> = BTreeMap::new();
    for party in &parties.all {
        classes.entry(party.class).or_insert(party);
    }
    capacity("pairs of identity classes", classes.len().saturating_mul(classes.len()), limits::PAIRS, HELP)?;
    // Some of them may turn out to be as their classes are, but not half.
    let limit = limits::PAIRS * 2;
    let narrow = match parties.narrow_pairs(limit as usize) {
        Ok(narrow) => narrow,
        Err(needed) => {
            capacity("pairs that rules single out", needed, limit, HELP)?;
            Vec::new()
        }
    };

    let mut rulesets = Rulesets::new(parties, memo, numbers);
    let mut pairs = Vec::with_capacity(narrow.len());
    let mut matches = Vec::new();
    let class_of = |party: &Party| IdentityState::new(party.class, false).class();
    let mut of_classes: BTreeMap<PairKey, u32> = BTreeMap::new();
    for from in classes.values() {
        for to in classes.values().filter(|to| from.identity.is_zoned() || to.identity.is_zoned()) {
            let number = ruleset(&mut rulesets, parties, from, to, true, &mut matches)?;
            of_classes.insert(PairKey { from: class_of(from), to: class_of(to) }, number);
        }
    }
    for (from, to) in narrow {
        let (Some(from), Some(to)) = (parties.all.get(from as usize), parties.all.get(to as usize)) else {
            continue;
        };
        if !from.identity.is_zoned() && !to.identity.is_zoned() {
            continue;
        }
        let number = ruleset(&mut rulesets, parties, from, to, false, &mut matches)?;
        if of_classes.get(&PairKey { from: class_of(from), to: class_of(to) }) != Some(&number) {
            pairs.push((PairKey { from: from.identity, to: to.identity }, number));
        }
    }
    // Every ruleset is in use: one that no pair of identities has got is that of their classes.
    Ok((pairs.into_iter().chain(of_classes).collect(), rulesets.finish()))
}

fn ruleset(
    rulesets: &mut Rulesets<'_>,
    parties: &Parties<'_>,
    from: &Party,
    to: &Party,
    of_class: bool,
    matches: &mut Vec<Match>,
) -> Result<u32, Exhausted> {
    let shares = parties.share(from, to, of_class);
    let [egress, _] = from.isolates;
    let [_, ingress] = to.isolates;
    let shape = |party: &Party, isolates| SideShape {
        zoned: party.identity.is_zoned(),
        enforcing: party.enforcing,
        isolates,
        shares,
    };
    let shapes = [shape(from, egress), shape(to, ingress)];
    parties.matches(from, to, of_class, matches);
    rulesets.number(&shapes, matches)
}
