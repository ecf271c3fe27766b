//! Every ruleset once: by what makes it, and by what it says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::parties::{Match, Parties};
use super::ruleset::{Applied, build};
use super::verdict::{SideShape, Voice};
use crate::image::Ruleset;
use crate::image::print::cell_words;
use crate::model::Sides;
use crate::numbers::{Digest, Exhausted, Numbers};

/// Shapes and rules of a pair, as numbers.
type Key = Box<[u64]>;

/// The rulesets of the last policy, by what made them.
#[derive(Debug, Default)]
pub(super) struct RulesetMemo {
    known: HashMap<Key, (u32, Arc<Ruleset>)>,
}

/// The rulesets of a policy in the making.
pub(super) struct Rulesets<'a> {
    parties: &'a Parties<'a>,
    memo: &'a mut RulesetMemo,
    numbers: &'a mut Numbers,
    made: HashMap<Key, (u32, Arc<Ruleset>)>,
    rulesets: BTreeMap<u32, Arc<Ruleset>>,
}

impl<'a> Rulesets<'a> {
    pub(super) fn new(parties: &'a Parties<'a>, memo: &'a mut RulesetMemo, numbers: &'a mut Numbers) -> Self {
        Self { parties, memo, numbers, made: HashMap::new(), rulesets: BTreeMap::new() }
    }

    /// The number of the ruleset of a pair with these shapes and rules.
    pub(super) fn number(&mut self, shapes: &[SideShape; 2], matches: &[Match]) -> Result<u32, Exhausted> {
        let applied = self.applied(shapes, matches);
        let key = key(shapes, &applied);
        if let Some((number, _)) = self.made.get(&key) {
            return Ok(*number);
        }
        let (number, ruleset) = match self.memo.known.remove(&key) {
            Some(known) => known,
            None => {
                let ruleset = build(shapes, &applied);
                (self.numbers.ruleset(content(&ruleset))?, Arc::new(ruleset))
            }
        };
        self.rulesets.entry(number).or_insert_with(|| Arc::clone(&ruleset));
        self.made.insert(key, (number, ruleset));
        Ok(number)
    }

    /// Ends the policy: what it did not use is forgotten.
    pub(super) fn finish(self) -> BTreeMap<u32, Arc<Ruleset>> {
        self.memo.known = self.made;
        self.rulesets
    }

    fn applied(&self, shapes: &[SideShape; 2], matches: &[Match]) -> Vec<Applied<'a>> {
        let parties = self.parties;
        let [egress, ingress] = shapes;
        let mut applied = Vec::with_capacity(matches.len());
        for found in matches {
            let Some(numbered) = parties.rules.get(found.rule as usize) else { continue };
            let rule = &*numbered.rule;
            let voice = |shape: &SideShape, enforced: bool, silent: Sides| {
                (shape.zoned && rule.sides != silent).then_some(Voice {
                    tier: rule.tier,
                    action: rule.action,
                    number: numbered.number,
                    enforced: enforced && shape.enforcing,
                })
            };
            let egress = voice(egress, found.from_enforced, Sides::Ingress);
            let ingress = voice(ingress, found.to_enforced, Sides::Egress);
            if egress.is_some() || ingress.is_some() {
                applied.push(Applied { rule, egress, ingress });
            }
        }
        applied
    }
}

/// A rule's number stands for all that it says, so numbers and the way they speak make the content.
fn key(shapes: &[SideShape; 2], applied: &[Applied<'_>]) -> Key {
    let [egress, ingress] = shapes;
    let mut key = vec![egress.bits() << 8 | ingress.bits()];
    for rule in applied {
        let way = |voice: Option<Voice>| voice.map_or(0, |voice| 1 + u64::from(voice.enforced));
        let number = rule.egress.or(rule.ingress).map_or(0, |voice| voice.number);
        key.push(u64::from(number) << 4 | way(rule.egress) << 2 | way(rule.ingress));
    }
    key.into_boxed_slice()
}

fn content(ruleset: &Ruleset) -> Digest {
    let mut bytes = Vec::with_capacity(ruleset.entries().len() * 20);
    for entry in ruleset.entries() {
        bytes.extend(entry.bits.to_be_bytes());
        bytes.push(entry.protocol.0);
        bytes.extend(entry.port.to_be_bytes());
        bytes.extend(cell_words(&entry.cell).iter().flat_map(|word| word.to_be_bytes()));
    }
    Digest::of([&bytes[..]])
}
