//! Whether the kernel's tables still hold what was written to them, and writing right what they do not.
//!
//! Only the agent writes these tables, and between two commits both versions of each entry are equal. So
//! whatever differs was changed by somebody else, or is a defect. It must not run beside a commit: the
//! one who commits also looks. Tables that follow the host rather than the policy are compared with what
//! was told last (`told`).
//!
//! A repair is no commit: a table that was tampered with holds a mixture already, so entries are put
//! right in place, both versions at once. A new generation follows, so that flows that were judged by
//! false entries are judged again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
};

use bulkhead_abi::{
    Addr, Cell, Control, Identity, IdentityState, LocalAddress, PairKey, RuleKey, names,
    tables::{
        FailsafeKey, Home, IdentityValue, Interface, PairValue, PrefixValue, UnionValue, WorkloadValue,
    },
};
use bulkhead_policy::{Prefix, prefix::to_ip};

use crate::{
    DatapathError,
    maps::{CONTROL_FLAGS, CONTROL_GENERATION, CONTROL_HOST, Maps},
    table::{Plain, Table, TrieKey},
    told::Last,
};

/// How the kernel's tables differ from what they should hold.
#[derive(Debug, Default)]
pub struct Drift {
    /// Entries that differ, in no particular order.
    pub entries: Vec<DriftEntry>,
    prefixes: Fix<TrieKey<Addr>, PrefixValue>,
    workloads: Fix<u64, WorkloadValue>,
    identities: Fix<Identity, IdentityValue>,
    pairs: Fix<PairKey, PairValue>,
    unions: Fix<PairKey, UnionValue>,
    rules: Fix<TrieKey<RuleKey>, Cell>,
    failsafe: Fix<FailsafeKey, u64>,
    control: Option<Control>,
}

/// An entry that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriftEntry {
    /// Its table.
    pub table: &'static str,
    /// Its key.
    pub key: Key,
    /// What the kernel holds; `None` if the entry is missing.
    pub held: Option<String>,
    /// What it should hold; `None` if there should be no such entry.
    pub wanted: Option<String>,
}

/// The key of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// Of `PREFIXES`.
    Prefix(Prefix),
    /// Of `WORKLOADS`: a cgroup's id.
    Workload(u64),
    /// Of `IDENTITIES`.
    Identity(Identity),
    /// Of `PAIRS` and `UNIONS`.
    Pair(PairKey),
    /// Of `RULES`: a ruleset's number, and what is left of the key.
    Rule {
        /// The ruleset.
        ruleset: u32,
        /// How many bits of the key count.
        bits: u32,
        /// IP protocol.
        protocol: u8,
        /// Port.
        port: u16,
    },
    /// Of `FAILSAFE`.
    Failsafe(FailsafeKey),
    /// A word of `CONTROL`.
    Control(&'static str),
    /// Of `LOCALS`.
    Local(Addr),
    /// Of `HOMES`: a network namespace's cookie.
    Home(u64),
    /// Of `INTERFACES`: an interface's index.
    Interface(u32),
}

impl Drift {
    /// Whether everything is as it should be.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn compare_control(&mut self, maps: &Maps, wanted: &Control) -> Result<(), DatapathError> {
        let words = [
            ("generation", CONTROL_GENERATION, wanted.generation),
            ("host", CONTROL_HOST, wanted.host_netns),
            ("flags", CONTROL_FLAGS, wanted.flags),
        ];
        for (name, index, word) in words {
            let held = maps.control.load(index)?;
            if held != word {
                self.control = Some(*wanted);
                self.entries.push(DriftEntry {
                    table: names::CONTROL,
                    key: Key::Control(name),
                    held: Some(held.to_string()),
                    wanted: Some(word.to_string()),
                });
            }
        }
        Ok(())
    }

    /// Compares the tables that follow the host; what to write so that they are right.
    fn compare_told(&mut self, maps: &Maps, last: &Last) -> Result<Surroundings, DatapathError> {
        let mut fix = Surroundings::default();
        if let Some(locals) = &last.locals {
            let wanted = locals.iter().map(|(&addr, &local)| (addr, local));
            let value = |local: &LocalAddress| format!("namespace {}", local.netns);
            fix.locals = self.compare(&maps.locals, wanted, |&addr| Key::Local(addr), value)?;
        }
        let held = maps.homes.entries()?.into_iter().collect();
        if let Some(homes) = last.homes(&held) {
            let value =
                |home: &Home| format!("{} and {}, flags {:#x}", to_ip(home.v4), to_ip(home.v6), home.flags);
            fix.homes = self.compare(&maps.homes, homes.into_iter(), |&netns| Key::Home(netns), value)?;
        }
        if let Some(interfaces) = &last.interfaces {
            let wanted = interfaces.iter().map(|(&index, &interface)| (index, interface));
            let value = |at: &Interface| format!("namespace {}, flags {:#x}", at.netns, at.flags);
            fix.interfaces = self.compare(&maps.interfaces, wanted, |&index| Key::Interface(index), value)?;
        }
        Ok(fix)
    }

    /// Compares one table; what to write so that it is right.
    fn compare<K, V>(
        &mut self,
        table: &Table<K, V>,
        wanted: impl Iterator<Item = (K, V)>,
        key: impl Fn(&K) -> Key,
        value: impl Fn(&V) -> String,
    ) -> Result<Fix<K, V>, DatapathError>
    where
        K: Plain + Hash + Eq,
        V: Plain,
    {
        let mut wanted: HashMap<K, (V, bool)> = wanted.map(|(key, value)| (key, (value, false))).collect();
        let mut fix = Fix::default();
        let mut differs = |at: &K, held: Option<&V>, wanted: Option<&V>| {
            let (held, wanted) = (held.map(&value), wanted.map(&value));
            self.entries.push(DriftEntry { table: table.name(), key: key(at), held, wanted });
        };
        for (at, held) in table.entries()? {
            match wanted.get_mut(&at) {
                Some((value, seen)) => {
                    *seen = true;
                    // The kernel counts in the values of this one.
                    if value.as_bytes() != held.as_bytes() && table.name() != names::FAILSAFE {
                        differs(&at, Some(&held), Some(value));
                        fix.set.push((at, *value));
                    }
                }
                None => {
                    differs(&at, Some(&held), None);
                    fix.remove.push(at);
                }
            }
        }
        for (at, (value, _)) in wanted.into_iter().filter(|(_, (_, seen))| !seen) {
            differs(&at, None, Some(&value));
            fix.set.push((at, value));
        }
        Ok(fix)
    }
}

/// What the tables should hold.
pub(crate) struct Wanted<'a> {
    pub(crate) prefixes: &'a BTreeMap<Prefix, Identity>,
    pub(crate) workloads: &'a BTreeMap<u64, Identity>,
    pub(crate) identities: &'a BTreeMap<Identity, IdentityState>,
    pub(crate) pairs: &'a BTreeMap<PairKey, u32>,
    pub(crate) unions: &'a BTreeMap<PairKey, Identity>,
    pub(crate) rules: Vec<(TrieKey<RuleKey>, Cell)>,
    pub(crate) failsafe: &'a BTreeSet<FailsafeKey>,
    pub(crate) control: Control,
}

/// Reads every table of the policy back and compares.
pub(crate) fn find(maps: &Maps, wanted: Wanted<'_>) -> Result<Drift, DatapathError> {
    let mut drift = Drift::default();
    drift.rules = drift.compare(&maps.rules, wanted.rules.into_iter(), rule, |cell| format!("{cell:?}"))?;
    drift.unions = drift.compare(
        &maps.unions,
        wanted.unions.iter().map(|(&key, &identity)| (key, UnionValue { key, identity })),
        |&key| Key::Pair(key),
        |value| format!("identity {}", value.identity.0),
    )?;
    drift.identities = drift.compare(
        &maps.identities,
        wanted
            .identities
            .iter()
            .map(|(&identity, &state)| (identity, IdentityValue { identity, state: [state; 2] })),
        |&identity| Key::Identity(identity),
        |value| both(value.state.map(|state| format!("state {:#x}", state.0))),
    )?;
    drift.pairs = drift.compare(
        &maps.pairs,
        wanted.pairs.iter().map(|(&key, &ruleset)| (key, PairValue { key, ruleset: [ruleset; 2] })),
        |&key| Key::Pair(key),
        |value| both(value.ruleset.map(|ruleset| format!("ruleset {ruleset}"))),
    )?;
    drift.prefixes = drift.compare(
        &maps.prefixes,
        wanted.prefixes.iter().map(|(prefix, &identity)| {
            (TrieKey { bits: prefix.len.into(), data: prefix.addr }, PrefixValue { identity: [identity; 2] })
        }),
        |key| Key::Prefix(Prefix::new(key.data, u8::try_from(key.bits).unwrap_or(128))),
        |value| both(value.identity.map(|identity| format!("identity {}", identity.0))),
    )?;
    drift.workloads = drift.compare(
        &maps.workloads,
        wanted
            .workloads
            .iter()
            .map(|(&cgroup, &identity)| (cgroup, WorkloadValue { cgroup, identity: [identity; 2] })),
        |&cgroup| Key::Workload(cgroup),
        |value| both(value.identity.map(|identity| format!("identity {}", identity.0))),
    )?;
    drift.failsafe = drift.compare(
        &maps.failsafe,
        wanted.failsafe.iter().map(|&key| (key, 0)),
        |&key| Key::Failsafe(key),
        |_| "open".to_owned(),
    )?;
    drift.compare_control(maps, &wanted.control)?;
    drift.compare_told(maps, &maps.told.lock())?;
    Ok(drift)
}

/// Writes right what `drift` found; answers the new generation. The caller waits for the grace period.
pub(crate) fn repair(maps: &Maps, drift: &Drift) -> Result<u64, DatapathError> {
    // What leads to an entry is written after it.
    drift.rules.write(&maps.rules)?;
    drift.unions.write(&maps.unions)?;
    drift.identities.write(&maps.identities)?;
    drift.pairs.write(&maps.pairs)?;
    drift.prefixes.write(&maps.prefixes)?;
    drift.workloads.write(&maps.workloads)?;
    drift.failsafe.write(&maps.failsafe)?;
    repair_told(maps)?;
    let mut generation = maps.generation()?;
    if let Some(control) = drift.control {
        generation = generation.max(control.generation);
        maps.control.store(CONTROL_HOST, control.host_netns)?;
        maps.control.store(CONTROL_FLAGS, control.flags)?;
    }
    maps.control.store(CONTROL_GENERATION, generation + 1)?;
    Ok(generation + 1)
}

/// The host may have changed since it was compared, so it is compared again.
fn repair_told(maps: &Maps) -> Result<(), DatapathError> {
    let last = maps.told.lock();
    let fix = Drift::default().compare_told(maps, &last)?;
    fix.locals.write(&maps.locals)?;
    fix.homes.write(&maps.homes)?;
    fix.interfaces.write(&maps.interfaces)
}

/// What to write so that the tables that follow the host are right.
#[derive(Default)]
struct Surroundings {
    locals: Fix<Addr, LocalAddress>,
    homes: Fix<u64, Home>,
    interfaces: Fix<u32, Interface>,
}

/// What to write so that a table is right.
#[derive(Debug)]
struct Fix<K, V> {
    set: Vec<(K, V)>,
    remove: Vec<K>,
}

impl<K, V> Default for Fix<K, V> {
    fn default() -> Self {
        Self { set: Vec::new(), remove: Vec::new() }
    }
}

impl<K: Plain, V: Plain> Fix<K, V> {
    fn write(&self, table: &Table<K, V>) -> Result<(), DatapathError> {
        // What should not be there makes room.
        table.remove_all(&self.remove)?;
        table.set_all(&self.set)
    }
}

fn rule(key: &TrieKey<RuleKey>) -> Key {
    let RuleKey { ruleset, protocol, port, .. } = key.data;
    let (ruleset, port) = (u32::from_be_bytes(ruleset), u16::from_be_bytes(port));
    Key::Rule { ruleset, bits: key.bits, protocol, port }
}

/// Both versions of a value, which are equal at rest.
fn both([even, odd]: [String; 2]) -> String {
    if even == odd { even } else { format!("{even} or {odd}") }
}
