//! Whole tables at once.
//!
//! Batches save one system call per element. A batch is not atomic: the kernel stops at the first
//! element that it cannot take, and what came before it stays. So write only where nobody reads yet.
//! Where a kind of map has no batches the elements go one by one; the caller sees no difference.

use std::os::fd::AsRawFd;

use zerocopy::{Immutable, IntoBytes};

use super::Map;
use crate::{Error, Result, bpf};

/// The kernel's own "not supported", which libc does not name.
const ENOTSUPP: i32 = 524;
/// How many elements are read at once, to begin with.
const CHUNK: usize = 4096;
/// How many bytes of values a chunk may hold.
const CHUNK_BYTES: usize = 4 << 20;

/// `union bpf_attr`, the part for batches.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: i32,
    element_flags: u64,
    flags: u64,
}

impl Map<'_> {
    /// Calls `each` with every key and value (BPF_MAP_LOOKUP_BATCH: hashes and arrays since Linux 5.6,
    /// tries since 5.13, older ones one by one).
    ///
    /// This is no snapshot: an element that comes or goes meanwhile may be seen or not, and in a trie a
    /// removal may make others be seen twice. `each` may change the map. Not for rings, queues and socket
    /// storage, which give EINVAL or ENOTSUPP.
    pub fn for_each(&self, each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        self.for_each_chunked(CHUNK.min(CHUNK_BYTES / self.value_len().max(1)).max(16), each)
    }

    /// With room for `chunk` elements to begin with.
    fn for_each_chunked(&self, mut chunk: usize, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let (key_len, value_len) = (self.key_len().max(1), self.value_len().max(1));
        // The kernel's place mark is a key, or a bucket's number of four bytes.
        let mut place = vec![0_u8; self.key_len().max(4)];
        let mut next = place.clone();
        let mut started = false;
        let (mut keys, mut values) = (vec![0; chunk * key_len], vec![0; chunk * value_len]);
        loop {
            let mut attributes = Attributes {
                in_batch: if started { place.as_ptr() as u64 } else { 0 },
                out_batch: next.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: chunk as u32,
                map: self.fd.as_raw_fd(),
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: the place marks hold a key or four bytes, whichever is more; keys and values hold
            // `count` elements of the map's shape; all outlive the call.
            let result =
                unsafe { bpf::call(bpf::MAP_LOOKUP_BATCH, "bpf(BPF_MAP_LOOKUP_BATCH)", &mut attributes) };
            let last = match result.as_ref().map_err(Error::errno) {
                Ok(_) => false,
                Err(Some(libc::ENOENT)) => true,
                // A bucket holds more than the chunk: nothing was read.
                Err(Some(libc::ENOSPC)) if chunk <= self.shape.max_entries as usize => {
                    chunk *= 2;
                    keys.resize(chunk * key_len, 0);
                    values.resize(chunk * value_len, 0);
                    continue;
                }
                Err(Some(libc::EINTR | libc::EAGAIN)) => continue,
                Err(Some(ENOTSUPP | libc::EINVAL)) if !started => return self.for_each_single(each),
                Err(_) => return result.map(drop),
            };
            let elements = keys.chunks_exact(key_len).zip(values.chunks_exact(value_len));
            for (key, value) in elements.take(attributes.count as usize) {
                each(key, value);
            }
            if last {
                return Ok(());
            }
            std::mem::swap(&mut place, &mut next);
            started = true;
        }
    }

    /// Sets many elements: `keys` and `values` hold one after the other without gaps. `flags` as for
    /// [`Map::set`] (BPF_MAP_UPDATE_BATCH, as for [`Map::for_each`]).
    ///
    /// Errors as for [`Map::set`]; the elements before the one that failed are set.
    pub fn set_all(&self, keys: &[u8], values: &[u8], flags: u64) -> Result<()> {
        let count = self.count(keys)?;
        self.check("values", values.len(), count * self.value_len())?;
        let (mut keys, mut values, mut left) = (keys, values, count);
        while left > 0 {
            let name = "bpf(BPF_MAP_UPDATE_BATCH)";
            let (done, result) = self.write(bpf::MAP_UPDATE_BATCH, name, keys, Some(values), left, flags);
            (keys, values) = (skip(keys, done, self.key_len()), skip(values, done, self.value_len()));
            left -= done;
            match result.as_ref().map_err(Error::errno) {
                Ok(()) => {}
                Err(Some(libc::EINTR | libc::EAGAIN)) => {}
                Err(Some(ENOTSUPP | libc::EINVAL)) => {
                    let elements = keys.chunks_exact(self.key_len().max(1));
                    return elements
                        .zip(values.chunks_exact(self.value_len().max(1)))
                        .try_for_each(|(key, value)| self.set(key, value, flags));
                }
                Err(_) => return result.map_err(|error| self.full(error)),
            }
        }
        Ok(())
    }

    /// Removes many elements and tells how many there were; those that are missing are passed over
    /// (BPF_MAP_DELETE_BATCH, as for [`Map::for_each`]).
    pub fn remove_all(&self, keys: &[u8]) -> Result<usize> {
        let (mut keys, mut left, mut removed) = (keys, self.count(keys)?, 0);
        while left > 0 {
            let name = "bpf(BPF_MAP_DELETE_BATCH)";
            let (done, result) = self.write(bpf::MAP_DELETE_BATCH, name, keys, None, left, 0);
            removed += done;
            let passed = match result.as_ref().map_err(Error::errno) {
                Ok(()) | Err(Some(libc::EINTR | libc::EAGAIN)) => done,
                Err(Some(libc::ENOENT)) => done + 1,
                Err(Some(ENOTSUPP | libc::EINVAL)) => {
                    for key in skip(keys, done, self.key_len()).chunks_exact(self.key_len().max(1)) {
                        removed += usize::from(self.remove(key)?);
                    }
                    return Ok(removed);
                }
                Err(_) => return result.map(|()| removed),
            };
            keys = skip(keys, passed, self.key_len());
            left -= passed.min(left);
        }
        Ok(removed)
    }

    /// One batch of `count` elements; tells how many were written before it ended.
    fn write(
        &self,
        command: libc::c_int,
        name: &'static str,
        keys: &[u8],
        values: Option<&[u8]>,
        count: usize,
        flags: u64,
    ) -> (usize, Result<()>) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut attributes = Attributes {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.map_or(0, |values| values.as_ptr() as u64),
            count,
            map: self.fd.as_raw_fd(),
            element_flags: flags,
            flags: 0,
        };
        // SAFETY: the callers pass slices that hold `count` elements of the map's shape, and the kernel
        // only reads them.
        let result = unsafe { bpf::call(command, name, &mut attributes) };
        // A call that failed early leaves the count as it was asked for.
        let done = match &result {
            Err(_) if attributes.count >= count => 0,
            _ => attributes.count.min(count),
        };
        (done as usize, result.map(drop))
    }

    fn for_each_single(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        // Keys first: asked for the successor of a removed key, the kernel starts over.
        let mut keys = Vec::new();
        while let Some(key) = self.next_key(keys.last().map(Vec::as_slice))? {
            // Elements that come and go while we look could lead us in circles for ever.
            if keys.len() > 2 * self.shape.max_entries as usize {
                return Err(Error::Disturbed { call: "bpf(BPF_MAP_GET_NEXT_KEY)", times: 2 });
            }
            keys.push(key);
        }
        let mut value = vec![0; self.value_len()];
        for key in keys {
            if self.read(&key, &mut value)? {
                each(&key, &value);
            }
        }
        Ok(())
    }

    fn count(&self, keys: &[u8]) -> Result<usize> {
        let count = keys.len() / self.key_len().max(1);
        self.check("keys", keys.len(), count * self.key_len())?;
        Ok(count)
    }
}

fn skip(slice: &[u8], count: usize, len: usize) -> &[u8] {
    slice.get(count * len..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::os::fd::{AsFd, OwnedFd};

    use super::super::possible_cpus;
    use super::*;
    use crate::bpf::NewMap;
    use crate::testing;

    const HASH: u32 = 1;
    const ARRAY: u32 = 2;
    const PERCPU_HASH: u32 = 5;
    const PERCPU_ARRAY: u32 = 6;
    const LPM_TRIE: u32 = 11;
    const NO_PREALLOC: u32 = 1;

    fn create(kind: u32, key_size: u32, value_size: u32, max_entries: u32) -> OwnedFd {
        let flags = if kind == LPM_TRIE { NO_PREALLOC } else { 0 };
        NewMap { kind, key_size, value_size, max_entries, flags, ..Default::default() }.create().unwrap()
    }

    fn contents(map: &Map<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut found = BTreeMap::new();
        map.for_each(|key, value| assert_eq!(found.insert(key.to_owned(), value.to_owned()), None)).unwrap();
        found
    }

    /// Key `n` of a trie is n/32, of any other map n itself; values are derived from n.
    fn elements(map: &Map<'_>, numbers: std::ops::Range<u32>) -> (Vec<u8>, Vec<u8>) {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for number in numbers {
            if map.shape().kind == LPM_TRIE {
                keys.extend(32_u32.to_ne_bytes());
                keys.extend(number.to_be_bytes());
            } else {
                keys.extend(number.to_ne_bytes());
            }
            let value = u64::from(number) * 3 + 1;
            values.extend(value.to_ne_bytes().repeat(map.value_len() / 8));
        }
        (keys, values)
    }

    #[test]
    fn every_kind_of_table_is_written_read_and_emptied() {
        if !testing::root("map batches") {
            return;
        }
        for (kind, key_size) in [(HASH, 4), (PERCPU_HASH, 4), (LPM_TRIE, 8)] {
            let fd = create(kind, key_size, 8, 20_000);
            let map = Map::new(fd.as_fd()).unwrap();
            let (keys, values) = elements(&map, 0..10_000);
            map.set_all(&keys, &values, 0).unwrap();
            let found = contents(&map);
            assert_eq!(found.len(), 10_000, "kind {kind}");
            let pairs = keys.chunks_exact(map.key_len()).zip(values.chunks_exact(map.value_len()));
            for (key, value) in pairs {
                assert_eq!(found.get(key).map(Vec::as_slice), Some(value), "kind {kind}");
            }
            // 5,000 that are there, between 2,000 that are not.
            let (more, _) = elements(&map, 5_000..12_000);
            assert_eq!(map.remove_all(&more).unwrap(), 5_000, "kind {kind}");
            assert_eq!(contents(&map).len(), 5_000, "kind {kind}");
            let interleaved: Vec<u8> =
                keys.chunks_exact(map.key_len()).rev().step_by(7).flatten().copied().collect();
            assert_eq!(map.remove_all(&interleaved).unwrap(), 714, "kind {kind}");
        }
    }

    #[test]
    fn a_chunk_smaller_than_a_bucket_grows() {
        if !testing::root("map batch growth") {
            return;
        }
        let fd = create(HASH, 4, 8, 20_000);
        let map = Map::new(fd.as_fd()).unwrap();
        let (keys, values) = elements(&map, 0..20_000);
        map.set_all(&keys, &values, 0).unwrap();
        let mut seen = 0;
        map.for_each_chunked(1, |_, _| seen += 1).unwrap();
        assert_eq!(seen, 20_000);
    }

    #[test]
    fn arrays_are_read_whole() {
        if !testing::root("map batches of arrays") {
            return;
        }
        for kind in [ARRAY, PERCPU_ARRAY] {
            let fd = create(kind, 4, 8, 9_000);
            let map = Map::new(fd.as_fd()).unwrap();
            let (keys, values) = elements(&map, 0..9_000);
            map.set_all(&keys, &values, 0).unwrap();
            assert_eq!(contents(&map).into_values().flatten().count(), values.len());
        }
        assert!(possible_cpus().unwrap() > 0);
    }

    #[test]
    fn a_full_map_says_so_and_keeps_what_fitted() {
        if !testing::root("full map") {
            return;
        }
        for (kind, key_size) in [(HASH, 4), (LPM_TRIE, 8)] {
            let fd = create(kind, key_size, 8, 100);
            let map = Map::new(fd.as_fd()).unwrap();
            let (keys, values) = elements(&map, 0..150);
            assert!(matches!(map.set_all(&keys, &values, 0), Err(Error::Full { capacity: 100, .. })));
            assert_eq!(contents(&map).len(), 100, "kind {kind}");
            assert!(matches!(map.set_all(&keys, &[0; 8], 0), Err(Error::Length { what: "values", .. })));
            assert!(matches!(map.remove_all(&[0; 5]), Err(Error::Length { what: "keys", .. })));
        }
    }

    #[test]
    fn elements_one_by_one_are_the_same_as_in_batches() {
        if !testing::root("map without batches") {
            return;
        }
        for (kind, key_size) in [(HASH, 4), (LPM_TRIE, 8)] {
            let fd = create(kind, key_size, 8, 1_000);
            let map = Map::new(fd.as_fd()).unwrap();
            let (keys, values) = elements(&map, 0..1_000);
            map.set_all(&keys, &values, 0).unwrap();
            let mut found = BTreeMap::new();
            map.for_each_single(|key, value| drop(found.insert(key.to_owned(), value.to_owned()))).unwrap();
            assert_eq!(found, contents(&map));
            assert_eq!(found.len(), 1_000);
        }
    }

    /// The kernel gives array-of-maps no batch of updates that fail half-way; a cgroup array has none at all.
    #[test]
    fn a_kind_without_batches_is_written_one_by_one() {
        if !testing::root("map kind without batches") {
            return;
        }
        const CGROUP_ARRAY: u32 = 8;
        let fd = create(CGROUP_ARRAY, 4, 4, 4);
        let map = Map::new(fd.as_fd()).unwrap();
        let group = testing::TestCgroup::new("array");
        let folder = std::fs::File::open(group.path()).unwrap();
        let keys: Vec<u8> = [0_u32, 2].iter().flat_map(|key| key.to_ne_bytes()).collect();
        let values = folder.as_raw_fd().to_ne_bytes().repeat(2);
        let (done, result) = map.write(bpf::MAP_UPDATE_BATCH, "batch", &keys, Some(&values), 2, 0);
        assert_eq!((done, result.unwrap_err().errno()), (0, Some(ENOTSUPP)));
        map.set_all(&keys, &values, 0).unwrap();
        assert_eq!(map.remove_all(&[0_u32, 1, 2].map(u32::to_ne_bytes).concat()).unwrap(), 2);
    }
}
