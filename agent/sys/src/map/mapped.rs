//! An array map as memory that both sides see at once.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Map;
use crate::{Error, Result};

const ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The values of an array map as 64-bit words, shared with the kernel programs.
///
/// The word of entry `e` and offset `o` bytes has index `(e × stride + o) / 8`, where the stride is the
/// value's size rounded up to eight; in an array of one entry it is just `o / 8`. Loads acquire and
/// stores release, and no word is ever seen half written. The mapping keeps the map alive.
#[derive(Debug)]
pub struct MappedU64s {
    base: NonNull<AtomicU64>,
    words: usize,
    map: u32,
}

// SAFETY: the memory belongs to no thread, and is only ever accessed atomically.
unsafe impl Send for MappedU64s {}
// SAFETY: as above.
unsafe impl Sync for MappedU64s {}

impl MappedU64s {
    /// Maps the array behind `fd` (BPF_F_MMAPABLE, Linux 5.5). [`Error::NotMappable`] for anything but such
    /// an array; EPERM if it was frozen or opened for one direction.
    pub fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let shape = *Map::new(fd)?.shape();
        if shape.kind != ARRAY || shape.flags & BPF_F_MMAPABLE == 0 {
            return Err(Error::NotMappable { map: shape.id });
        }
        let words = shape.value_size.div_ceil(8) as usize * shape.max_entries as usize;
        // SAFETY: a new mapping at an address that the kernel chooses; it disturbs no other.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                words * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last("mmap"));
        }
        let base = NonNull::new(base.cast()).ok_or(Error::NotMappable { map: shape.id })?;
        Ok(Self { base, words, map: shape.id })
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words
    }

    /// Whether there are none, which no array is.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// The word at `index`; [`Error::Length`] beyond the end.
    pub fn load(&self, index: usize) -> Result<u64> {
        Ok(self.word(index)?.load(Ordering::Acquire))
    }

    /// Sets the word at `index` to `value`: whoever reads it also sees everything that was stored before.
    pub fn store(&self, index: usize, value: u64) -> Result<()> {
        self.word(index)?.store(value, Ordering::Release);
        Ok(())
    }

    fn word(&self, index: usize) -> Result<&AtomicU64> {
        if index >= self.words {
            return Err(Error::Length {
                what: "mapped memory",
                map: self.map,
                found: self.words * 8,
                wanted: index.saturating_add(1).saturating_mul(8),
            });
        }
        // SAFETY: within the mapping, which starts at a page and lives as long as `self`; the kernel side
        // writes it atomically too, or not at all.
        Ok(unsafe { self.base.add(index).as_ref() })
    }
}

impl Drop for MappedU64s {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no reference into it outlives `self`. It cannot
        // fail for a mapping that exists.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::AsFd;

    use super::*;
    use crate::bpf::NewMap;
    use crate::testing;

    #[test]
    fn memory_and_map_are_one() {
        if !testing::root("mapped array") {
            return;
        }
        // 700 values of 12 bytes, each in 16: nearly three pages.
        let new = NewMap { kind: ARRAY, key_size: 4, value_size: 12, max_entries: 700, ..Default::default() };
        let fd = NewMap { flags: BPF_F_MMAPABLE, ..new }.create().unwrap();
        let map = Map::new(fd.as_fd()).unwrap();
        let words = MappedU64s::new(fd.as_fd()).unwrap();
        assert_eq!(words.len(), 1_400);
        words.store(2 * 699, 0x0102_0304_0506_0708).unwrap();
        let value = map.get(&699_u32.to_ne_bytes()).unwrap().unwrap();
        assert_eq!(value.first_chunk::<8>(), Some(&0x0102_0304_0506_0708_u64.to_ne_bytes()));
        map.set(&3_u32.to_ne_bytes(), &[0xff; 12], 0).unwrap();
        assert_eq!((words.load(6).unwrap(), words.load(7).unwrap()), (u64::MAX, u64::from(u32::MAX)));
        assert!(matches!(words.load(1_400), Err(Error::Length { wanted: 11_208, .. })));
        assert!(words.store(usize::MAX, 1).is_err());

        let plain = new.create().unwrap();
        assert!(matches!(MappedU64s::new(plain.as_fd()), Err(Error::NotMappable { .. })));
    }
}
