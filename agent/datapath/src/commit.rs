//! Making an image live with one store.
//!
//! Every table that a policy can change holds two versions of each value, by the parity of the
//! generation. A commit writes the next version beside the live one where nobody reads it, stores the
//! generation, waits until no program reads the old version any more, and makes both equal again. It
//! writes only what differs, and it is refused whole when it does not fit; a failure half-way puts back
//! what stood there, so that at rest both versions are always equal.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::{Duration, Instant},
};

use bulkhead_abi::{
    Addr, Cell, Control, Identity, IdentityState, PairKey, RuleKey, Tls,
    tables::{FailsafeKey, IdentityValue, PairValue, PrefixValue, UnionValue, WorkloadValue},
};
use bulkhead_policy::{Image, Prefix, image::Ruleset};

use crate::{
    DatapathError,
    drift::Wanted,
    maps::{CONTROL_FLAGS, CONTROL_GENERATION, Maps},
    table::TrieKey,
};
use plan::{Outcome, Plan, changes};

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
    prefixes: BTreeMap<Prefix, Identity>,
    workloads: BTreeMap<u64, Identity>,
    identities: BTreeMap<Identity, IdentityState>,
    pairs: BTreeMap<PairKey, u32>,
    unions: BTreeMap<PairKey, Identity>,
    rulesets: BTreeMap<u32, Vec<(TrieKey<RuleKey>, Cell)>>,
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
            if state.0 == 0 {
                rest.no_identities.push(identity);
            } else {
                mirror.identities.insert(identity, state);
            }
        }
        for (key, value) in maps.pairs.entries()? {
            let ruleset =
                settle(value.ruleset, live, |ruleset| rest.pairs.push((key, PairValue { key, ruleset })));
            if ruleset == 0 {
                rest.no_pairs.push(key);
            } else {
                mirror.pairs.insert(key, ruleset);
            }
        }
        for (key, value) in maps.unions.entries()? {
            mirror.unions.insert(key, value.identity);
        }
        // A ruleset that nothing live leads to may be half-written, and is not to be taken for whole.
        let live_rulesets: HashSet<u32> = mirror.pairs.values().copied().collect();
        for (key, cell) in maps.rules.entries()? {
            let data = key.data;
            let number = u32::from_be_bytes(data.ruleset);
            if live_rulesets.contains(&number) {
                mirror.rulesets.entry(number).or_default().push((key, cell));
            } else {
                rest.no_rules.push(key);
            }
        }
        rest.write(maps)?;
        Ok(mirror)
    }

    /// Makes `image` live.
    pub(crate) fn commit(&mut self, maps: &Maps, image: &Image) -> Result<Commit, DatapathError> {
        let start = Instant::now();
        let generation = maps.generation()?;
        let plan = self.plan(image, generation);
        // Set before the first of what they tell of can be met, cleared when none can be met any more.
        let has = features(image.prefixes.values(), cells(image));
        set_features(maps, |flags| flags | has)?;
        if plan.is_empty() {
            set_features(maps, |flags| flags & !FEATURES | has)?;
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
        set_features(maps, |flags| flags & !FEATURES | has)?;
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
        self.workloads.clone_from(&image.workloads);
        Ok(changes.len() + gone.len())
    }

    fn adopt(&mut self, image: &Image) {
        self.prefixes.clone_from(&image.prefixes);
        self.workloads.clone_from(&image.workloads);
        self.identities.clone_from(&image.identities);
        self.pairs.clone_from(&image.pairs);
        self.unions.clone_from(&image.unions);
        self.rulesets.retain(|number, _| image.rulesets.contains_key(number));
        for (&number, ruleset) in &image.rulesets {
            self.rulesets.entry(number).or_insert_with(|| entries(number, ruleset).collect());
        }
    }

    /// What the tables should hold: what `image` says, which was committed last, where there is one;
    /// else what was found in them at the start.
    pub(crate) fn wanted<'a>(
        &'a self,
        image: Option<&'a Image>,
        failsafe: &'a BTreeSet<FailsafeKey>,
        control: Control,
    ) -> Wanted<'a> {
        let has = match image {
            Some(image) => features(image.prefixes.values(), cells(image)),
            None => features(self.prefixes.values(), self.rulesets.values().flatten().map(|(_, cell)| cell)),
        };
        let control = Control { flags: control.flags & !FEATURES | has, ..control };
        match image {
            Some(image) => Wanted {
                prefixes: &image.prefixes,
                workloads: &image.workloads,
                identities: &image.identities,
                pairs: &image.pairs,
                unions: &image.unions,
                rules: image.rulesets.iter().flat_map(|(&number, set)| entries(number, set)).collect(),
                failsafe,
                control,
            },
            None => Wanted {
                prefixes: &self.prefixes,
                workloads: &self.workloads,
                identities: &self.identities,
                pairs: &self.pairs,
                unions: &self.unions,
                rules: self.rulesets.values().flatten().copied().collect(),
                failsafe,
                control,
            },
        }
    }

    /// The tables were written right after `image`, where rulesets may have had other content.
    pub(crate) fn repaired(&mut self, image: Option<&Image>) {
        if let Some(image) = image {
            self.rulesets.clear();
            self.adopt(image);
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
            .flat_map(|(_, entries)| entries.iter().map(|(key, _)| *key))
            .collect();
        Plan { prefixes, workloads, identities, pairs, new_unions, old_unions, new_rules, old_rules }
    }
}

/// Writes left over from a commit that was cut off.
#[derive(Default)]
struct Rest {
    prefixes: Vec<(TrieKey<Addr>, PrefixValue)>,
    workloads: Vec<(u64, WorkloadValue)>,
    identities: Vec<(Identity, IdentityValue)>,
    pairs: Vec<(PairKey, PairValue)>,
    no_identities: Vec<Identity>,
    no_pairs: Vec<PairKey>,
    no_rules: Vec<TrieKey<RuleKey>>,
}

impl Rest {
    fn write(&self, maps: &Maps) -> Result<(), DatapathError> {
        maps.prefixes.set_all(&self.prefixes)?;
        maps.workloads.set_all(&self.workloads)?;
        maps.identities.set_all(&self.identities)?;
        maps.pairs.set_all(&self.pairs)?;
        maps.identities.remove_all(&self.no_identities)?;
        maps.pairs.remove_all(&self.no_pairs)?;
        maps.rules.remove_all(&self.no_rules)?;
        Ok(())
    }
}

/// The flags that say what a policy has.
const FEATURES: u64 = Control::FLAG_VIRTUAL | Control::FLAG_MUTUAL;

/// Those of a policy with these prefixes and these answers.
fn features<'a>(
    mut prefixes: impl Iterator<Item = &'a Identity>,
    mut cells: impl Iterator<Item = &'a Cell>,
) -> u64 {
    let flag = |there_are, flag| if there_are { flag } else { 0 };
    flag(prefixes.any(|identity| *identity == Identity::VIRTUAL), Control::FLAG_VIRTUAL)
        | flag(cells.any(|cell| cell.demand().level == Tls::Mutual), Control::FLAG_MUTUAL)
}

fn cells(image: &Image) -> impl Iterator<Item = &Cell> {
    image.rulesets.values().flat_map(|ruleset| ruleset.entries()).map(|entry| &entry.cell)
}

/// Tells the programs what the policy has.
fn set_features(maps: &Maps, change: impl FnOnce(u64) -> u64) -> Result<(), DatapathError> {
    let flags = maps.control.load(CONTROL_FLAGS)?;
    let wanted = change(flags);
    if wanted != flags {
        maps.control.store(CONTROL_FLAGS, wanted)?;
    }
    Ok(())
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

fn entries(number: u32, ruleset: &Ruleset) -> impl Iterator<Item = (TrieKey<RuleKey>, Cell)> {
    ruleset
        .entries()
        .iter()
        .map(move |entry| (TrieKey { bits: entry.bits, data: entry.key(number) }, entry.cell))
}
