//! Table operations whose key or value is the argument of a global function.
//!
//! Old verifiers (Linux 6.1 among them) let maps read keys and values from the stack, a packet or another
//! map, but not from such an argument. It is copied here, in functions with a frame of their own: a
//! caller's frame would keep the room for the copy during all its calls, and the stack of a whole chain
//! of calls is 512 bytes.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "the borrowed copy on this frame's stack is what the verifier wants to see"
)]

use core::ptr::null_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use bulkhead_abi::{
    FlowKey, FlowState,
    flow::{Denial, FirstFragment, FragmentKey},
    inspect::{ClassCount, ClassKey},
};

use crate::maps;

/// Looks a flow up, and makes one in which every field is zero; null where there is none, or no room.
macro_rules! flows {
    ($find:ident, $insert:ident, $map:ident) => {
        #[inline(never)]
        pub fn $find(key: &FlowKey) -> *mut FlowState {
            maps::$map.get_ptr_mut(&{ *key }).unwrap_or(null_mut())
        }

        #[inline(never)]
        pub fn $insert(key: &FlowKey) -> *mut FlowState {
            // A value of zeroes that lies in a map: one on the stack would be a fifth of it.
            let (key, Some(blank)) = (*key, maps::BLANK_FLOW.get(0)) else { return null_mut() };
            match maps::$map.insert(&key, blank, 0) {
                Ok(()) => maps::$map.get_ptr_mut(&key).unwrap_or(null_mut()),
                Err(_) => null_mut(),
            }
        }
    };
}

flows!(flow, new_flow, FLOWS);
flows!(transit, new_transit, TRANSIT);

/// Takes the entry of a flow away.
#[inline(never)]
pub fn remove_flow(key: &FlowKey) {
    let _ = maps::FLOWS.remove(&{ *key });
}

/// What is remembered of a denied flow; null where nothing is.
#[inline(never)]
pub fn denial(key: &FlowKey) -> *mut Denial {
    maps::DENIED.get_ptr_mut(&{ *key }).unwrap_or(null_mut())
}

/// The same, made of zeroes where there is nothing.
#[inline(never)]
pub fn denial_or_new(key: &FlowKey) -> *mut Denial {
    let key = *key;
    if let Some(denial) = maps::DENIED.get_ptr_mut(&key) {
        return denial;
    }
    let Some(blank) = maps::BLANK_DENIAL.get(0) else { return null_mut() };
    let _ = maps::DENIED.insert(&key, blank, BPF_NOEXIST.into());
    maps::DENIED.get_ptr_mut(&key).unwrap_or(null_mut())
}

/// What is counted of a kind of flow; null where nothing is.
#[inline(never)]
pub fn class(key: &ClassKey) -> *mut ClassCount {
    maps::CLASSES.get_ptr_mut(&{ *key }).unwrap_or(null_mut())
}

/// Counts the first flow of a kind; false where there is no room, or another processor was first.
#[inline(never)]
pub fn new_class(key: &ClassKey, told: u64) -> bool {
    maps::CLASSES.insert(&{ *key }, &ClassCount { flows: 1, told }, BPF_NOEXIST.into()).is_ok()
}

/// What is remembered of a packet's first fragment; null where nothing is.
#[inline(never)]
pub fn fragment(key: &FragmentKey) -> *mut FirstFragment {
    maps::FRAGMENTS.get_ptr_mut(&{ *key }).unwrap_or(null_mut())
}

/// Remembers a first fragment; false when the table is full.
#[inline(never)]
pub fn new_fragment(first: &FirstFragment) -> bool {
    let first = *first;
    maps::FRAGMENTS.insert(&first.key, &first, 0).is_ok()
}
