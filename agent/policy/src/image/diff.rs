//! What changes from one image to the next.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bulkhead_abi::{Identity, IdentityState, PairKey};

use super::{Image, Ruleset};
use crate::prefix::Prefix;

/// One entry of a table that differs: absent, added, removed or changed, as the two sides tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change<K, V> {
    /// The entry's key.
    pub key: K,
    /// What the first image holds.
    pub before: Option<V>,
    /// What the second image holds.
    pub after: Option<V>,
}

/// The entries in which two images differ, by table and in key order. Names and places of rules are no
/// part of it: the kernel does not hold them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageDiff {
    /// See [`Image::prefixes`].
    pub prefixes: Vec<Change<Prefix, Identity>>,
    /// See [`Image::workloads`].
    pub workloads: Vec<Change<u64, Identity>>,
    /// See [`Image::unions`].
    pub unions: Vec<Change<PairKey, Identity>>,
    /// See [`Image::identities`].
    pub identities: Vec<Change<Identity, IdentityState>>,
    /// See [`Image::pairs`].
    pub pairs: Vec<Change<PairKey, u32>>,
    /// See [`Image::rulesets`]. A ruleset's content never changes: it is there or not.
    pub rulesets: Vec<Change<u32, Arc<Ruleset>>>,
}

impl ImageDiff {
    /// How many entries differ.
    pub fn len(&self) -> usize {
        self.counts().iter().map(|(_, count)| count).sum()
    }

    /// Whether the kernel would hold the same.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries differ in each table.
    pub fn counts(&self) -> [(&'static str, usize); 6] {
        [
            ("prefixes", self.prefixes.len()),
            ("workloads", self.workloads.len()),
            ("unions", self.unions.len()),
            ("identities", self.identities.len()),
            ("pairs", self.pairs.len()),
            ("rulesets", self.rulesets.len()),
        ]
    }

    /// Whether only the membership of cgroups differs, which is no new policy.
    pub fn is_membership(&self) -> bool {
        self.len() == self.workloads.len()
    }
}

impl Image {
    /// What turns this image into `next`.
    pub fn diff(&self, next: &Self) -> ImageDiff {
        let same_prefixes = Arc::ptr_eq(&self.prefixes, &next.prefixes);
        ImageDiff {
            prefixes: if same_prefixes { Vec::new() } else { changes(&self.prefixes, &next.prefixes) },
            workloads: changes(&self.workloads, &next.workloads),
            unions: changes(&self.unions, &next.unions),
            identities: changes(&self.identities, &next.identities),
            pairs: changes(&self.pairs, &next.pairs),
            rulesets: changes(&self.rulesets, &next.rulesets),
        }
    }
}

/// Walks both tables in key order.
fn changes<K: Ord + Copy, V: PartialEq + Clone>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> Vec<Change<K, V>> {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return found,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let was = if order.is_le() { old.next() } else { None };
        let is = if order.is_ge() { new.next() } else { None };
        let value = |entry: Option<(&K, &V)>| entry.map(|(_, value)| value.clone());
        match was.or(is) {
            Some((key, _)) if was.map(|(_, v)| v) != is.map(|(_, v)| v) => {
                found.push(Change { key: *key, before: value(was), after: value(is) });
            }
            _ => {}
        }
    }
}

/// `+2 -1 ~0 prefixes, …`: added, removed, changed, for the tables that differ.
impl fmt::Display for ImageDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part<K, V>(name: &str, changes: &[Change<K, V>]) -> Option<String> {
            let count = |kind: fn(&Change<K, V>) -> bool| changes.iter().filter(|c| kind(c)).count();
            let added = count(|c| c.before.is_none());
            let removed = count(|c| c.after.is_none());
            let changed = changes.len() - added - removed;
            (!changes.is_empty()).then(|| format!("+{added} -{removed} ~{changed} {name}"))
        }
        let parts: Vec<String> = [
            part("prefixes", &self.prefixes),
            part("workloads", &self.workloads),
            part("unions", &self.unions),
            part("identities", &self.identities),
            part("pairs", &self.pairs),
            part("rulesets", &self.rulesets),
        ]
        .into_iter()
        .flatten()
        .collect();
        if parts.is_empty() { f.write_str("no change") } else { f.write_str(&parts.join(", ")) }
    }
}
