//! The kernel's side of [`Tables`] and [`Report`]: what every program can look up and tell.

// `core`'s atomics offer no addition on targets without compare-and-swap, which BPF has only in part.
use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xchg};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::lpm_trie::Key,
    helpers::{bpf_ktime_get_ns, generated::bpf_ktime_get_coarse_ns},
};
use bulkhead_abi::{
    Addr, Cell, Control, CounterKey, Event, FlowKey, Identity, ListenerKey, LocalAddress, PairKey, RuleKey,
    SlotOwner,
    flow::{Denial, Listener},
    inspect::ClassKey,
    limits,
    names::Loss,
    tables::{FailsafeKey, Home, IdentityValue, PairValue, PrefixValue, UnionValue, WorkloadValue},
};

use crate::{keyed, maps};

/// Copies a value out of a hash map at once: the kernel may give its element to another key.
macro_rules! copy {
    ($map:expr, $key:expr) => {
        // SAFETY: the element is plain bytes without invalid patterns, and copied before it is looked
        // at; whoever cares that it was not given to another key meanwhile finds the key in it.
        unsafe { $map.get($key) }.copied()
    };
}

/// The same for values that carry their key, looking a second time where there was none, or the element was
/// given to another key in between: while a commit writes an existing key anew, a lookup that runs at the
/// same moment may find neither the old element nor the new one (`htab_map_update_elem`, Linux 6.18).
macro_rules! copy_checked {
    ($map:expr, $key:expr, $own:ident) => {
        match copy!($map, $key) {
            Some(value) if value.$own == *$key => Some(value),
            _ => match copy!($map, $key) {
                Some(value) if value.$own == *$key => Some(value),
                _ => None,
            },
        }
    };
}

/// As [`copy_checked`], for values without a key.
macro_rules! copy_again {
    ($map:expr, $key:expr) => {
        match copy!($map, $key) {
            None => copy!($map, $key),
            found => found,
        }
    };
}

#[inline(always)]
pub fn control() -> Control {
    // There is always an element 0; were there none, generation 0 has no tables and zones are closed.
    maps::CONTROL.get(0).copied().unwrap_or_default()
}

#[inline(always)]
pub fn prefix(addr: &Addr) -> Option<PrefixValue> {
    maps::PREFIXES.get(&Key::new(128, *addr)).copied()
}

#[inline(always)]
pub fn workload(cgroup: u64) -> Option<WorkloadValue> {
    copy_checked!(maps::WORKLOADS, &cgroup, cgroup)
}

#[inline(always)]
pub fn union(key: &PairKey) -> Option<UnionValue> {
    copy_checked!(maps::UNIONS, key, key)
}

#[inline(always)]
pub fn identity(identity: Identity) -> Option<IdentityValue> {
    copy_checked!(maps::IDENTITIES, &identity, identity)
}

#[inline(always)]
pub fn pair(key: &PairKey) -> Option<PairValue> {
    copy_checked!(maps::PAIRS, key, key)
}

#[inline(always)]
pub fn rule(key: &RuleKey) -> Option<Cell> {
    maps::RULES.get(&Key::new(RuleKey::PORT_BITS, *key)).copied()
}

#[inline(always)]
pub fn failsafe(key: &FailsafeKey) -> bool {
    match maps::FAILSAFE.get_ptr_mut(key) {
        Some(packets) => {
            // SAFETY: preallocated and never removed while programs run; a lost increment of this
            // counter on two CPUs at once is harmless.
            unsafe { *packets = (*packets).wrapping_add(1) };
            true
        }
        None => false,
    }
}

#[inline(always)]
pub fn local(addr: &Addr) -> Option<LocalAddress> {
    copy_again!(maps::LOCALS, &{ *addr })
}

#[inline(always)]
pub fn home(netns: u64) -> Option<Home> {
    copy_again!(maps::HOMES, &netns)
}

#[inline(always)]
pub fn listener(key: &ListenerKey) -> Option<Listener> {
    copy_again!(maps::LISTENERS, key)
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments, always available.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
pub fn coarse_now() -> u64 {
    // SAFETY: no arguments (Linux 5.11).
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
pub fn find_slot(key: &CounterKey) -> u32 {
    let key = *key;
    if let Some(owner) = copy!(maps::SLOTS, &key) {
        return owner.slot;
    }
    new_slot(&key)
}

/// Takes the next free slot for `key`. Two CPUs at once may take two: one is then never used.
#[inline(always)]
fn new_slot(key: &CounterKey) -> u32 {
    let Some(used) = maps::SLOTS_USED.get_ptr_mut(0) else { return 0 };
    // SAFETY: an array element lives as long as its map, and is only ever added to.
    let next = unsafe { fetch_add(used) }.wrapping_add(1);
    if next >= u64::from(limits::COUNTERS) {
        lose(Loss::Slots);
        return 0;
    }
    match maps::SLOTS.insert(key, SlotOwner { slot: next as u32 }, BPF_NOEXIST.into()) {
        Ok(()) => next as u32,
        Err(_) => copy!(maps::SLOTS, key).map_or(0, |owner| owner.slot),
    }
}

#[inline(always)]
pub fn add(slot: u32, flows: u64, packets: u64, bytes: u64) {
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own element. A program that interrupts this one on the same CPU may
        // count in between, so each field is added to atomically.
        unsafe {
            bump(&raw mut (*counter).packets, packets);
            bump(&raw mut (*counter).bytes, bytes);
            if flows != 0 {
                bump(&raw mut (*counter).flows, flows);
            }
        }
    }
}

#[inline(always)]
pub fn denial(key: &FlowKey) -> Option<Denial> {
    // The element may be given to another flow while it is copied: its tag tells.
    // SAFETY: null or plain bytes, copied at once.
    unsafe { keyed::denial(key).as_ref() }.copied().filter(|denial| denial.tag == key.tag())
}

#[inline(always)]
pub fn note_denial(key: &FlowKey, note: impl FnOnce(&mut Denial)) {
    // SAFETY: null or an element of a preallocated table, which the kernel may give to another flow; whoever
    // reads it goes by its tag.
    if let Some(denial) = unsafe { keyed::denial_or_new(key).as_mut() } {
        note(denial);
    }
}

/// Counts a flow by its class; whether one of this kind is to be told of again.
#[inline(always)]
pub fn count_class(key: &ClassKey) -> bool {
    let now = coarse_now();
    let mut count = keyed::class(key);
    if count.is_null() {
        if keyed::new_class(key, now) {
            return true;
        }
        count = keyed::class(key);
    }
    // SAFETY: null or an element of a table from which nothing is ever removed.
    let Some(count) = (unsafe { count.as_mut() }) else {
        lose(Loss::Classes);
        return false;
    };
    // SAFETY: as above.
    unsafe { bump(&raw mut count.flows, 1) };
    let due = now.saturating_sub(count.told) >= limits::CLASS_SILENCE;
    if due {
        count.told = now;
    }
    due
}

#[inline(always)]
pub fn emit(fill: impl FnOnce(&mut Event)) {
    match maps::EVENTS.reserve(0) {
        Some(mut entry) => {
            // SAFETY: plain bytes: every pattern is valid, and `fill` writes every field before the
            // daemon reads them.
            fill(unsafe { entry.assume_init_mut() });
            entry.submit(0);
        }
        None => lose(Loss::Events),
    }
}

/// Counts something that had no room.
#[inline(always)]
pub fn lose(what: Loss) {
    if let Some(lost) = maps::LOST.get_ptr_mut(what as u32) {
        // SAFETY: this CPU's own element.
        unsafe { bump(lost, 1) };
    }
}

/// # Safety
/// `value` points to an aligned element of a live map.
#[inline(always)]
unsafe fn bump(value: *mut u64, by: u64) {
    // SAFETY: by the caller's promise.
    let _ = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, by) };
}

/// Puts `new` in the place of what is there, and gives that.
///
/// # Safety
/// `value` points to an aligned word of a live map.
#[inline(always)]
pub unsafe fn swap(value: *mut u32, new: u32) -> u32 {
    // SAFETY: by the caller's promise.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(value, new) }
}

/// Adds one, and gives what was there before.
///
/// Sequentially consistent for the result's sake: LLVM turns a relaxed addition into the instruction
/// that has none, and hands back the operand.
///
/// # Safety
/// `value` points to an aligned element of a live map.
#[inline(always)]
unsafe fn fetch_add(value: *mut u64) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(value, 1) }
}

/// Implements [`bulkhead_core::tables::Tables`] by the lookups of this module.
macro_rules! plain_lookups {
    () => {
        #[inline(always)]
        fn control(&self) -> bulkhead_abi::Control {
            $crate::tables::control()
        }
        #[inline(always)]
        fn prefix(&self, addr: &bulkhead_abi::Addr) -> Option<bulkhead_abi::tables::PrefixValue> {
            $crate::tables::prefix(addr)
        }
        #[inline(always)]
        fn workload(&self, cgroup: u64) -> Option<bulkhead_abi::tables::WorkloadValue> {
            $crate::tables::workload(cgroup)
        }
        #[inline(always)]
        fn union(&self, key: &bulkhead_abi::PairKey) -> Option<bulkhead_abi::tables::UnionValue> {
            $crate::tables::union(key)
        }
        #[inline(always)]
        fn identity(&self, identity: bulkhead_abi::Identity) -> Option<bulkhead_abi::tables::IdentityValue> {
            $crate::tables::identity(identity)
        }
        #[inline(always)]
        fn pair(&self, key: &bulkhead_abi::PairKey) -> Option<bulkhead_abi::tables::PairValue> {
            $crate::tables::pair(key)
        }
        #[inline(always)]
        fn rule(&self, key: &bulkhead_abi::RuleKey) -> Option<bulkhead_abi::Cell> {
            $crate::tables::rule(key)
        }
        #[inline(always)]
        fn failsafe(&self, key: &bulkhead_abi::tables::FailsafeKey) -> bool {
            $crate::tables::failsafe(key)
        }
        #[inline(always)]
        fn local(&self, addr: &bulkhead_abi::Addr) -> Option<bulkhead_abi::LocalAddress> {
            $crate::tables::local(addr)
        }
        #[inline(always)]
        fn home(&self, netns: u64) -> Option<bulkhead_abi::tables::Home> {
            $crate::tables::home(netns)
        }
        #[inline(always)]
        fn listener(&self, key: &bulkhead_abi::ListenerKey) -> Option<bulkhead_abi::flow::Listener> {
            $crate::tables::listener(key)
        }
    };
}

/// The tables without a packet or a call: for the functions of [`crate::leaf`], which must not call
/// themselves.
pub struct Kernel;

impl bulkhead_core::tables::Tables for Kernel {
    plain_lookups!();
}

/// Implements [`bulkhead_core::tables::Tables`] with the functions of [`crate::leaf`], and `Report` by the
/// lookups of this module and the two inherent methods `netns` and `cookie` of the type.
macro_rules! kernel_tables {
    ($type:ty) => {
        impl bulkhead_core::tables::Tables for $type {
            $crate::tables::plain_lookups!();

            #[inline(always)]
            fn resolve(
                &self,
                generation: u64,
                workload: &bulkhead_abi::Workload,
                addr: &bulkhead_abi::Addr,
            ) -> bulkhead_abi::Identity {
                bulkhead_abi::Identity($crate::leaf::leaf_resolve(
                    generation,
                    workload.cgroup,
                    workload.anchor,
                    addr,
                ))
            }
            #[inline(always)]
            fn answer(
                &self,
                generation: u64,
                question: &bulkhead_core::judge::Question,
            ) -> Option<bulkhead_abi::tables::SideAnswer> {
                let pair = u64::from(question.from.0) << 32 | u64::from(question.to.0);
                let service = u64::from(question.sides.to_code()) << 24
                    | u64::from(question.protocol.0) << 16
                    | u64::from(question.port);
                match $crate::leaf::leaf_answer(generation, pair, service) {
                    0 => None,
                    answer => Some(bulkhead_abi::tables::SideAnswer {
                        verdict: bulkhead_abi::Verdict::from_code(answer as u8),
                        reason: bulkhead_abi::Reason::from_code((answer >> 8) as u8),
                        rule: (answer >> 32) as u32,
                    }),
                }
            }
            #[inline(always)]
            fn wanted(
                &self,
                generation: u64,
                question: &bulkhead_core::judge::Question,
            ) -> bulkhead_core::judge::Wanted {
                let pair = u64::from(question.from.0) << 32 | u64::from(question.to.0);
                let service = u64::from(question.protocol.0) << 16 | u64::from(question.port);
                bulkhead_core::judge::Wanted::from_code($crate::leaf::leaf_wanted(generation, pair, service))
            }
            #[inline(always)]
            fn receiver(
                &self,
                netns: u64,
                addr: &bulkhead_abi::Addr,
                port: u16,
                protocol: bulkhead_abi::Protocol,
            ) -> bulkhead_abi::Workload {
                let mut receiver = bulkhead_abi::Workload::UNKNOWN;
                let _ = $crate::leaf::leaf_receiver(
                    netns,
                    addr,
                    u64::from(protocol.0) << 16 | u64::from(port),
                    &mut receiver,
                );
                receiver
            }
        }

        impl bulkhead_core::report::Report for $type {
            #[inline(always)]
            fn now(&self) -> u64 {
                $crate::tables::now()
            }
            #[inline(always)]
            fn slot(&self, key: &bulkhead_abi::CounterKey) -> u32 {
                $crate::leaf::leaf_slot(key)
            }
            #[inline(always)]
            fn add(&self, slot: u32, flows: u64, packets: u64, bytes: u64) {
                $crate::tables::add(slot, flows, packets, bytes)
            }
            #[inline(always)]
            fn coarse_now(&self) -> u64 {
                $crate::tables::coarse_now()
            }
            #[inline(always)]
            fn denial(&self, key: &bulkhead_abi::FlowKey) -> Option<bulkhead_abi::flow::Denial> {
                $crate::tables::denial(key)
            }
            #[inline(always)]
            fn note_denial(
                &self,
                key: &bulkhead_abi::FlowKey,
                note: impl FnOnce(&mut bulkhead_abi::flow::Denial),
            ) {
                $crate::tables::note_denial(key, note)
            }
            #[inline(always)]
            fn emit(&self, fill: impl FnOnce(&mut bulkhead_abi::Event)) {
                $crate::tables::emit(fill)
            }
            #[inline(always)]
            fn classed(&self, key: &bulkhead_abi::inspect::ClassKey) -> bool {
                $crate::leaf::leaf_classed(key) != 0
            }
            #[inline(always)]
            fn netns(&self) -> u64 {
                <$type>::netns(self)
            }
            #[inline(always)]
            fn cookie(&self) -> u64 {
                <$type>::cookie(self)
            }
        }
    };
}
pub(crate) use {kernel_tables, plain_lookups};
