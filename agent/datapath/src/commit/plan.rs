//! What a commit writes, worked out before the first write.

use std::{cmp::Ordering, collections::BTreeMap};

use bulkhead_abi::{
    Addr, Cell, Identity, PairKey, RuleKey,
    tables::{IdentityValue, PairValue, PrefixValue, UnionValue, WorkloadValue},
};
use bulkhead_policy::Prefix;

use super::Mirror;
use crate::{
    DatapathError,
    maps::Maps,
    table::{Plain, Table, TrieKey},
};

/// One entry of a versioned table that differs between the live image and the next.
pub(super) struct Change<K, V> {
    key: K,
    /// Both versions, while either generation is read.
    both: V,
    /// At rest, if the change goes through; `None` removes it.
    after: Option<V>,
    /// At rest, if it does not.
    before: Option<V>,
}

/// Everything that a commit writes.
pub(super) struct Plan {
    pub(super) prefixes: Vec<Change<Prefix, PrefixValue>>,
    pub(super) workloads: Vec<Change<u64, WorkloadValue>>,
    pub(super) identities: Vec<Change<Identity, IdentityValue>>,
    pub(super) pairs: Vec<Change<PairKey, PairValue>>,
    pub(super) new_unions: Vec<(PairKey, UnionValue)>,
    pub(super) old_unions: Vec<PairKey>,
    pub(super) new_rules: Vec<(TrieKey<RuleKey>, Cell)>,
    pub(super) old_rules: Vec<TrieKey<RuleKey>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Live,
    Refused,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.old_unions.is_empty() && self.old_rules.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.prefixes.len()
            + self.workloads.len()
            + self.identities.len()
            + self.pairs.len()
            + self.new_unions.len()
            + self.new_rules.len()
    }

    /// Old and new entries stand side by side until the new policy is live.
    pub(super) fn check_room(&self, maps: &Maps, mirror: &Mirror) -> Result<(), DatapathError> {
        fn room<K, V, C>(table: &Table<K, V>, held: usize, new: C) -> Result<(), DatapathError>
        where
            K: Plain,
            V: Plain,
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
    pub(super) fn stage(&self, maps: &Maps) -> Result<(), DatapathError> {
        maps.rules.set_all(&self.new_rules)?;
        maps.unions.set_all(&self.new_unions)?;
        maps.identities.set_all(&staged(&self.identities, |&key| key))?;
        maps.pairs.set_all(&staged(&self.pairs, |&key| key))?;
        maps.prefixes.set_all(&staged(&self.prefixes, trie_key))?;
        maps.workloads.set_all(&staged(&self.workloads, |&key| key))
    }

    /// Makes both versions equal: the new one's if it went live, else the old one's.
    pub(super) fn clean(&self, maps: &Maps, outcome: Outcome) -> Result<usize, DatapathError> {
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

/// Both tables are walked side by side: a lookup for each of 100,000 entries would take longer than all
/// the rest of a commit.
pub(super) fn changes<K: Ord + Copy, T: Copy + PartialEq, V>(
    old: &BTreeMap<K, T>,
    new: &BTreeMap<K, T>,
    live: usize,
    without_in_old: impl Fn(&K) -> T,
    without_in_new: impl Fn(&K) -> T,
    value: impl Fn(&K, [T; 2]) -> V,
) -> Vec<Change<K, V>> {
    let both = |before: T, after: T| if live == 0 { [before, after] } else { [after, before] };
    let change = |key: &K, before: Option<T>, after: Option<T>| {
        let staged =
            both(before.unwrap_or_else(|| without_in_old(key)), after.unwrap_or_else(|| without_in_new(key)));
        Change {
            key: *key,
            both: value(key, staged),
            after: after.map(|after| value(key, [after; 2])),
            before: before.map(|before| value(key, [before; 2])),
        }
    };
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((before, _)), Some((after, _))) => before.cmp(after),
        };
        let before = if order == Ordering::Greater { None } else { old.next() };
        let after = if order == Ordering::Less { None } else { new.next() };
        let values = (before.map(|(_, value)| *value), after.map(|(_, value)| *value));
        if let (Some((key, _)), true) = (before.or(after), values.0 != values.1) {
            changes.push(change(key, values.0, values.1));
        }
    }
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
    T: Plain,
    V: Plain,
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

fn trie_key(prefix: &Prefix) -> TrieKey<Addr> {
    TrieKey { bits: prefix.len.into(), data: prefix.addr }
}
