//! Sets of zones, each kept once.

use std::collections::HashMap;
use std::sync::Arc;

/// A zone by its place in [`Model::zones`](crate::Model::zones).
pub(super) type ZoneIndex = u32;

/// A set of zones in [`Sets`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SetId(u32);

impl SetId {
    /// No zone.
    pub(super) const EMPTY: Self = Self(0);
}

/// Every set of zones that occurs.
#[derive(Clone, Debug)]
pub(super) struct Sets {
    sets: Vec<Arc<[ZoneIndex]>>,
    ids: HashMap<Arc<[ZoneIndex]>, SetId>,
}

impl Default for Sets {
    fn default() -> Self {
        let empty: Arc<[ZoneIndex]> = Arc::new([]);
        Self { sets: vec![Arc::clone(&empty)], ids: HashMap::from([(empty, SetId::EMPTY)]) }
    }
}

impl Sets {
    /// The id of a sorted set without duplicates.
    pub(super) fn intern(&mut self, set: &[ZoneIndex]) -> SetId {
        if let Some(id) = self.ids.get(set) {
            return *id;
        }
        let id = SetId(self.sets.len() as u32);
        let set: Arc<[ZoneIndex]> = set.into();
        self.sets.push(Arc::clone(&set));
        self.ids.insert(set, id);
        id
    }

    /// The zones of a set, sorted.
    pub(super) fn get(&self, id: SetId) -> &[ZoneIndex] {
        self.sets.get(id.0 as usize).map_or(&[], |set| set)
    }

    /// The set of what is in either.
    pub(super) fn union(&mut self, a: SetId, b: SetId) -> SetId {
        let both = merged(self.get(a), self.get(b));
        self.intern(&both)
    }
}

/// What is in either of two sorted lists.
pub(super) fn merged(a: &[ZoneIndex], b: &[ZoneIndex]) -> Vec<ZoneIndex> {
    let mut both = [a, b].concat();
    both.sort_unstable();
    both.dedup();
    both
}
