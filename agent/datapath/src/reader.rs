//! Reading the kernel's side: for metrics, the command line and tests. Writes nothing.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bulkhead_abi::{
    Addr, Cell, Control, Counter, CounterKey, FlowKey, FlowState, Identity, ListenerKey, LocalAddress,
    PairKey, Protocol, RuleKey, SocketFlow, Workload,
    flow::Listener,
    inspect::ClassKey,
    names::{self, Loss},
    tables::{FailsafeKey, Home, IdentityValue, PairValue, PrefixValue, UnionValue, WorkloadValue},
};
use bulkhead_core::{
    endpoint,
    tables::{Policy, Tables},
};
use bulkhead_policy::Prefix;
use zerocopy::FromBytes as _;

use crate::{
    DatapathError,
    maps::{CONTROL_FLAGS, CONTROL_GENERATION, CONTROL_HOST, MapUsage, Maps},
    table::TrieKey,
};

/// Read access to the maps of an instance, with or without its agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    maps: Arc<Maps>,
}

/// What one program costs, since it was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramStats {
    /// Its name.
    pub name: String,
    /// How often it ran while statistics were on.
    pub run_count: u64,
    /// How long it ran while statistics were on.
    pub run_time: Duration,
    /// Instructions that the verifier walked.
    pub instructions: u32,
}

/// An endpoint to be explained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndpointQuery {
    /// Its address.
    pub addr: Addr,
    /// Its cgroup, if it is a workload of this node.
    pub cgroup: Option<u64>,
}

/// What the kernel's tables say of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelAnswer {
    /// The opener's identity; [`Identity::UNKNOWN`] where the tables miss a union.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
    /// The answer; `None` between two ends in no zone, for which no table is asked.
    pub cell: Option<Cell>,
    /// The generation that was live.
    pub generation: u64,
}

impl Reader {
    /// Opens the maps that are pinned below `pins`.
    pub fn open(pins: &Path) -> Result<Self, DatapathError> {
        Ok(Self::new(Arc::new(Maps::open(&crate::maps_dir(pins))?)))
    }

    pub(crate) fn new(maps: Arc<Maps>) -> Self {
        Self { maps }
    }

    /// The maps themselves.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Write access to the tables about sockets.
    pub fn sockets(&self) -> crate::Sockets {
        crate::Sockets::new(Arc::clone(&self.maps))
    }

    /// The live generation.
    pub fn generation(&self) -> u64 {
        self.word(CONTROL_GENERATION)
    }

    /// Whether the whole node only reports.
    pub fn audit(&self) -> bool {
        self.word(CONTROL_FLAGS) & Control::FLAG_AUDIT != 0
    }

    /// Whether enforcement has not begun yet.
    pub fn adopting(&self) -> bool {
        self.word(CONTROL_FLAGS) & Control::FLAG_ADOPTING != 0
    }

    /// All counters, summed over CPUs, flows that were ended included.
    pub fn counters(&self) -> Result<Vec<(CounterKey, Counter)>, DatapathError> {
        let slots: BTreeMap<u32, CounterKey> =
            self.maps.slots.entries()?.into_iter().map(|(key, owner)| (owner.slot, key)).collect();
        let used = slots.keys().next_back().copied().unwrap_or(0);
        let mut counters: BTreeMap<CounterKey, Counter> = self.maps.ended.entries()?.into_iter().collect();
        self.maps.counters.for_each_raw(|key, values| {
            let Ok(slot) = u32::read_from_bytes(key) else { return };
            if slot > used {
                return;
            }
            let Some(&owner) = slots.get(&slot) else { return };
            let mut sum = counters.get(&owner).copied().unwrap_or_default();
            for value in values.chunks_exact(size_of::<Counter>()) {
                if let Ok(value) = Counter::read_from_bytes(value) {
                    sum.flows += value.flows;
                    sum.packets += value.packets;
                    sum.bytes += value.bytes;
                }
            }
            if sum != Counter::default() {
                counters.insert(owner, sum);
            }
        })?;
        Ok(counters.into_iter().collect())
    }

    /// Flows by class, since the maps were made.
    pub fn classes(&self) -> Result<Vec<(ClassKey, u64)>, DatapathError> {
        Ok(self.maps.classes.entries()?.into_iter().map(|(key, count)| (key, count.flows)).collect())
    }

    /// What was lost, by kind.
    pub fn losses(&self) -> Result<Vec<(Loss, u64)>, DatapathError> {
        let mut sums = BTreeMap::new();
        self.maps.lost.for_each_raw(|key, values| {
            let Ok(index) = u32::read_from_bytes(key) else { return };
            let sum = values.chunks_exact(8).filter_map(|value| u64::read_from_bytes(value).ok()).sum();
            sums.insert(index, sum);
        })?;
        Ok(Loss::ALL.into_iter().map(|loss| (loss, sums.get(&(loss as u32)).copied().unwrap_or(0))).collect())
    }

    /// How full the maps are.
    pub fn usage(&self) -> Result<Vec<MapUsage>, DatapathError> {
        self.maps.usage()
    }

    /// What the programs of this instance cost: those that use its maps.
    pub fn programs(&self) -> Result<Vec<ProgramStats>, DatapathError> {
        let socket_flows = self.maps.socket_flows.id()?;
        let counters = self.maps.counters.id()?;
        let listeners = self.maps.listeners.id()?;
        let owners = self.maps.socket_owners.id()?;
        let interfaces = self.maps.interfaces.id()?;
        let roles = self.maps.socket_roles.id()?;
        let mut programs: Vec<ProgramStats> = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .filter(|info| {
                info.name_as_str().is_some_and(|name| {
                    let mut known = names::PROGRAMS.iter().chain(&names::GUARD_PROGRAMS);
                    known.any(|known| known.starts_with(name))
                })
            })
            .filter(|info| {
                info.map_ids().ok().flatten().is_some_and(|ids| {
                    ids.iter()
                        .any(|id| [socket_flows, counters, listeners, owners, interfaces, roles].contains(id))
                })
            })
            .map(|info| ProgramStats {
                name: info.name_as_str().unwrap_or_default().to_owned(),
                run_count: info.run_count(),
                run_time: info.run_time(),
                instructions: info.verified_instruction_count().unwrap_or(0),
            })
            .collect();
        programs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(programs)
    }

    /// Flows that no socket owns.
    pub fn flows(&self) -> Result<Vec<(FlowKey, FlowState)>, DatapathError> {
        self.maps.flows.entries()
    }

    /// The map of flows that sockets own, for sock_diag.
    pub fn socket_flows_map(&self) -> &crate::table::Table<u32, SocketFlow> {
        &self.maps.socket_flows
    }

    /// Cgroups that are in zones.
    pub fn workloads(&self) -> Result<Vec<(u64, Identity)>, DatapathError> {
        let odd = self.generation() & 1 == 1;
        let entries = self.maps.workloads.entries()?;
        Ok(entries.into_iter().map(|(cgroup, value)| (cgroup, version(value.identity, odd))).collect())
    }

    /// Prefixes, in the live version.
    pub fn prefixes(&self) -> Result<Vec<(Prefix, Identity)>, DatapathError> {
        let odd = self.generation() & 1 == 1;
        let entries = self.maps.prefixes.entries()?;
        Ok(entries
            .into_iter()
            .map(|(key, value)| {
                let (bits, data) = (key.bits, key.data);
                (Prefix::new(data, u8::try_from(bits).unwrap_or(128)), version(value.identity, odd))
            })
            .collect())
    }

    /// Failsafe ports, with the packets that needed them.
    pub fn failsafe(&self) -> Result<Vec<(FailsafeKey, u64)>, DatapathError> {
        self.maps.failsafe.entries()
    }

    /// Walks the kernel's tables for a flow, moving nothing.
    pub fn explain(
        &self,
        from: &EndpointQuery,
        to: &EndpointQuery,
        protocol: Protocol,
        port: u16,
    ) -> Result<KernelAnswer, DatapathError> {
        let policy = Policy::live(self);
        let resolve = |query: &EndpointQuery| {
            let cgroup = query.cgroup.unwrap_or(0);
            endpoint::resolve(&policy, &Workload { cgroup, anchor: cgroup }, &query.addr)
        };
        let (from, to) = (resolve(from), resolve(to));
        let cell = policy.cell(from.or_world(), to.or_world(), protocol, port);
        Ok(KernelAnswer { from, to, cell, generation: policy.generation() })
    }

    /// Whether the guard sees what leaves the namespace that has `addr`; `None` if none of this host has.
    pub fn is_guarded(&self, addr: &Addr) -> Option<bool> {
        let netns = self.local(addr)?.netns;
        let guarded = |home: Home| home.flags & Home::FLAG_GUARDED != 0;
        Some(netns != self.word(CONTROL_HOST) && self.home(netns).is_some_and(guarded))
    }

    fn word(&self, index: usize) -> u64 {
        // Within the block, always: its size is part of the shape that was checked at opening.
        self.maps.control.load(index).unwrap_or(0)
    }
}

fn version<T>(versions: [T; 2], odd: bool) -> T {
    let [even, other] = versions;
    if odd { other } else { even }
}

/// The kernel's own lookups, one system call each. A failed one reads as a miss, which is what the
/// kernel would see in a table that is gone.
impl Tables for Reader {
    fn control(&self) -> Control {
        Control {
            generation: self.word(CONTROL_GENERATION),
            host_netns: self.word(CONTROL_HOST),
            flags: self.word(CONTROL_FLAGS),
        }
    }
    fn prefix(&self, addr: &Addr) -> Option<PrefixValue> {
        self.maps.prefixes.get(&TrieKey { bits: 128, data: *addr }).ok().flatten()
    }
    fn workload(&self, cgroup: u64) -> Option<WorkloadValue> {
        self.maps.workloads.find(&cgroup).ok().flatten()
    }
    fn union(&self, key: &PairKey) -> Option<UnionValue> {
        self.maps.unions.find(key).ok().flatten()
    }
    fn identity(&self, identity: Identity) -> Option<IdentityValue> {
        self.maps.identities.find(&identity).ok().flatten()
    }
    fn pair(&self, key: &PairKey) -> Option<PairValue> {
        self.maps.pairs.find(key).ok().flatten()
    }
    fn rule(&self, key: &RuleKey) -> Option<Cell> {
        self.maps.rules.get(&TrieKey { bits: RuleKey::PORT_BITS, data: *key }).ok().flatten()
    }
    fn failsafe(&self, key: &FailsafeKey) -> bool {
        self.maps.failsafe.get(key).ok().flatten().is_some()
    }
    fn local(&self, addr: &Addr) -> Option<LocalAddress> {
        self.maps.locals.find(addr).ok().flatten()
    }
    fn home(&self, netns: u64) -> Option<Home> {
        self.maps.homes.find(&netns).ok().flatten()
    }
    fn listener(&self, key: &ListenerKey) -> Option<Listener> {
        self.maps.listeners.find(key).ok().flatten()
    }
}
