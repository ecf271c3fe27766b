//! Socket storage, for every program type: `aya_ebpf`'s own methods know one context only, and its maps
//! one way to treat an accepted socket.

use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
        bpf_sock,
    },
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
};

/// A map of socket storage. An accepted socket begins without any.
pub trait Storage {
    /// What it holds for each socket.
    type Value;
}

impl<T> Storage for SkStorage<T> {
    type Value = T;
}

/// A map of socket storage, of which an accepted socket inherits its listener's.
// As the loader wants it described by its type information: see `aya_ebpf::btf_maps`.
#[repr(C)]
pub struct Inherited<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are never read; the kernel's map takes their place.
unsafe impl<T> Sync for Inherited<T> {}

impl<T> Inherited<T> {
    /// What the loader makes the map of.
    pub const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

impl<T> Storage for Inherited<T> {
    type Value = T;
}

/// The value of `map` on the socket `sk`.
#[inline(always)]
pub fn get<M: Storage>(map: &'static M, sk: *mut bpf_sock) -> Option<*mut M::Value> {
    reach(map, sk, 0)
}

/// The value of `map` on the socket `sk`, made of zeroes when there is none yet; `None` when there is
/// no memory for it.
#[inline(always)]
pub fn get_or_create<M: Storage>(map: &'static M, sk: *mut bpf_sock) -> Option<*mut M::Value> {
    reach(map, sk, BPF_SK_STORAGE_GET_F_CREATE.into())
}

#[inline(always)]
fn reach<M: Storage>(map: &'static M, sk: *mut bpf_sock, flags: u64) -> Option<*mut M::Value> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: a map of socket storage, a socket that the caller has checked against null (the verifier
    // insists), and no initial value.
    let value = unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), flags) };
    let value = value.cast::<M::Value>();
    if value.is_null() { None } else { Some(value) }
}
