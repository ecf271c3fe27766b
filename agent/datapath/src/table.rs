//! A map with the types that both sides agreed on.

use std::{
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use bulkhead_sys::map::Map;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::DatapathError;

/// A pinned map of `K` to `V`. Its shape was held against the types when it was opened.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    _types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    /// Opens the map that is pinned in `maps` under its own name.
    pub(crate) fn open(maps: &Path, name: &'static str) -> Result<Self, DatapathError> {
        let table = Self { name, fd: bulkhead_sys::pin::open(&maps.join(name))?, _types: PhantomData };
        let map = table.map()?;
        let (key, value) = (map.key_len(), map.shape().value_size as usize);
        if (key, value) != (size_of::<K>(), size_of::<V>()) {
            return Err(DatapathError::Shape {
                name,
                key,
                value,
                wanted_key: size_of::<K>(),
                wanted_value: size_of::<V>(),
            });
        }
        Ok(table)
    }

    /// The map's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many entries it takes.
    pub fn capacity(&self) -> Result<usize, DatapathError> {
        Ok(self.map()?.shape().max_entries as usize)
    }

    /// The map's number in the kernel.
    pub fn id(&self) -> Result<u32, DatapathError> {
        Ok(self.map()?.shape().id)
    }

    /// The value of `key`; in a trie, of the longest prefix that holds it.
    pub fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        let mut value = V::new_zeroed();
        Ok(self.map()?.read(key.as_bytes(), value.as_mut_bytes())?.then_some(value))
    }

    /// As [`Table::get`] of a hash table, looking a second time where there was nothing: while an existing key is
    /// written anew, a lookup may find neither the old element nor the new one (`htab_map_update_elem`, Linux
    /// 6.18).
    pub fn find(&self, key: &K) -> Result<Option<V>, DatapathError> {
        match self.get(key)? {
            None => self.get(key),
            found => Ok(found),
        }
    }

    /// Every entry. In a per-CPU map use [`Table::for_each_raw`].
    pub fn entries(&self) -> Result<Vec<(K, V)>, DatapathError> {
        let mut entries = Vec::new();
        self.map()?.for_each(|key, value| {
            if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                entries.push((key, value));
            }
        })?;
        Ok(entries)
    }

    /// Every entry's bytes.
    pub fn for_each_raw(&self, each: impl FnMut(&[u8], &[u8])) -> Result<(), DatapathError> {
        Ok(self.map()?.for_each(each)?)
    }

    /// How many entries there are.
    pub fn count(&self) -> Result<usize, DatapathError> {
        let mut count = 0;
        self.for_each_raw(|_, _| count += 1)?;
        Ok(count)
    }

    /// Sets entries, in batches.
    pub fn set_all(&self, entries: &[(K, V)]) -> Result<(), DatapathError> {
        if entries.is_empty() {
            return Ok(());
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            keys.extend_from_slice(key.as_bytes());
            values.extend_from_slice(value.as_bytes());
        }
        Ok(self.map()?.set_all(&keys, &values, 0)?)
    }

    /// Sets one entry.
    pub fn set(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        Ok(self.map()?.set(key.as_bytes(), value.as_bytes(), 0)?)
    }

    /// Sets one entry unless there is one; whether it was set.
    pub fn add(&self, key: &K, value: &V) -> Result<bool, DatapathError> {
        const NO_EXIST: u64 = 1;
        const EEXIST: i32 = 17;
        match self.map()?.set(key.as_bytes(), value.as_bytes(), NO_EXIST) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(EEXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes entries, in batches; those that are missing are passed over.
    pub fn remove_all(&self, keys: &[K]) -> Result<usize, DatapathError> {
        if keys.is_empty() {
            return Ok(0);
        }
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.as_bytes()).copied().collect();
        Ok(self.map()?.remove_all(&bytes)?)
    }

    /// Removes those of `keys` that are `over` when their turn comes; how many there were.
    ///
    /// A program may put a new value in the place of the one that somebody found to be over. That one stays:
    /// it is looked at once more, and taken out together with what it holds. If that is something new after
    /// all, written in the very moment between the two, it is put back at once.
    pub fn remove_if(
        &self,
        keys: &[K],
        mut over: impl FnMut(&K, &V) -> bool,
    ) -> Result<usize, DatapathError> {
        let (map, mut value, mut removed) = (self.map()?, V::new_zeroed(), 0);
        for key in keys {
            if !map.read(key.as_bytes(), value.as_mut_bytes())? || !over(key, &value) {
                continue;
            }
            if !map.take(key.as_bytes(), value.as_mut_bytes())? {
                continue;
            }
            if over(key, &value) {
                removed += 1;
            } else {
                self.add(key, &value)?;
            }
        }
        Ok(removed)
    }

    fn map(&self) -> Result<Map<'_>, DatapathError> {
        Ok(Map::new(self.fd.as_fd())?)
    }
}

impl<K, V> AsFd for Table<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Plain bytes, in both directions.
pub trait Plain: FromBytes + IntoBytes + Immutable + Copy {}
impl<T: FromBytes + IntoBytes + Immutable + Copy> Plain for T {}

/// A longest-prefix key as the kernel's trie takes it (`struct bpf_lpm_trie_key`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
pub struct TrieKey<K: Copy> {
    /// Prefix length in bits.
    pub bits: u32,
    /// What it is a prefix of.
    pub data: K,
}
