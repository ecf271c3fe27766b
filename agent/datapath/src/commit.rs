//! Making an image live with one store.
//!
//! Every table that a policy can change holds two versions of each value, by the parity of the
//! generation. A commit writes the next version beside the live one where nobody reads it, stores the
//! generation, waits until no program reads the old version any more, and makes both equal again. It
//! writes only what differs, and it is refused whole when it does not fit; a failure half-way puts back
//! what stood there, so that at rest both versions are always equal.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::{Duration, Instant},
};

use bulkhead_abi::{
    Addr, Cell, Identity, IdentityState, PairKey, RuleKey,
    tables::{IdentityValue, PairValue, PrefixValue, UnionValue, WorkloadValue},
};
use bulkhead_policy::{Image, Prefix, image::Ruleset};

use crate::{
    DatapathError,
    maps::{CONTROL_GENERATION, Maps},
    table::{Table, TrieKey},
};

/// What a commit did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The live generation after it.
    pub generation: u64,
    /// Whether anything differed; if not, nothing was written and the generation is the old one.
    pub changed: bool,
    /// Entries written.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
    /// Until the new policy was live.
    pub stage: Duration,
    /// Until the old one was cleaned up.
    pub total: Duration,
}

/// What the kernel's tables hold, as the agent knows it.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    prefixes: HashMap<Prefix, Identity>,
    workloads: HashMap<u64, Identity>,
    identities: HashMap<Identity, IdentityState>,
    pairs: HashMap<PairKey, u32>,
    unions: HashMap<PairKey, Identity>,
    rulesets: HashMap<u32, Vec<TrieKey<RuleKey>>>,
}

impl Mirror {
    /// Reads the live version back from the kernel, and repairs what an agent that died in the middle
    /// of a commit has left: whatever is not live is made equal to what is.
    pub(crate) fn read(maps: &Maps) -> Result<Self, DatapathError> {
        let live = (maps.generation()? & 1) as usize;
        let mut mirror = Self::default();
        let mut rest = Rest::default();
        for (key, value) in maps.prefixes.entries()? {
            let prefix = Prefix::new(key.data, u8::try_from(key.bits).unwrap_or(128));
            mirror.prefixes.insert(
                prefix,
                settle(value.identity, live, |identity| {
                    rest.prefixes.push((key, PrefixValue { identity }));
                }),
            );
        }
        for (cgroup, value) in maps.workloads.entries()? {
            mirror.workloads.insert(
                cgroup,
                settle(value.identity, live, |identity| {
                    rest.workloads.push((cgroup, WorkloadValue { cgroup, identity }));
                }),
            );
        }
        for (identity, value) in maps.identities.entries()? {
            let state = settle(value.state, live, |state| {
                rest.identities.push((identity, IdentityValue { identity, state }))
            });
            if state.0 != 0 {
                mirror.identities.insert(identity, state);
            }
        }
        for (key, value) in maps.pairs.entries()? {
            let ruleset =
                settle(value.ruleset, live, |ruleset| rest.pairs.push((key, PairValue { key, ruleset })));
            if ruleset != 0 {
                mirror.pairs.insert(key, ruleset);
            }
        }
        for (key, value) in maps.unions.entries()? {
            mirror.unions.insert(key, value.identity);
        }
        for (key, _) in maps.rules.entries()? {
            let data = key.data;
            mirror.rulesets.entry(u32::from_be_bytes(data.ruleset)).or_default().push(key);
        }
        rest.write(maps)?;
        Ok(mirror)
    }

    /// Makes `image` live.
    pub(crate) fn commit(&mut self, maps: &Maps, image: &Image) -> Result<Commit, DatapathError> {
        let start = Instant::now();
        let generation = maps.generation()?;
        let plan = self.plan(image, generation);
        if plan.is_empty() {
            let total = start.elapsed();
            return Ok(Commit { generation, changed: false, written: 0, removed: 0, stage: total, total });
        }
        plan.check_room(maps, self)?;
        if let Err(error) = plan.stage(maps) {
            // Nothing of it is live. What cannot be put back now is settled by the next start.
            plan.clean(maps, Outcome::Refused)?;
            return Err(error);
        }
        maps.control.store(CONTROL_GENERATION, generation + 1)?;
        let stage = start.elapsed();
        bulkhead_sys::rcu::grace_period()?;
        let removed = plan.clean(maps, Outcome::Live)?;
        // A removed hash element is free for another key: nobody may still be reading it as the old one
        // when the next commit takes it.
        bulkhead_sys::rcu::grace_period()?;
        self.adopt(image);
        let written = plan.len();
        Ok(Commit {
            generation: generation + 1,
            changed: true,
            written,
            removed,
            stage,
            total: start.elapsed(),
        })
    }

    /// Follows workloads that came and went under an unchanged policy: no generation.
    pub(crate) fn set_workloads(&mut self, maps: &Maps, image: &Image) -> Result<usize, DatapathError> {
        let changes: Vec<(u64, WorkloadValue)> = image
            .workloads
            .iter()
            .filter(|(cgroup, identity)| self.workloads.get(cgroup) != Some(identity))
            .map(|(&cgroup, &identity)| (cgroup, WorkloadValue { cgroup, identity: [identity; 2] }))
            .collect();
        let gone: Vec<u64> =
            self.workloads.keys().filter(|cgroup| !image.workloads.contains_key(cgroup)).copied().collect();
        maps.workloads.set_all(&changes)?;
        maps.workloads.remove_all(&gone)?;
        self.workloads = image.workloads.iter().map(|(&cgroup, &identity)| (cgroup, identity)).collect();
        Ok(changes.len() + gone.len())
    }

    fn adopt(&mut self, image: &Image) {
        self.prefixes = image.prefixes.iter().map(|(&prefix, &identity)| (prefix, identity)).collect();
        self.workloads = image.workloads.iter().map(|(&cgroup, &identity)| (cgroup, identity)).collect();
        self.identities = image.identities.iter().map(|(&identity, &state)| (identity, state)).collect();
        self.pairs = image.pairs.iter().map(|(&key, &ruleset)| (key, ruleset)).collect();
        self.unions = image.unions.iter().map(|(&key, &identity)| (key, identity)).collect();
        self.rulesets.retain(|number, _| image.rulesets.contains_key(number));
        for (&number, ruleset) in &image.rulesets {
            self.rulesets.entry(number).or_insert_with(|| keys(number, ruleset));
        }
    }

    fn plan(&self, image: &Image, generation: u64) -> Plan {
        let live = (generation & 1) as usize;
        let world = Identity::WORLD;
        let prefixes = changes(
            &self.prefixes,
            &image.prefixes,
            live,
            // What stood there before a new prefix, and stands there after a removed one, is what the
            // next shorter prefix says.
            |prefix| shorter(prefix, |prefix| self.prefixes.get(&prefix).copied()).unwrap_or(world),
            |prefix| shorter(prefix, |prefix| image.prefixes.get(&prefix).copied()).unwrap_or(world),
            |_, identity| PrefixValue { identity },
        );
        let workloads = changes(
            &self.workloads,
            &image.workloads,
            live,
            |_| world,
            |_| world,
            |&cgroup, identity| WorkloadValue { cgroup, identity },
        );
        let none = IdentityState::default();
        let identities = changes(
            &self.identities,
            &image.identities,
            live,
            |_| none,
            |_| none,
            |&identity, state| IdentityValue { identity, state },
        );
        let pairs = changes(
            &self.pairs,
            &image.pairs,
            live,
            |_| 0,
            |_| 0,
            |&key, ruleset| PairValue { key, ruleset },
        );
        let new_unions = image
            .unions
            .iter()
            .filter(|(key, identity)| self.unions.get(key) != Some(identity))
            .map(|(&key, &identity)| (key, UnionValue { key, identity }))
            .collect();
        let old_unions = self.unions.keys().filter(|key| !image.unions.contains_key(key)).copied().collect();
        let new_rules = image
            .rulesets
            .iter()
            .filter(|(number, _)| !self.rulesets.contains_key(number))
            .flat_map(|(&number, ruleset)| entries(number, ruleset))
            .collect();
        let old_rules = self
            .rulesets
            .iter()
            .filter(|(number, _)| !image.rulesets.contains_key(number))
            .flat_map(|(_, keys)| keys.iter().copied())
            .collect();
        Plan { prefixes, workloads, identities, pairs, new_unions, old_unions, new_rules, old_rules }
    }
}

/// One entry of a versioned table that differs between the live image and the next.
struct Change<K, V> {
    key: K,
    /// Both versions, while either generation is read.
    both: V,
    /// At rest, if the change goes through; `None` removes it.
    after: Option<V>,
    /// At rest, if it does not.
    before: Option<V>,
}

/// Everything that a commit writes.
struct Plan {
    prefixes: Vec<Change<Prefix, PrefixValue>>,
    workloads: Vec<Change<u64, WorkloadValue>>,
    identities: Vec<Change<Identity, IdentityValue>>,
    pairs: Vec<Change<PairKey, PairValue>>,
    new_unions: Vec<(PairKey, UnionValue)>,
    old_unions: Vec<PairKey>,
    new_rules: Vec<(TrieKey<RuleKey>, Cell)>,
    old_rules: Vec<TrieKey<RuleKey>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Live,
    Refused,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.len() == 0 && self.old_unions.is_empty() && self.old_rules.is_empty()
    }

    fn len(&self) -> usize {
        self.prefixes.len()
            + self.workloads.len()
            + self.identities.len()
            + self.pairs.len()
            + self.new_unions.len()
            + self.new_rules.len()
    }

    /// Old and new entries stand side by side until the new policy is live.
    fn check_room(&self, maps: &Maps, mirror: &Mirror) -> Result<(), DatapathError> {
        fn room<K, V, C>(table: &Table<K, V>, held: usize, new: C) -> Result<(), DatapathError>
        where
            K: crate::table::Plain,
            V: crate::table::Plain,
            C: Iterator,
        {
            let (needed, capacity) = (held + new.count(), table.capacity()?);
            if needed > capacity {
                return Err(DatapathError::Full { name: table.name(), needed, capacity });
            }
            Ok(())
        }
        let fresh = |before: bool| !before;
        room(
            &maps.prefixes,
            mirror.prefixes.len(),
            self.prefixes.iter().filter(|c| fresh(c.before.is_some())),
        )?;
        room(
            &maps.workloads,
            mirror.workloads.len(),
            self.workloads.iter().filter(|c| fresh(c.before.is_some())),
        )?;
        room(
            &maps.identities,
            mirror.identities.len(),
            self.identities.iter().filter(|c| fresh(c.before.is_some())),
        )?;
        room(&maps.pairs, mirror.pairs.len(), self.pairs.iter().filter(|c| fresh(c.before.is_some())))?;
        room(&maps.unions, mirror.unions.len(), self.new_unions.iter())?;
        room(&maps.rules, mirror.rulesets.values().map(Vec::len).sum(), self.new_rules.iter())
    }

    /// Writes the next version. What is found through something else is written first, so that even
    /// the version that nobody reads yet is never without an end.
    fn stage(&self, maps: &Maps) -> Result<(), DatapathError> {
        maps.rules.set_all(&self.new_rules)?;
        maps.unions.set_all(&self.new_unions)?;
        maps.identities.set_all(&staged(&self.identities, |&key| key))?;
        maps.pairs.set_all(&staged(&self.pairs, |&key| key))?;
        maps.prefixes.set_all(&staged(&self.prefixes, trie_key))?;
        maps.workloads.set_all(&staged(&self.workloads, |&key| key))
    }

    /// Makes both versions equal: the new one's if it went live, else the old one's.
    fn clean(&self, maps: &Maps, outcome: Outcome) -> Result<usize, DatapathError> {
        let mut removed = settle_table(&maps.workloads, &self.workloads, outcome, |&key| key)?;
        removed += settle_table(&maps.prefixes, &self.prefixes, outcome, trie_key)?;
        removed += settle_table(&maps.pairs, &self.pairs, outcome, |&key| key)?;
        removed += settle_table(&maps.identities, &self.identities, outcome, |&key| key)?;
        let (unions, rules): (Vec<_>, Vec<_>) = match outcome {
            Outcome::Live => (self.old_unions.clone(), self.old_rules.clone()),
            Outcome::Refused => (
                self.new_unions.iter().map(|(key, _)| *key).collect(),
                self.new_rules.iter().map(|(key, _)| *key).collect(),
            ),
        };
        Ok(removed + maps.unions.remove_all(&unions)? + maps.rules.remove_all(&rules)?)
    }
}

fn changes<K: Ord + Hash + Copy, T: Copy + PartialEq, V>(
    old: &HashMap<K, T>,
    new: &BTreeMap<K, T>,
    live: usize,
    without_in_old: impl Fn(&K) -> T,
    without_in_new: impl Fn(&K) -> T,
    value: impl Fn(&K, [T; 2]) -> V,
) -> Vec<Change<K, V>> {
    let both = |before: T, after: T| if live == 0 { [before, after] } else { [after, before] };
    let mut changes = Vec::new();
    for (key, &after) in new {
        let before = old.get(key).copied();
        if before != Some(after) {
            changes.push(Change {
                key: *key,
                both: value(key, both(before.unwrap_or_else(|| without_in_old(key)), after)),
                after: Some(value(key, [after; 2])),
                before: before.map(|before| value(key, [before; 2])),
            });
        }
    }
    for (key, &before) in old {
        if !new.contains_key(key) {
            changes.push(Change {
                key: *key,
                both: value(key, both(before, without_in_new(key))),
                after: None,
                before: Some(value(key, [before; 2])),
            });
        }
    }
    changes
}

fn staged<K, V: Copy, T>(changes: &[Change<K, V>], key: impl Fn(&K) -> T) -> Vec<(T, V)> {
    changes.iter().map(|change| (key(&change.key), change.both)).collect()
}

fn settle_table<K, V, T>(
    table: &Table<T, V>,
    changes: &[Change<K, V>],
    outcome: Outcome,
    key: impl Fn(&K) -> T,
) -> Result<usize, DatapathError>
where
    T: crate::table::Plain,
    V: crate::table::Plain,
{
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for change in changes {
        let rest = if outcome == Outcome::Live { change.after } else { change.before };
        match rest {
            Some(value) => kept.push((key(&change.key), value)),
            None => gone.push(key(&change.key)),
        }
    }
    table.set_all(&kept)?;
    table.remove_all(&gone)
}

/// Writes left over from a commit that was cut off.
#[derive(Default)]
struct Rest {
    prefixes: Vec<(TrieKey<Addr>, PrefixValue)>,
    workloads: Vec<(u64, WorkloadValue)>,
    identities: Vec<(Identity, IdentityValue)>,
    pairs: Vec<(PairKey, PairValue)>,
}

impl Rest {
    fn write(&self, maps: &Maps) -> Result<(), DatapathError> {
        maps.prefixes.set_all(&self.prefixes)?;
        maps.workloads.set_all(&self.workloads)?;
        maps.identities.set_all(&self.identities)?;
        maps.pairs.set_all(&self.pairs)
    }
}

fn settle<T: Copy + PartialEq>(versions: [T; 2], live: usize, repair: impl FnOnce([T; 2])) -> T {
    let [even, odd] = versions;
    let value = if live == 0 { even } else { odd };
    if even != odd {
        repair([value; 2]);
    }
    value
}

fn shorter<T>(prefix: &Prefix, get: impl Fn(Prefix) -> Option<T>) -> Option<T> {
    (0..prefix.len).rev().find_map(|len| get(Prefix::new(prefix.addr, len)))
}

fn trie_key(prefix: &Prefix) -> TrieKey<Addr> {
    TrieKey { bits: prefix.len.into(), data: prefix.addr }
}

fn entries(number: u32, ruleset: &Ruleset) -> impl Iterator<Item = (TrieKey<RuleKey>, Cell)> {
    ruleset
        .entries()
        .iter()
        .map(move |entry| (TrieKey { bits: entry.bits, data: entry.key(number) }, entry.cell))
}

fn keys(number: u32, ruleset: &Ruleset) -> Vec<TrieKey<RuleKey>> {
    entries(number, ruleset).map(|(key, _)| key).collect()
}
