//! Socket storage, for every program type: `aya_ebpf`'s own methods know one context only.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
};

/// The value of `map` on the socket `sk`.
#[inline(always)]
pub fn get<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> Option<*mut T> {
    reach(map, sk, 0)
}

/// The value of `map` on the socket `sk`, made of zeroes when there is none yet; `None` when there is
/// no memory for it.
#[inline(always)]
pub fn get_or_create<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> Option<*mut T> {
    reach(map, sk, BPF_SK_STORAGE_GET_F_CREATE.into())
}

#[inline(always)]
fn reach<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock, flags: u64) -> Option<*mut T> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: a map of socket storage, a socket that the caller has checked against null (the verifier
    // insists), and no initial value.
    let value = unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), flags) }.cast::<T>();
    if value.is_null() { None } else { Some(value) }
}
