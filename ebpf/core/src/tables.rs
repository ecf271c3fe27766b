//! The compiled policy, as whoever decides reads it: the kernel's maps, or the same tables on the host.

use bulkhead_abi::{
    Addr, Cell, Control, Identity, LocalAddress, PairKey, Protocol, RuleKey, Workload,
    flow::{Listener, ListenerKey},
    tables::{
        FailsafeKey, Home, IdentityValue, PairValue, PrefixValue, SideAnswer, UnionValue, WorkloadValue,
    },
};

use crate::{
    endpoint,
    judge::{self, Question, Wanted},
};

/// One lookup per table, each returning a copy, and never a value of another key: values carry their own
/// where the kernel may give an element away while it is read. Nothing here decides.
pub trait Tables {
    /// The control block. A decision loads it once and works with that copy, so that it sees one
    /// generation from beginning to end.
    fn control(&self) -> Control;
    /// The longest prefix that holds `addr`.
    fn prefix(&self, addr: &Addr) -> Option<PrefixValue>;
    /// A cgroup that is in a zone.
    fn workload(&self, cgroup: u64) -> Option<WorkloadValue>;
    /// The union of a cgroup's and an address's identity.
    fn union(&self, key: &PairKey) -> Option<UnionValue>;
    /// Class and mode of an identity.
    fn identity(&self, identity: Identity) -> Option<IdentityValue>;
    /// The ruleset of a pair of identities or classes.
    fn pair(&self, key: &PairKey) -> Option<PairValue>;
    /// The longest prefix of a ruleset's entries that holds `key`.
    fn rule(&self, key: &RuleKey) -> Option<Cell>;
    /// Whether the port is a failsafe one. Counts the packet that asked.
    fn failsafe(&self, key: &FailsafeKey) -> bool;
    /// The namespace of this node that owns `addr`.
    fn local(&self, addr: &Addr) -> Option<LocalAddress>;
    /// The addresses that the namespace `netns` sends from.
    fn home(&self, netns: u64) -> Option<Home>;
    /// A registered receiver.
    fn listener(&self, key: &ListenerKey) -> Option<Listener>;

    /// [`endpoint::lookup`]. The kernel makes this, and the two below, functions that the verifier walks
    /// once, instead of once for every way that leads there.
    #[inline(always)]
    fn resolve(&self, generation: u64, workload: &Workload, addr: &Addr) -> Identity
    where
        Self: Sized,
    {
        endpoint::lookup(&Policy::at(self, generation), workload, addr)
    }
    /// [`judge::lookup`].
    #[inline(always)]
    fn answer(&self, generation: u64, question: &Question) -> Option<SideAnswer>
    where
        Self: Sized,
    {
        judge::lookup(&Policy::at(self, generation), question)
    }
    /// [`judge::wanted`].
    #[inline(always)]
    fn wanted(&self, generation: u64, question: &Question) -> Wanted
    where
        Self: Sized,
    {
        judge::wanted(&Policy::at(self, generation), question)
    }
    /// [`endpoint::lookup_receiver`].
    #[inline(always)]
    fn receiver(&self, netns: u64, addr: &Addr, port: u16, protocol: Protocol) -> Workload
    where
        Self: Sized,
    {
        endpoint::lookup_receiver(self, netns, addr, port, protocol)
    }
}

/// One generation of the policy, held for the length of one decision.
pub struct Policy<'a, T: Tables> {
    /// The tables.
    pub tables: &'a T,
    /// The control block as it was when the decision began.
    pub control: Control,
}

impl<'a, T: Tables> Policy<'a, T> {
    /// The policy that is live now.
    #[inline(always)]
    pub fn live(tables: &'a T) -> Self {
        Self { tables, control: tables.control() }
    }

    /// The policy of `generation`, for lookups only: modes are unknown.
    #[inline(always)]
    pub fn at(tables: &'a T, generation: u64) -> Self {
        Self { tables, control: Control { generation, host_netns: 0, flags: 0 } }
    }

    /// The live generation.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.control.generation
    }

    /// What `addr` alone is.
    #[inline(always)]
    pub fn of_address(&self, addr: &Addr) -> Identity {
        match self.tables.prefix(addr) {
            Some(value) => self.version(value.identity),
            None => Identity::WORLD,
        }
    }

    /// Class and mode of `identity`; `None` where the tables do not know it.
    #[inline(always)]
    pub fn state(&self, identity: Identity) -> Option<bulkhead_abi::IdentityState> {
        let value = self.tables.identity(identity)?;
        let state = self.version(value.state);
        if state.0 == 0 { None } else { Some(state) }
    }

    /// What the rules answer; `None` where the tables hold nothing for these two.
    #[inline(always)]
    pub fn answer(&self, question: &Question) -> Option<SideAnswer> {
        self.tables.answer(self.generation(), question)
    }

    /// The entry of the ruleset for `from` and `to`; `None` where the tables hold none.
    #[inline(always)]
    pub fn cell(&self, from: Identity, to: Identity, protocol: Protocol, port: u16) -> Option<Cell> {
        let ruleset = match self.ruleset(PairKey { from, to }) {
            Some(ruleset) => ruleset,
            None => {
                let from = self.state(from)?.class();
                let to = self.state(to)?.class();
                self.ruleset(PairKey { from, to })?
            }
        };
        self.tables.rule(&RuleKey::new(ruleset, protocol, port))
    }

    #[inline(always)]
    fn ruleset(&self, key: PairKey) -> Option<u32> {
        let value = self.tables.pair(&key)?;
        let ruleset = self.version(value.ruleset);
        if ruleset == 0 { None } else { Some(ruleset) }
    }

    /// The version of a value that this generation reads.
    #[inline(always)]
    pub(crate) fn version<V: Copy>(&self, versions: [V; 2]) -> V {
        let [even, odd] = versions;
        if self.control.generation & 1 == 0 { even } else { odd }
    }
}
