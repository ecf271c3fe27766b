//! Every ruleset once: by what makes it, and by what it says.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
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

type Known = HashMap<Key, (u32, Arc<Ruleset>), BuildHasherDefault<WordHasher>>;

/// The rulesets of the last policy, by what made them.
#[derive(Debug, Default)]
pub(super) struct RulesetMemo {
    known: Known,
}

/// The rulesets of a policy in the making.
pub(super) struct Rulesets<'a> {
    parties: &'a Parties<'a>,
    memo: &'a mut RulesetMemo,
    numbers: &'a mut Numbers,
    made: Known,
    rulesets: BTreeMap<u32, Arc<Ruleset>>,
    /// The key at hand, kept for its memory.
    key: Vec<u64>,
}

impl<'a> Rulesets<'a> {
    pub(super) fn new(parties: &'a Parties<'a>, memo: &'a mut RulesetMemo, numbers: &'a mut Numbers) -> Self {
        Self { parties, memo, numbers, made: Known::default(), rulesets: BTreeMap::new(), key: Vec::new() }
    }

    /// The number of the ruleset of a pair with these shapes and rules.
    pub(super) fn number(&mut self, shapes: &[SideShape; 2], matches: &[Match]) -> Result<u32, Exhausted> {
        self.write_key(shapes, matches);
        if let Some((number, _)) = self.made.get(&self.key[..]) {
            return Ok(*number);
        }
        let key: Key = self.key.as_slice().into();
        let (number, ruleset) = match self.memo.known.remove(&key) {
            Some(known) => known,
            None => {
                let ruleset = build(shapes, &self.applied(shapes, matches));
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

    /// A rule's number stands for all that it says, so numbers and the way they speak make the content.
    fn write_key(&mut self, shapes: &[SideShape; 2], matches: &[Match]) {
        let [egress, ingress] = shapes;
        self.key.clear();
        self.key.push(egress.bits() << 8 | ingress.bits());
        for found in matches {
            let Some(numbered) = self.parties.rules.get(found.rule as usize) else { continue };
            let way = |shape: &SideShape, enforced: bool, silent: Sides| {
                let speaks = shape.zoned && numbered.sides != silent;
                u64::from(speaks) + u64::from(speaks && enforced && shape.enforcing)
            };
            let egress = way(egress, found.from_enforced, Sides::Ingress);
            let ingress = way(ingress, found.to_enforced, Sides::Egress);
            if egress | ingress != 0 {
                self.key.push(u64::from(numbered.number) << 4 | egress << 2 | ingress);
            }
        }
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

const SEED: u64 = 0xf39c_c060_5ced_c835;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hashes the words of a key: they are our own numbers, which nobody chooses, so a multiplication each
/// is enough.
#[derive(Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let rest = rest.iter().map(|byte| u64::from(*byte));
        for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain(rest) {
            let product = u128::from(self.0 ^ word ^ SEED) * u128::from(MULTIPLIER);
            self.0 = (product as u64) ^ ((product >> 64) as u64);
        }
    }

    fn write_usize(&mut self, word: usize) {
        self.0 ^= word as u64;
    }
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
