//! The bpf(2) system call.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::{Error, Result};

pub(crate) const MAP_CREATE: libc::c_int = 0;
pub(crate) const MAP_LOOKUP_ELEM: libc::c_int = 1;
pub(crate) const MAP_UPDATE_ELEM: libc::c_int = 2;
pub(crate) const MAP_DELETE_ELEM: libc::c_int = 3;
pub(crate) const MAP_GET_NEXT_KEY: libc::c_int = 4;
pub(crate) const PROG_LOAD: libc::c_int = 5;
pub(crate) const OBJ_PIN: libc::c_int = 6;
pub(crate) const OBJ_GET: libc::c_int = 7;
pub(crate) const PROG_TEST_RUN: libc::c_int = 10;
pub(crate) const PROG_GET_FD_BY_ID: libc::c_int = 13;
pub(crate) const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
pub(crate) const PROG_QUERY: libc::c_int = 16;
pub(crate) const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
pub(crate) const MAP_LOOKUP_BATCH: libc::c_int = 24;
pub(crate) const MAP_UPDATE_BATCH: libc::c_int = 26;
pub(crate) const MAP_DELETE_BATCH: libc::c_int = 27;
pub(crate) const LINK_CREATE: libc::c_int = 28;
pub(crate) const LINK_UPDATE: libc::c_int = 29;
pub(crate) const ENABLE_STATS: libc::c_int = 32;
pub(crate) const LINK_DETACH: libc::c_int = 34;

/// Calls `command` with `attributes`, which the kernel may write to.
///
/// # Safety
/// Every address in `attributes` must be valid for what `command` reads and writes there.
pub(crate) unsafe fn call<A: IntoBytes + Immutable>(
    command: libc::c_int,
    name: &'static str,
    attributes: &mut A,
) -> Result<i32> {
    // SAFETY: the kernel reads and writes no more than the size it is told; the rest is the caller's word.
    let status =
        unsafe { libc::syscall(libc::SYS_bpf, command, (&raw mut *attributes), mem::size_of::<A>()) };
    if status < 0 {
        return Err(Error::last(name));
    }
    Ok(status as i32)
}

/// As [`call`], for commands that answer with a new descriptor.
///
/// # Safety
/// As for [`call`]; and `command` must be one that answers with a new descriptor.
pub(crate) unsafe fn descriptor<A: IntoBytes + Immutable>(
    command: libc::c_int,
    name: &'static str,
    attributes: &mut A,
) -> Result<OwnedFd> {
    // SAFETY: the caller's word.
    let fd = unsafe { call(command, name, attributes) }?;
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel tells of the object behind `fd` (BPF_OBJ_GET_INFO_BY_FD, Linux 4.13): the beginning of
/// its `struct bpf_…_info`, as far as `T` reaches; zeroes where the kernel knows less.
pub(crate) fn info<T: FromZeros + FromBytes + IntoBytes + Immutable>(fd: BorrowedFd<'_>) -> Result<T> {
    #[derive(IntoBytes, Immutable)]
    #[repr(C)]
    struct Attributes {
        fd: i32,
        length: u32,
        info: u64,
    }
    let mut info = T::new_zeroed();
    let mut attributes =
        Attributes { fd: fd.as_raw_fd(), length: size_of::<T>() as u32, info: (&raw mut info) as u64 };
    // SAFETY: `info` has room for the length that is announced, and every bit pattern is a valid one.
    unsafe { call(OBJ_GET_INFO_BY_FD, "bpf(BPF_OBJ_GET_INFO_BY_FD)", &mut attributes) }?;
    Ok(info)
}

/// The shape of a map to be made.
#[derive(Clone, Copy, Default, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct NewMap {
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    pub(crate) inner: i32,
    pub(crate) numa_node: u32,
    pub(crate) name: [u8; 16],
    pub(crate) ifindex: u32,
    pub(crate) btf: i32,
    pub(crate) btf_key: u32,
    pub(crate) btf_value: u32,
}

impl NewMap {
    pub(crate) fn create(mut self) -> Result<OwnedFd> {
        // SAFETY: the attributes hold no addresses, and the answer is a descriptor.
        unsafe { descriptor(MAP_CREATE, "bpf(BPF_MAP_CREATE)", &mut self) }
    }
}
