//! A map with room for so many: the one that was touched longest ago makes room for a new one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize, V: Serialize",
    deserialize = "K: Ord + Deserialize<'de>, V: Deserialize<'de>"
))]
pub struct Known<K, V> {
    most: usize,
    more: u64,
    /// As a list: JSON's maps have texts as keys.
    #[serde(with = "pairs")]
    entries: BTreeMap<K, (u64, V)>,
}

/// How often and when something was seen, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// How often.
    pub flows: u64,
    /// For the first time.
    pub first: u64,
    /// For the last time.
    pub last: u64,
}

impl Seen {
    /// It was seen again.
    pub fn again(&mut self, now: u64) {
        if self.flows == 0 {
            self.first = now;
        }
        self.flows += 1;
        self.last = self.last.max(now);
    }
}

impl<K: Ord + Clone, V: Default> Known<K, V> {
    /// An empty one.
    pub const fn new(most: usize) -> Self {
        Self { most, more: 0, entries: BTreeMap::new() }
    }

    /// The value of `key`, made if it is not there.
    pub fn at(&mut self, key: K, now: u64) -> &mut V {
        if !self.entries.contains_key(&key) && self.entries.len() >= self.most.max(1) {
            let oldest =
                self.entries.iter().min_by_key(|(_, (touched, _))| *touched).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
                self.more += 1;
            }
        }
        let (touched, value) = self.entries.entry(key).or_insert_with(|| (now, V::default()));
        *touched = now;
        value
    }

    /// How many made room.
    pub const fn more(&self) -> u64 {
        self.more
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }
}

mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Ord + Deserialize<'de>,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
