//! The maps. Their names, keys and values are those of `bulkhead_abi`; the loader may shrink or grow
//! `FLOWS` before they are made.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use bulkhead_abi::{
    Addr, Cell, Control, Counter, CounterKey, Event, FlowKey, FlowState, Identity, ListenerKey, LocalAddress,
    PairKey, RuleKey, SlotOwner, SocketFlow, SocketOwner, SocketRole, TurnedKey, TurnedValue,
    flow::{Denial, Doomed, FirstFragment, FragmentKey, Listener, Opening},
    inspect::{Ahead, ClassCount, ClassKey, Piece},
    limits,
    names::Loss,
    tables::{
        FailsafeKey, Home, IdentityValue, Interface, PairValue, PrefixValue, UnionValue, WorkloadValue,
    },
};

use crate::storage::Inherited;

/// Memory is taken as entries come: policies are mostly much smaller than the limits.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static CONTROL: Array<Control, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
pub static PREFIXES: LpmTrie<Addr, PrefixValue, { limits::PREFIXES as usize }> = LpmTrie::new();
#[btf_map]
pub static WORKLOADS: HashMap<u64, WorkloadValue, { limits::WORKLOADS as usize }, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static UNIONS: HashMap<PairKey, UnionValue, { limits::UNIONS as usize }, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static IDENTITIES: HashMap<Identity, IdentityValue, { limits::IDENTITIES as usize }, ON_DEMAND> =
    HashMap::new();
#[btf_map]
pub static PAIRS: HashMap<PairKey, PairValue, { limits::PAIRS as usize }, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static RULES: LpmTrie<RuleKey, Cell, { limits::RULES as usize }> = LpmTrie::new();
#[btf_map]
pub static FAILSAFE: HashMap<FailsafeKey, u64, { limits::FAILSAFE as usize }> = HashMap::new();

// Preallocated, and never evicting: a flood fills it, and pushes nobody out.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, FlowState, { limits::FLOWS as usize }> = HashMap::new();
// The same holds for what the guard lets through.
#[btf_map]
pub static TRANSIT: HashMap<FlowKey, FlowState, { limits::TRANSIT as usize }> = HashMap::new();
#[btf_map]
pub static ROUTES: Array<u32, 1> = Array::new();
#[btf_map]
pub static FRAGMENTS: HashMap<FragmentKey, FirstFragment, { limits::FRAGMENTS as usize }> = HashMap::new();
/// One that is pushed out costs an error that the program would have heard at once.
#[btf_map]
pub static OPENINGS: LruHashMap<u32, Opening, { limits::OPENINGS as usize }> = LruHashMap::new();
#[btf_map]
pub static INTERFACES: HashMap<u32, Interface, { limits::INTERFACES as usize }, ON_DEMAND> = HashMap::new();
/// What a new flow begins as.
#[btf_map]
pub static BLANK_FLOW: Array<FlowState, 1> = Array::new();
/// What a remembered denial begins as.
#[btf_map]
pub static BLANK_DENIAL: Array<Denial, 1> = Array::new();
#[btf_map]
pub static DENIED: LruHashMap<FlowKey, Denial, { limits::DENIED as usize }> = LruHashMap::new();
#[btf_map]
pub static SOCKET_FLOWS: SkStorage<SocketFlow> = SkStorage::new();
#[btf_map]
pub static SOCKET_AHEAD: SkStorage<Ahead> = SkStorage::new();
#[btf_map]
pub static SOCKET_OWNERS: SkStorage<SocketOwner> = SkStorage::new();
/// Inherited, because a packet of an accepted socket asks for it, and nobody saw that socket being made.
#[btf_map]
pub static SOCKET_NETNS: Inherited<u64> = Inherited::new();
#[btf_map]
pub static LISTENERS: HashMap<ListenerKey, Listener, { limits::LISTENERS as usize }, ON_DEMAND> =
    HashMap::new();
#[btf_map]
pub static LOCALS: HashMap<Addr, LocalAddress, { limits::LOCALS as usize }, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static HOMES: HashMap<u64, Home, { limits::HOMES as usize }, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static SLOTS: HashMap<CounterKey, SlotOwner, { limits::COUNTERS as usize }, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static SLOTS_USED: Array<u64, 1> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<Counter, { limits::COUNTERS as usize }> = PerCpuArray::new();
/// No program touches it: what user space adds to an element per CPU, the kernel might add to as well.
#[btf_map]
pub static ENDED: HashMap<CounterKey, Counter, { limits::COUNTERS as usize }, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static CLASSES: HashMap<ClassKey, ClassCount, { limits::CLASSES as usize }, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static PIECES: RingBuf<Piece, { limits::PIECES as usize }> = RingBuf::new();
/// Inherited, so that what the proxy accepts has its listener's role.
#[btf_map]
pub static SOCKET_ROLES: Inherited<SocketRole> = Inherited::new();
/// One that is pushed out costs a connection that the proxy has not accepted yet.
#[btf_map]
pub static TURNED: LruHashMap<TurnedKey, TurnedValue, { limits::TURNED as usize }> = LruHashMap::new();
#[btf_map]
pub static LOST: PerCpuArray<u64, { Loss::ALL.len() }> = PerCpuArray::new();
#[btf_map]
pub static DOOMED: HashMap<u64, Doomed, { limits::DOOMED as usize }> = HashMap::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, { limits::EVENTS as usize }> = RingBuf::new();
