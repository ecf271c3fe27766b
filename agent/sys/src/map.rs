//! Maps as plain bytes: single elements, whole tables in batches, and arrays mapped into memory.
//!
//! A [`Map`] asks the kernel for the shape of the map before anything else and holds every slice against
//! it, since the kernel would read and write past a slice that is too short. Keys and values are in the
//! layout of the kernel programs; see `bulkhead_abi` for the types.

mod batch;
mod mapped;

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{Error, Result, bpf};

pub use mapped::MappedU64s;

/// The kind and measures of a map, as the kernel tells them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// `bpf_map_type`.
    pub kind: u32,
    /// The map's number, unique while it lives; sock_diag names socket storage by it.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value as programs see it.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// Flags given at creation (`BPF_F_…`).
    pub flags: u32,
}

/// A map that somebody else holds open.
#[derive(Clone, Copy, Debug)]
pub struct Map<'fd> {
    fd: BorrowedFd<'fd>,
    shape: Shape,
    value_len: usize,
}

impl<'fd> Map<'fd> {
    /// Looks at the map behind `fd` (BPF_OBJ_GET_INFO_BY_FD, Linux 4.13). EBADF or EINVAL if there is no
    /// BPF object behind it.
    pub fn new(fd: BorrowedFd<'fd>) -> Result<Self> {
        let shape = shape(fd)?;
        let value_len = if is_per_cpu(shape.kind) {
            shape.value_size.next_multiple_of(8) as usize * possible_cpus()?
        } else {
            shape.value_size as usize
        };
        Ok(Self { fd, shape, value_len })
    }

    /// Its measures.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of a key.
    pub fn key_len(&self) -> usize {
        self.shape.key_size as usize
    }

    /// Bytes of a value on this side: in a per-CPU map, one value per possible CPU, each rounded up to
    /// eight bytes.
    pub fn value_len(&self) -> usize {
        self.value_len
    }

    /// The value of `key`, or `None`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_len];
        Ok(self.read(key, &mut value)?.then_some(value))
    }

    /// Reads the value of `key` into `value`; false, and `value` untouched, if there is none.
    pub fn read(&self, key: &[u8], value: &mut [u8]) -> Result<bool> {
        self.check("key", key.len(), self.key_len())?;
        self.check("value", value.len(), self.value_len)?;
        let value = value.as_mut_ptr() as u64;
        found(self.element(bpf::MAP_LOOKUP_ELEM, "bpf(BPF_MAP_LOOKUP_ELEM)", key, value, 0))
    }

    /// Sets the value of `key`: `flags` are `BPF_ANY` (0), `BPF_NOEXIST` (1) or `BPF_EXIST` (2). In socket
    /// storage the key is the number of the socket's descriptor, in a map of maps the value that of the
    /// inner map's.
    ///
    /// Errors: [`Error::Full`]; EEXIST and ENOENT as the flags ask; EINVAL for a key that the map's kind
    /// does not take.
    pub fn set(&self, key: &[u8], value: &[u8], flags: u64) -> Result<()> {
        self.check("key", key.len(), self.key_len())?;
        self.check("value", value.len(), self.value_len)?;
        let value = value.as_ptr() as u64;
        self.element(bpf::MAP_UPDATE_ELEM, "bpf(BPF_MAP_UPDATE_ELEM)", key, value, flags)
            .map_err(|error| self.full(error))
    }

    /// Removes `key`; false if it was not there.
    pub fn remove(&self, key: &[u8]) -> Result<bool> {
        self.check("key", key.len(), self.key_len())?;
        found(self.element(bpf::MAP_DELETE_ELEM, "bpf(BPF_MAP_DELETE_ELEM)", key, 0, 0))
    }

    /// Takes `key` out, and what it held into `value`; false, and `value` untouched, if it was not there.
    /// Nobody can put something else in its place between the two (hashes: Linux 5.14).
    pub fn take(&self, key: &[u8], value: &mut [u8]) -> Result<bool> {
        self.check("key", key.len(), self.key_len())?;
        self.check("value", value.len(), self.value_len)?;
        let (name, value) = ("bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM)", value.as_mut_ptr() as u64);
        found(self.element(bpf::MAP_LOOKUP_AND_DELETE_ELEM, name, key, value, 0))
    }

    /// The key that comes after `key`, or the first one; `None` after the last.
    fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        if let Some(key) = key {
            self.check("key", key.len(), self.key_len())?;
        }
        let mut next = vec![0; self.key_len()];
        let value = next.as_mut_ptr() as u64;
        let name = "bpf(BPF_MAP_GET_NEXT_KEY)";
        Ok(found(self.element(bpf::MAP_GET_NEXT_KEY, name, key.unwrap_or_default(), value, 0))?
            .then_some(next))
    }

    /// One of the commands that take a key and a value. `key` has the map's key length, or is empty where
    /// the command allows none; `value` is the address of a value, or of a key for MAP_GET_NEXT_KEY.
    fn element(
        &self,
        command: libc::c_int,
        name: &'static str,
        key: &[u8],
        value: u64,
        flags: u64,
    ) -> Result<()> {
        #[derive(IntoBytes, Immutable)]
        #[repr(C)]
        struct Attributes {
            map: i32,
            _padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
        let mut attributes = Attributes { map: self.fd.as_raw_fd(), _padding: 0, key, value, flags };
        // SAFETY: the callers held the lengths of key and value against the map's shape, which never
        // changes, and both live until the call is over.
        unsafe { bpf::call(command, name, &mut attributes) }?;
        Ok(())
    }

    fn check(&self, what: &'static str, found: usize, wanted: usize) -> Result<()> {
        if found == wanted {
            return Ok(());
        }
        Err(Error::Length { what, map: self.shape.id, found, wanted })
    }

    /// Gives E2BIG (hashes) and ENOSPC (tries) their name.
    fn full(&self, error: Error) -> Error {
        match error.errno() {
            Some(libc::E2BIG | libc::ENOSPC) => {
                Error::Full { map: self.shape.id, capacity: self.shape.max_entries }
            }
            _ => error,
        }
    }
}

/// How many CPUs the machine may ever have: the number of values of a per-CPU element.
pub fn possible_cpus() -> Result<usize> {
    static COUNT: OnceLock<usize> = OnceLock::new();
    if let Some(count) = COUNT.get() {
        return Ok(*count);
    }
    let path = Path::new("/sys/devices/system/cpu/possible");
    let text = fs::read_to_string(path).map_err(Error::path("read", path))?;
    let count = count_cpus(text.trim()).ok_or(Error::Malformed { what: "the list of possible CPUs" })?;
    Ok(*COUNT.get_or_init(|| count))
}

/// `0-3,8` is five.
fn count_cpus(list: &str) -> Option<usize> {
    list.split(',').try_fold(0_usize, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn shape(fd: BorrowedFd<'_>) -> Result<Shape> {
    /// The beginning of `struct bpf_map_info`.
    #[derive(Default, FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    let Info { kind, id, key_size, value_size, max_entries, flags } = bpf::info(fd)?;
    Ok(Shape { kind, id, key_size, value_size, max_entries, flags })
}

/// BPF_MAP_TYPE_PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, PERCPU_CGROUP_STORAGE.
fn is_per_cpu(kind: u32) -> bool {
    matches!(kind, 5 | 6 | 10 | 21)
}

/// Turns "no such element" into an answer.
fn found(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
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
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpus("3-0"), None);
        assert_eq!(count_cpus(""), None);
        // SAFETY: takes nothing but a number.
        let configured = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) } as usize;
        assert!(possible_cpus().unwrap() >= configured);
    }

    #[test]
    fn elements_come_and_go() {
        if !testing::root("map elements") {
            return;
        }
        let fd = NewMap { kind: 1, key_size: 4, value_size: 8, max_entries: 2, ..Default::default() };
        let fd = fd.create().unwrap();
        let map = Map::new(fd.as_fd()).unwrap();
        assert_eq!((map.shape().kind, map.shape().max_entries), (1, 2));
        assert_eq!(map.get(&[1; 4]).unwrap(), None);
        map.set(&[1; 4], &[7; 8], 0).unwrap();
        assert_eq!(map.get(&[1; 4]).unwrap(), Some(vec![7; 8]));
        assert_eq!(map.set(&[1; 4], &[8; 8], 1).unwrap_err().errno(), Some(libc::EEXIST));
        map.set(&[2; 4], &[8; 8], 0).unwrap();
        assert!(matches!(map.set(&[3; 4], &[9; 8], 0), Err(Error::Full { capacity: 2, .. })));
        assert!(map.remove(&[1; 4]).unwrap());
        assert!(!map.remove(&[1; 4]).unwrap());
        let mut taken = [0; 8];
        assert!(map.take(&[2; 4], &mut taken).unwrap());
        assert_eq!((taken, map.get(&[2; 4]).unwrap()), ([8; 8], None));
        assert!(!map.take(&[2; 4], &mut [0; 8]).unwrap());
    }

    #[test]
    fn slices_of_the_wrong_length_never_reach_the_kernel() {
        if !testing::root("map lengths") {
            return;
        }
        let fd = NewMap { kind: 6, key_size: 4, value_size: 12, max_entries: 1, ..Default::default() };
        let fd = fd.create().unwrap();
        let map = Map::new(fd.as_fd()).unwrap();
        assert_eq!(map.value_len(), 16 * possible_cpus().unwrap());
        assert!(matches!(map.read(&[0; 4], &mut [0; 12]), Err(Error::Length { what: "value", .. })));
        assert!(matches!(map.get(&[0; 3]), Err(Error::Length { what: "key", found: 3, wanted: 4, .. })));
        assert!(matches!(map.set(&[0; 4], &[0; 16 + 1], 0), Err(Error::Length { .. })));
        assert_eq!(map.get(&[0; 4]).unwrap().map(|value| value.len()), Some(map.value_len()));
    }
}
