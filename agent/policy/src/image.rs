//! A compiled policy: the tables that the kernel holds, as a value.
//!
//! [`Image::lookup`] walks them as the kernel does. Where they contradict themselves it denies with
//! [`Reason::Inconsistent`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bulkhead_abi::tables::SideAnswer;
use bulkhead_abi::{
    Addr, Cell, Demand, Identity, IdentityState, PairKey, Protocol, Reason, RuleKey, Tls, Verdict,
};
use serde::Serialize;

use crate::access::Zones;
use crate::model::{Action, Flow, Location, RuleRef, Tier};
use crate::prefix::Prefix;

mod diff;
pub(crate) mod print;

pub use diff::{Change, ImageDiff};

/// A compiled policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// Longest match gives the identity that an address alone has; none is [`Identity::WORLD`]. Every
    /// entry is final: nothing is added from shorter ones.
    pub prefixes: Arc<BTreeMap<Prefix, Identity>>,
    /// Cgroup ids to the identity that the cgroup alone has. A cgroup that is not here has the one of
    /// its nearest ancestor that is.
    pub workloads: BTreeMap<u64, Identity>,
    /// (by cgroup, by address) → the identity of both, where both are in zones and differ.
    pub unions: BTreeMap<PairKey, Identity>,
    /// Class and mode of every identity that rules can meet; [`Identity::VIRTUAL`] is none.
    pub identities: BTreeMap<Identity, IdentityState>,
    /// (from, to) → ruleset, for identities where rules single the pair out, for classes always.
    pub pairs: BTreeMap<PairKey, u32>,
    /// Rulesets by number.
    pub rulesets: BTreeMap<u32, Arc<Ruleset>>,
    /// Names of the zones of every identity; world, node and virtual are not among them.
    pub zones: BTreeMap<Identity, Arc<[Arc<str>]>>,
    /// Rules by number.
    pub rules: BTreeMap<u32, Arc<RuleEntry>>,
}

impl Image {
    /// The identity of an address alone.
    pub fn identity_of_addr(&self, addr: Addr) -> Identity {
        (0..=128)
            .rev()
            .find_map(|len| self.prefixes.get(&Prefix::new(addr, len)))
            .copied()
            .unwrap_or(Identity::WORLD)
    }

    /// The identity of an end with this cgroup id (0 or one that is not in the table: only the address
    /// tells) and address. `None` where the tables contradict themselves.
    pub fn identity(&self, cgroup: u64, addr: Addr) -> Option<Identity> {
        let by_addr = self.identity_of_addr(addr);
        match self.workloads.get(&cgroup) {
            None => Some(by_addr),
            Some(&by_cgroup) if !by_addr.is_zoned() || by_cgroup == by_addr => Some(by_cgroup),
            Some(&by_cgroup) => self.unions.get(&PairKey { from: by_cgroup, to: by_addr }).copied(),
        }
    }

    /// What the socket layers do with a flow between two identities: the policy's word, or, for a virtual
    /// receiver in sight of the guard, nothing, so that the guard decides.
    pub fn judge(&self, from: Identity, to: Identity, flow: &Flow) -> Cell {
        if to == Identity::VIRTUAL && flow.guarded {
            let deferred = SideAnswer { verdict: Verdict::Allow, reason: Reason::Virtual, rule: 0 };
            return Cell::new(deferred, deferred, Demand::OFF);
        }
        self.lookup(from, to, flow.protocol, flow.port)
    }

    /// What the policy says of a flow between two identities, a virtual one being `world`. `port` is the receiver's; of ICMP
    /// `type << 8 | code`; 0 for protocols without ports.
    pub fn lookup(&self, from: Identity, to: Identity, protocol: Protocol, port: u16) -> Cell {
        let (from, to) = (from.or_world(), to.or_world());
        if !from.is_zoned() && !to.is_zoned() {
            let open = SideAnswer { verdict: Verdict::Allow, reason: Reason::Open, rule: 0 };
            return Cell::new(open, open, Demand::OFF);
        }
        self.ruleset(from, to)
            .and_then(|number| self.rulesets.get(&number))
            .and_then(|ruleset| ruleset.lookup(protocol, port))
            .unwrap_or_else(|| {
                let broken = SideAnswer { verdict: Verdict::Deny, reason: Reason::Inconsistent, rule: 0 };
                Cell::new(broken, broken, Demand::OFF)
            })
    }

    /// The ruleset of a pair: its own, or that of the classes.
    pub fn ruleset(&self, from: Identity, to: Identity) -> Option<u32> {
        if let Some(number) = self.pairs.get(&PairKey { from, to }) {
            return Some(*number);
        }
        let class = |identity| self.identities.get(&identity).map(|state| state.class());
        self.pairs.get(&PairKey { from: class(from)?, to: class(to)? }).copied()
    }

    /// The name of an identity: its zones joined by `+`, or `world`, `node` or `virtual`.
    pub fn label(&self, identity: Identity) -> String {
        match identity {
            Identity::WORLD => "world".into(),
            Identity::NODE => "node".into(),
            Identity::VIRTUAL => "virtual".into(),
            _ => match self.zones.get(&identity) {
                Some(zones) => zones.join("+"),
                None => format!("identity {}", identity.0),
            },
        }
    }

    /// The zones of an identity; none for `world`, `node`, `virtual` and what the image does not know.
    pub fn zones_of(&self, identity: Identity) -> Zones {
        self.zones.get(&identity).into_iter().flat_map(|zones| zones.iter().cloned()).collect()
    }

    /// The identity of exactly these zones (in any order), if the image has one. Where it has none, a
    /// workload of these zones needs a new compilation.
    pub fn identity_of_zones(&self, zones: &[Arc<str>]) -> Option<Identity> {
        let mut wanted = zones.to_vec();
        wanted.sort();
        wanted.dedup();
        self.zones.iter().find(|(_, zones)| ***zones == *wanted).map(|(identity, _)| *identity)
    }

    /// Whether some flow is to be given mutual TLS by the proxies (see [`Tls::Mutual`]).
    pub fn has_mutual(&self) -> bool {
        let mut entries = self.rulesets.values().flat_map(|ruleset| ruleset.entries());
        entries.any(|entry| entry.cell.demand().level == Tls::Mutual)
    }

    /// Entries of all rulesets together.
    pub fn rule_entries(&self) -> usize {
        self.rulesets.values().map(|ruleset| ruleset.entries().len()).sum()
    }
}

/// Final answers for the flows of a pair: a longest-prefix table over protocol and port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ruleset {
    entries: Vec<RulesetEntry>,
}

/// One entry of a [`Ruleset`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RulesetEntry {
    /// How many bits of the kernel's key count: [`RuleKey::RULESET_BITS`] for every protocol,
    /// [`RuleKey::PROTOCOL_BITS`] for every port, up to [`RuleKey::PORT_BITS`] for one port.
    pub bits: u32,
    /// The protocol; 0 in the entry for every protocol.
    pub protocol: Protocol,
    /// The first port of the prefix.
    pub port: u16,
    /// The answer.
    pub cell: Cell,
}

impl RulesetEntry {
    /// The key of this entry in the kernel's table, as part of the ruleset `number`.
    pub const fn key(&self, number: u32) -> RuleKey {
        RuleKey::new(number, self.protocol, self.port)
    }

    fn covers(&self, protocol: Protocol, port: u16) -> bool {
        if self.bits < RuleKey::PROTOCOL_BITS {
            return true;
        }
        let free = RuleKey::PORT_BITS.saturating_sub(self.bits);
        let mask = u16::MAX.checked_shl(free).unwrap_or(0);
        self.protocol == protocol && (self.port ^ port) & mask == 0
    }
}

impl Ruleset {
    /// A ruleset of these entries. One at [`RuleKey::RULESET_BITS`] must be among them.
    pub fn new(mut entries: Vec<RulesetEntry>) -> Self {
        entries.sort_unstable();
        Self { entries }
    }

    /// Its entries, shorter prefixes first, then by protocol and port.
    pub fn entries(&self) -> &[RulesetEntry] {
        &self.entries
    }

    /// The longest match.
    pub fn lookup(&self, protocol: Protocol, port: u16) -> Option<Cell> {
        self.entries.iter().rev().find(|entry| entry.covers(protocol, port)).map(|entry| entry.cell)
    }
}

/// A rule as verdicts, events and metrics name it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleEntry {
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// When it is asked.
    pub tier: Tier,
    /// What it says.
    pub action: Action,
    /// Where it is written; of several that say the same, the first.
    pub location: Location,
    /// The rule in one line.
    pub text: String,
}

impl RuleEntry {
    /// The rule's name and place.
    pub fn reference(&self) -> RuleRef {
        RuleRef { name: self.name.clone(), location: self.location.clone() }
    }

    /// What to call it in one word or so: its name, else its text.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.text)
    }
}
