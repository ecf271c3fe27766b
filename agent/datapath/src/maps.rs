//! All maps of one instance.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use bulkhead_abi::{
    Addr, Cell, Counter, CounterKey, FlowKey, FlowState, Identity, ListenerKey, LocalAddress, PairKey,
    RuleKey, SlotOwner, SocketFlow, SocketOwner, SocketRole, TurnedKey, TurnedValue,
    flow::{Denial, Doomed, FirstFragment, FragmentKey, Listener},
    inspect::{ClassCount, ClassKey},
    names,
    tables::{
        FailsafeKey, Home, IdentityValue, Interface, PairValue, PrefixValue, UnionValue, WorkloadValue,
    },
};
use bulkhead_sys::map::MappedU64s;

use crate::{
    DatapathError,
    table::{Table, TrieKey},
    told::Told,
};

/// The maps, open.
#[derive(Debug)]
pub struct Maps {
    /// The control block, as words: see the `CONTROL_` constants.
    pub control: MappedU64s,
    /// See [`names`] for each.
    pub prefixes: Table<TrieKey<Addr>, PrefixValue>,
    /// Membership.
    pub workloads: Table<u64, WorkloadValue>,
    /// Unions.
    pub unions: Table<PairKey, UnionValue>,
    /// Identities.
    pub identities: Table<Identity, IdentityValue>,
    /// Pairs.
    pub pairs: Table<PairKey, PairValue>,
    /// Rulesets' entries.
    pub rules: Table<TrieKey<RuleKey>, Cell>,
    /// Failsafe ports.
    pub failsafe: Table<FailsafeKey, u64>,
    /// Flows that no socket owns.
    pub flows: Table<FlowKey, FlowState>,
    /// Flows that the guard judges.
    pub transit: Table<FlowKey, FlowState>,
    /// Packets whose fragments are under way.
    pub fragments: Table<FragmentKey, FirstFragment>,
    /// Interfaces that the guard sits on.
    pub interfaces: Table<u32, Interface>,
    /// Flows that sockets own; read through sock_diag.
    pub socket_flows: Table<u32, SocketFlow>,
    /// Who made a socket; read through sock_diag.
    pub socket_owners: Table<u32, SocketOwner>,
    /// Receivers.
    pub listeners: Table<ListenerKey, Listener>,
    /// Addresses of this node's namespaces.
    pub locals: Table<Addr, LocalAddress>,
    /// Where namespaces send from.
    pub homes: Table<u64, Home>,
    /// Counter slots.
    pub slots: Table<CounterKey, SlotOwner>,
    /// Counters, per CPU.
    pub counters: Table<u32, Counter>,
    /// Counters of flows that were ended: [`Sockets::count_ended`](crate::Sockets::count_ended).
    pub ended: Table<CounterKey, Counter>,
    /// Flows that were denied lately.
    pub denied: Table<FlowKey, Denial>,
    /// Losses, per CPU.
    pub lost: Table<u32, u64>,
    /// Sockets to be ended.
    pub doomed: Table<u64, Doomed>,
    /// The event ring.
    pub events: OwnedFd,
    /// Flows by class.
    pub classes: Table<ClassKey, ClassCount>,
    /// The ring of opening bytes.
    pub pieces: OwnedFd,
    /// What the proxy's sockets are for, and those that were turned to it; by descriptor.
    pub socket_roles: Table<u32, SocketRole>,
    /// Connections that were turned into the proxy.
    pub turned: Table<TurnedKey, TurnedValue>,
    /// What this process said last of [`Maps::locals`], [`Maps::homes`] and [`Maps::interfaces`].
    pub(crate) told: Told,
    folder: PathBuf,
}

/// Word of the control block: the live generation.
pub const CONTROL_GENERATION: usize = 0;
/// Word of the control block: the node's own namespace.
pub const CONTROL_HOST: usize = 1;
/// Word of the control block: flags.
pub const CONTROL_FLAGS: usize = 2;

impl Maps {
    /// Opens the maps that are pinned in the folder `maps`.
    pub fn open(maps: &Path) -> Result<Self, DatapathError> {
        use std::os::fd::AsFd;
        let control = bulkhead_sys::pin::open(&maps.join(names::CONTROL))?;
        Ok(Self {
            control: MappedU64s::new(control.as_fd())?,
            prefixes: Table::open(maps, names::PREFIXES)?,
            workloads: Table::open(maps, names::WORKLOADS)?,
            unions: Table::open(maps, names::UNIONS)?,
            identities: Table::open(maps, names::IDENTITIES)?,
            pairs: Table::open(maps, names::PAIRS)?,
            rules: Table::open(maps, names::RULES)?,
            failsafe: Table::open(maps, names::FAILSAFE)?,
            flows: Table::open(maps, names::FLOWS)?,
            transit: Table::open(maps, names::TRANSIT)?,
            fragments: Table::open(maps, names::FRAGMENTS)?,
            interfaces: Table::open(maps, names::INTERFACES)?,
            socket_flows: Table::open(maps, names::SOCKET_FLOWS)?,
            socket_owners: Table::open(maps, names::SOCKET_OWNERS)?,
            listeners: Table::open(maps, names::LISTENERS)?,
            locals: Table::open(maps, names::LOCALS)?,
            homes: Table::open(maps, names::HOMES)?,
            slots: Table::open(maps, names::SLOTS)?,
            counters: Table::open(maps, names::COUNTERS)?,
            ended: Table::open(maps, names::ENDED)?,
            denied: Table::open(maps, names::DENIED)?,
            lost: Table::open(maps, names::LOST)?,
            doomed: Table::open(maps, names::DOOMED)?,
            events: bulkhead_sys::pin::open(&maps.join(names::EVENTS))?,
            classes: Table::open(maps, names::CLASSES)?,
            pieces: bulkhead_sys::pin::open(&maps.join(names::PIECES))?,
            socket_roles: Table::open(maps, names::SOCKET_ROLES)?,
            turned: Table::open(maps, names::TURNED)?,
            told: Told::default(),
            folder: maps.to_owned(),
        })
    }

    /// Where they are pinned.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The live generation.
    pub fn generation(&self) -> Result<u64, DatapathError> {
        Ok(self.control.load(CONTROL_GENERATION)?)
    }

    /// Usage of every table that fills up.
    pub fn usage(&self) -> Result<Vec<MapUsage>, DatapathError> {
        macro_rules! usage {
            ($($table:ident),*) => {
                vec![$(MapUsage {
                    name: self.$table.name(),
                    entries: self.$table.count()? as u64,
                    capacity: self.$table.capacity()? as u64,
                }),*]
            };
        }
        Ok(usage![
            prefixes, workloads, unions, identities, pairs, rules, failsafe, flows, transit, fragments,
            interfaces, listeners, locals, homes, slots, doomed, classes
        ])
    }
}

/// How full a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapUsage {
    /// Its name.
    pub name: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries it takes.
    pub capacity: u64,
}
